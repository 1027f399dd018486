"""Parts of the equations as CuPy has them whole: fewer launches, the same numbers to rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from portable_bp._cache import Recent
from portable_bp._typing import Array, Namespace
from portable_bp_backends import cupy_flat
from portable_bp_backends.cupy_beside import Beside
from portable_bp_backends.cupy_fuse import traceable

_KERNELS = 256
_FLOATS = {"float32": "float", "float64": "double"}
_THREADS = 256

SOFTMAX = """
typedef TYPE T;
__device__ T of_row(T mine, T *shared, bool largest) {
    shared[threadIdx.x] = mine;
    __syncthreads();
    for (int n = blockDim.x / 2; n > 0; n /= 2) {
        if (threadIdx.x < n) {
            T a = shared[threadIdx.x], b = shared[threadIdx.x + n];
            shared[threadIdx.x] = largest ? (a > b ? a : b) : a + b;
        }
        __syncthreads();
    }
    T all = shared[0];
    __syncthreads();
    return all;
}
"""
"""A block for each row: ``of_row`` is the maximum or the sum of what its threads hold.

A NaN in a row is not its maximum here, and all of the row is NaN all the same: the sum is."""

_SOFTMAX = (
    SOFTMAX
    + """
extern "C" __global__ void portable_bp_softmax_TYPE(
    const T *s, const T *bias, T *z, T *a, const long long k) {
    __shared__ T shared[256];
    const long long row = blockIdx.x * k;
    T top = s[row] + bias[0];
    for (long long j = threadIdx.x; j < k; j += blockDim.x) {
        T here = s[row + j] + bias[j];
        z[row + j] = here;
        top = here > top ? here : top;
    }
    top = of_row(top, shared, true);
    T sum = 0;
    for (long long j = threadIdx.x; j < k; j += blockDim.x) {
        T e = exp(z[row + j] - top);
        a[row + j] = e;
        sum += e;
    }
    sum = of_row(sum, shared, false);
    for (long long j = threadIdx.x; j < k; j += blockDim.x) a[row + j] = a[row + j] / sum;
}
"""
)

_CROSS_ENTROPY = (
    SOFTMAX
    + """
extern "C" __global__ void portable_bp_softmax_loss_TYPE(
    const T *z, const T *y, const T *share, T *loss, const long long k, const T same, const int own) {
    __shared__ T shared[256];
    const long long row = blockIdx.x * k;
    T top = z[row];
    for (long long j = threadIdx.x; j < k; j += blockDim.x) top = z[row + j] > top ? z[row + j] : top;
    top = of_row(top, shared, true);
    T sum = 0;
    for (long long j = threadIdx.x; j < k; j += blockDim.x) sum += exp(z[row + j] - top);
    const T logarithm = log(of_row(sum, shared, false));
    const T weight = own ? share[blockIdx.x] : same;
    T mine = 0;
    for (long long j = threadIdx.x; j < k; j += blockDim.x)
        mine += y[row + j] * (logarithm - (z[row + j] - top)) * weight;
    mine = of_row(mine, shared, false);
    if (threadIdx.x == 0) loss[blockIdx.x] = mine;
}
"""
)


@cache
def _kernel(text: str, name: str, dtype: str) -> Any:
    import cupy

    kind = _FLOATS[dtype]
    return cupy.RawKernel(text.replace("TYPE", kind), f"{name}_{kind}")


class Parts:
    """What answers ``portable_bp_part(formula)``.

    Parameters
    ----------
    native : mapping
        Functions by the name of the group that they stand for.
    plain : namespace
        CuPy's, of array-api-compat.
    product : function
        ``product(a, b, out=None)``, the matrix product.
    beside : Beside
        Where gradients may be computed.
    """

    def __init__(
        self,
        native: Mapping[str, Callable[..., Any]],
        plain: Namespace,
        product: Callable[..., Array],
        beside: Beside,
    ) -> None:
        import cupy

        self._cupy, self._product, self._beside = cupy, product, beside
        self._inside = traceable(cupy, plain, native)
        self._kernels: Recent[Callable[..., Any]] = Recent(_KERNELS)
        self._parts: dict[str, Callable[..., Any]] = {
            "layer": self._layer,
            "scaled_by_derivative": self._scaled_by_derivative,
            "shared_loss": self._shared_loss,
            "all_affine_gradients": cupy_flat.all_affine_gradients(product, beside),
            "each_tensor": cupy_flat.each_tensor,
        }

    def __call__(self, formula: Callable[..., Any]) -> Callable[..., Any] | None:
        return self._parts.get(formula.__name__)

    def _takes(self, *arrays: Any, ndim: int | None = None) -> bool:
        """Whether these are arrays of one float type that CuPy computes in."""
        return (
            all(isinstance(a, self._cupy.ndarray) and a.size for a in arrays)
            and arrays[0].dtype.name in _FLOATS
            and len({a.dtype for a in arrays}) == 1
            and ndim in (None, arrays[0].ndim)
        )

    def _fused(self, name: str, part: Any, formula: Callable[..., Any]) -> Callable[..., Any]:
        """``formula`` as one kernel, made once for a part of this name and these numbers."""
        numbers = sorted((k, float(v).hex()) for k, v in part.parameters.items())
        key = (name, type(part), part.name, *numbers)
        kernel = self._kernels.get(key)
        if kernel is None:
            made = self._cupy.fuse(kernel_name=f"portable_bp_{name}_{part.name}")(formula)
            kernel = self._kernels.put(key, made)
        return kernel

    def _layer(self, a: Any, W: Any, b: Any, activation: Any) -> Any:
        if not (
            self._takes(a, W, b, ndim=2)
            and (W.ndim, b.ndim) == (2, 1)
            and activation.builtin
            and activation.name != "identity"
        ):
            return NotImplemented
        s, inside = self._product(a, W), self._inside
        if activation.name == "softmax":
            return self._softmax(s, b)
        assert activation.df is not None  # element-wise, as every other that is ours

        def biased(s: Any, b: Any) -> Any:
            z = s + b
            return z, activation.f(z, inside)

        return self._fused("layer", activation, biased)(s, b)

    def _softmax(self, s: Any, b: Any) -> tuple[Array, Array]:
        z, a = self._cupy.empty_like(s), self._cupy.empty_like(s)
        n, k = s.shape
        kernel = _kernel(_SOFTMAX, "portable_bp_softmax", s.dtype.name)
        kernel((n,), (_block(k),), (s, self._cupy.ascontiguousarray(b), z, a, k))
        return z, a

    def _scaled_by_derivative(self, g: Any, z: Any, a: Any, activation: Any) -> Any:
        if not (self._takes(g, z, a, ndim=2) and activation.builtin):
            return NotImplemented
        if activation.name == "identity":
            return g
        inside = self._inside

        def scaled(g: Any, z: Any, a: Any) -> Any:
            return g * activation.df(z, a, inside)

        delta = self._fused("scaled", activation, scaled)(g, z, a)
        self._beside.ready(delta)
        return delta

    def _shared_loss(self, loss: Any, activation: Any, z: Any, o: Any, y: Any, share: Any) -> Any:
        number = isinstance(share, float)
        if not (self._takes(z, o, y, *() if number else (share,), ndim=2) and loss.builtin):
            return NotImplemented
        matches, inside = loss.matches(activation), self._inside
        if number:
            share = z.dtype.type(share)
        if matches and activation.name == "softmax":
            return self._cross_entropy(z, y, share, number).sum()

        def terms(z_or_o: Any, y: Any, share: Any) -> Any:
            return (loss.from_logits if matches else loss.value)(z_or_o, y, inside) * share

        kernel = self._fused("logits" if matches else "loss", loss, terms)
        return kernel(z if matches else o, y, share).sum()

    def _cross_entropy(self, z: Any, y: Any, share: Any, number: bool) -> Any:
        """The loss of each row."""
        n, k = z.shape
        loss, whole = self._cupy.empty(n, z.dtype), self._cupy.ascontiguousarray
        z, y = whole(z), whole(y)
        same, each = (share, z) if number else (z.dtype.type(0), whole(share))
        kernel = _kernel(_CROSS_ENTROPY, "portable_bp_softmax_loss", z.dtype.name)
        kernel((n,), (_block(k),), (z, y, each, loss, k, same, 0 if number else 1))
        return loss


def _block(k: int) -> int:
    """Threads for a row of ``k`` entries: a power of two."""
    return int(min(_THREADS, max(32, 1 << (k - 1).bit_length())))
