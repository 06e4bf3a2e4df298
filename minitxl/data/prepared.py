"""Prepared data sets: token files mapped into memory, so that a corpus of any size opens at once.

A folder <data>/<name>/prepared holds

    train.bin, valid.bin, test.bin    token ids, little-endian uint8, uint16 or uint32, nothing else
    vocab.json                        the vocabulary
    meta.json                         sizes and crc32 of these files, level, type of the ids, and
                                      whether the text is exactly the known one

It is written under a temporary name and renamed when all is there: whoever is killed while
preparing leaves nothing that looks finished.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minitxl.data.checks import short, why
from minitxl.data.datasets import SPLITS, Dataset
from minitxl.data.vocab import ByteVocab, CharVocab, Known, WordVocab, vocab_from_dict
from minitxl.errors import MinitxlError
from minitxl.files import replace
from minitxl.lock import locked

FOLDER = "prepared"
_FORMAT = 1
_TYPES = ("uint8", "uint16", "uint32")
_MAX_JSON = 64 * 2**20  # bytes; the largest vocabulary, of lm1b, takes 8 MB
_CHUNK = 1 << 24  # bytes read at once to compute a checksum


class Prepared(NamedTuple):
    """A prepared data set: the vocabulary, and per split the ids, one-dimensional, read-only.

    `exact` is False for a part of the set, or another text, that was taken in its place on purpose.
    """

    vocab: Known
    tokens: dict[str, np.ndarray]
    exact: bool


def is_prepared(dataset: Dataset) -> bool:
    """Say whether the data set is ready to be loaded (not whether its files are whole)."""
    return (dataset.folder / FOLDER / "meta.json").is_file()


def load_prepared(dataset: Dataset, *, check: bool = False) -> Prepared:
    """Open a prepared data set; its token files stay on the disk.

    The sizes of the files are always compared with what was written, their checksums only where
    `check` asks for it, for that reads them whole. MinitxlError if anything is missing or damaged.
    """
    folder = dataset.folder / FOLDER
    again = f"python -m minitxl data get {dataset.name}"
    if not is_prepared(dataset):
        raise MinitxlError(
            f"the data set {dataset.name} is not prepared in {folder.parent}: {again}"
        )
    try:
        meta = _read_json(folder / "meta.json")
        if meta.get("format") != _FORMAT or meta.get("dtype") not in _TYPES:
            raise ValueError(
                f"meta.json has format {meta.get('format')!r} and dtype {meta.get('dtype')!r}, "
                f"expected {_FORMAT} and one of {', '.join(_TYPES)}"
            )
        exact = meta.get("exact", True)  # older versions did not write it
        if not isinstance(exact, bool):
            raise ValueError(f"meta.json has exact {short(exact)}, expected true or false")
        files = meta["files"]
        for name in ("vocab.json", *(f"{split}.bin" for split in SPLITS)):
            _check_file(folder / name, files[name], check or name == "vocab.json")
        vocab = vocab_from_dict(_read_json(folder / "vocab.json"))
        dtype = np.dtype(meta["dtype"]).newbyteorder("<")
        maps = {s: np.memmap(folder / f"{s}.bin", dtype=dtype, mode="r") for s in SPLITS}
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        # KeyError and TypeError: a meta.json that was changed. MinitxlError is a ValueError.
        reason = f"no {error}" if isinstance(error, KeyError) else why(error)
        raise MinitxlError(f"{folder} is damaged ({reason}): prepare it again, {again}") from error
    # Plain arrays over the maps: the subclass has nothing that a reader needs.
    return Prepared(vocab, {split: np.asarray(tokens) for split, tokens in maps.items()}, exact)


def _read_json(path: Path) -> dict:
    with path.open("rb") as file:
        # As much memory is taken before anything is read.
        data = file.read(min(path.stat().st_size, _MAX_JSON) + 1)
    if len(data) > _MAX_JSON:
        raise ValueError(f"{path.name} has more than {_MAX_JSON} bytes")
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return found


def _check_file(path: Path, expected: dict, whole: bool) -> None:
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise ValueError(f"{path.name} has {size} bytes, {expected['bytes']} were written")
    if whole:
        with path.open("rb") as file:
            crc = _crc32(iter(lambda: file.read(_CHUNK), b""))
        if crc != expected["crc32"]:
            raise ValueError(
                f"{path.name} has crc32 {crc}, it was written with {expected['crc32']}"
            )


def _crc32(blocks: Iterable[bytes]) -> int:
    crc = 0
    for block in blocks:
        crc = zlib.crc32(block, crc)
    return crc


@contextmanager
def preparing(dataset: Dataset) -> Iterator[Path]:
    """Give a temporary folder for what is being prepared, and remove it at the end, in any case.

    Those that killed processes have left are removed first. One process prepares a set at a time.
    """
    dataset.folder.mkdir(parents=True, exist_ok=True)
    with locked(dataset.folder):
        final = dataset.folder / FOLDER
        for left in dataset.folder.glob(f"{FOLDER}.*.tmp"):
            # A whole set under such a name was moved out of the way for a new one that never came.
            if (left / "meta.json").is_file() and not final.exists():
                os.replace(left, final)
            shutil.rmtree(left, ignore_errors=True)
        folder = dataset.folder / f"{FOLDER}.{secrets.token_hex(4)}.tmp"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class Writer:
    """Writes the files of a prepared data set into a new folder, `finish` puts it in its place."""

    def __init__(self, folder: Path, vocab: ByteVocab | CharVocab | WordVocab):
        self.folder = folder
        self.folder.mkdir()
        self.vocab = vocab
        self.dtype = np.min_scalar_type(vocab.n_token - 1)
        self.n_tokens: dict[str, int] = {}
        self.n_lines: int | None = None  # of the training text, where tokens are words
        self._files: dict[str, dict] = {}

    def write(self, split: str, blocks: Iterable[np.ndarray]) -> None:
        """Write the ids of a split, which come in blocks."""
        little = self.dtype.newbyteorder("<")
        data = (np.ascontiguousarray(ids, dtype=little).tobytes() for ids in blocks)
        n_bytes = self._save(f"{split}.bin", data)
        self.n_tokens[split] = n_bytes // self.dtype.itemsize

    def finish(self, dataset: Dataset, *, exact: bool = True) -> Path:
        """Write vocabulary and meta.json and rename the folder; return its path."""
        self._save("vocab.json", [json.dumps(self.vocab.to_dict()).encode("ascii")])
        meta = {
            "format": _FORMAT,
            "name": dataset.name,
            "level": dataset.level,
            "source": dataset.source,
            "exact": exact,
            "dtype": self.dtype.name,
            "n_token": self.vocab.n_token,
            "n_tokens": self.n_tokens,
            "files": dict(self._files),
        }
        self._save("meta.json", [json.dumps(meta, indent=2).encode("ascii")])
        final = dataset.folder / FOLDER
        if final.exists():  # a folder cannot replace a full one: first move that out of the way
            old = dataset.folder / f"{FOLDER}.{secrets.token_hex(4)}.tmp"
            try:
                replace(final, old)
                replace(self.folder, final)
            except OSError:
                if final.exists():
                    shutil.rmtree(old, ignore_errors=True)
                else:
                    os.replace(old, final)  # what was prepared before stays
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            replace(self.folder, final)
        return final

    def _save(self, name: str, blocks: Iterable[bytes]) -> int:
        n_bytes = crc = 0
        with open(self.folder / name, "xb") as file:
            for block in blocks:
                file.write(block)
                n_bytes += len(block)
                crc = zlib.crc32(block, crc)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name on empty files
        self._files[name] = {"bytes": n_bytes, "crc32": crc}
        return n_bytes
