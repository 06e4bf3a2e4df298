"""A GPU made of NumPy: enough of CuPy's interface for `CupyBackend` to run a whole training step.

Three things are real: the backend with its twins, the text of the kernels, compiled for the CPU
(`host_cuda.h`), and cuBLAS's rules for pointers, strides and column order. Arrays count what would
launch a kernel, and refuse to be read by the host. Nothing of CuPy itself is tested by this.
"""

import atexit
import contextlib
import ctypes
import functools
import re
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import pytest

from minitxl.backend import cublas, cupy_launch

GUARD = 64  # numbers around an `empty` array that must stay untouched


# --- the kernels, compiled for the CPU ----------------------------------------------------------


def signatures() -> dict[str, list[str]]:
    """Return kernel -> types of its parameters, e.g. ["const T*", "Size"], read from the source."""
    found = re.findall(r"__global__ void (\w+)\(([^)]*)\)", cupy_launch.source())
    kinds = {}
    for name, parameters in found:
        words = [" ".join(p.split()).rsplit(" ", 1)[0] for p in parameters.split(",")]
        kinds[name] = words
    return kinds


@functools.cache
def compiled(replacements: tuple = ()):
    """Return the library of all kernels; replacements: pairs of texts, to plant a bug."""
    compiler = shutil.which("g++")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("the kernels are run on the CPU where there are Linux and g++")
    text = cupy_launch.source()
    for old, new in replacements:
        assert old in text, f"kernels.cu has no longer: {old}"
        text = text.replace(old, new)
    lines = ['#include "host_cuda.h"', text]
    for name, kinds in signatures().items():
        for t in cupy_launch.TYPES.values():
            types_ = [re.sub(r"\bT\b", t, kind) for kind in kinds]
            values = ", ".join(f"*({kind}*)a[{i}]" for i, kind in enumerate(types_))
            lines.append(
                f'extern "C" int {name}_{t}(const unsigned* grid, unsigned threads, int backwards, '
                f"void** a) {{ return host::launch(grid, threads, backwards, "
                f"[=] {{ {name}<{t}>({values}); }}); }}"
            )
    folder = Path(tempfile.mkdtemp(prefix="minitxl-kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "kernels.cpp").write_text("\n".join(lines), encoding="utf-8")
    options = ["-std=c++17", "-O1", "-Wall", "-Werror", "-ffp-contract=off", "-shared", "-fPIC"]
    options.append("-U_FORTIFY_SOURCE")  # which takes a jump to another stack for an attack
    here = Path(__file__).parent
    command = [compiler, *options, f"-I{here}", "-o", "kernels.so", "kernels.cpp"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:3000]
    return ctypes.CDLL(str(folder / "kernels.so"))


class HostModule:
    """In place of `cupy.RawModule`."""

    def __init__(self, gpu, *, code, name_expressions):
        assert code == cupy_launch.source()
        self._gpu, self._names = gpu, name_expressions

    def get_function(self, name):
        assert name in self._names
        kernel, kind = re.fullmatch(r"(\w+)<(\w+)>", name).groups()
        kinds = [re.sub(r"\bT\b", kind, k) for k in signatures()[kernel]]
        function = getattr(compiled(self._gpu.replacements), f"{kernel}_{kind}")

        def launch(grid, block, args):
            assert len(args) == len(kinds), f"{name} takes {len(kinds)} arguments, not {len(args)}"
            assert min(grid) >= 1, (
                f"{name}: CuPy launches at least one block, for an empty array too"
            )
            given = enumerate(zip(args, kinds, strict=True))
            cells = [_cell(a, k, f"{name}, argument {i}") for i, (a, k) in given]
            pointers = (ctypes.c_void_p * len(cells))(*(ctypes.addressof(c) for c in cells))
            sizes = (ctypes.c_uint * 3)(*(*grid, 1, 1)[:3])
            self._gpu.kernels.append(kernel)

            def run(alive=(args, cells)):
                status = function(sizes, block[0], int(self._gpu.backwards), pointers)
                assert status == 0, f"{name} parts its threads at a barrier ({status})"

            self._gpu.order(run)

        return launch


def _cell(a, kind: str, where: str):
    """One argument as CuPy would lay it out, if it is of the type that the kernel declares."""
    if kind.endswith("*"):
        if isinstance(a, int):
            assert a == 0, where
            return ctypes.c_int64(0)
        names = {"float": "float32", "double": "float64", "int": "int32", "unsigned": "uint32"}
        assert str(a.dtype) == names[kind.removeprefix("const ").removesuffix("*")], where
        return ctypes.c_int64(a.data.ptr)
    if kind == "Size":
        assert type(a) is int, where
        return ctypes.c_int64(a)
    assert kind == "double" and type(a) is float, where
    return ctypes.c_double(a)


# --- cuBLAS -------------------------------------------------------------------------------------


class HostLibrary:
    """In place of libcublas, by the rules of its manual; `Cublas` itself is real."""

    def __init__(self, gpu):
        self._gpu, self.compute_types = gpu, set()

    def cublasCreate_v2(self, handle):  # noqa: N802
        handle._obj.value = HANDLE
        return 0

    def cublasSetStream_v2(self, handle, stream):  # noqa: N802
        assert handle == HANDLE
        return 0

    def cublasSetWorkspace_v2(self, handle, place, size):  # noqa: N802
        assert handle == HANDLE and size > 0
        return 0

    def cublasGemmEx(  # noqa: N802
        self, handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta,
        C, Ctype, ldc, computeType, algo,
    ):  # fmt: skip
        return self.cublasGemmStridedBatchedEx(
            handle, transa, transb, m, n, k, alpha, A, Atype, lda, 0, B, Btype, ldb, 0, beta,
            C, Ctype, ldc, 0, 1, computeType, algo,
        )  # fmt: skip

    def cublasGemmStridedBatchedEx(  # noqa: N802
        self, handle, transa, transb, m, n, k, alpha,
        A, Atype, lda, strideA, B, Btype, ldb, strideB, beta,
        C, Ctype, ldc, strideC, batchCount, computeType, algo,
    ):  # fmt: skip
        assert handle == HANDLE and Atype == Btype == Ctype and algo == -1
        dtype = np.dtype({0: "float32", 1: "float64"}[Atype])
        assert computeType in ((68, 77) if Atype == 0 else (70,))
        self.compute_types.add(computeType)
        assert alpha._obj.value == 1.0 and beta._obj.value == 0.0
        a = _matrices(A, transa, m, k, lda, strideA, batchCount, dtype)
        b = _matrices(B, transb, k, n, ldb, strideB, batchCount, dtype)
        c = _matrices(C, 0, m, n, ldc, strideC, batchCount, dtype)
        self._gpu.kernels.append("gemm")
        self._gpu.order(lambda: np.matmul(a, b, out=c))
        return 0


def _matrices(pointer, trans, rows, columns, ld, stride, count, dtype):
    """View memory as op(X) (count, rows, columns) of column-major matrices X."""
    if trans:
        return _matrices(pointer, 0, columns, rows, ld, stride, count, dtype).swapaxes(1, 2)
    assert ld >= max(1, rows) and stride >= 0 and min(rows, columns, count) >= 1
    size = (count - 1) * stride + (columns - 1) * ld + rows
    memory = (ctypes.c_char * (size * dtype.itemsize)).from_address(pointer)
    strides = tuple(s * dtype.itemsize for s in (stride, 1, ld))
    return np.ndarray((count, rows, columns), dtype, memory, strides=strides)


HANDLE = 7


# --- arrays -------------------------------------------------------------------------------------


class Gpu:
    """What is counted and kept of one test's GPU."""

    def __init__(self, replacements=(), backwards=False):
        self.replacements, self.backwards = replacements, backwards
        self.launches = 0  # kernels, products, copies and fills that would be put into the stream
        self.kernels = []  # the names of those that the twins launched themselves
        self.buffers = []  # of `empty` arrays, with their guards
        self.recorded = None  # while a stream is recorded: what was ordered
        self.replays = 0  # launches of graphs

    def order(self, work, launches=1):
        """Put work into the stream: it is done at once, or recorded and not done."""
        self.launches += launches
        if self.recorded is None:
            work()
        else:
            self.recorded.append(work)

    def ordered(self, function, launches=1):
        """A new array of what function() returns, and again whenever it is replayed."""
        with np.errstate(all="ignore"):  # while recorded the numbers are not there yet
            result = np.array(function())
        self.launches += launches
        if self.recorded is not None:
            self.recorded.append(lambda: np.copyto(result, function()))
        return self.array(result)

    def array(self, a):
        """A host array's memory as an array of this GPU."""
        a = np.asarray(a).view(HostArray)
        a.gpu = self
        return a

    def check_guards(self):
        """Nothing was written outside of an array."""
        for buffer in self.buffers:
            for guard in (buffer[:GUARD], buffer[-GUARD:]):
                assert (guard.view(np.uint8) == 255).all()


class HostArray(np.ndarray):
    """An array of the GPU. A host array cannot meet it, and the host cannot read it unasked."""

    gpu: Gpu | None = None

    def __array_finalize__(self, other):
        self.gpu = getattr(other, "gpu", None)

    @property
    def __array_interface__(self):
        raise AttributeError("the memory is not the host's")

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.ctypes.data)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        for x in inputs:
            if isinstance(x, np.ndarray) and not isinstance(x, HostArray):
                raise TypeError(f"{ufunc.__name__} of an array of the GPU and one of the host")
        launches = _launches_of(ufunc.__name__, inputs)
        if ufunc.__name__ in ("matmul", "vecdot") and self.gpu.recorded is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is unsupported")
        if out is not None:
            options["out"] = tuple(_plain(x) for x in out)
        plain = [_plain(x) for x in inputs]

        def work():
            return getattr(ufunc, method)(*plain, **options)

        if out is None:
            return self.gpu.ordered(work, launches)
        self.gpu.order(work, launches)
        return out[0]

    def __array_function__(self, function, _, args, options):
        args, options, arrays = _plain(args), _plain(options), list(_arrays(args))
        with np.errstate(all="ignore"):
            result = function(*args, **options)
        if any(np.may_share_memory(result, _plain(x)) for x in arrays):
            return self.gpu.array(result)
        return self.gpu.ordered(lambda: function(*args, **options))

    def __setitem__(self, key, value):
        assert isinstance(value, (HostArray, int, float)), "an array of the host"
        own, value = _plain(self), _plain(value)

        def work():
            own[key] = value

        self.gpu.order(work)

    def reshape(self, *shape):
        own = _plain(self)
        result = own.reshape(*shape)
        if np.may_share_memory(own, result):
            return self.gpu.array(result)
        return self.gpu.ordered(lambda: own.reshape(*shape))

    def copy(self):
        own = _plain(self)
        return self.gpu.ordered(lambda: own.copy())

    def astype(self, dtype):
        own = _plain(self)
        return self.gpu.ordered(lambda: own.astype(dtype))

    def set(self, values):
        """Copy from the host, which a recording cannot do."""
        assert self.gpu.recorded is None, "a copy from the host while the stream is recorded"
        _plain(self)[...] = values

    def _refuse(self, *_):
        raise AssertionError("the host read a number of the GPU: it would have to wait for it")

    __float__ = __int__ = __index__ = __bool__ = item = tolist = get = _refuse


def _plain(x):
    """x, or what is in a tuple, list or dict, as arrays of the host over the same memory."""
    if isinstance(x, HostArray):
        return x.view(np.ndarray)
    if isinstance(x, (tuple, list)):
        return type(x)(_plain(a) for a in x)
    return {k: _plain(a) for k, a in x.items()} if isinstance(x, dict) else x


def _arrays(x):
    """The arrays in nested tuples and lists."""
    if isinstance(x, (tuple, list)):
        for a in x:
            yield from _arrays(a)
    elif isinstance(x, HostArray):
        yield x


def _launches_of(ufunc: str, inputs) -> int:
    """What CuPy 14 and array_api_compat launch for one call, at the least."""
    if ufunc == "matmul":
        flat = [x.flags.c_contiguous or x.flags.f_contiguous for x in inputs]
        if max(x.ndim for x in inputs) == 2:
            return 1 + flat.count(False)
        copies = sum(not x.flags.c_contiguous for x in inputs)
        broadcast = len({x.shape[:-2] for x in inputs}) > 1  # then by arrays of pointers
        return 1 + copies + (3 if broadcast else 0)
    return 2 if ufunc == "vecdot" else 1  # conj and a product


class HostNamespace:
    """NumPy with arrays of the GPU: in place of `array_api_compat.cupy`."""

    int32, float64 = np.int32, np.float64

    def __init__(self, gpu):
        self._gpu = gpu

    def __getattr__(self, name):
        value = getattr(np, name)
        return value

    def empty(self, shape, *, dtype=None, device=None):
        size = int(np.prod(shape))
        buffer = np.empty(size + 2 * GUARD, dtype=dtype)
        buffer.view(np.uint8)[...] = 255  # which makes floats no numbers
        self._gpu.buffers.append(buffer)
        return self._gpu.array(buffer[GUARD : GUARD + size].reshape(shape))

    def empty_like(self, x):
        return self.empty(x.shape, dtype=x.dtype)

    def zeros(self, shape, *, dtype=None, device=None):
        return self._gpu.ordered(lambda: np.zeros(shape, dtype=dtype))

    def ones(self, shape, *, dtype=None, device=None):
        return self._gpu.ordered(lambda: np.ones(shape, dtype=dtype))

    def full(self, shape, value, *, dtype=None, device=None):
        return self._gpu.ordered(lambda: np.full(shape, value, dtype=dtype))

    def arange(self, *args, dtype=None, device=None):
        return self._gpu.ordered(lambda: np.arange(*args, dtype=dtype))

    def asarray(self, a, *, dtype=None, device=None, copy=None):
        if isinstance(a, HostArray) and dtype in (None, a.dtype) and not copy:
            return a
        if isinstance(a, HostArray):
            return self._gpu.ordered(lambda: np.array(_plain(a), dtype=dtype))
        assert self._gpu.recorded is None, "a copy from the host while the stream is recorded"
        self._gpu.launches += 1
        return self._gpu.array(np.array(a, dtype=dtype))

    def astype(self, a, dtype, *, copy=True):
        if not copy and a.dtype == dtype:
            return a
        return self._gpu.ordered(lambda: _plain(a).astype(dtype))

    def ascontiguousarray(self, a):
        result = np.array(_plain(a), order="C")
        self._gpu.order(lambda: np.copyto(result, _plain(a)))
        return self._gpu.array(result)


# --- CuPy ---------------------------------------------------------------------------------------


class HostStream:
    """In place of `cupy.cuda.Stream`: recorded work is done when its graph is launched."""

    ptr = 0

    def __init__(self, gpu, non_blocking=False):
        self._gpu = gpu

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def synchronize(self):
        assert self._gpu.recorded is None, "a wait while the stream is recorded"

    def begin_capture(self):
        self._gpu.recorded = []

    def end_capture(self):
        recorded, self._gpu.recorded = self._gpu.recorded, None

        def launch():
            self._gpu.launches += 1
            self._gpu.replays += 1
            for work in recorded:
                work()

        return types.SimpleNamespace(launch=launch)


def backend(monkeypatch, gpu: Gpu, dtype="float64", fused=True):
    """Return a `CupyBackend` on `gpu`, its imports of CuPy met by what is above."""
    from minitxl.backend.cupy_backend import CupyBackend

    xp = HostNamespace(gpu)
    cupy = types.ModuleType("cupy")
    device = types.SimpleNamespace(compute_capability="80")
    cupy.RawModule = functools.partial(HostModule, gpu)
    pool = types.SimpleNamespace(
        free_all_blocks=lambda: None, malloc=None, total_bytes=lambda: 1 << 30
    )
    cupy.cuda = types.SimpleNamespace(
        Device=lambda: device,
        Stream=functools.partial(HostStream, gpu),
        get_current_stream=lambda: HostStream(gpu),
        alloc=lambda size: types.SimpleNamespace(ptr=0),
        MemoryPool=lambda: pool,
        using_allocator=lambda malloc: contextlib.nullcontext(),
    )
    cupy.get_default_memory_pool = lambda: pool
    cupy.float32, cupy.arange, cupy.empty = np.float32, xp.arange, xp.empty
    cupy.zeros, cupy.ndarray = xp.zeros, HostArray
    cupy.add = types.SimpleNamespace(
        at=lambda out, i, x: gpu.order(lambda: np.add.at(_plain(out), _plain(i), _plain(x)))
    )
    cupy.asarray, cupy.asnumpy = xp.asarray, lambda a: np.array(_plain(a))
    library = HostLibrary(gpu)
    monkeypatch.setattr(cublas, "_load", lambda cupy: library)
    for name, module in {"cupy": cupy, "array_api_compat.cupy": xp}.items():
        _put(monkeypatch, name, module)
    made = CupyBackend(dtype, fused)
    made.library = library
    return made


def _put(monkeypatch, name, module):
    """Make `import a.b.c` find module; the packages around it are empty stand-ins."""
    parent, _, last = name.rpartition(".")
    monkeypatch.setitem(sys.modules, name, module)
    if parent:
        package = sys.modules.get(parent)
        if not getattr(package, "is_stand_in", False):
            package = types.ModuleType(parent)
            package.is_stand_in = True
            _put(monkeypatch, parent, package)
        setattr(package, last, module)
