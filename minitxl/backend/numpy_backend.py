"""The CPU: NumPy, whose own namespace follows the array API standard since version 2."""

from __future__ import annotations

import numpy as np

from minitxl.backend.base import Backend
from minitxl.backend.host_memory import keep_freed_memory
from minitxl.backend.numpy_twins import TWINS
from minitxl.backend.twins import Namespace

ONE_HOT_MAX = 256  # above this many rows, sorting beats the one-hot product


class NumpyBackend(Backend):
    """NumPy on the CPU."""

    name = "cpu"
    cache_block = 1 << 15  # 128 kB of float32: a few such arrays fit the second-level cache

    def __init__(self, dtype: str = "float32", fused: bool = True):
        super().__init__(Namespace(np, TWINS) if fused else np, "cpu", dtype)
        keep_freed_memory()

    def to_numpy(self, a):
        return np.array(a)  # a copy: what is done to the one does not show in the other

    def rng_of(self, key):
        return NumpyRandom(key)

    def scatter_add(self, rows, index, *, n_rows: int):
        if n_rows <= ONE_HOT_MAX:
            return super().scatter_add(rows, index, n_rows=n_rows)
        # Bring equal indices together, then add up each run of them. (`out[index] += rows` would
        # keep only one of several equal indices; np.add.at is correct but slower.)
        order = np.argsort(index, kind="stable")
        ids, starts = np.unique(index[order], return_index=True)
        out = np.zeros((n_rows, rows.shape[1]), dtype=rows.dtype)
        if len(ids):
            out[ids] = np.add.reduceat(rows[order], starts, axis=0)
        return out


def seed_sequence(key) -> np.random.SeedSequence:
    """Return the seed of a key. Keys of different length differ, also where they end in zeros."""
    return np.random.SeedSequence(key[0], spawn_key=tuple(key[1:]))


class NumpyRandom:
    """Uniform and normal numbers of a key; see `Backend.rng`."""

    def __init__(self, key):
        self._generator = np.random.Generator(np.random.SFC64(seed_sequence(key)))

    def uniform(self, shape):
        """Return float32 numbers in [0, 1)."""
        return self._generator.random(shape, dtype=np.float32)

    def normal(self, shape):
        """Return float64 numbers of mean 0 and variance 1 (for initial weights)."""
        return self._generator.standard_normal(shape)
