"""The text of persistent kernels: which entry is read where, and after which barrier. No GPU needed."""

import math
import re

import array_api_compat.numpy as xp
import numpy as np
import pytest

from portable_bp_backends._runs import CannotReplayError
from portable_bp_backends.cupy_persistent import indices
from portable_bp_backends.cupy_persistent.phases import loop_index
from portable_bp_backends.cupy_persistent.source import _free, kernel
from portable_bp_backends.numpy_plan.trace import trace_function, trace_step

VIEWS = {
    "transposed": lambda x: x.T,
    "of three axes": lambda x: xp.permute_dims(xp.reshape(x, (2, 2, 6)), (2, 0, 1)),
    "reshaped": lambda x: xp.reshape(x, (3, 8)),
    "a column": lambda x: xp.expand_dims(x[:, 1], axis=1),
    "squeezed": lambda x: xp.squeeze(x[:, 2:3], axis=1),
    "broadcast": lambda x: xp.broadcast_to(x[1:2, :], (5, 6)),
    "every other row from the end": lambda x: x[::-2, 1:5:2],
    "with a new axis": lambda x: x[..., None, 3],
}


def at(text, index, shape):
    """The number that an index of text stands for at an entry of a loop."""
    where = np.unravel_index(index, shape) if shape else ()
    names = {f"i{d}": int(k) for d, k in enumerate(where)} | {"i": index}
    return eval(text.replace("/", "//"), {}, names)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_shows_the_entry_that_numpy_shows(name):
    x = np.arange(24).reshape(4, 6)
    graph = trace_function(xp, lambda xp, x: VIEWS[name](x), (x,))
    shown = VIEWS[name](x)
    for entry, value in enumerate(np.ravel(shown)):
        node, index = graph.results[0], loop_index(shown.shape)
        while node.args:
            index = indices.broadcast(index, node.shape)
            assert len(index) == len(node.shape)
            node, index = node.args[0], indices.seen(node, index)
        assert at(indices.flat(index, x.shape), entry, shown.shape) == value


@pytest.mark.parametrize("shape", [(), (5,), (4, 6), (4, 1, 6), (1, 3), (2, 3, 4)])
def test_a_place_and_its_index_are_inverse(shape):
    for entry in range(math.prod(shape)):
        index = [at(part, entry, shape) for part in indices.unflat("i", shape)]
        assert tuple(index) == tuple(map(int, np.unravel_index(entry, shape) if shape else ()))
        assert at(indices.flat(indices.unflat("i", shape), shape), entry, shape) == entry


def made(step, state, *batch):
    x = tuple(np.asarray(b, np.float32) for b in batch)
    leaves = tuple(np.asarray(s, np.float32) for s in state)
    return kernel([trace_step(xp, step, leaves, x, (np.asarray(0.5, np.float32),))], width=0)


def levels(text):
    """The lines between barriers in a step."""
    return re.split(r"// level \d+\n", text)[1:]


def test_what_is_read_row_by_row_needs_no_barrier():
    def softmax(xp, state, batch):
        (w,), (x, _) = state, batch
        z = xp.matmul(x, w)
        e = xp.exp(z - xp.max(z, axis=1, keepdims=True))
        a = e / xp.sum(e, axis=1, keepdims=True)
        return (w - xp.matmul(x.T, a),), ()

    text = made(softmax, (np.ones((3, 2)),), np.ones((4, 3))).text
    one_loop = [t for t in levels(text) if "// max" in t]
    assert len(one_loop) == 1
    assert "// sum" in one_loop[0]
    assert one_loop[0].index("// sum") > one_loop[0].index("// max")
    assert len(levels(text)) == 5  # rows, z, maximum and sum, a, new weights


def test_a_gradient_never_lies_in_memory_unless_it_is_read_again():
    def descend(xp, state, batch, clipped=False):
        (w,), (x, (rate,)) = state, batch
        g = xp.matmul(x.T, xp.matmul(x, w))
        if clipped:
            g = g / xp.max(xp.abs(g))
        return (w - rate * g,), ()

    plain = made(descend, (np.ones((8, 8)),), np.ones((4, 8)))
    clipped = made(lambda *a: descend(*a, clipped=True), (np.ones((8, 8)),), np.ones((4, 8)))
    rows, product = 4 * 8 * 4, 4 * 8 * 4
    assert plain.shared == 64 * 4 + rows + product
    assert clipped.shared >= 2 * 64 * 4 + product
    assert len(levels(plain.text)) == 3


def test_old_numbers_are_read_before_new_ones_are_written():
    def swapped(xp, state, batch):
        a, b = state
        return (b.T * 2, xp.matmul(a, b)), xp.sum(a)

    text = made(swapped, (np.ones((3, 3)), np.ones((3, 3))), np.ones((1, 1))).text
    *earlier, last = levels(text)
    stores = re.compile(r"^\s+s[01]\[", re.MULTILINE)
    assert not any(stores.search(t) for t in earlier)
    assert len(stores.findall(last)) == 2
    assert "= s0[" not in last  # what is written there was computed before
    assert "= s1[" not in last


def test_another_number_is_the_same_text():
    def scaled(factor):
        def step(xp, state, batch):
            (w,) = state
            return (w * factor - 0.25,), ()

        return made(step, (np.ones(3),), np.ones((1, 1)))

    assert scaled(3.0).text == scaled(7.0).text
    assert scaled(3.0).constants != scaled(7.0).constants


def test_what_lives_at_once_has_memory_of_its_own():
    rng = np.random.default_rng(0)
    lives = []
    for _ in range(200):
        size, first = 16 * int(rng.integers(1, 9)), int(rng.integers(12))
        last = first + int(rng.integers(4))
        place = _free(lives, size, first, last, 64)
        assert place >= 64
        for begin, end, born, dies in lives:
            assert dies < first or last < born or end <= place or place + size <= begin
        lives.append((place, place + size, first, last))
    assert max(end for _, end, _, _ in lives) < sum(end - begin for begin, end, _, _ in lives)


@pytest.mark.parametrize(
    "refused",
    [
        lambda xp, w: xp.cumulative_sum(w),
        lambda xp, w: np.arctan(w),
        lambda xp, w: w[np.asarray([2, 1, 0])],
        lambda xp, w: xp.concat([w[:1], w[1:]]),
        lambda xp, w: xp.mean(w) * w,
    ],
)
def test_what_has_no_words_is_refused(refused):
    with pytest.raises(CannotReplayError, match="has no words for"):
        made(
            lambda xp, state, batch: ((refused(xp, state[0]),), ()), (np.ones(3),), np.ones((1, 1))
        )
