"""A backend that allows nothing but the standard, on a device that is not the CPU.

`array_api_strict` raises where a call is not in the array API standard, where dtypes mix, and
where arrays of two devices meet or are taken to the host unasked. Code that runs here runs on any
library that follows the standard; it is the nearest thing to a GPU that every laptop has.
"""

import array_api_strict as xp
import numpy as np

from minitxl.backend import Backend
from minitxl.backend.numpy_backend import NumpyRandom


class StrictBackend(Backend):
    """array_api_strict on its second device."""

    name = "strict"

    def __init__(self, dtype="float64"):
        super().__init__(xp, xp.Device("device1"), dtype)

    def to_numpy(self, a):
        # A copy more: before NumPy 2.3 what `from_dlpack` gives is for reading only.
        return np.array(np.from_dlpack(xp.asarray(a, device=xp.Device("CPU_DEVICE"))))

    def rng_of(self, key):
        return StrictRandom(self, NumpyRandom(key))


class StrictRandom:
    """NumPy's numbers, brought to the second device."""

    def __init__(self, backend, host):
        self._backend, self._host = backend, host

    def uniform(self, shape):
        return self._backend.asarray(self._host.uniform(shape))

    def normal(self, shape):
        return self._backend.asarray(self._host.normal(shape))
