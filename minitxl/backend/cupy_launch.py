"""From CuPy arrays to the GPU, where CuPy's own functions do not offer it.

`Device.kernel` launches a kernel of `kernels.cu`; `Device.products` multiplies a batch of matrices
where they lie. Both only put work into the current stream: nothing here waits for the GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.resources import files

KERNELS = (
    "to_heads",
    "from_heads",
    "attention_softmax",
    "attention_softmax_backward",
    "layer_norm",
    "layer_norm_backward",
    "column_sums",
    "bias_relu_dropout",
    "dropout",
    "relu_dropout_backward",
    "cross_entropy",
    "cross_entropy_backward",
    "square_sums",
    "clip_by_norm",
    "adam",
    "uniform",
)
TYPES = {"float32": "float", "float64": "double"}  # NumPy's name -> CUDA's
AMPERE = 80  # the oldest compute capability with TF32


def source() -> str:
    """Return the text of `kernels.cu`."""
    return files("minitxl.backend").joinpath("kernels.cu").read_text(encoding="utf-8")


def wants_tf32() -> bool:
    """Return whether CuPy's own switch, the environment variable CUPY_TF32, is set to 1 or more."""
    try:
        return int(os.environ.get("CUPY_TF32", "0")) > 0
    except ValueError:
        return False


class Device:
    """Kernels and batched products on the current GPU.

    Products of float32 are exact float32, unless CUPY_TF32=1 lets the tensor cores round their
    factors to 10 bits. CuPy reads the same variable for its own 2-D products, so that one switch
    governs all products of a step.
    """

    def __init__(self, cupy, cublas):
        """cupy: the module; cublas: a `Cublas`."""
        self._cublas = cublas
        names = tuple(f"{name}<{t}>" for name in KERNELS for t in TYPES.values())
        # Compiled at the first use of one of them and kept on disk by CuPy.
        self._module = cupy.RawModule(code=source(), name_expressions=names)
        self._kernels: dict[str, Callable] = {}
        self._tf32 = wants_tf32() and int(cupy.cuda.Device().compute_capability) >= AMPERE

    def kernel(self, name: str, dtype, grid: tuple, threads: int, *args) -> None:
        """Launch kernel `name` on `grid` blocks of `threads`.

        args: arrays, int (long long in the kernel) and float (double); None for an array that is
        optional and absent. CuPy checks none of them against the kernel: the tests do.
        """
        if 0 in grid:  # an empty array; CuPy would launch one block all the same, out of bounds
            return
        name = f"{name}<{TYPES[str(dtype)]}>"
        function = self._kernels.get(name)
        if function is None:
            function = self._kernels[name] = self._module.get_function(name)
        # For an argument None CuPy would hand over no argument; the integer 0 is a null pointer.
        function(grid, (threads,), tuple(0 if a is None else a for a in args))

    def products(self, a, b, out) -> None:
        """out[i] = a[i] @ b[i] for a (N, m, k), b (N, k, n), out (N, m, n).

        Of the last two strides of `a` and of `b` one must be a single number, so that matrices
        and transposed matrices need no copy, nor do matrices that lie in a larger one. In `out`
        it must be the last.
        """
        n_batch, m, k = a.shape
        n = b.shape[2]
        if out.size == 0:  # an empty memory; cuBLAS wants sizes of at least 1
            return
        # cuBLAS reads memory column by column, where our matrices are their own transposes, and
        # out^T = b^T a^T: with the factors exchanged nothing is left to transpose.
        trans_b, ld_b, step_b = _layout(b)
        trans_a, ld_a, step_a = _layout(a)
        _, ld_out, step_out = _layout(out)
        self._cublas.products(
            str(out.dtype), self._tf32, trans_b, trans_a, n, m, k,
            b.data.ptr, ld_b, step_b, a.data.ptr, ld_a, step_a, out.data.ptr, ld_out, step_out,
            n_batch,
        )  # fmt: skip

    def matmul(self, a, b, *, xp):
        """`a @ b` of the standard, for (B, H, m, k) and (B, H, k, n) or (H, k, n).

        CuPy's own cannot be recorded (`cublas.py`). Each matrix may be a transposed view; a batch
        whose matrices do not follow each other at one distance is copied first.
        """
        n_batch, h, m, k = a.shape
        n = b.shape[-1]
        if b.ndim == 3:  # what the batch shares is one product for each head
            a = xp.ascontiguousarray(a.transpose(1, 0, 2, 3)).reshape(h, n_batch * m, k)
            out = xp.empty((h, n_batch * m, n), dtype=a.dtype)
            self.products(a, _matrices(b, xp), out)
            return out.reshape(h, n_batch, m, n).transpose(1, 0, 2, 3)  # -> (B, H, m, n)
        out = xp.empty((n_batch * h, m, n), dtype=a.dtype)
        self.products(_matrices(a, xp), _matrices(b, xp), out)
        return out.reshape(n_batch, h, m, n)

    def uniform(self, key, draw: int, out) -> None:
        """Fill out (float32, in one line) with the draw-th numbers of a key (2,) uint32."""
        threads = 256
        grid = (min(4096, -(-out.size // (4 * threads))),)
        self.kernel("uniform", out.dtype, grid, threads, out, key, draw, out.size)


def vecdot(a, b, axis: int = -1):
    """`vecdot` of the standard for real numbers; CuPy's is a product of matrices, see `matmul`."""
    return (a * b).sum(axis=axis)


def _matrices(x, xp):
    """(..., L, C) -> (N, L, C), each matrix or its transpose without gaps; copied if need be."""
    lead = (-1, *x.shape[-2:])
    if x.flags.c_contiguous:
        return x.reshape(lead)
    turned = x.swapaxes(-1, -2)
    if turned.flags.c_contiguous:
        return turned.reshape(-1, *turned.shape[-2:]).swapaxes(-1, -2)
    return xp.ascontiguousarray(x).reshape(lead)


def _layout(x) -> tuple[int, int, int]:
    """Return (transposed, leading dimension, stride of the batch) of x (N, rows, columns)."""
    step, row, column = (stride // x.itemsize for stride in x.strides)
    _, n_row, n_column = x.shape
    if column == 1:
        return 0, max(row, n_column), step  # a single row's stride may be anything
    return 1, max(column, n_row), step
