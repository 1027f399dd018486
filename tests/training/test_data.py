"""Rows on their way to the device: streamed or resident, the same steps."""

from __future__ import annotations

import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from portable_bp import MLP, fit, get_backend
from portable_bp.backend import leaves
from portable_bp.training import data
from portable_bp.training.data import Chunk, DeviceData, HostStream, must_stream


def taken(pieces: Any) -> list[tuple[Any, ...]]:
    """The batches of the pieces, one after the other."""
    found = []
    for piece in pieces:
        rows = [slice(None)] if piece.order is None else piece.order
        found += [tuple(np.asarray(a)[r] for a in piece.arrays) for r in rows]
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of two steps of five rows of three float32 features and an integer."""
    monkeypatch.setattr(data, "CHUNK_BYTES", 2 * 5 * (3 * 4 + 8))


def streamed(x: Any, y: Any) -> HostStream:
    return HostStream(get_backend("numpy"), (x, y), ("float32", "int64"))


X = np.random.default_rng(0).standard_normal((35, 3)).astype("float32")
Y = np.arange(35)
ORDER = np.random.default_rng(1).permutation(35).reshape(7, 5)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_streamed_and_resident_rows_make_the_same_batches(limit: int) -> None:
    pieces = list(streamed(X, Y).chunks(ORDER, limit))
    sizes = [len(p.order) for p in pieces if p.order is not None]
    assert sum(sizes) == 7
    assert max(sizes) == min(limit, 2)
    resident = DeviceData((X, Y))  # type: ignore[arg-type]
    for mine, theirs in zip(taken(pieces), taken(resident.chunks(ORDER, limit)), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_all_rows_at_once_are_not_gathered() -> None:
    (piece,) = DeviceData((X, Y)).chunks(np.arange(35)[None, :], 9)  # type: ignore[arg-type]
    assert piece == Chunk((X, Y), None, 1)  # type: ignore[arg-type]


@pytest.mark.usefixtures("small")
def test_a_thread_is_one_piece_ahead_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    source = streamed(X, Y)
    sent: list[int] = []
    arrived = threading.Semaphore(0)
    send = HostStream._send

    def noted(self: HostStream, order: Any) -> Chunk:
        assert threading.current_thread().name.startswith("portable_bp-stream")
        piece = send(self, order)
        sent.append(len(order))
        arrived.release()
        return piece

    monkeypatch.setattr(HostStream, "_send", noted)
    pieces = source.chunks(ORDER, 100)
    next(pieces)
    for _ in range(2):  # while the first piece is worked on, the second one is sent
        assert arrived.acquire(timeout=10)
    assert not arrived.acquire(timeout=0.05)
    assert sent == [2, 2]
    assert len(list(pieces)) == 3
    assert sent == [2, 2, 2, 1]
    assert not [t for t in threading.enumerate() if t.name.startswith("portable_bp-stream")]


@pytest.mark.usefixtures("small")
def test_an_exception_in_the_thread_is_raised_where_the_rows_are_wanted() -> None:
    class Bad(np.ndarray[Any, Any]):
        def __getitem__(self, rows: Any) -> Any:
            if not isinstance(rows, slice) and 17 in np.asarray(rows):
                raise OSError("the disk is gone")
            return np.asarray(super().__getitem__(rows))

    pieces = streamed(X, Y.view(Bad)).chunks(np.arange(35).reshape(7, 5), 100)
    assert len([next(pieces)]) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(pieces)
    assert not [t for t in threading.enumerate() if t.name.startswith("portable_bp-stream")]


@pytest.mark.usefixtures("small")
def test_pieces_that_nobody_wants_any_more_leave_no_thread_behind() -> None:
    pieces = streamed(X, Y).chunks(ORDER, 100)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("portable_bp-stream")]


def test_the_size_of_a_piece_is_that_of_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "CHUNK_BYTES", 2 * 5 * (3 * 4 + 8))
    narrow = streamed((X * 10).astype("int8"), Y)
    assert [len(p.order) for p in narrow.chunks(ORDER, 100)] == [2, 2, 2, 1]  # type: ignore[arg-type]


@pytest.mark.usefixtures("small")
def test_rows_are_those_of_the_moment_and_private() -> None:
    x = X.copy()
    (first, *_) = streamed(x, Y).chunks(ORDER, 100)
    wanted = np.asarray(first.arrays[0]).copy()
    x[...] = np.nan
    np.testing.assert_array_equal(first.arrays[0], wanted)  # type: ignore[arg-type]


def test_what_must_be_streamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numpy = get_backend("numpy")
    mapped = np.memmap(tmp_path / "x", dtype="uint8", mode="w+", shape=(40, 10))
    monkeypatch.setattr(data, "CHUNK_BYTES", 1000)
    assert must_stream(numpy, mapped, "float32"), "1600 bytes once they are float32"
    assert must_stream(numpy, mapped[1:, :], "float32"), "a part of a file"
    assert not must_stream(numpy, mapped[:20], "float32"), "800 bytes"
    assert not must_stream(numpy, mapped, "uint8"), "the file itself serves as the array"
    assert not must_stream(numpy, np.asarray(X), "float64"), "it is in memory anyway"
    monkeypatch.setattr(type(numpy), "free_memory", lambda self: 1000)
    assert must_stream(numpy, X.repeat(2, 0), "float32"), "840 bytes are more than 0.6 of 1000"
    assert not must_stream(numpy, X, "float32"), "420 are not"


@pytest.mark.parametrize("share", [False, True], ids=["given", "share"])
@pytest.mark.parametrize("spec", ["numpy", "torch", "jax"])
def test_training_on_streamed_rows_has_the_bits_of_resident_ones(
    spec: str, share: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, usable: Any
) -> None:
    backend = usable(spec)
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 255, (96, 8)).astype("uint8"), rng.integers(0, 3, 96)
    mapped = np.memmap(tmp_path / "x", dtype="uint8", mode="w+", shape=x.shape)
    mapped[...] = x
    net = MLP((8, 6, 3), "tanh", "softmax_cross_entropy", dropout=0.1)

    def train(data: Any) -> Any:
        model = fit(
            net, data, y, batch_size=16, epochs=3, backend=backend,
            validation=0.25 if share else (data[:20], y[:20]), sample_weight=np.linspace(0.5, 1, 96),
            checkpoint=tmp_path / f"runs of {type(data).__name__}",
        )  # fmt: skip
        found = model.history["loss"] + model.history["validation_loss"]
        return [backend.to_numpy(p) for p in leaves(model.params)], found

    resident = train(x)
    pieces: list[Chunk] = []
    send = HostStream._send

    def noted(self: HostStream, order: Any) -> Chunk:
        pieces.append(send(self, order))
        return pieces[-1]

    monkeypatch.setattr(data, "CHUNK_BYTES", 2 * 16 * (8 + 3 + 1) * 4)
    monkeypatch.setattr(HostStream, "_send", noted)
    params, losses = train(mapped)
    steps = [2, 2, 1] * 3 if share else [2] * 9
    assert [len(p.order) for p in pieces] == steps, "of each epoch"  # type: ignore[arg-type]
    assert losses == resident[1]
    for a, b in zip(params, resident[0], strict=True):
        assert a.tobytes() == b.tobytes()


def test_a_memory_map_is_read_by_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """6 MB of bytes, 24 MB of float32: training and prediction need a small part of that."""
    n, columns = 6_000, 1_000
    mapped = np.memmap(tmp_path / "x", dtype="uint8", mode="w+", shape=(n, columns))
    mapped[::7, 0] = 200
    monkeypatch.setattr(data, "CHUNK_BYTES", 200_000)
    monkeypatch.setattr("portable_bp.training.blocks.BLOCK_BYTES", 200_000)
    monkeypatch.setattr("portable_bp.inputs.checks.BLOCK_ENTRIES", 50_000)
    net = MLP((columns, 3, 1), loss="log_loss")
    y = (mapped[:, 0] > 0).astype(int)
    warm = fit(net, mapped[:300], y[:300], epochs=1, backend="numpy")  # what is imported, is
    warm.predict(mapped[:300])
    tracemalloc.start()
    model = fit(net, mapped, y, batch_size=50, epochs=1, backend="numpy")
    assert len(np.asarray(model.predict(mapped))) == n
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000, f"{peak} bytes"
