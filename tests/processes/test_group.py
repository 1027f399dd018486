"""What the processes are to a program: who takes part, what is refused, what is warned of."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import pytest

import portable_bp
from portable_bp import MLP, RemoteError
from portable_bp.backend import registry
from portable_bp.processes import ALONE, Engine, Processes, current, launch, muted
from portable_bp.processes import sum_over_processes as summed

NET = MLP([2, 3, 1])
X, Y = np.zeros((8, 2)), np.zeros(8)


class Two(Engine):
    """Process 0 of two; the other one hands in what ``other`` makes of what this one hands in."""

    size = local_size = 2

    def __init__(self, other: Any = lambda item: item) -> None:
        self.other, self.aborted = other, 0

    def sum(self, flat: Any) -> Any:
        return flat + self.other(flat)

    def exchange(self, flat: Any, partner: int) -> Any:
        return self.other(flat)

    def gather(self, item: Any) -> list[Any]:
        return [item, self.other(item)]

    def broadcast(self, item: Any) -> Any:
        return item

    def abort(self, code: int) -> NoReturn:
        self.aborted = code
        raise SystemExit(code)

    def close(self) -> None:
        return


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    processes = Processes(Two())
    monkeypatch.setattr(launch, "_current", processes)
    monkeypatch.setattr(launch, "_thread", threading.get_ident())
    yield processes
    processes.end(None)


def test_alone_it_is_one_process() -> None:
    assert (current().rank, current().size, current() is ALONE) == (0, 1, True)
    assert repr(current()) == "<process 0 of 1>"


def test_a_block_is_left_whatever_happens() -> None:
    def work() -> None:
        with portable_bp.distributed("torch"):
            assert current() is not ALONE
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert current() is ALONE
    assert launch.MARK not in os.environ


def test_a_block_within_a_block_is_refused() -> None:
    with (
        portable_bp.distributed("torch"),
        pytest.raises(RuntimeError, match="one block is enough"),
        portable_bp.distributed("torch"),
    ):
        pass


@pytest.mark.parametrize(
    ("engine", "timeout", "error"),
    [(3, 1.0, TypeError), ("torch", "1", TypeError), ("torch", 0, ValueError)],
)
def test_bad_arguments(engine: Any, timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error), portable_bp.distributed(engine, timeout=timeout):
        pass


def test_a_thread_of_the_block_cannot_train(two: Processes) -> None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            portable_bp.fit(NET, X, Y)
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "n_jobs=1" in str(caught[0])


def test_a_child_process_of_the_block_cannot_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launch.MARK, "1")
    with pytest.raises(RuntimeError, match=r"child of process 1.*n_jobs"):
        portable_bp.fit(NET, X, Y)
    with pytest.raises(RuntimeError, match="child of process 1"), portable_bp.distributed("torch"):
        pass


@pytest.mark.parametrize("variable", launch.LAUNCHERS)
def test_a_launcher_without_the_block_is_warned_of_once(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in launch.LAUNCHERS:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setattr(launch, "_warned", False)
    monkeypatch.setenv(variable, "4")
    with pytest.warns(UserWarning, match="started 4 processes, and each of them trains alone"):
        portable_bp.fit(NET, X, Y, epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        portable_bp.fit(NET, X, Y, epochs=1)


def test_the_votes_are_counted_apart() -> None:
    def stop(mine: str | None, votes: float) -> str | None:
        def other(flat: Any) -> Any:
            return flat if flat is None else np.append(flat[:-1], votes)

        processes = Processes(Two(other))
        with processes.voting(lambda: mine):
            assert processes.sum(np.ones(3))[:2].tolist() == [2, 2]
            reason = processes.stop()
        processes.end(None)
        return reason

    assert stop(None, 0) is None
    assert stop("terminated", 0) == stop(None, 1) == stop("terminated", 1) == "terminated"
    assert stop("interrupted", 0) == stop(None, 3) == stop("terminated", 3) == "interrupted"


def test_nothing_is_sent_while_muted(two: Processes) -> None:
    with muted():
        assert summed(np.ones(2)).tolist() == [1, 1]
    assert summed(np.ones(2)).tolist() == [2, 0]


def test_an_error_of_one_is_raised_on_all() -> None:
    processes = Processes(Two(lambda item: "ValueError: no"))
    with pytest.raises(RemoteError, match="on process 1 of 2: ValueError: no") as caught:
        processes.agree(None)
    assert (caught.value.rank, caught.value.text) == (1, "ValueError: no")
    assert processes.agreed_on(caught.value)
    processes.end(caught.value)


def test_an_error_of_this_process_alone_ends_all() -> None:
    engine = Two()
    with pytest.raises(SystemExit):
        Processes(engine).end(ValueError())
    assert engine.aborted == 1
    with pytest.raises(SystemExit):
        Processes(engine).end(KeyboardInterrupt())
    assert engine.aborted == 130


def test_what_comes_from_an_agreed_error_is_agreed_on(two: Processes) -> None:
    error, later, other = ValueError("no"), KeyError(), KeyError()
    with pytest.raises(ValueError, match="no"):
        two.raise_everywhere(error)
    later.__cause__ = error
    assert two.agreed_on(later)
    assert not two.agreed_on(other)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parts": 3}, "parts=3 cannot be shared by 2 processes: pass a multiple of 2"),
        ({"parts": 2**15 + 2}, "at most 32768 parts"),
        ({"optimizer": "lbfgs"}, "lbfgs.*in one process"),
        ({"reduction": "ordered"}, "reduction='ordered' needs parts, a power of two"),
        ({"reduction": "ordered", "parts": 6}, "a power of two"),
        ({"shards": True, "parts": 2}, "shards=True has one part for each process"),
        ({"shards": True, "sample_weight": np.ones(8)}, "shards=True cannot go with sample_weight"),
        ({"reduction": "slow"}, "reduction must be one of 'fast', 'ordered'"),
    ],
)
def test_what_processes_cannot_share(two: Processes, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        portable_bp.fit(NET, X, Y, **options)


def test_each_process_has_an_accelerator_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Some(registry.adapters()["numpy"]):  # type: ignore[misc]
        name, priority = "some", 99

        def __init__(self, spec: str) -> None:
            self.spec = spec

        @classmethod
        def accelerators(cls) -> tuple[str, ...]:
            return "some:gpu:0", "some:gpu:1"

        @classmethod
        def from_device(cls, device: str) -> Any:
            return cls(f"some:{device if device[-1:].isdigit() else 'gpu:0'}")

    engine = Two()
    engine.local_rank = 3
    monkeypatch.setattr(registry, "adapters", lambda: {"some": Some})
    monkeypatch.setattr(launch, "_current", Processes(engine))
    registry._load.cache_clear()
    try:
        for spec, own in [
            ("some:gpu", 1),
            ("some:gpu:0", 0),
            ("cuda", 1),
            ("cuda:0", 0),
            ("auto", 1),
        ]:
            assert registry.get_backend(spec).spec == f"some:gpu:{own}"
    finally:
        registry._load.cache_clear()
        current().end(None)
