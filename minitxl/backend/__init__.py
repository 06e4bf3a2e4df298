"""Devices: the array namespace `xp` and the few things that the array API standard lacks.

Nothing outside this folder imports numpy or cupy for the model's arithmetic; the model sees a
`Backend` and its namespace `xp`. NumPy 2 is the standard's namespace itself; CuPy becomes it
through `array_api_compat`.
"""

from __future__ import annotations

from minitxl.backend.base import Backend
from minitxl.backend.numpy_backend import NumpyBackend
from minitxl.errors import MinitxlError

DEVICES = ("auto", "cpu", "cuda")

__all__ = ["DEVICES", "Backend", "get_backend"]


def get_backend(
    device: str | Backend = "auto", dtype: str = "float32", fused: bool = True
) -> Backend:
    """Return the backend of a device: "cpu", "cuda", or "auto" (the GPU where one works).

    fused: whether hot operations run as their faster twins (`twins.py`). A `Backend` passes through
    as it is (the tests bring their own). Raises `MinitxlError` for an unknown device or dtype, and
    for "cuda" where no GPU can be used, saying why.
    """
    if isinstance(device, Backend):
        return device
    if device not in DEVICES:
        raise MinitxlError(f"device {device!r} is unknown; choose one of {', '.join(DEVICES)}")
    if dtype not in ("float32", "float64"):
        raise MinitxlError(f"dtype {dtype!r} is unknown; choose float32 or float64")
    if device == "cpu":
        return NumpyBackend(dtype, fused)
    from minitxl.backend import cupy_backend  # CuPy is optional and slow to import

    why_not = cupy_backend.why_not()
    if not why_not:
        return cupy_backend.CupyBackend(dtype, fused)
    if device == "cuda":
        raise MinitxlError(f"device 'cuda' cannot be used: {why_not}; use device 'cpu' or 'auto'")
    return NumpyBackend(dtype, fused)
