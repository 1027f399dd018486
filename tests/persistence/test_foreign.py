"""Files of other programs are told by their first bytes, and nothing in them is run."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import tempfile
import zipfile
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

import portable_bp
from portable_bp import tabular
from portable_bp.errors import CheckpointError
from portable_bp.persistence import container, foreign

MARKER = Path(tempfile.gettempdir()) / "portable_bp_was_here"


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return open, (str(MARKER), "w")


def pickled(protocol):
    return lambda path: path.write_bytes(pickle.dumps({"W": [Trap()]}, protocol))


def zipped(*names):
    def make(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"{}")

    return make


def dumped(compress):
    return lambda path: joblib.dump([Trap(), np.ones(30)], path, compress=compress)


def array(path):
    with open(path, "wb") as file:
        np.save(file, np.ones(3))


def arrays(path):
    with open(path, "wb") as file:
        np.savez(file, W=np.ones(3))


def bytes_of(data):
    return lambda path: path.write_bytes(data)


NEVER = "never loads one"
FILES = {
    **{f"pickle {p}": (pickled(p), f"a pickle; .*{NEVER}") for p in range(6)},
    "pickle of a number": (bytes_of(pickle.dumps(np.float64(3.0))), f"a pickle; .*{NEVER}"),
    "joblib": (dumped(0), f"a pickle.*{NEVER}"),
    "joblib zlib": (dumped(("zlib", 3)), f"a zlib file .*joblib.*{NEVER}"),
    "joblib gzip": (dumped(("gzip", 3)), "a gzip file"),
    "joblib bz2": (dumped(("bz2", 3)), "a bzip2 file"),
    "joblib xz": (dumped(("xz", 3)), "an xz file"),
    "torch": (lambda path: torch.save({"W": torch.ones(3)}, path), f"a torch file; .*{NEVER}"),
    "old torch": (
        lambda path: torch.save([torch.ones(3)], path, _use_new_zipfile_serialization=False),
        f"a pickle of torch; .*{NEVER}",
    ),
    "npy": (array, r"a NumPy array \(.npy\)"),
    "npz": (arrays, r"an archive of NumPy arrays \(.npz\)"),
    "keras": (zipped("metadata.json", "config.json", "model.weights.h5"), "a Keras file"),
    "skops": (zipped("schema.json"), "a skops file"),
    "zip": (zipped("notes.txt"), "a zip archive"),
    "hdf5": (bytes_of(b"\x89HDF\r\n\x1a\n" + bytes(600)), "an HDF5 file"),
    "onnx": (bytes_of(b"\x08\x08\x12\x07pytorch\x1a\x051.2.3:\x90"), "an ONNX model"),
    "tflite": (bytes_of(b"\x1c\0\0\0TFL3" + bytes(60)), "a TensorFlow Lite file"),
    "gguf": (bytes_of(b"GGUF\x03\0\0\0" + bytes(60)), "a GGUF file"),
    "gzip": (bytes_of(gzip.compress(b"text")), "a gzip file"),
    "bz2": (bytes_of(bz2.compress(b"text")), "a bzip2 file"),
    "xz": (bytes_of(lzma.compress(b"text")), "an xz file"),
    "zlib": (bytes_of(zlib.compress(b"text")), "a zlib file"),
    "parquet": (bytes_of(b"PAR1" + bytes(90)), "a Parquet file"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_foreign_file_is_named_and_not_run(name, tmp_path):
    make, words = FILES[name]
    make(tmp_path / "m")
    for load in (portable_bp.load, tabular.load, container.read):
        with pytest.raises(CheckpointError, match=f"format: this is {words}"):
            load(tmp_path / "m")
    assert not MARKER.exists()


def test_a_checkpoint_that_is_foreign_is_named(tmp_path):
    net = portable_bp.MLP([2, 3, 1])
    pickled(4)(tmp_path / "ckpt-0000000001.safetensors")
    with (
        pytest.warns(portable_bp.CheckpointWarning, match=NEVER),
        pytest.raises(CheckpointError, match="none of the 1 checkpoints can be read"),
    ):
        portable_bp.fit(net, np.eye(2), [0.0, 1.0], checkpoint=tmp_path, resume=True)


def test_no_file_of_ours_is_taken_for_a_foreign_one(tmp_path):
    """The first eight bytes are the length of the header, the next is a brace."""
    for length in (*range(64), *(2**k + d for k in range(6, 24) for d in (-1, 0, 1))):
        if length <= container.MAX_HEADER:
            start = io.BytesIO(length.to_bytes(8, "little") + b'{"__metadata__":')
            assert foreign.describe(start.read()) is None, length
