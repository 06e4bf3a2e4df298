"""PyTorch's tensors as NumPy arrays: the storages that a pickle names, and views of them.

A storage is allocated when its pickle names it and filled when the pickle is read: the old layout
has the numbers only then. Tensors are views of it, so the peak is the memory of the arrays alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from minitxl.errors import MinitxlError
from minitxl.interop import safe_pickle

DTYPES = {
    "torch.DoubleStorage": "<f8",
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "|i1",
    "torch.ByteStorage": "|u1",
    "torch.BoolStorage": "|b1",
}
_BFLOAT16 = np.dtype("V2")  # which NumPy lacks: two bytes, the upper half of a float32
_MAX_DIMS = 16  # PyTorch allows 64, but then a few opcodes would make a large array object
_CHUNK = 2**20  # bytes, or numbers, read at once


def fill(array: np.ndarray, stream: BinaryIO) -> None:
    """Fill an array (n,) with bytes as they lie in a stream; ValueError if there are too few."""
    rest = memoryview(array.view(np.uint8))
    while rest:
        n = stream.readinto(rest[:_CHUNK])
        if not n:
            raise ValueError("its numbers are cut short")
        rest = rest[n:]
    if array.dtype == bool and np.any(array.view(np.uint8) > 1):
        raise ValueError("it has a bool tensor with bytes other than 0 and 1")


@dataclass(frozen=True, eq=False)
class Storage:
    """A row of numbers; of bfloat16, as float32."""

    key: str
    kind: np.dtype  # in the file
    array: np.ndarray  # (numel,)

    @property
    def stored_bytes(self) -> int:
        return len(self.array) * self.kind.itemsize

    def fill(self, stream: BinaryIO) -> None:
        """Read all numbers from the stream; ValueError if there are too few."""
        if self.kind != _BFLOAT16:
            fill(self.array, stream)
            return
        for i in range(0, len(self.array), _CHUNK):
            bits = self.array[i : i + _CHUNK].view("<u4")
            upper = np.empty(len(bits), dtype="<u2")
            fill(upper, stream)
            bits[...] = upper
            bits <<= 16


class Storages:
    """The storages of one file, by their keys: made by reading pickles, to be filled by the caller.

    budget: bytes that all storages together may take in the file.
    """

    def __init__(self, file_name: str, budget: int) -> None:
        self.by_key: dict[str, Storage] = {}
        self._file_name = file_name
        self._budget = budget
        self._allowed = {
            "torch._utils._rebuild_tensor": self._rebuild_tensor,  # before PyTorch 0.4
            "torch._utils._rebuild_tensor_v2": self._rebuild_tensor,
            "torch._utils._rebuild_parameter": self._rebuild_parameter,
            "torch.Size": self._size,
            "torch.BFloat16Storage": _BFLOAT16,
            **{name: np.dtype(code) for name, code in DTYPES.items()},
        }

    def unpickle(self, data: bytes, start: int = 0) -> tuple[object, int]:
        """Read the pickle at data[start]: (object, end); its tensors are views, still to be filled.

        MinitxlError if it asks for any other Python object, ValueError if it is malformed.
        """
        return safe_pickle.load(
            data,
            start,
            file_name=self._file_name,
            allowed=self._allowed,
            load_persistent=self._storage,
        )

    def _storage(self, pid: object) -> Storage:
        """Return the storage of a persistent id, of which not even the type is certain."""
        parts = pid if type(pid) is tuple and len(pid) in (5, 6) else (None,) * 5
        tag, kind, key, location, numel = parts[:5]
        types = [type(part) for part in (tag, key, location, numel)]
        known = types == [str, str, str, int] and tag == "storage" and numel >= 0
        if not known or not isinstance(kind, np.dtype):
            raise ValueError("its pickle has a persistent id of an unknown form")
        if len(parts) == 6 and parts[5] is not None:
            raise MinitxlError(
                f"{self._file_name} has storages that view others, as PyTorch before 0.4 wrote "
                "them; load it with PyTorch and save it again"
            )
        if key not in self.by_key:
            self._budget -= numel * kind.itemsize
            if self._budget < 0:
                raise ValueError(f"its storages claim more bytes than it has (from {key!r} on)")
            array = np.empty(numel, "<f4" if kind == _BFLOAT16 else kind)
            self.by_key[key] = Storage(key, kind, array)
        storage = self.by_key[key]
        if (storage.kind, len(storage.array)) != (kind, numel):
            raise ValueError(f"it gives the storage {key!r} two types or lengths")
        return storage

    def _rebuild_tensor(self, storage, offset, size, stride, *rest) -> np.ndarray:
        """Return the view of a storage that a tensor is."""
        # The rest is (requires_grad, hooks), and in rare cases a dict with what else is to be done
        # with the numbers, such as to negate them.
        if len(rest) not in (0, 2):
            raise ValueError("its pickle rebuilds a tensor that is more than plain numbers")
        known = type(storage) is Storage and type(size) is type(stride) is tuple
        if known and (len(size) != len(stride) or len(size) > _MAX_DIMS):
            raise ValueError(f"it has a tensor of {len(size)} sizes and {len(stride)} strides")
        if not known or not all(
            type(n) is int and 0 <= n < 2**63 for n in (offset, *size, *stride)
        ):
            raise ValueError("its pickle rebuilds a tensor of what is no storage, size and stride")
        array, numel = storage.array, math.prod(size)
        if numel == 0:
            return array[:0].reshape(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if last >= len(array):
            raise ValueError(f"it has a tensor beyond the end of its storage {storage.key!r}")
        if numel > len(array):  # a few bytes could become any number of them in the first copy
            raise MinitxlError(
                f"{self._file_name} has a tensor of {numel} numbers that repeats the {len(array)} "
                "of its storage; save it again with .contiguous()"
            )
        item = array.itemsize
        steps = [step * item if n > 1 else item for n, step in zip(size, stride, strict=True)]
        return np.ndarray(size, array.dtype, buffer=array, offset=offset * item, strides=steps)

    def _rebuild_parameter(self, tensor, requires_grad, hooks) -> np.ndarray:
        # from state_dict(keep_vars=True), or a dict of parameters
        if type(tensor) is not np.ndarray:
            raise ValueError("its pickle makes a parameter of what is no tensor")
        return tensor

    def _size(self, size) -> tuple:
        if type(size) is not tuple:
            raise ValueError("its pickle makes a size of what is no tuple")
        return size
