"""What a backend is: a namespace, a device, a float type, and what the standard lacks."""

from __future__ import annotations


class Backend:
    """One device of one array library.

    xp      namespace of the Python array API standard (2024.12)
    device  that library's device object; new arrays are made there
    dtype   float type of parameters and activations
    """

    name = "generic"
    cache_block = None  # numbers that elementwise work over a flat buffer should take at a time

    def __init__(self, xp, device, dtype: str):
        self.xp = xp
        self.device = device
        self.dtype = getattr(xp, dtype)
        self.dtype_name = dtype

    def asarray(self, a, dtype=None):
        """Bring numbers, a NumPy array or an array of this library to this device."""
        return self.xp.asarray(a, dtype=dtype, device=self.device)

    def to_numpy(self, a):
        """Copy an array of this device to a NumPy array on the host."""
        raise NotImplementedError

    def rng(self, *key: int):
        """Return random numbers that depend on `key` alone, e.g. `rng(seed, step, piece)`.

        The object has `uniform(shape)`, float32 in [0, 1), and `normal(shape)`, float64 of mean 0
        and variance 1. There is no state to save: whoever knows the key can draw the same numbers
        again. That is how training resumes exactly.
        """
        return self.rng_of(self.rng_key(*key))

    def rng_key(self, *key: int):
        """Return the key as `rng_of` takes it, and as it can be an input of `replayed`."""
        return key

    def rng_of(self, key):
        """Return the random numbers of a key that `rng_key` made."""
        raise NotImplementedError

    def replayed(self, function):
        """Return function(inputs, state) -> outputs, new state, or a faster one that does the same.

        inputs are what changes from call to call, state is what a call hands to the next; both, and
        outputs, are nested lists and tuples of arrays and numbers. A device may record a call and
        repeat it with other numbers, so apart from them nothing may differ between calls of the
        same shapes, and what the function changes must be arrays that it changes in place.
        """
        return function

    def scatter_add(self, rows, index, *, n_rows: int):
        """Add up rows that share an index: out[index[i]] += rows[i]; (N, D), (N,) -> (n_rows, D).

        The general way is a product with the one-hot matrix. It is standard, deterministic, and
        for a character vocabulary also the fastest; for a large one a backend does better.
        """
        xp = self.xp
        ids = xp.arange(n_rows, dtype=index.dtype, device=self.device)
        one_hot = xp.astype(ids[:, None] == index[None, :], rows.dtype)  # (n_rows, N)
        return one_hot @ rows  # (n_rows, N) @ (N, D) -> (n_rows, D)

    def synchronize(self) -> None:
        """Wait until the device has done all it was told (nothing to wait for on a CPU)."""
