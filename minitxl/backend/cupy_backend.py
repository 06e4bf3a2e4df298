"""The GPU: CuPy, seen through `array_api_compat` as a namespace of the array API standard.

Importable without CuPy: nothing of CuPy is touched before it is asked for. Products of float32
are exact; CUPY_TF32=1 in the environment trades digits for speed (`cupy_launch.py`).
"""

from __future__ import annotations

from functools import cache, partial

from minitxl.backend.base import Backend
from minitxl.backend.cublas import Cublas
from minitxl.backend.cupy_graph import Replayed
from minitxl.backend.cupy_launch import Device, vecdot
from minitxl.backend.cupy_twins import Twins
from minitxl.backend.numpy_backend import NumpyRandom, seed_sequence
from minitxl.backend.twins import Namespace

ONE_HOT_MAX = 2048  # below this a one-hot product is cheap, and the same on every run
INSTALL = 'pip install -e ".[cuda12]" (or cuda13, as your driver says) in the checkout'


@cache
def why_not() -> str:
    """Say in a few words why no GPU can be used; the empty string means that one can.

    Importing CuPy proves nothing, so a product and an elementwise kernel are run.
    """
    try:
        import cupy
    except ImportError:
        return f"CuPy is not installed: {INSTALL}"
    except Exception as error:  # a broken CUDA installation shows as almost any exception
        return f"CuPy does not import ({_first_line(error)})"
    try:
        import array_api_compat.cupy  # noqa: F401
    except ImportError:
        return f"array-api-compat is not installed: {INSTALL}"
    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return "CuPy finds no NVIDIA GPU"
        a = cupy.ones((8, 8), dtype=cupy.float32)
        if float((cupy.exp(a * 0) + a @ a).sum()) != 8 * 8 * 9:
            return "the GPU computed 8 x 8 ones times ones wrongly"
    except Exception as error:
        return f"the GPU does not work ({_first_line(error)})"
    return ""


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"


class CupyBackend(Backend):
    """CuPy on the current GPU."""

    name = "cuda"

    def __init__(self, dtype: str = "float32", fused: bool = True):
        import array_api_compat.cupy as xp
        import cupy

        self._cupy, self._fused = cupy, fused
        self._launch = Device(cupy, Cublas(cupy))
        if fused:
            xp = Namespace(xp, Twins(self._launch).table())
            xp.matmul = partial(self._launch.matmul, xp=xp)
            xp.vecdot = vecdot
        super().__init__(xp, cupy.cuda.Device(), dtype)

    def asarray(self, a, dtype=None):
        return self._cupy.asarray(a, dtype=dtype)

    def to_numpy(self, a):
        return self._cupy.asnumpy(a)

    def rng(self, *key: int):
        return CupyRandom(self._cupy, self._launch, self.rng_key(*key), NumpyRandom(key))

    def rng_key(self, *key: int):
        return seed_sequence(key).generate_state(2)  # (2,) uint32

    def rng_of(self, key):
        return CupyRandom(self._cupy, self._launch, key)

    def replayed(self, function):
        # Without the twins CuPy multiplies, and that cannot be recorded.
        return Replayed(self._cupy, function) if self._fused else function

    def scatter_add(self, rows, index, *, n_rows: int):
        if n_rows <= ONE_HOT_MAX:
            ids = self._cupy.arange(n_rows, dtype=index.dtype)
            one_hot = (ids[:, None] == index[None, :]).astype(rows.dtype)  # (n_rows, N)
            out = self._cupy.empty((n_rows, rows.shape[1]), dtype=rows.dtype)
            self._launch.products(one_hot[None, ...], rows[None, ...], out[None, ...])
            return out
        # Atomic additions: right (`out[index] += rows` would lose duplicates), but in an order
        # that changes from run to run, and the last digit with it.
        out = self._cupy.zeros((n_rows, rows.shape[1]), dtype=rows.dtype)
        self._cupy.add.at(out, index, rows)
        return out

    def synchronize(self) -> None:
        self._cupy.cuda.get_current_stream().synchronize()


class CupyRandom:
    """Uniform numbers of a key, drawn on the GPU: number i of draw d is a function of key, d, i.

    The key lies on the GPU, so that a recorded call draws anew each time. (CuPy's own generators
    keep their state where no recording can change it.)
    """

    def __init__(self, cupy, launch: Device, key, host: NumpyRandom | None = None):
        self._cupy, self._launch, self._host = cupy, launch, host
        self._key, self._draws = cupy.asarray(key), 0

    def uniform(self, shape):
        """Return float32 numbers in [0, 1)."""
        out = self._cupy.empty(shape, dtype=self._cupy.float32)
        self._launch.uniform(self._key, self._draws, out)
        self._draws += 1
        return out

    def normal(self, shape):
        """Return the same numbers as the CPU's, so that a seed gives the same initial weights."""
        return self._cupy.asarray(self._host.normal(shape))
