"""Named arrays and JSON in one file, whole or absent after a crash, and checked when it is read.

The container is `safetensors <https://huggingface.co/docs/safetensors>`_: a JSON header and raw
little-endian bytes, nothing that a reader could run. Its ``__metadata__`` holds one string under
the key ``portable_bp``: a SHA-256, a space, and the JSON object

    {"format": "portable_bp", "version": 1, "metadata": {what the caller wants to keep}}

The digest is over this JSON and every array's name, dtype, shape and bytes. It finds damage; it is
no signature, and says nothing about who wrote a file. The same contents make the same bytes: with
more than one string, the order in which safetensors writes them is left to chance.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from portable_bp._typing import HostArray
from portable_bp.backend.memory import physical_memory
from portable_bp.errors import CheckpointError
from portable_bp.persistence import atomic, foreign

JSON: TypeAlias = (
    "bool | int | float | str | list[JSON] | tuple[JSON, ...] | dict[str, JSON] | None"
)
Contents: TypeAlias = tuple[dict[str, HostArray], dict[str, Any]]

FORMAT = "portable_bp"
VERSION = 1
MIGRATIONS: dict[int, Callable[[dict[str, HostArray], dict[str, Any]], Contents]] = {}
"""From a version to the function that lifts its contents to the next version."""

MAX_HEADER = 2**23
"""Bytes of the header, metadata included: parsing takes some 30 times as much memory."""
MAX_ARRAYS = 10_000
FIRST_BYTES = 512
"""So many say what a foreign file is."""
MAX_DEPTH = 64
"""Lists and objects within each other in the JSON."""

DTYPES = {
    "BOOL": "bool",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
}
_CODES = {name: code for code, name in DTYPES.items()}

_DAMAGED = "the file is damaged; use another copy or an earlier checkpoint"
_FOREIGN = "this is not a file that portable_bp wrote, or its start is damaged"


def write(
    path: str | os.PathLike[str], arrays: Mapping[str, HostArray], metadata: Mapping[str, JSON]
) -> None:
    """Save ``arrays`` and ``metadata``: at every instant ``path`` holds the old file or the new.

    The bytes go to a temporary file in the same directory and to the disk, then a rename puts them
    in place, then the directory goes to the disk. So the disk has to hold both files for a moment,
    and the memory twice the new one. A symbolic link stays and its target is replaced. A new file
    gets the permissions of the umask, a replaced one passes on its own.

    Parameters
    ----------
    path : path
        Where to save.
    arrays : mapping of str to array
        NumPy arrays (or scalars) of any shape, layout and byte order: bool, integers, float16,
        float32, float64.
    metadata : mapping of str to JSON
        What JSON can hold; tuples come back as lists, NaN and infinities as they are.

    Raises
    ------
    TypeError
        An array or a value of the metadata is of a kind that the file cannot hold.
    ValueError
        A name cannot be stored, or the contents exceed :data:`MAX_HEADER`, :data:`MAX_ARRAYS` or
        :data:`MAX_DEPTH`.
    OSError
        The file could not be written. What was at ``path`` before is untouched.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(folder + "/w.safetensors", {"W": np.eye(2)}, {"step": 7})
    ...     arrays, metadata = read(folder + "/w.safetensors")
    >>> arrays["W"].tolist(), metadata
    ([[1.0, 0.0], [0.0, 1.0]], {'step': 7})
    """
    atomic.write(path, _encode(arrays, metadata))


def read(
    path: str | os.PathLike[str], *, allow_nonfinite: bool = False, max_bytes: int | None = None
) -> Contents:
    """The arrays and the metadata of a file that :func:`write` made; anything else is refused.

    Nothing in the file is run or looked up, and the memory taken is at most some 250 MiB (for a
    hostile header) plus twice the size of the file, which is bounded before it is read.

    Parameters
    ----------
    path : path
        The file.
    allow_nonfinite : bool, default False
        Load arrays that hold NaN or infinities.
    max_bytes : int, optional
        Refuse larger files; by default those beyond a quarter of the memory that this process may
        use.

    Returns
    -------
    arrays : dict of str to array
        Private, writable NumPy arrays.
    metadata : dict
        As saved.

    Raises
    ------
    CheckpointError
        The file is damaged, foreign, written by a newer version, too large, or holds numbers that
        are not finite. The message says which check failed.
    OSError
        The file is missing or cannot be read.
    """
    try:
        header, data = _load(path, max_bytes)
        version, arrays, metadata = _decode(header, data)
        del data
        for old in range(version, VERSION):
            arrays, metadata = MIGRATIONS[old](arrays, metadata)
        if not allow_nonfinite:
            check_finite(arrays)
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from error.__cause__
    return arrays, metadata


# ---------------------------------------------------------------------------------- to bytes


def _encode(arrays: Mapping[str, HostArray], metadata: Mapping[str, JSON]) -> bytes:
    """The bytes of the file."""
    library = require_library()
    stored = {_name(name): _plain_array(name, a) for name, a in arrays.items()}
    contents = dict(metadata)
    _check_json(contents, "metadata", 2)
    text = json.dumps({"format": FORMAT, "version": VERSION, "metadata": contents})
    mark = f"{_digest(text, stored)} {text}"
    data: bytes = library.numpy.save(stored, {FORMAT: mark})
    length = int.from_bytes(data[:8], "little")
    _header(length, data[8 : 8 + min(length, MAX_HEADER)])  # never write what read would refuse
    return data


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"arrays: names are strings, got {name!r}")
    if name == "__metadata__":
        raise ValueError("arrays: the name '__metadata__' is taken by the file; use another")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"arrays: the name {name!r} is not valid text; use another") from error
    return name


def _plain_array(name: str, a: object) -> HostArray:
    """``a`` contiguous and little-endian: safetensors writes an array's memory as it lies."""
    if isinstance(a, np.ma.MaskedArray):
        raise TypeError(f"arrays[{name!r}] is masked, and a file holds no mask; fill it first")
    if not isinstance(a, np.ndarray | np.generic):
        raise TypeError(f"arrays[{name!r}] must be a NumPy array, got {type(a).__name__}")
    if a.dtype.name not in _CODES:
        raise TypeError(
            f"arrays[{name!r}] has dtype {a.dtype}; a file holds {', '.join(_CODES)}; convert it"
        )
    return np.asarray(a, dtype=a.dtype.newbyteorder("<"), order="C")


def _check_json(value: object, place: str, depth: int) -> None:
    if isinstance(value, dict | list | tuple) and depth > MAX_DEPTH:
        raise ValueError(f"{place} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{place}: keys are strings, got {key!r}")
            _check_json(item, f"{place}[{key!r}]", depth + 1)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_json(item, f"{place}[{i}]", depth + 1)
    elif not isinstance(value, str | int | float | None):
        raise TypeError(f"{place} is a {type(value).__name__}, which JSON cannot hold; convert it")


def _digest(text: str, arrays: Mapping[str, HostArray]) -> str:
    """SHA-256 over the length of a description, the description and the bytes in its order."""
    names = sorted(arrays)
    layout = [[n, _CODES[arrays[n].dtype.name], list(arrays[n].shape)] for n in names]
    description = json.dumps([text, layout]).encode()
    sha = hashlib.sha256(len(description).to_bytes(8, "little") + description)
    for n in names:
        sha.update(arrays[n].reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


# -------------------------------------------------------------------------------- from bytes


def _load(path: str | os.PathLike[str], max_bytes: int | None) -> tuple[dict[str, Any], bytes]:
    """The header, checked against the limits and the size of the file, and all bytes."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "cannot load, this is a directory", os.fspath(path))
    if not stat.S_ISREG(mode):  # opening a pipe could wait for ever
        raise CheckpointError("file type: this is not a regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        limit = _size_limit() if max_bytes is None else max_bytes
        if size > limit:
            raise CheckpointError(f"size: {size} bytes, over the limit of {limit}; see max_bytes")
        if size < 8:
            _refuse_foreign(file.read(8))
            raise CheckpointError(f"length: {size} bytes are too few for a header; {_DAMAGED}")
        start = file.read(min(size, FIRST_BYTES))
        length = int.from_bytes(start[:8], "little")
        _refuse_foreign(start)
        start += file.read(max(0, 8 + min(length, MAX_HEADER) - len(start)))
        header, end = _header(length, start[8 : 8 + min(length, MAX_HEADER)])
        if 8 + length + end != size:
            raise CheckpointError(
                f"length: the header promises {8 + length + end} bytes, the file has {size}; "
                f"{_DAMAGED}"
            )
        data = start + file.read(size - len(start) + 1)  # one more, should it have grown
    if len(data) != size:
        raise CheckpointError("length: the file changed while it was read; try again")
    return header, data


def _refuse_foreign(start: bytes) -> None:
    """Raise when the first bytes are those of another format."""
    name = foreign.describe(start)
    if name is not None:
        raise CheckpointError(
            f"format: this is {name}. portable_bp reads the safetensors files that it has written"
        )


def _header(length: int, raw: bytes) -> tuple[dict[str, Any], int]:
    """The parsed header of ``length`` bytes that starts as ``raw``, and where its last array ends.

    The layout of the arrays is left to the safetensors library: dtype against shape against place,
    no overlap, no hole.
    """
    if length > MAX_HEADER:
        raise CheckpointError(f"header: {length} bytes, over the limit of {MAX_HEADER}; {_FOREIGN}")
    if length != len(raw):
        raise CheckpointError(f"length: the file ends within its header; {_DAMAGED}")
    header = _parse(raw, "header")
    match header.get("__metadata__"):
        case {"portable_bp": str(), **more} if not more:
            pass
        case _:
            raise CheckpointError(f"format: no mark of {FORMAT} in the header; {_FOREIGN}")
    if len(header) - 1 > MAX_ARRAYS:
        raise CheckpointError(f"header: {len(header) - 1} arrays, over the limit of {MAX_ARRAYS}")
    end = 0
    for name in header.keys() - {"__metadata__"}:
        match header[name]:
            case {"dtype": str(code), "shape": list(), "data_offsets": [int(), int(last)], **more}:
                if more or code not in DTYPES:
                    raise CheckpointError(
                        f"header: array {name!r:.50} is of an unknown kind; {_DAMAGED}"
                    )
                end = max(end, last)
            case _:
                raise CheckpointError(
                    f"header: the entry of array {name!r:.50} is wrong; {_DAMAGED}"
                )
    return header, end


def _decode(header: dict[str, Any], data: bytes) -> tuple[int, dict[str, HostArray], Any]:
    """The version, the arrays and the metadata, once the digest has been found right."""
    library = require_library()
    digest, _, text = header["__metadata__"][FORMAT].partition(" ")
    document = _parse(text, "metadata")
    version, metadata = document.get("version"), document.get("metadata")
    if type(version) is not int or version < 1:  # True is an int too
        raise CheckpointError(f"version: {version!r:.50} is no version; {_DAMAGED}")
    if version > VERSION:
        raise CheckpointError(
            f"version: the file is of version {version}, this portable_bp reads up to version "
            f"{VERSION}; install a newer portable_bp"
        )
    arrays = {}
    try:
        for name, tensor in library.deserialize(data):
            dtype = np.dtype(DTYPES[tensor["dtype"]]).newbyteorder("<")
            arrays[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    except (library.SafetensorError, ValueError) as error:
        raise CheckpointError(f"layout: {error}; {_DAMAGED}") from error
    if digest != _digest(text, arrays):
        raise CheckpointError(f"checksum: the contents do not match their SHA-256; {_DAMAGED}")
    if document.get("format") != FORMAT or not isinstance(metadata, dict) or len(document) != 3:
        raise CheckpointError(
            f"contents: format and metadata are not what they should be; {_FOREIGN}"
        )
    for name, a in arrays.items():
        if a.dtype == bool and (a.view(np.uint8) > 1).any():
            raise CheckpointError(f"contents: array {name!r} has booleans that are neither 0 nor 1")
        arrays[name] = a.astype(a.dtype.newbyteorder("="), copy=False)
    return version, arrays, metadata


def _parse(raw: bytes | str, what: str) -> dict[str, Any]:
    """A JSON object, without a key that comes twice."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        unique = dict(items)
        if len(unique) < len(items):
            raise ValueError("a key comes twice")
        return unique

    try:
        text = raw if isinstance(raw, str) else raw.decode()
        _check_depth(text)
        value = json.loads(text, object_pairs_hook=pairs)
        if not isinstance(value, dict):
            raise ValueError("it is not an object")
    except ValueError as error:
        raise CheckpointError(f"{what}: not the JSON it should be ({error}); {_FOREIGN}") from error
    return value


def _check_depth(text: str) -> None:
    """Python's parser recurses, and a stack that a file can fill is a crash.

    A fixed number of passes over the bytes, whatever they are: a quote ends or begins a string unless
    an odd number of backslashes stands before it, and brackets count outside of strings.
    """
    raw = np.frombuffer(text.encode(errors="surrogatepass"), np.uint8)
    if not raw.size:
        return
    place = np.arange(raw.size, dtype=np.int32)
    other = np.maximum.accumulate(np.where(raw != ord("\\"), place, np.int32(-1)))
    backslashes = place - other  # in a row, up to this byte
    escaped = np.concatenate([np.zeros(1, bool), backslashes[:-1] % 2 == 1])
    del place, other, backslashes
    quotes = (raw == ord('"')) & ~escaped
    inside = np.logical_xor.accumulate(quotes)
    opened = ((raw == ord("[")) | (raw == ord("{"))) & ~inside
    closed = ((raw == ord("]")) | (raw == ord("}"))) & ~inside
    depth = np.cumsum(opened.view(np.int8) - closed.view(np.int8), dtype=np.int32)
    if depth.max() > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")


def check_finite(arrays: Mapping[str, HostArray]) -> None:
    """Raise a CheckpointError where an array holds NaN or an infinity."""
    for name, a in arrays.items():
        bad = a.size - np.count_nonzero(np.isfinite(a))
        if bad:
            raise CheckpointError(
                f"values: array {name!r} holds {bad} numbers that are not finite; use an earlier "
                f"checkpoint (portable_bp.persistence.container.read has allow_nonfinite=True)"
            )


def _size_limit() -> int:
    memory = physical_memory()
    return sys.maxsize if memory is None else memory // 4


def require_library() -> ModuleType:
    """The safetensors library; an ImportError that says what to install where it is missing."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "model files need the safetensors library: pip install 'portable-bp[io]'",
            name="safetensors",
        ) from error
    return safetensors
