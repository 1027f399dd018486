"""What a file is that is none of ours, by its first bytes.

Some of these formats run code when their own library opens them. Here nothing is opened: the bytes
are compared, and the reader is told what they are.
"""

from __future__ import annotations

_RUNS_CODE = (
    "; it holds a pickle, which can run code when it is loaded: portable_bp never loads one"
)

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras .h5)"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"\x04\x22\x4d\x18", "an lz4 file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"GGUF", "a GGUF file"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x89PNG", "a PNG picture"),
    (b"%PDF", "a PDF document"),
    (b"ZF", "a file of joblib" + _RUNS_CODE),  # compressed, of versions before 0.10
)

_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")

# Protocols 0 and 1 have no mark of their own: containers, and names of the usual modules.
_OLD_PICKLES = (
    b"(dp", b"(lp", b"(ip", b"(I", b"(S", b"(c", b"}q", b"]q", b"(q", b"cbuiltins\n",
    b"c__builtin__\n", b"ccopy_reg\n", b"cnumpy", b"cos\n", b"cposix\n", b"csubprocess\n",
)  # fmt: skip


def describe(start: bytes) -> str | None:
    """What the file is, with its article; None where its first bytes say nothing.

    Parameters
    ----------
    start : bytes
        The first bytes of the file, some hundreds.

    Returns
    -------
    str or None

    Examples
    --------
    >>> describe(b"\\x93NUMPY\\x01\\x00")
    'a NumPy array (.npy)'
    """
    if (
        start[3:9] == b"\0\0\0\0\0{"
    ):  # as ours: the length of a header of at most 8 MiB, and a brace
        return None
    for magic, name in _STARTS:
        if start.startswith(magic):
            return name
    if start.startswith(b"PK\x03\x04"):
        return _zip(start)
    if start[:2] in _ZLIB:
        return "a zlib file (joblib with compression)" + _RUNS_CODE
    if _is_pickle(start):
        by = " of joblib" if b"joblib" in start else ""
        by = " of torch" if start.startswith(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20") else by
        return f"a pickle{by}" + _RUNS_CODE
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite file"
    # A protocol buffer whose first field is a small number (the version) and the next a name.
    if len(start) > 4 and start[0] == 8 and start[1] < 32 and start[2] == 0x12:
        name_of_program = start[4 : 4 + start[3]]
        if name_of_program.isascii() and len(name_of_program) == start[3] < 64:
            return "an ONNX model"
    return None


def _is_pickle(start: bytes) -> bool:
    if len(start) > 2 and start[0] == 0x80 and start[1] <= 5:
        return True
    return start.startswith(_OLD_PICKLES)


def _zip(start: bytes) -> str:
    """What a zip archive is, by the name of its first member."""
    length = int.from_bytes(start[26:28], "little")
    member = start[30 : 30 + length]
    if member.endswith((b"/data.pkl", b"data.pkl", b"/version", b"/.format_version")):
        return "a torch file" + _RUNS_CODE
    if member.endswith(b".npy"):
        return "an archive of NumPy arrays (.npz)"
    if member in (b"metadata.json", b"config.json", b"model.weights.h5"):
        return "a Keras file (.keras)"
    if member == b"schema.json":
        return "a skops file"
    return "a zip archive"
