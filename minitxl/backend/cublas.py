"""Products of matrices by cuBLAS, called through ctypes.

CuPy has the same calls, but refuses them while a stream is recorded (`cupy_graph.py`), which cuBLAS
itself allows. The library is the one that CuPy has loaded.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from ctypes import c_int, c_longlong, c_void_p

from minitxl.errors import MinitxlError

# Of cublas_api.h and library_types.h
REAL = {"float32": 0, "float64": 1}  # CUDA_R_32F, CUDA_R_64F
COMPUTE = {"float32": 68, "float64": 70}  # CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_64F
COMPUTE_TF32 = 77  # CUBLAS_COMPUTE_32F_FAST_TF32
ANY_ALGORITHM = -1  # CUBLAS_GEMM_DEFAULT
SCALAR = {"float32": ctypes.c_float, "float64": ctypes.c_double}
WORKSPACE = 32 << 20  # bytes; what NVIDIA's manual recommends for Hopper, the most of all


class Cublas:
    """cuBLAS on the current GPU, one handle for each thread."""

    def __init__(self, cupy):
        self._cupy = cupy
        self._thread = threading.local()
        self._library = None
        self._factors = {t: (kind(1.0), kind(0.0)) for t, kind in SCALAR.items()}

    def products(
        self, dtype: str, tf32: bool, trans_a: int, trans_b: int, m: int, n: int, k: int,
        a: int, ld_a: int, step_a: int, b: int, ld_b: int, step_b: int,
        c: int, ld_c: int, step_c: int, n_batch: int,
    ) -> None:  # fmt: skip
        """C[i] = op(A[i]) op(B[i]), column by column as cuBLAS has it; a, b, c are addresses.

        op(A) is (m, k), op(B) (k, n); `ld` is the distance of columns, `step` that of matrices, in
        numbers. tf32 lets the tensor cores round float32 factors to 10 bits.
        """
        one, zero = (ctypes.byref(x) for x in self._factors[dtype])
        real = REAL[dtype]
        compute = COMPUTE_TF32 if tf32 and dtype == "float32" else COMPUTE[dtype]
        head = (self._handle(), trans_a, trans_b, m, n, k, one)
        if n_batch == 1:
            status = self._library.cublasGemmEx(
                *head, a, real, ld_a, b, real, ld_b, zero, c, real, ld_c, compute, ANY_ALGORITHM
            )
        else:
            status = self._library.cublasGemmStridedBatchedEx(
                *head, a, real, ld_a, step_a, b, real, ld_b, step_b, zero, c, real, ld_c, step_c,
                n_batch, compute, ANY_ALGORITHM,
            )  # fmt: skip
        _check(status)

    def _handle(self) -> int:
        """This thread's handle, set to the current stream."""
        here, stream = self._thread, self._cupy.cuda.get_current_stream().ptr
        if not hasattr(here, "handle"):
            self._library = self._library or _load(self._cupy)
            handle = c_void_p()
            _check(self._library.cublasCreate_v2(ctypes.byref(handle)))
            # With memory of ours cuBLAS allocates none, which a recording would have to repeat.
            here.workspace = self._cupy.cuda.alloc(WORKSPACE)
            here.handle, here.stream = handle.value, None
        if here.stream != stream:
            _check(self._library.cublasSetStream_v2(here.handle, stream))
            _check(self._library.cublasSetWorkspace_v2(here.handle, here.workspace.ptr, WORKSPACE))
            here.stream = stream
        return here.handle


def _check(status: int) -> None:
    if status != 0:
        raise MinitxlError(f"cuBLAS answered with status {status} (cublasStatus_t)")


def _load(cupy) -> ctypes.CDLL:
    """The library that CuPy uses; its functions with the types of their arguments."""
    cupy.cuda.device.get_cublas_handle()  # CuPy finds and loads it, wherever it is installed
    version = cupy.cuda.runtime.runtimeGetVersion() // 1000
    windows = sys.platform == "win32"
    # Once loaded, a library is found by its name alone.
    library = ctypes.CDLL(f"cublas64_{version}.dll" if windows else f"libcublas.so.{version}")
    whole, place, step = c_int, c_void_p, c_longlong
    head = [place, whole, whole, whole, whole, whole, place]
    one, many = [place, whole, whole], [place, whole, whole, step]
    library.cublasCreate_v2.argtypes = [place]
    library.cublasSetStream_v2.argtypes = [place, place]
    library.cublasSetWorkspace_v2.argtypes = [place, place, ctypes.c_size_t]
    library.cublasGemmEx.argtypes = [*head, *one, *one, place, *one, whole, whole]
    library.cublasGemmStridedBatchedEx.argtypes = [
        *head, *many, *many, place, *many, whole, whole, whole,
    ]  # fmt: skip
    return library
