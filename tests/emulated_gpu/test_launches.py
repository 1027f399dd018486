"""What a step hands to the device: as many nodes as the committed table says, and few."""

from collections import Counter

import cupy
import pytest

from benchmarks import launches
from portable_bp_backends import cupy_flat
from portable_bp_backends.cupy_backend import CupyBackend
from portable_bp_backends.cupy_beside import Beside
from portable_bp_backends.cupy_cublas import CublasError
from tests.emulated_gpu import device
from tests.gpu.test_on_gpu import Case

NETS = {launches.name_of(*net): net for net in launches.NETS}


@pytest.mark.parametrize(
    ("net", "optimizer"),
    [("8-16-2 B32", "sgd"), ("784-256-128-10 B128", "adam"), ("784-256-128-10 B128", "adamw")],
)
def test_the_committed_table_is_of_this_code(net, optimizer):
    nodes = launches.recorded(*NETS[net], optimizer)
    found = {"net": net, "optimizer": optimizer, **launches.summary(nodes)}
    assert found in launches.load()["ours"], "run: python -m benchmarks.launches"
    assert found["nodes"] <= 25


@pytest.mark.slow
def test_the_whole_table_is_of_this_code():
    for entry in launches.load()["ours"]:
        nodes = launches.recorded(*NETS[entry["net"]], entry["optimizer"])
        assert entry == {**entry, **launches.summary(nodes)}


@pytest.mark.parametrize(("options", "updates"), [({}, 1), ({"l2": 0.1}, 2)])
def test_one_launch_updates_all_tensors_whatever_the_depth(options, updates):
    """With a penalty the weights' gradients are a second buffer: it is added in one launch more."""
    nodes = Counter(n.name for n in launches.recorded((8, *[6] * 9, 2), 16, "adam", **options))
    assert nodes["portable_bp__adam"] == 16 * updates
    assert nodes["portable_bp__add_l2"] == 16 * (updates - 1)


def test_gradients_lie_beside_the_chain_of_deltas():
    nodes = launches.recorded((8, 16, 12, 2), 16, "adam")
    path = launches.longest(nodes, lambda _: 1.0) / launches.STEPS
    products = launches.longest(nodes, lambda n: n.name == "gemm") / launches.STEPS
    assert path < 15 < len(nodes) / launches.STEPS
    assert products == 6  # three forth, two back, the first layer's gradient; two more lie beside


# --- the race check sees the second stream


def run(case):
    with device.idle():
        case.compiled().run(case.data, case.order(16), case.table(0, 16))


@pytest.mark.device_errors
def test_an_update_that_does_not_wait_for_the_gradients_is_a_race(monkeypatch):
    monkeypatch.setattr(Beside, "join", lambda self: None)
    with pytest.raises(device.EmulationError, match="race"):
        run(Case(CupyBackend(0, persistent=False)))


@pytest.mark.device_errors
def test_gradients_in_memory_of_the_chain_are_a_race(monkeypatch):
    """They would be written while kernels that come before in the program still use it."""
    backend = CupyBackend(0, persistent=False)

    def of_the_chain(shapes, dtype, buffers=cupy_flat.buffers):
        with backend._recorder_streams()[0]:
            return buffers(shapes, dtype)

    monkeypatch.setattr(cupy_flat, "buffers", of_the_chain)
    with pytest.raises(CublasError):  # the emulated library reports what it cannot raise
        run(Case(backend, (8, *[16] * 4, 2)))
    assert "race" in device.problems[0]


def test_a_stream_that_is_not_joined_again_ends_the_capture_badly():
    first, second = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    x = cupy.zeros(4, "float32")
    cupy.cuda.Device().synchronize()
    with first:
        first.begin_capture()
        event = cupy.cuda.Event(disable_timing=True)
        event.record(first)
        second.wait_event(event)
        with second:
            x += 1
        assert second.is_capturing()
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="Unjoined"):
            first.end_capture()
    assert not second.is_capturing()
