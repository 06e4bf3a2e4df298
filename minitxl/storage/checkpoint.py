"""Checkpoint files: tensors and a JSON state in one safetensors file that is always whole.

A file is laid out as safetensors defines it:

    8 bytes    length n of the header, little-endian
    n bytes    JSON header: name -> dtype, shape, data_offsets; and "__metadata__" -> {key: text}
    the rest   the numbers of all tensors, little-endian, row by row

minitxl adds one metadata key, "minitxl": the JSON text of {"crc32": ..., "state": ...}. The format
itself cannot see a flipped bit in the numbers; the checksum covers every name, dtype, shape and
number and the state, so that `load` returns exactly what `save` was given, or an error.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from minitxl.errors import MinitxlError
from minitxl.files import one_line, reading, write_atomically

# safetensors' names of the types that every NumPy has (it has no bfloat16 and no float8).
DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "|b1"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1"},
}
_MAX_JSON = 16 * 2**20  # bytes of a header or JSON file; parsed, hostile JSON takes 25 times that
_MAX_DEPTH = 100  # of nested lists and dicts, well inside Python's own limit


def save(
    path: str | os.PathLike,
    tensors: Mapping[str, np.ndarray],
    state: dict,
    older: str | None = None,
) -> None:
    """Write tensors and a state to one safetensors file, atomically.

    tensors: name -> NumPy array of bool, integers or floats; any shape, strides and byte order.
    state: what JSON holds; big integers, NaN and infinities stay exact, tuples become lists.
    older: the name under which the file that was there before is kept.
    MinitxlError if these cannot be stored or the write fails; an older file then stays untouched.
    """
    arrays = {name: storable(name, array) for name, array in tensors.items()}
    state_text = _json_text(state, "state", allow_nan=True)
    with _making(path):
        crc = _crc32(arrays, state_text)
        # One metadata key only: safetensors writes several in random order, and then two saves of
        # the same state would differ in their bytes.
        ours = f'{{"crc32": "{crc:08x}", "state": {state_text}}}'
        data = serialize(arrays, metadata={"minitxl": ours})
    _check_size(path, int.from_bytes(data[:8], "little"), "names and state")
    write_atomically(path, data, older)


def load(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict]:
    """Read what `save` wrote: (tensors, state), bit for bit.

    MinitxlError if the file is missing, damaged anywhere, or not written by minitxl.
    """
    with reading(path) as file:
        tensors, metadata = parse_safetensors(file)
        if "minitxl" not in metadata:
            raise MinitxlError(
                f"{one_line(path)} is not a minitxl checkpoint: its metadata has no key "
                "'minitxl'; give a file that minitxl has saved"
            )
        return tensors, checked_state(tensors, metadata)


def load_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read the tensors of any safetensors file, by whomever written (one of ours is checked).

    MinitxlError if it is missing, damaged, or has number types that NumPy lacks.
    """
    with reading(path) as file:
        tensors, metadata = parse_safetensors(file)
        if "minitxl" in metadata:
            checked_state(tensors, metadata)
        return tensors


def save_tensors(
    path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Write tensors to a plain safetensors file for other programs, atomically; as in `save`."""
    arrays = {name: storable(name, array) for name, array in tensors.items()}
    with _making(path):
        data = serialize(arrays, metadata=metadata)
    write_atomically(path, data)


def serialize(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """Return the bytes of a safetensors file; ImportError without that package."""
    from safetensors import SafetensorError
    from safetensors.numpy import save

    try:
        return save(tensors, metadata=metadata)
    except SafetensorError as error:
        raise ValueError(one_line(error)) from error


@contextmanager
def _making(path: str | os.PathLike) -> Iterator[None]:
    """Tell what goes wrong while the bytes of a file are made in one line that names it."""
    try:
        yield
    except ImportError as error:  # to read, the package is not needed
        raise MinitxlError(
            f"cannot save {one_line(path)}: the package safetensors is not installed; "
            "pip install safetensors"
        ) from error
    except (ValueError, MemoryError) as error:
        reason = one_line(error) or "out of memory"
        raise MinitxlError(f"cannot save {one_line(path)}: {reason}; check the tensors") from error


def write_json(path: str | os.PathLike, obj: dict) -> None:
    """Write a dict as standard JSON, atomically; NaN and infinities are refused, as by others.

    MinitxlError if it cannot be stored or the write fails; an older file then stays untouched.
    """
    text = _json_text(obj, one_line(Path(path).name), allow_nan=False, indent=2) + "\n"
    _check_size(path, len(text), "the JSON")
    write_atomically(path, text.encode("ascii"))


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file as UTF-8 with plain newlines, atomically; MinitxlError if that fails."""
    write_atomically(path, text.encode("utf-8", errors="replace"))


def read_json(path: str | os.PathLike) -> dict:
    """Read a JSON file that holds an object; MinitxlError if it is missing or anything else."""
    with reading(path) as file:
        data = file.read(_MAX_JSON + 1)
        if len(data) > _MAX_JSON:
            raise ValueError(f"it has more than {_MAX_JSON} bytes")
        obj = _parse_json(data.removeprefix(b"\xef\xbb\xbf"), allow_nan=False)  # an editor's mark
        if not isinstance(obj, dict):
            raise ValueError(f"it must hold a JSON object {{...}}, not a {type(obj).__name__}")
        return obj


def storable(name: str, array: np.ndarray) -> np.ndarray:
    """Return the array in C order and little-endian: safetensors takes its memory as it lies."""
    place = f"tensor {one_line(repr(name))}"
    if not isinstance(name, str) or name == "__metadata__":
        raise MinitxlError(f"{place}: the name must be text, and not '__metadata__'; rename it")
    if not isinstance(array, np.ndarray):
        raise MinitxlError(f"{place} is a {type(array).__name__}; make it a NumPy array first")
    if array.dtype.newbyteorder("<").str not in DTYPES.values():
        raise MinitxlError(
            f"{place} has the type {array.dtype}, which a checkpoint cannot hold; "
            "use bool, int8 ... uint64, float16, float32 or float64"
        )
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _json_text(obj: dict, name: str, *, allow_nan: bool, indent: int | None = None) -> str:
    if not isinstance(obj, dict):
        raise MinitxlError(f"{name} must be a dict, got a {type(obj).__name__}; wrap it in one")
    _check_json(obj, name, allow_nan, depth=0)
    return json.dumps(obj, allow_nan=allow_nan, indent=indent)  # ASCII: any text survives


def _check_json(value: object, place: str, allow_nan: bool, depth: int) -> None:
    """Raise a MinitxlError that names the place of whatever JSON would refuse or change."""
    if depth > _MAX_DEPTH:
        raise MinitxlError(f"{place[:60]}... is nested over {_MAX_DEPTH} deep; make it flatter")
    if isinstance(value, dict):
        for key, item in value.items():
            label = f"{place}[{one_line(repr(key))}]"
            if not isinstance(key, str):  # json would turn 1 into "1" without a word
                raise MinitxlError(f"{label}: JSON allows only text as a key; use str(key)")
            _check_json(item, label, allow_nan, depth + 1)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_json(item, f"{place}[{i}]", allow_nan, depth + 1)
    else:
        try:
            json.dumps(value, allow_nan=allow_nan)
        except (TypeError, ValueError) as error:
            raise MinitxlError(
                f"{place} cannot be stored as JSON: {one_line(error)}; use plain numbers, text "
                "or None there (arrays belong in the tensors)"
            ) from error


def _check_size(path: str | os.PathLike, size: int, what: str) -> None:
    if size > _MAX_JSON:  # what we would not read back
        raise MinitxlError(
            f"cannot save {one_line(path)}: {what} would take {size} bytes, at most {_MAX_JSON} "
            "are allowed; put long lists into tensors"
        )


def _crc32(tensors: Mapping[str, np.ndarray], state_text: str) -> int:
    """Return the checksum over the state and, in the order of names, every tensor."""
    crc = zlib.crc32(state_text.encode("ascii"))
    for name, array in sorted(tensors.items(), key=lambda item: item[0]):
        crc = zlib.crc32(f"{name} {array.dtype.name} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.reshape(-1).view(np.uint8), crc)  # any shape -> (nbytes,)
    return crc


def parse_safetensors(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return (tensors, metadata); no size that the file claims is believed before it is checked."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise ValueError(f"cut short ({size} bytes long), or no safetensors file")
    if length > _MAX_JSON:
        raise ValueError(f"its header has {length} bytes, more than {_MAX_JSON}")
    header = _parse_json(file.read(length), allow_nan=False)
    metadata = (header.pop("__metadata__", None) or {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        raise ValueError("its header is not that of a safetensors file")
    tensors, at = {}, 0
    for name, (kind, shape, start, stop) in _entries(header):
        if kind not in DTYPES:
            raise MinitxlError(
                f"{one_line(file.name)}: tensor {one_line(repr(name))} has the type {kind}, which "
                "NumPy lacks; convert the file to float32 first"
            )
        n_byte = np.dtype(DTYPES[kind]).itemsize * math.prod(shape)
        if start != at or stop - start != n_byte or stop > size - 8 - length:
            raise ValueError(f"the place of tensor {name!r} does not fit its shape or the file")
        # Read into the array itself: no second copy of a large file in memory.
        array = np.empty(shape, dtype=DTYPES[kind])
        file.readinto(array.reshape(-1).view(np.uint8))
        if array.dtype == bool and np.any(array.view(np.uint8) > 1):
            raise ValueError(f"tensor {name!r} is bool, but has bytes other than 0 and 1")
        tensors[name], at = array, stop
    if at != size - 8 - length:
        raise ValueError(f"its tensors end at byte {at} of {size - 8 - length}")
    return {name: tensors[name] for name in sorted(tensors)}, metadata


def _entries(header: dict) -> list[tuple[str, tuple]]:
    """Return (name, (type, shape, start, stop)) in the order of the file; ValueError if malformed.

    safetensors' own reader is not asked: it makes a second copy of all numbers, or (`safe_open`)
    opens the file again by its name and maps it into memory, where a file that is cut short
    meanwhile kills the process. It also takes a name that comes twice, and headers of 100 MB.
    """
    entries = {}
    for name, entry in header.items():
        fields = entry if isinstance(entry, dict) else {}
        shape, place = fields.get("shape"), fields.get("data_offsets")
        numbers = [*shape, *place] if isinstance(shape, list) and isinstance(place, list) else [-1]
        whole = all(type(n) is int and 0 <= n < 2**63 for n in numbers)
        text = name.isascii() or name.encode("utf-8")  # ValueError for half a surrogate pair
        if not (text and whole and type(fields.get("dtype")) is str and len(place) == 2):
            raise ValueError(f"the entry of tensor {name!r} in its header is malformed")
        entries[name] = (fields["dtype"], tuple(shape), *place)
    return sorted(entries.items(), key=lambda item: item[1][2:])


def checked_state(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> dict:
    """Return the state, once the checksum has vouched for it and for the tensors."""
    ours = _parse_json(metadata["minitxl"].encode("utf-8"), allow_nan=True)
    if not (isinstance(ours, dict) and isinstance(ours.get("state"), dict)):
        raise ValueError("its metadata 'minitxl' has no state")
    # What json.dumps has written once it writes again alike: the text need not be kept.
    found = f"{_crc32(tensors, json.dumps(ours['state'])):08x}"
    if found != ours.get("crc32"):
        raise ValueError(f"its checksum is {found}, but {ours.get('crc32')!r} was saved with it")
    return ours["state"]


def _parse_json(data: bytes, *, allow_nan: bool) -> object:
    """Parse UTF-8 JSON in which no key comes twice; ValueError or RecursionError if it is not."""

    def unique(pairs: list[tuple[str, object]]) -> dict:
        result: dict = {}
        for key, value in pairs:
            if key in result:
                raise ValueError(f"the key {key!r} comes twice")
            result[key] = value
        return result

    def constant(text: str) -> float:  # NaN, Infinity or -Infinity
        if not allow_nan:
            raise ValueError(f"{text} is not a standard JSON number")
        return float(text)

    return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
