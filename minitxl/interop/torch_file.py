"""Files that PyTorch saved, read and written without PyTorch: tensors, state dicts, vocabularies.

Both layouts of `torch.save` hold a pickle in which every tensor is a call,

    torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)

and every storage - a row of numbers in memory, which several tensors may share - a persistent id,
('storage', torch.FloatStorage, key, location, numel). Since PyTorch 1.6 the file is a zip archive:

    NAME/data.pkl      the pickle
    NAME/data/KEY      the numbers of one storage
    NAME/byteorder     "little" (missing in older files)
    NAME/version       of the format

Before, it was a row of pickles, followed by the numbers:

    pickle             a magic number
    pickle             1001, the version of the protocol
    pickle             {"little_endian": True, ...}
    pickle             the object
    pickle             [KEY, ...], the keys of the storages
    for every KEY      int64 numel, then the numbers

A pickle can run any code; `safe_pickle.py` reads it so that it runs none. And no size that a file
claims is believed before the file is seen to be large enough for it.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from minitxl.errors import MinitxlError
from minitxl.files import one_line, reading, write_atomically
from minitxl.interop.archive import opening_zip, read_npz
from minitxl.interop.safe_pickle import MAX_PICKLE
from minitxl.interop.storages import DTYPES, Storages, fill
from minitxl.storage.checkpoint import checked_state, parse_safetensors, storable

_MAGIC = 0x1950A86A20F9469CFC6C
_BIG_ENDIAN = "is not little-endian; load it with PyTorch and save it again on another computer"
_STORAGE_OF = {dtype: name.removeprefix("torch.") for name, dtype in DTYPES.items()}
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_TENSOR_NAME = re.compile(r"\w+(\.\w+)*")


def read_torch(path: str | os.PathLike) -> object:
    """Read what `torch.save` wrote, in either layout, with NumPy arrays in the place of tensors.

    Returns dict, OrderedDict, Counter, list, tuple, str, int, float, bool, None and arrays of
    float16/32/64, int8/16/32/64, uint8 and bool (bfloat16 becomes float32, exactly). Tensors that
    shared memory still do: they are views of one array. Containers may be shared, but hold no loop.
    MinitxlError if the file is missing, damaged, or holds any other Python object.
    """
    with reading(path) as file:
        return _load(file, plain_pickle=False)


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read named arrays from a file of PyTorch, a .safetensors or a .npz, told by their content.

    The mapping may be wrapped, as in {"state_dict": {...}, "epoch": 3}; a "module." before every
    name, which DataParallel adds, is taken off. Names that a safetensors file only lists as aliases
    of another (tied) tensor are there too, with the same array.
    MinitxlError if the file is missing, damaged, or holds anything but named arrays.
    """
    with reading(path) as file:
        start = file.read(9)
        file.seek(0)
        if start[4:] == b"\0\0\0\0{":  # 8 bytes of length, then JSON
            state = _load_safetensors(file)
        elif start[:2] == b"PK" and (arrays := read_npz(file)) is not None:
            state = arrays
        else:
            state = _unwrapped(_load(file, plain_pickle=False), one_line(path))
    if not state:
        raise MinitxlError(f"{one_line(path)} holds no tensors; give a file of weights")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): array for name, array in state.items()}
    return state


def read_vocab_pickle(path: str | os.PathLike) -> list[str]:
    """Read `vocab.bin` or `vocab.pkl` of Hugging Face's Transformer-XL: its symbols in id order.

    It is a dict, from `torch.save` or plain `pickle`, with "idx2sym" (a list), "sym2idx" (symbol ->
    id) or both. MinitxlError unless every id from 0 on has exactly one symbol, and both agree.
    """
    with reading(path) as file:
        vocab = _load(file, plain_pickle=True)
    vocab = vocab if isinstance(vocab, dict) else {}
    symbols, ids = vocab.get("idx2sym"), vocab.get("sym2idx")
    if symbols is None and isinstance(ids, dict) and all(type(i) is int for i in ids.values()):
        symbols = sorted(ids, key=ids.get)
    problem = None
    if not isinstance(symbols, list) or not symbols:
        problem = "it holds no list 'idx2sym' and no dict 'sym2idx' of symbol -> id"
    elif not all(type(symbol) is str for symbol in symbols):
        problem = "its symbols are not all text"
    elif len(set(symbols)) < len(symbols):
        problem = "a symbol comes twice"
    elif ids is not None and not (
        isinstance(ids, dict)
        and all(type(i) is int for i in ids.values())
        and ids == {symbol: i for i, symbol in enumerate(symbols)}
    ):
        problem = "its 'sym2idx' does not give the ids 0, 1, 2 ..., each once, as 'idx2sym' does"
    if problem is not None:
        raise MinitxlError(f"{one_line(path)} is no vocabulary: {problem}; give another file")
    return symbols


def write_torch(path: str | os.PathLike, state: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as `torch.load(path, weights_only=True)` reads them, atomically.

    state: name -> array of float16/32/64, int8/16/32/64, uint8 or bool. Names of one and the same
    memory become tied tensors, stored once. Takes the memory of one more copy of all arrays.
    MinitxlError if an array cannot be stored or the write fails; an older file stays untouched.
    """
    state = dict(state)  # holds on to all arrays: only then do equal addresses mean one memory
    keys: dict[tuple, str] = {}
    members: dict[str, bytes | np.ndarray] = {"byteorder": b"little", "version": b"3\n"}
    stream = [pickle.PROTO, b"\x02", pickle.EMPTY_DICT, pickle.MARK]
    packed = io.BytesIO()
    try:
        for name, array in state.items():
            stored = storable(name, array)
            if stored.dtype.str not in _STORAGE_OF:
                raise MinitxlError(
                    f"tensor {one_line(repr(name))} has the type {array.dtype}, which a file of "
                    "PyTorch cannot hold; use bool, uint8, int8 ... int64, float16 ... float64"
                )
            where = array.__array_interface__["data"][0]
            memory = (where, array.dtype.str, array.shape, array.strides)
            key = keys.setdefault(memory, str(len(keys)))
            members.setdefault(f"data/{key}", stored.reshape(-1).view(np.uint8))
            stream += [_pushed(name), *_pushed_tensor(stored, key)]
        members["data.pkl"] = b"".join([*stream, pickle.SETITEMS, pickle.STOP])
        with zipfile.ZipFile(packed, "w") as archive:
            for name, data in members.items():  # ZipInfo has a fixed date: always the same bytes
                archive.writestr(zipfile.ZipInfo(f"archive/{name}"), memoryview(data))
    except (UnicodeError, MemoryError) as error:
        reason = one_line(error) or "out of memory"
        raise MinitxlError(f"cannot save {one_line(path)}: {reason}; check the tensors") from error
    with packed.getbuffer() as data:
        write_atomically(path, data)


def _pushed(value: str | int | tuple) -> bytes:
    """Return the opcodes that push a plain value, as Python's pickle writes them."""
    if isinstance(value, str):  # where that would write half a surrogate pair, which nobody reads
        text = value.encode("utf-8")
        return pickle.BINUNICODE + len(text).to_bytes(4, "little") + text
    return pickle.dumps(value, protocol=2)[2:-1]  # without PROTO and STOP


def _pushed_tensor(array: np.ndarray, key: str) -> list[bytes]:
    """Return the opcodes that rebuild a contiguous tensor from the storage of that key."""
    strides = tuple(math.prod(array.shape[i + 1 :]) for i in range(array.ndim))
    storage = _STORAGE_OF[array.dtype.str].encode()
    return [
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        pickle.MARK,
        *(pickle.MARK, _pushed("storage"), b"ctorch\n" + storage + b"\n"),
        *(_pushed(key), _pushed("cpu"), _pushed(array.size), pickle.TUPLE, pickle.BINPERSID),
        *(_pushed(0), _pushed(array.shape), _pushed(strides), pickle.NEWFALSE),
        *(b"ccollections\nOrderedDict\n", pickle.EMPTY_TUPLE, pickle.REDUCE),  # no hooks
        *(pickle.TUPLE, pickle.REDUCE),
    ]


def _load(file: BinaryIO, *, plain_pickle: bool) -> object:
    """Return the object of a file of `torch.save`; a plain pickle is read only if that is asked."""
    file.seek(0)
    start = file.read(4)
    file.seek(0)
    if start == b"PK\x03\x04":
        with opening_zip(file) as archive:
            return _load_zip(archive, one_line(file.name))
    if start[:1] == pickle.PROTO:
        return _load_pickles(file, one_line(file.name), plain_pickle)
    raise MinitxlError(
        f"{one_line(file.name)} is not of a known kind: a file that torch.save, safetensors or "
        "numpy.savez wrote is needed; check that it was downloaded whole"
    )


def _load_zip(archive: zipfile.ZipFile, name: str) -> object:
    """Read the layout of PyTorch 1.6 and later."""
    members = {member.filename: member for member in archive.infolist()}
    pickles = [path for path in members if path.count("/") == 1 and path.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise MinitxlError(f"{name} is a zip archive, but not one that torch.save wrote")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
        raise MinitxlError(f"{name} {_BIG_ENDIAN}")
    if members[pickles[0]].file_size > MAX_PICKLE:
        raise ValueError(f"its data.pkl has more than {MAX_PICKLE} bytes")
    storages = Storages(name, budget=sum(member.file_size for member in members.values()))
    result, _ = storages.unpickle(archive.read(pickles[0]))
    for key, storage in storages.by_key.items():
        member = members.get(f"{root}data/{key}")
        if member is None or member.file_size != storage.stored_bytes:
            has = "is missing" if member is None else f"has {member.file_size} bytes"
            raise ValueError(f"its storage {key!r} {has}; {storage.stored_bytes} are needed")
        with archive.open(member) as stream:  # which checks the CRC at the end
            storage.fill(stream)
    return result


def _load_pickles(file: BinaryIO, name: str, plain_pickle: bool) -> object:
    """Read the layout before PyTorch 1.6, or a plain pickle, which begins like it."""
    size = os.fstat(file.fileno()).st_size
    data = file.read(min(size, MAX_PICKLE))  # which takes the memory before it reads
    storages = Storages(name, budget=size)
    first, end = storages.unpickle(data)
    if type(first) is not int or first != _MAGIC:
        if not plain_pickle:
            raise MinitxlError(f"{name} is a pickle, but not one that torch.save wrote")
        if end != size or storages.by_key:
            raise ValueError("its pickle has other data behind it, or is without its tensors")
        return first
    version, end = storages.unpickle(data, end)
    if version != 1001:
        raise ValueError("its protocol is not 1001, the only one there is")
    system, end = storages.unpickle(data, end)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise MinitxlError(f"{name} {_BIG_ENDIAN}")
    result, end = storages.unpickle(data, end)
    keys, end = storages.unpickle(data, end)
    del data  # before the arrays take their memory
    if not isinstance(keys, list) or not all(type(key) is str for key in keys):
        raise ValueError("its list of storages is none")
    if sorted(keys) != sorted(storages.by_key):
        raise ValueError("its list of storages is not that of its tensors")
    file.seek(end)
    for key in keys:
        storage = storages.by_key[key]
        numel = np.empty(1, dtype="<i8")
        fill(numel, file)
        if numel[0] != len(storage.array):
            raise ValueError(
                f"its storage {key!r} has {numel[0]} numbers, not {len(storage.array)}"
            )
        storage.fill(file)
    if file.read(1):
        raise ValueError("it has data behind its last storage")
    return result


def _load_safetensors(file: BinaryIO) -> dict[str, np.ndarray]:
    """Read a safetensors file, with the tied tensors for which it has only a name in its metadata.

    {"crit.out_layers.0.weight": "word_emb.emb_layers.0.weight"} there: two names of one tensor.
    """
    tensors, metadata = parse_safetensors(file)
    if "minitxl" in metadata:
        checked_state(tensors, metadata)
    aliases = {
        alias: tensors[kept]
        for alias, kept in metadata.items()
        if kept in tensors and alias != "format" and _TENSOR_NAME.fullmatch(alias)
    }
    return aliases | tensors


def _unwrapped(loaded: object, name: str) -> dict[str, np.ndarray]:
    """Return the state dict that was loaded, or the only one that it wraps."""
    if _is_state_dict(loaded):
        return dict(loaded)
    wrapped = loaded if isinstance(loaded, dict) else {}
    found = [key for key in _WRAPPERS if _is_state_dict(wrapped.get(key))]
    if len(found) != 1:
        what = f"state dicts under {' and '.join(found)}" if found else "no state dict"
        raise MinitxlError(
            f"{name} holds {what}; save the one dict of tensors by their names that is meant"
        )
    return dict(wrapped[found[0]])


def _is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and all(
        type(name) is str and type(array) is np.ndarray for name, array in value.items()
    )
