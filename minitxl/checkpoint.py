"""Checkpoint files: tensors and a JSON state in one safetensors file that is always whole.

A file is laid out as safetensors defines it:

    8 bytes    length n of the header, little-endian
    n bytes    JSON header: name -> dtype, shape, data_offsets; and "__metadata__" -> {key: text}
    the rest   the numbers of all tensors, little-endian, row by row

minitxl adds one metadata key, "minitxl": the JSON text of {"crc32": ..., "state": ...}. The format
itself cannot see a flipped bit in the numbers; the checksum covers every name, dtype, shape and
number and the state, so that `load` returns exactly what `save` was given, or an error.

Every file is written under a temporary name in the same folder and then renamed. Renaming is
atomic: whoever is killed at whatever moment leaves the old file or the new one, never a half.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import secrets
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as serialize

from minitxl.errors import MinitxlError

# safetensors' names of the types that every NumPy has (it has no bfloat16 and no float8).
_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "|b1"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1"},
}
_MAX_JSON = 16 * 2**20  # bytes of a header or JSON file; parsed, hostile JSON takes 25 times that
_MAX_DEPTH = 100  # of nested lists and dicts, well inside Python's own limit
_REPLACE_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds between attempts to rename
_HINTS = {
    errno.ENOSPC: "free some disk space",
    errno.ENOENT: "check that the folder exists",
    errno.EACCES: "check the permissions; on Windows close programs that have the file open",
}


def save(path: str | os.PathLike, tensors: Mapping[str, np.ndarray], state: dict) -> None:
    """Write tensors and a state to one safetensors file, atomically.

    tensors: name -> NumPy array of bool, integers or floats; any shape, strides and byte order.
    state: what JSON holds; big integers, NaN and infinities stay exact, tuples become lists.
    MinitxlError if these cannot be stored or the write fails; an older file then stays untouched.
    """
    arrays = {name: _storable(name, array) for name, array in tensors.items()}
    state_text = _json_text(state, "state", allow_nan=True)
    try:
        crc = _crc32(arrays, state_text)
        # One metadata key only: safetensors writes several in random order, and then two saves of
        # the same state would differ in their bytes.
        ours = f'{{"crc32": "{crc:08x}", "state": {state_text}}}'
        data = serialize(arrays, metadata={"minitxl": ours})
    except (SafetensorError, ValueError, MemoryError) as error:
        reason = _one_line(error) or "out of memory"
        raise MinitxlError(f"cannot save {_one_line(path)}: {reason}; check the tensors") from error
    _check_size(path, int.from_bytes(data[:8], "little"), "names and state")
    _write_atomically(path, data)


def load(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict]:
    """Read what `save` wrote: (tensors, state), bit for bit.

    MinitxlError if the file is missing, damaged anywhere, or not written by minitxl.
    """
    with _reading(path) as file:
        tensors, metadata = _parse_safetensors(file)
        if "minitxl" not in metadata:
            raise MinitxlError(
                f"{_one_line(path)} is not a minitxl checkpoint: its metadata has no key "
                "'minitxl'; give a file that minitxl has saved"
            )
        return tensors, _checked_state(tensors, metadata)


def load_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read the tensors of any safetensors file, by whomever written (one of ours is checked).

    MinitxlError if it is missing, damaged, or has number types that NumPy lacks.
    """
    with _reading(path) as file:
        tensors, metadata = _parse_safetensors(file)
        if "minitxl" in metadata:
            _checked_state(tensors, metadata)
        return tensors


def write_json(path: str | os.PathLike, obj: dict) -> None:
    """Write a dict as standard JSON, atomically; NaN and infinities are refused, as by others.

    MinitxlError if it cannot be stored or the write fails; an older file then stays untouched.
    """
    text = _json_text(obj, _one_line(Path(path).name), allow_nan=False, indent=2) + "\n"
    _check_size(path, len(text), "the JSON")
    _write_atomically(path, text.encode("ascii"))


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file as UTF-8 with plain newlines, atomically; MinitxlError if that fails."""
    _write_atomically(path, text.encode("utf-8", errors="replace"))


def read_json(path: str | os.PathLike) -> dict:
    """Read a JSON file that holds an object; MinitxlError if it is missing or anything else."""
    with _reading(path) as file:
        data = file.read(_MAX_JSON + 1)
        if len(data) > _MAX_JSON:
            raise ValueError(f"it has more than {_MAX_JSON} bytes")
        obj = _parse_json(data.removeprefix(b"\xef\xbb\xbf"), allow_nan=False)  # an editor's mark
        if not isinstance(obj, dict):
            raise ValueError(f"it must hold a JSON object {{...}}, not a {type(obj).__name__}")
        return obj


def _storable(name: str, array: np.ndarray) -> np.ndarray:
    """Return the array in C order and little-endian: safetensors takes its memory as it lies."""
    place = f"tensor {_one_line(repr(name))}"
    if not isinstance(name, str) or name == "__metadata__":
        raise MinitxlError(f"{place}: the name must be text, and not '__metadata__'; rename it")
    if not isinstance(array, np.ndarray):
        raise MinitxlError(f"{place} is a {type(array).__name__}; make it a NumPy array first")
    if array.dtype.newbyteorder("<").str not in _DTYPES.values():
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
            label = f"{place}[{_one_line(repr(key))}]"
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
                f"{place} cannot be stored as JSON: {_one_line(error)}; use plain numbers, text "
                "or None there (arrays belong in the tensors)"
            ) from error


def _check_size(path: str | os.PathLike, size: int, what: str) -> None:
    if size > _MAX_JSON:  # what we would not read back
        raise MinitxlError(
            f"cannot save {_one_line(path)}: {what} would take {size} bytes, at most {_MAX_JSON} "
            "are allowed; put long lists into tensors"
        )


def _crc32(tensors: Mapping[str, np.ndarray], state_text: str) -> int:
    """Return the checksum over the state and, in the order of names, every tensor."""
    crc = zlib.crc32(state_text.encode("ascii"))
    for name, array in sorted(tensors.items(), key=lambda item: item[0]):
        crc = zlib.crc32(f"{name} {array.dtype.name} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.reshape(-1).view(np.uint8), crc)  # any shape -> (nbytes,)
    return crc


@contextmanager
def _reading(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a file to read and understand it; whatever goes wrong ends as a MinitxlError."""
    name = _one_line(path)
    if not os.path.isfile(path):  # a folder; a pipe or device, which may never end
        raise MinitxlError(f"{name} does not exist or is not a file; check the path")
    try:
        with open(path, "rb") as file:
            yield file
    except MinitxlError:
        raise
    except OSError as error:
        raise MinitxlError(f"cannot read {name}: {_why(error)}") from error
    except MemoryError as error:
        raise MinitxlError(f"{name} does not fit into memory; close other programs") from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise MinitxlError(
            f"{name} is damaged: {_one_line(error)}; restore it from a copy, "
            "or use another checkpoint or run"
        ) from error


def _parse_safetensors(file: BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return (tensors, metadata); no size that the file claims is believed before it is checked."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise ValueError(f"cut short ({size} bytes long), or no safetensors file")
    if length > _MAX_JSON:
        raise ValueError(f"its header has {length} bytes, more than {_MAX_JSON}")
    file.seek(0)
    data = file.read()
    entries = deserialize(data)  # checks offsets and overflows, and copies the numbers
    header = _parse_json(data[8 : 8 + length], allow_nan=False)
    tensors = {}
    for name, entry in sorted(entries, key=lambda pair: pair[0]):  # they come in random order
        if entry["dtype"] not in _DTYPES:
            raise MinitxlError(
                f"{_one_line(file.name)}: tensor {_one_line(repr(name))} has the type "
                f"{entry['dtype']}, which NumPy lacks; convert the file to float32 first"
            )
        array = np.ndarray(entry["shape"], dtype=_DTYPES[entry["dtype"]], buffer=entry["data"])
        if array.dtype == bool and np.any(array.view(np.uint8) > 1):
            raise ValueError(f"tensor {name!r} is bool, but has bytes other than 0 and 1")
        tensors[name] = array
    return tensors, header.get("__metadata__") or {}


def _checked_state(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> dict:
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


def _write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Write a temporary file beside path, force it to the disk, and rename it to path."""
    temporary = None
    try:
        target = Path(os.path.realpath(path))  # a link keeps pointing where it points
        # What killed runs left behind. Two programs saving to one path remove each other's
        # temporary file too: then one of them gets an error, but the file itself stays whole.
        for leftover in target.parent.glob(f".{glob.escape(target.name)}.{'?' * 8}.tmp"):
            with suppress(OSError):
                leftover.unlink()
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name on an empty file
        for wait in _REPLACE_WAITS:  # Windows refuses while another program has the target open
            try:
                os.replace(temporary, target)
                return
            except PermissionError:
                time.sleep(wait)
        os.replace(temporary, target)
    except (OSError, ValueError) as error:
        raise MinitxlError(
            f"cannot save {_one_line(path)}: {_why(error)}; what was there before is unharmed"
        ) from error
    finally:  # also on Ctrl-C; after the rename there is nothing left to remove
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _why(error: Exception) -> str:
    reason = _one_line(getattr(error, "strerror", None) or error)
    hint = _HINTS.get(getattr(error, "errno", None), "check the path and the disk")
    return f"{reason}; {hint}"


def _one_line(thing: object) -> str:
    """Return the text of a path, name or error, safe to print: bounded, one line, no escapes."""
    text = str(thing)
    text = text if len(text) <= 300 else f"{text[:200]} ... {text[-90:]}"
    return "".join(char if char.isprintable() else "?" for char in text)
