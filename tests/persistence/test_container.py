"""The file layer: round trips, and every fault we could think of. No fault may pass silently.

Tests that record figures are also the rows of the table in ``docs/reliability.md``, which
``benchmarks/reliability_table.py`` writes from a run of this file.
"""

from __future__ import annotations

import ast
import errno
import io
import json
import os
import pickle
import random
import runpy
import stat
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from portable_bp.errors import CheckpointError
from portable_bp.persistence import atomic, checkpoints, container

safetensors = pytest.importorskip("safetensors.numpy", reason="needs the extra [io]")

GOLDEN = Path(__file__).with_name("data") / "ckpt"

Contents = tuple[dict[str, np.ndarray], dict[str, Any]]
Report = Callable[[str, Iterable[str]], None]

SMALL: Contents = ({"W": np.float32([1, 2, 3]), "n": np.int64(4).reshape(())}, {"step": 1})
OTHER: Contents = ({"W": np.float32([4, 5, 6]), "n": np.int64(7).reshape(())}, {"step": 2})


# -------------------------------------------------------------------------------- means


def same(a: Contents, b: Contents) -> bool:
    """Equal in every bit, dtype, shape and key."""
    return (
        a[1] == b[1]
        and a[0].keys() == b[0].keys()
        and all(
            x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
            for x, y in ((a[0][k], b[0][k]) for k in a[0])
        )
    )


def outcome(path: Path, *allowed: Contents) -> str:
    """What a reader makes of the file."""
    try:
        found = container.read(path)
    except CheckpointError:
        return "refused"
    return "whole" if any(same(found, contents) for contents in allowed) else "wrong"


def saved(path: Path, contents: Contents) -> bytes:
    container.write(path, *contents)
    return path.read_bytes()


def outcomes(path: Path, mutants: Iterable[bytes], *allowed: Contents) -> Iterator[str]:
    for mutant in mutants:
        path.unlink(missing_ok=True)  # a file that is cut to nothing first waits for the disk
        path.write_bytes(mutant)
        yield outcome(path, *allowed)


def python(code: str, *args: object, timeout: float = 60) -> Any:
    """What the code, in an interpreter of its own, prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


DOCUMENT = {"format": "portable_bp", "version": 1, "metadata": {}}
MARK = {"portable_bp": f"{'0' * 64} {json.dumps(DOCUMENT)}"}


def safetensors_file(header: object, body: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def forged(arrays: dict[str, Any], text: str | None = None, **document: Any) -> bytes:
    """A file with a digest that is right, whatever it holds: what an attacker can make."""
    text = json.dumps(DOCUMENT | document) if text is None else text
    return bytes(
        safetensors.save(arrays, {"portable_bp": f"{container._digest(text, arrays)} {text}"})
    )


# --------------------------------------------------------------------------- round trips

DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
)
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": lambda a: a,
    "Fortran": np.asfortranarray,
    "transposed": np.transpose,
    "reversed": lambda a: a[(slice(None, None, -1),) * a.ndim],
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2] if a.ndim else a,
    "broadcast": lambda a: np.broadcast_to(a, (2, *a.shape)),
    "misaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}


@st.composite
def laid_out(draw: st.DrawFn) -> np.ndarray:
    shape = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    array = draw(hnp.arrays(DTYPES, shape))
    return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](array)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(
    arrays=st.dictionaries(
        st.text().filter(lambda s: s != "__metadata__" and s.isprintable()), laid_out(), max_size=4
    ),
    metadata=st.dictionaries(st.text(), JSON_VALUES, max_size=4),
)
def test_everything_comes_back(
    arrays: dict[str, np.ndarray], metadata: dict[str, Any], tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.safetensors"
    before = {name: (a.tobytes(), a.dtype, a.strides) for name, a in arrays.items()}
    container.write(path, arrays, metadata)
    assert before == {name: (a.tobytes(), a.dtype, a.strides) for name, a in arrays.items()}
    found, kept = container.read(path, allow_nonfinite=True)
    assert kept == metadata
    assert found.keys() == arrays.keys()
    for name, a in found.items():
        native = arrays[name].astype(arrays[name].dtype.newbyteorder("="))
        assert a.dtype == native.dtype
        assert a.dtype.isnative
        assert a.shape == native.shape
        assert a.tobytes() == native.tobytes()
        assert a.flags.writeable
        assert a.flags.c_contiguous
        assert a.flags.aligned


def test_the_arrays_are_private(tmp_path: Path) -> None:
    path = tmp_path / "f"
    container.write(path, *SMALL)
    first, _ = container.read(path)
    first["W"][...] = 9
    assert not np.shares_memory(first["W"], first["n"])
    assert same(container.read(path), SMALL)


def test_other_readers_of_safetensors_can_read_it(tmp_path: Path) -> None:
    container.write(tmp_path / "f", *SMALL)
    found = safetensors.load_file(tmp_path / "f")
    assert same((found, SMALL[1]), SMALL)


def test_the_same_contents_make_the_same_bytes(tmp_path: Path) -> None:
    assert len({saved(tmp_path / "f", SMALL) for _ in range(20)}) == 1


def test_tuples_come_back_as_lists_and_nan_as_nan(tmp_path: Path) -> None:
    metadata = {"t": (1, (2, 3)), "nan": float("nan"), "inf": float("-inf"), "np": np.float64(0.1)}
    container.write(tmp_path / "f", {}, metadata)
    _, found = container.read(tmp_path / "f")
    assert found["t"] == [1, [2, 3]]
    assert found["nan"] != found["nan"]
    assert (found["inf"], found["np"]) == (float("-inf"), 0.1)


def test_golden_files_of_every_version_load() -> None:
    assert set(container.MIGRATIONS) == set(range(1, container.VERSION))
    expected = runpy.run_path(str(GOLDEN / "make_golden.py"))["contents"]()
    for version in range(1, container.VERSION + 1):
        assert same(container.read(GOLDEN / f"v{version}.safetensors"), expected), version


def test_older_versions_migrate_step_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    container.write(path, *SMALL)
    monkeypatch.setattr(container, "VERSION", 3)
    monkeypatch.setitem(
        container.MIGRATIONS, 1, lambda a, m: ({"weight": a["W"]}, m | {"seen": [1]})
    )
    monkeypatch.setitem(container.MIGRATIONS, 2, lambda a, m: (a, m | {"seen": [*m["seen"], 2]}))
    arrays, metadata = container.read(path)
    assert list(arrays) == ["weight"]
    assert metadata == {"step": 1, "seen": [1, 2]}
    container.write(path, *SMALL)
    assert same(container.read(path), SMALL)  # a file of the present version is left as it is


# ------------------------------------------------------------------- what write refuses


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([object()]), "dtype object"),
        (np.array(["a"]), "dtype <U1"),
        (np.array([b"a"]), "dtype .S1"),
        (np.ones(2, "complex64"), "dtype complex64"),
        (np.ones(2, "complex128"), "dtype complex128"),
        (np.ones(2, "longdouble"), "dtype float128|dtype longdouble"),
        (np.array(["2020-01-01"], "datetime64[D]"), "dtype datetime64"),
        (np.ones(2, [("x", "f4")]), "dtype"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "masked"),
        ([1.0, 2.0], "must be a NumPy array, got list"),
    ],
)
def test_write_refuses_arrays_a_file_cannot_hold(tmp_path: Path, array: Any, words: str) -> None:
    with pytest.raises(TypeError, match=rf"arrays\['bad'\].*({words})"):
        container.write(tmp_path / "f", {"good": np.ones(2), "bad": array}, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arrays", "metadata", "error", "words"),
    [
        ({1: np.ones(1)}, {}, TypeError, "names are strings, got 1"),
        ({"__metadata__": np.ones(1)}, {}, ValueError, "__metadata__"),
        ({"\ud800": np.ones(1)}, {}, ValueError, "not valid text"),
        ({}, {"a": [0, np.int64(1)]}, TypeError, r"metadata\['a'\]\[1\] is a int64"),
        ({}, {"a": {1: 2}}, TypeError, r"metadata\['a'\]: keys are strings, got 1"),
        ({}, {"a": b"x"}, TypeError, r"metadata\['a'\] is a bytes"),
        ({}, {"a": "x" * container.MAX_HEADER}, ValueError, "header: .* over the limit"),
        (
            {str(i): np.empty(0, "u1") for i in range(container.MAX_ARRAYS + 1)},
            {},
            ValueError,
            "10001 arrays, over the limit",
        ),
    ],
)
def test_write_refuses_what_read_would_refuse(
    tmp_path: Path, arrays: Any, metadata: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        container.write(tmp_path / "f", arrays, metadata)
    assert os.listdir(tmp_path) == []


def test_depth_is_bounded_alike_for_both(tmp_path: Path) -> None:
    def nested(depth: int) -> Any:
        return [nested(depth - 1)] if depth else 0

    container.write(tmp_path / "f", {}, {"a": nested(container.MAX_DEPTH - 2)})
    assert container.read(tmp_path / "f")[1] == {"a": nested(container.MAX_DEPTH - 2)}
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        container.write(tmp_path / "f", {}, {"a": nested(container.MAX_DEPTH - 1)})
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        container.write(tmp_path / "f", {}, {"a": endless})


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container.write(tmp_path / "f", *SMALL)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (
        lambda: container.write(tmp_path / "g", *SMALL),
        lambda: container.read(tmp_path / "f"),
    ):
        with pytest.raises(ImportError, match=r"pip install 'portable-bp\[io\]'"):
            call()


def test_importing_the_module_does_not_import_safetensors() -> None:
    code = (
        "import sys, portable_bp.persistence.checkpoints; print(int('safetensors' in sys.modules))"
    )
    assert python(code) == 0


# --------------------------------------------------------------------------------- paths


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    real, link, hanging = tmp_path / "sub" / "real", tmp_path / "link", tmp_path / "hanging"
    real.write_bytes(b"old")
    link.symlink_to("sub/real")
    hanging.symlink_to("sub/new")
    for path in (link, hanging):
        container.write(path, *SMALL)
        assert path.is_symlink()
        assert same(container.read(path), SMALL)
    assert same(container.read(real), SMALL)
    assert same(container.read(tmp_path / "sub" / "new"), SMALL)
    assert sorted(os.listdir(tmp_path)) == ["hanging", "link", "sub"]
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="not a regular file"):
        container.write(loop, *SMALL)
    assert loop.is_symlink()


def test_permissions_follow_the_umask_and_then_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    old = os.umask(0o027)
    try:
        container.write(path, *SMALL)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        container.write(path, *OTHER)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(old)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        container.write(tmp_path, *SMALL)
    with pytest.raises(IsADirectoryError):
        container.read(tmp_path)
    with pytest.raises(FileNotFoundError):
        container.read(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="missing/f"):
        container.write(tmp_path / "missing" / "f", *SMALL)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        container.write(tmp_path / "file" / "f", *SMALL)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        container.read(tmp_path / "pipe")  # and does not wait for a writer
    with pytest.raises(OSError, match="not a regular file"):
        container.write(tmp_path / "pipe", *SMALL)
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]


def test_a_name_of_any_length_can_be_replaced(tmp_path: Path) -> None:
    for path in (tmp_path / ("n" * 255), tmp_path / ("θ" * 127)):
        container.write(path, *SMALL)
        assert same(container.read(path), SMALL)


def test_a_directory_that_may_not_be_written(tmp_path: Path) -> None:
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:  # one that another user can reach
        path = Path(folder) / "f"
        old = saved(path, SMALL)
        path.chmod(0o644)
        os.chmod(folder, 0o555)
        try:
            if user == 0:  # whom permissions do not bind
                os.seteuid(65534)
            with pytest.raises(PermissionError, match="untouched"):
                container.write(path, *OTHER)
            with pytest.raises(PermissionError, match="checkpoints cannot be written here"):
                checkpoints.CheckpointDirectory(folder)
        finally:
            os.seteuid(user)
            os.chmod(folder, 0o700)
        assert path.read_bytes() == old
        assert os.listdir(folder) == ["f"]


# ------------------------------------------------------------------------------- damage


def test_every_single_bit_flip(tmp_path: Path, report: Report) -> None:
    path = tmp_path / "f"
    data = saved(path, SMALL)
    flips = (
        data[:i] + bytes([data[i] ^ 1 << bit]) + data[i + 1 :]
        for i in range(len(data))
        for bit in range(8)
    )
    report(f"every single-bit flip of a file of {len(data)} bytes", outcomes(path, flips, SMALL))


def test_every_truncation(tmp_path: Path, report: Report) -> None:
    path = tmp_path / "f"
    data = saved(path, SMALL)
    found = list(outcomes(path, (data[:n] for n in range(len(data))), SMALL))
    report(f"every truncation of a file of {len(data)} bytes", found)
    assert set(found) == {"refused"}


def test_every_torn_write(tmp_path: Path, report: Report) -> None:
    """The first n bytes of the new file, the rest still of the old one."""
    path = tmp_path / "f"
    old, new = saved(path, SMALL), saved(path, OTHER)
    assert len(old) == len(new)
    mixed = (new[:n] + old[n:] for n in range(len(old) + 1))
    report(
        "every mixture of the start of one file and the end of another",
        outcomes(path, mixed, SMALL, OTHER),
    )


def test_every_lost_sector(tmp_path: Path, report: Report) -> None:
    path = tmp_path / "f"
    contents = ({"W": np.random.default_rng(0).random((128, 128))}, {})
    data = saved(path, contents)
    sectors = range(0, len(data), 512)
    lost = (data[:i] + bytes(len(data[i : i + 512])) + data[i + 512 :] for i in sectors)
    found = list(outcomes(path, lost, contents))
    report(f"every sector of a file of {len(data) // 1024} KiB lost (zeros)", found)
    assert set(found) == {"refused"}


def test_bytes_after_the_end(tmp_path: Path) -> None:
    path = tmp_path / "f"
    data = saved(path, SMALL)
    assert set(outcomes(path, (data + bytes(n) for n in range(1, 20)), SMALL)) == {"refused"}


def mutants(files_: list[bytes], n: int, seed: int) -> Iterator[bytes]:
    """Files changed in one to four places: bytes set, cut out, put in, repeated, swapped, mixed."""
    rng = random.Random(seed)
    for _ in range(n):
        data = bytearray(rng.choice(files_))
        for _ in range(rng.randint(1, 4)):
            i, size = rng.randrange(len(data)), rng.choice([1, 1, 2, 4, 8, 16, 64])
            piece = data[i : i + size]
            other = rng.choice(files_)
            j = rng.randrange(len(other))
            match rng.randrange(7):
                case 0:
                    data[i : i + size] = rng.randbytes(len(piece))
                case 1:
                    del data[i : i + min(size, len(data) - 1)]
                case 2:
                    data[i:i] = rng.randbytes(size)
                case 3:
                    data[i:i] = piece
                case 4:
                    data[i : i + size] = other[j : j + len(piece)].ljust(len(piece), b"\0")
                case 5:
                    data[i : i + size] = rng.choice([b'"', b"[", b"{", b"}", b"9", b"-", b"\0"])
                case 6:
                    digits = [k for k in range(8, len(data)) if 48 <= data[k] < 58] or [i]
                    data[rng.choice(digits)] = rng.choice(b"0123456789")
        yield bytes(data)


def fuzz(tmp_path: Path, n: int, seed: int) -> Iterator[str]:
    path = tmp_path / "f"
    seeds = (
        SMALL,
        OTHER,
        ({"a": np.arange(12.0).reshape(3, 4), "b": np.array([True]), "c": np.int8([])}, {"x": [1]}),
        ({}, {"nested": {"a": [1, {"b": None}], "t": 'quote " θ'}}),
    )
    return outcomes(path, mutants([saved(path, s) for s in seeds], n, seed), *seeds)


def test_mutants(tmp_path: Path, report: Report) -> None:
    report("random mutants of four small files", fuzz(tmp_path, 2_000, seed=1))


@pytest.mark.slow
def test_many_mutants(tmp_path: Path, report: Report) -> None:
    report("more random mutants", fuzz(tmp_path, 200_000, seed=2))


# ------------------------------------------------------------------ foreign, hostile files


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def entry(shape: list[Any], *offsets: Any, dtype: Any = "F32", **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets), **more}


def picture() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    size = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    dot = zlib.compress(b"\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", dot) + chunk(b"IEND", b"")


def zipped() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    return buffer.getvalue()


FOREIGN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "length: 0 bytes"),
    "text": (lambda: b"step,loss\n1,0.5\n2,0.25\n" * 9, "header: .* not a file that portable_bp"),
    "picture": (picture, "format: this is a PNG picture"),
    "npz": (zipped, r"format: this is an archive of NumPy arrays \(.npz\)"),
    "pickle": (
        lambda: pickle.dumps(Trap(Path(tempfile.gettempdir()) / "trap")),
        "this is a pickle; .*never loads",
    ),
    "zeros": (lambda: bytes(4096), "not the JSON"),
    "other safetensors": (lambda: bytes(safetensors.save({"a": np.ones(3)})), "format: no mark"),
    "torch's safetensors": (
        lambda: bytes(safetensors.save({"a": np.ones(3)}, {"format": "pt"})),
        "format: no mark",
    ),
    "version 99": (
        lambda: forged({"a": np.ones(3)}, version=99),
        "is of version 99, this portable_bp reads up to version 1; install a newer",
    ),
    "version 0": (lambda: forged({}, version=0), "version: 0 is no version"),
    "version one": (lambda: forged({}, version="one"), "version: 'one' is no version"),
    "version true": (lambda: forged({}, version=True), "version: True is no version"),
    "no version": (lambda: forged({}, "{}"), "version: None is no version"),
    "no digest": (
        lambda: safetensors_file({"__metadata__": {"portable_bp": json.dumps(DOCUMENT)}}),
        "metadata: not the JSON",
    ),
    "a wrong digest": (lambda: safetensors_file({"__metadata__": MARK}), "checksum"),
    "mark that is a number": (
        lambda: safetensors_file({"__metadata__": {"portable_bp": 1}}),
        "no mark",
    ),
    "one string more": (lambda: safetensors_file({"__metadata__": MARK | {"x": "y"}}), "no mark"),
    "another format": (lambda: forged({}, format="other"), "contents: format"),
    "metadata that is a list": (lambda: forged({}, metadata=[]), "contents: format and metadata"),
    "one field more": (lambda: forged({}, reader="os.system"), "contents: format and metadata"),
    "header of 2^63 bytes": (
        lambda: struct.pack("<Q", 2**63) + b"{}",
        "header: 9223372036854775808",
    ),
    "header of 2^64 - 1 bytes": (lambda: b"\xff" * 8 + b"{}", "header: 18446744073709551615"),
    "header longer than the file": (lambda: struct.pack("<Q", 1000) + b"{}", "ends within"),
    "header 2,000 deep": (lambda: safetensors_file(b"[" * 2_000), "nested more than 64 deep"),
    "header 8 million deep": (
        lambda: safetensors_file(b"[" * container.MAX_HEADER),
        "nested more than 64",
    ),
    "metadata 2,000 deep": (lambda: forged({}, "[" * 2_000), "metadata: .*nested more than 64"),
    "document that is a list": (lambda: forged({}, "[]"), "metadata: .*not an object"),
    "metadata with a key twice": (lambda: forged({}, '{"a":1,"a":2}'), "a key comes twice"),
    "metadata that is no JSON": (lambda: forged({}, "import os"), "metadata: not the JSON"),
    "metadata with half a character": (
        lambda: safetensors_file({"__metadata__": {"portable_bp": "\ud800 {\ud800}"}}),
        "metadata: not the JSON",
    ),
    "half a character that the library refuses": (
        lambda: safetensors_file(
            {"__metadata__": {"portable_bp": "\ud800 " + json.dumps(DOCUMENT)}}
        ),
        "layout",
    ),
    "number of 5,000 digits": (lambda: forged({}, '{"a":' + "9" * 5000 + "}"), "metadata"),
    "header that is a list": (lambda: safetensors_file([1]), "not an object"),
    "header in UTF-16": (lambda: safetensors_file("{}".encode("utf-16")), "not the JSON"),
    "marks that are a list": (
        lambda: safetensors_file({"__metadata__": ["portable_bp"]}),
        "no mark",
    ),
    "a key twice": (
        lambda: safetensors_file(b'{"__metadata__":{"portable_bp":"","portable_bp":""}}'),
        "a key comes twice",
    ),
    "overlapping arrays": (
        lambda: safetensors_file(
            {"__metadata__": MARK, "a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)
        ),
        "layout",
    ),
    "a hole between arrays": (
        lambda: safetensors_file(
            {"__metadata__": MARK, "a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)
        ),
        "layout",
    ),
    "offsets backwards": (
        lambda: safetensors_file({"__metadata__": MARK, "a": entry([1], 4, 0)}),
        "layout",
    ),
    "negative offsets": (
        lambda: safetensors_file({"__metadata__": MARK, "a": entry([1], -4, 0)}),
        "layout",
    ),
    "offsets beyond the file": (
        lambda: safetensors_file({"__metadata__": MARK, "a": entry([2**38], 0, 2**40)}, bytes(8)),
        "length: the header promises",
    ),
    "offsets of 2^64": (
        lambda: safetensors_file({"__metadata__": MARK, "a": entry([1], 0, 2**64)}, bytes(8)),
        "length: the header promises",
    ),
    "shape of 2^40 rows": (
        lambda: safetensors_file({"__metadata__": MARK, "a": entry([2**40], 0, 8)}, bytes(8)),
        "layout",
    ),
    "shape that overflows": (
        lambda: safetensors_file({"__metadata__": MARK, "a": entry([2**62, 2**62, 0], 0, 0)}),
        "layout",
    ),
    "shape that overflows behind a zero": (
        lambda: safetensors_file({"__metadata__": MARK, "a": entry([0, 2**62, 2**62], 0, 0)}),
        "layout",
    ),
    "negative shape": (
        lambda: safetensors_file({"__metadata__": MARK, "a": entry([-1], 0, 0)}),
        "layout",
    ),
    "a million axes": (
        lambda: safetensors_file({"__metadata__": MARK, "a": entry([1] * 10**6, 0, 4)}, bytes(4)),
        "layout",
    ),
    "shape of words": (
        lambda: safetensors_file({"__metadata__": MARK, "a": entry(["2"], 0, 8)}, bytes(8)),
        "layout",
    ),
    "unknown dtype": (
        lambda: safetensors_file(
            {"__metadata__": MARK, "a": entry([1], 0, 8, dtype="C64")}, bytes(8)
        ),
        "unknown kind",
    ),
    "dtype that names a class": (
        lambda: safetensors_file(
            {"__metadata__": MARK, "a": entry([1], 0, 8, dtype="object")}, bytes(8)
        ),
        "unknown kind",
    ),
    "entry with one field more": (
        lambda: safetensors_file({"__metadata__": MARK, "a": entry([0], 0, 0, reader="os.system")}),
        "unknown kind",
    ),
    "entry that is a number": (
        lambda: safetensors_file({"__metadata__": MARK, "a": 1}),
        "entry of array",
    ),
    "100,000 arrays": (
        lambda: safetensors_file(
            {"__metadata__": MARK} | {str(i): entry([0], 0, 0) for i in range(100_000)}
        ),
        "100000 arrays, over the limit",
    ),
    "8 MiB of empty lists": (
        lambda: safetensors_file(b'{"a":[' + b"[]," * (container.MAX_HEADER // 3 - 9) + b"0]}"),
        "format: no mark",
    ),
    "booleans of 2": (
        lambda: forged({"a": np.frombuffer(b"\x01\x02", bool)}),
        "contents: array 'a' has booleans",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_and_hostile_files_are_refused(tmp_path: Path, kind: str) -> None:
    make, words = FOREIGN[kind]
    path = tmp_path / "f"
    path.write_bytes(make())
    with pytest.raises(CheckpointError, match=words) as caught:
        container.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert not (Path(tempfile.gettempdir()) / "trap").exists()
    assert os.listdir(tmp_path) == ["f"]


HOSTILE = """
import json, os, resource, sys
import numpy, safetensors.numpy
from portable_bp.persistence import container
from portable_bp.errors import CheckpointError

pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2**29
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.setrecursionlimit(10**6)
found = []
for name in sorted(os.listdir(sys.argv[1])):
    try:
        container.read(os.path.join(sys.argv[1], name))
        found.append("wrong")
    except CheckpointError:
        found.append("refused")
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the size of the process in /proc")
def test_hostile_files_cannot_exhaust_memory(tmp_path: Path, report: Report) -> None:
    for i, (make, _) in enumerate(FOREIGN.values()):
        (tmp_path / str(i)).write_bytes(make())
    with open(tmp_path / "huge", "wb") as file:  # takes no room on the disk
        file.write(safetensors_file({"__metadata__": MARK, "a": entry([2**38], 0, 2**40)}))
        file.truncate(file.tell() + 2**40)
    found = python(HOSTILE, tmp_path)
    report("foreign and hostile files, with 512 MiB of memory to spare", found)
    assert found == ["refused"] * (len(FOREIGN) + 1)


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    size = len(saved(path, SMALL))
    assert same(container.read(path, max_bytes=size), SMALL)
    with pytest.raises(CheckpointError, match=f"size: {size} bytes, over the limit of {size - 1}"):
        container.read(path, max_bytes=size - 1)


@pytest.mark.parametrize("change", [-1, 2**20])
def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: int
) -> None:
    path = tmp_path / "f"
    container.write(path, {"a": np.ones(10_000)}, {})
    header = container._header

    def meanwhile(length: int, raw: bytes) -> Any:
        os.truncate(path, path.stat().st_size + change)
        return header(length, raw)

    monkeypatch.setattr(container, "_header", meanwhile)
    with pytest.raises(CheckpointError, match="the file changed while it was read; try again"):
        container.read(path)


@pytest.mark.parametrize("module", [container, checkpoints])
def test_nothing_that_runs_what_it_reads(module: Any) -> None:
    """Neither by name nor by import: no pickle, no eval, no look-up of attributes by a string."""
    tree = ast.parse(Path(module.__file__).read_text())
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    names |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) if n.module}
    banned = {"pickle", "marshal", "shelve", "eval", "exec", "getattr", "setattr", "__import__"}
    assert not names & (banned | {"importlib", "import_module", "ctypes", "load", "globals"})


def test_numbers_that_are_not_finite_are_refused_unless_allowed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    arrays = {"good": np.ones(3), "W1": np.float16([1, np.nan, np.inf]), "n": np.arange(3)}
    container.write(path, arrays, {})
    with pytest.raises(CheckpointError, match="array 'W1' holds 2 numbers that are not finite"):
        container.read(path)
    assert same(container.read(path, allow_nonfinite=True), (arrays, {}))


# ------------------------------------------------------------------------- faults in saving


class Disk:
    """A file that is written 100 bytes at a time, each of which may fail."""

    def __init__(self, file: Any, strike: Callable[[str], None]) -> None:
        self.file, self.strike = file, strike
        self.fileno = file.fileno

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), 100):
            self.strike("write")
            self.file.write(data[start : start + 100])

    def flush(self) -> None:
        self.strike("flush")
        self.file.flush()


class Fault:
    """Makes the call of number ``at`` to the system fail, and remembers all calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
        self.at, self.error, self.calls = at, error, list[str]()
        fsync, folder, replace, chmod = os.fsync, os.open, os.replace, os.chmod

        def named(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any) -> Any:
                self.strike(name)
                return call(*args)

            return wrapper

        def synced(descriptor: int) -> None:
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            self.strike("fsync file" if is_file else "fsync folder")
            fsync(descriptor)

        def created(path: str, mode: str) -> Disk:
            self.strike("create")
            return Disk(open(path, mode), self.strike)

        monkeypatch.setattr(atomic, "open", created, raising=False)
        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "open", named("open folder", folder))
        monkeypatch.setattr(os, "replace", named("replace", replace))
        monkeypatch.setattr(os, "chmod", named("chmod", chmod))

    def strike(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) - 1 == self.at:
            raise self.error


ORDER = [
    "create",
    "chmod",
    "write",
    "flush",
    "fsync file",
    "replace",
    "open folder",
    "fsync folder",
]


def faulty_save(
    path: Path, at: int, error: BaseException
) -> tuple[list[str], BaseException | None]:
    """Save with a fault at a call; the calls that were made and the error that came out."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        fault = Fault(monkeypatch, at, error)
        try:
            container.write(path, *OTHER)
        except BaseException as raised:
            return fault.calls, raised
        return fault.calls, None


def test_the_order_of_the_calls_is_what_makes_it_safe(tmp_path: Path) -> None:
    path = tmp_path / "f"
    container.write(path, *SMALL)
    path.chmod(0o600)
    calls, error = faulty_save(path, -1, OSError())
    assert error is None
    assert list(dict.fromkeys(calls)) == ORDER


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("words only"),
        MemoryError(),
        KeyboardInterrupt(),
    ],
    ids=["EIO", "ENOSPC", "unnumbered", "memory", "Ctrl-C"],
)
def test_a_failure_at_every_call(tmp_path: Path, error: BaseException, report: Report) -> None:
    path = tmp_path / "f"
    found, failed = [], list[str]()
    container.write(path, *SMALL)
    path.chmod(0o600)
    total = len(faulty_save(path, -1, error)[0])
    for at in range(total):
        container.write(path, *SMALL)
        calls, raised = faulty_save(path, at, error)
        failed.append(calls[-1])
        assert isinstance(raised, type(error))
        if calls[-1] not in ("open folder", "fsync folder") and isinstance(error, OSError):
            assert str(path) in str(raised)
            assert "untouched" in str(raised)
        found.append(outcome(path, OTHER if "folder" in calls[-1] else SMALL))
        assert os.listdir(tmp_path) == ["f"]  # no litter
    assert list(dict.fromkeys(failed)) == ORDER  # the fault struck at each kind of call
    name = type(error).__name__ if not isinstance(error, OSError) else error.strerror or "OSError"
    report(f"a save that fails at any of its calls ({name})", found)
    assert set(found) == {"whole"}


def test_a_file_system_without_fsync_of_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    container.write(tmp_path / "f", *SMALL)
    assert same(container.read(tmp_path / "f"), SMALL)


FULL_DISK = """
import json, os, resource, sys, warnings
import numpy as np
from portable_bp import errors
from portable_bp.persistence import atomic, checkpoints, container

folder = sys.argv[1]
old, new = np.zeros(2_000), np.ones(2_000)
path = os.path.join(folder, "f")
container.write(path, {"W": old}, {"step": 0})
size = os.path.getsize(path)
found, hard = [], resource.getrlimit(resource.RLIMIT_FSIZE)[1]

def state(arrays, metadata):
    good = [0] * 2_000 if metadata == {"step": 0} else [1] * 2_000
    return "whole" if arrays["W"].tolist() == good else "wrong"

runs = checkpoints.CheckpointDirectory(os.path.join(folder, "runs"))
assert runs.save(0, {"W": old}, {"step": 0})
for limit in [*range(0, size, 97), size - 1]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        container.write(path, {"W": new}, {"step": 1})
        found.append("wrong")
    except OSError as error:
        assert "untouched" in str(error) and str(size) in str(error), error
        found.append(state(*container.read(path)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept = runs.save(1, {"W": new}, {"step": 1})
    assert kept is False and [w.category for w in caught] == [errors.CheckpointWarning]
    assert "goes on" in str(caught[0].message)
    try:
        runs.save(1, {"W": new}, {"step": 1}, final=True)
        found.append("wrong")
    except OSError:
        found.append(state(*runs.latest()[1:]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert runs.save(1, {"W": new}, {"step": 1})  # room again: the retry succeeds
assert runs.latest().metadata == {"step": 1}
assert sorted(os.listdir(folder)) == ["f", "runs"]
assert len(runs.steps()) == 2, os.listdir(runs.path)
print(json.dumps(found))
"""


def test_disk_full_at_any_byte(tmp_path: Path, report: Report) -> None:
    found = python(FULL_DISK, tmp_path)
    report("a save on a disk that is full after any number of bytes", found)
    assert set(found) == {"whole"}


KILLS = """
import itertools, json, os, random, signal, sys, time
import numpy as np
from portable_bp.persistence import atomic, checkpoints, container

folder, how, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
path = os.path.join(folder, "f")

def child(first, tell):
    runs = checkpoints.CheckpointDirectory(folder, keep=2) if how == "directory" else None
    for k in itertools.count(first):
        arrays, metadata = {"a": np.full(200_000, k), "b": np.full(3, k)}, {"k": k}
        if runs is None:
            container.write(path, arrays, metadata)
        else:
            assert runs.save(k, arrays, metadata)
        os.write(tell, k.to_bytes(8, "little"))

def newest():
    if how == "file":
        return container.read(path)
    with checkpoints.CheckpointDirectory(folder, keep=2) as runs:
        assert not [name for name in os.listdir(folder) if name.endswith(".tmp")]
        assert len(runs.steps()) <= 3
        return runs.latest()[1:]

found, amid, first = [], 0, 0
for _ in range(kills):
    hear, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child(first, tell)
        finally:
            os._exit(1)
    os.close(tell)
    told = os.read(hear, 8)
    time.sleep(random.uniform(0, 0.05))
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    while more := os.read(hear, 8):
        told = more
    os.close(hear)
    last = int.from_bytes(told, "little")
    amid += any(name.endswith(".tmp") for name in os.listdir(folder))
    arrays, metadata = newest()
    k = metadata["k"]
    good = all((a == k).all() for a in arrays.values()) and k in (last, last + 1)
    found.append("whole" if good else "wrong")
    for name in os.listdir(folder):
        if name.endswith(".tmp"):
            os.unlink(os.path.join(folder, name))
    first = k + 1
print(json.dumps([found, amid]))
"""


def killed(tmp_path: Path, how: str, kills: int) -> list[str]:
    found, amid = python(KILLS, tmp_path, how, kills, timeout=60 + kills)
    assert len(found) == kills
    assert amid > 0  # some struck while a file was being written
    return list(found)


@pytest.mark.parametrize("how", ["file", "directory"])
def test_kill_while_saving(tmp_path: Path, how: str, report: Report) -> None:
    """Each kill leaves the last save that was confirmed, or the one after it, whole."""
    report(f"`kill -9` while saving over and over ({how})", killed(tmp_path, how, 20))


@pytest.mark.slow
def test_many_kills_while_saving(tmp_path: Path, report: Report) -> None:
    report("more `kill -9` while saving", killed(tmp_path, "file", 300))


RACE = """
import itertools, json, os, signal, sys, time
import numpy as np
from portable_bp.persistence import container

path, seconds = os.path.join(sys.argv[1], "f"), float(sys.argv[2])
container.write(path, {"a": np.full(20_000, 0), "b": np.full(3, 0)}, {"k": 0})
writers = []
for writer in (1, 2):
    pid = os.fork()
    if pid == 0:
        for k in itertools.count(writer, 2):
            arrays = {"a": np.full(20_000, k), "b": np.full(3, k)}
            container.write(path, arrays, {"k": k})
    writers.append(pid)
found, seen, end = [], set(), time.monotonic() + seconds
try:
    while time.monotonic() < end:
        arrays, metadata = container.read(path)
        good = all((a == metadata["k"]).all() for a in arrays.values())
        seen.add(metadata["k"] % 2)
        found.append("whole" if good else "wrong")
finally:
    for pid in writers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
assert seen == {0, 1}, seen
print(json.dumps(found))
"""


def test_two_writers_and_a_reader(tmp_path: Path, report: Report) -> None:
    found = python(RACE, tmp_path, 1.0)
    report("reads of one path while two processes write it", found)
    assert set(found) == {"whole"}
