"""From the plain files of a data set to token files.

A set of bytes or characters is one file, split 90/5/5; a set of words has files for each split.
Everything is read as a stream: of the text never more than a few megabytes are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minitxl.data.checks import why
from minitxl.data.checksums import check_file
from minitxl.data.datasets import SPLITS, WHOLE, Dataset, split_ends
from minitxl.data.prepared import Prepared, Writer, load_prepared, preparing
from minitxl.data.unpack import is_archive, plain_files
from minitxl.data.utf8 import decoded
from minitxl.data.vocab import ByteVocab, CharVocab
from minitxl.data.words import WordIndex, WordVocab
from minitxl.errors import MinitxlError

MIN_TOKENS = 2  # of a split: one to read and one to predict

_CHUNK = 1 << 20  # bytes or ids at once


def prepare(dataset: Dataset, path: Path | None = None, *, any_size: bool = False) -> Prepared:
    """Prepare a data set from its archive, or from its plain file or a folder of them; open it.

    path: None for what is in the set's own folder. Size and checksum of an archive are checked
    before it is unpacked, and the numbers of tokens and symbols compared with the known ones at
    the end. MinitxlError if they differ, unless `any_size` says that the text is another one (a
    part, say) on purpose: then the set is marked as not exact. MinitxlError also for damaged
    files. When it is raised, what was prepared before stays.
    """
    if path is None:
        path = dataset.archive if dataset.archive.is_file() else dataset.folder
        if not path.exists():
            raise MinitxlError(
                f"there is nothing of {dataset.name} in {dataset.folder}: put "
                f"{dataset.archive_name} there, give its place as --from PATH, or fetch it, "
                f"python -m minitxl data get {dataset.name}"
            )
    path = Path(path)
    if not path.exists():
        raise MinitxlError(f"{path} does not exist: give an archive, a text file or a folder")
    way_out = (
        "give the right one, or, if it is another text on purpose, say "
        f"python -m minitxl data prepare {dataset.name} --from PATH --any-size"
    )
    exact = True
    try:
        if path.is_file() and is_archive(path):
            exact = _passes(any_size, check_file, path, dataset.n_bytes, dataset.checksum, way_out)
        with preparing(dataset) as folder:
            files = plain_files(dataset, path, folder)
            if dataset.file:
                exact &= _passes(any_size, check_file, files[WHOLE][0], *dataset.file, way_out)
            symbols = WHOLE in dataset.members
            writer = (_prepare_symbols if symbols else _prepare_words)(dataset, files, folder)
            _check_enough(dataset, writer)
            exact &= _passes(any_size, _check_counts, dataset, writer, way_out)
            writer.finish(dataset, exact=exact)
    except OSError as error:
        place = error.filename or dataset.folder
        raise MinitxlError(
            f"cannot prepare {dataset.name} ({place}: {why(error)}): check disk and permissions"
        ) from error
    return load_prepared(dataset)


def _passes(any_size: bool, check: Callable, *args) -> bool:
    """Say whether a check of the text passes; one that fails raises, unless `any_size`."""
    try:
        check(*args)
    except MinitxlError:
        if not any_size:
            raise
        return False
    return True


def _prepare_symbols(dataset: Dataset, files: dict[str, list[Path]], folder: Path) -> Writer:
    """A set whose every byte is a token: bytes, or characters of ASCII.

    The vocabulary is that of the whole text, held-out parts included, as is the custom.
    """
    [path] = files[WHOLE]
    counts = np.zeros(256, dtype=np.int64)
    for block in _blocks(path):
        counts += np.bincount(np.frombuffer(block, np.uint8), minlength=256)
    n = int(counts.sum())
    values = np.flatnonzero(counts).astype(np.uint8).tobytes()
    if n == 0:
        raise MinitxlError(f"{path} is empty: give the text of {dataset.name}")
    if dataset.level == "byte":
        vocab = ByteVocab(values)
    elif values.isascii():
        vocab = CharVocab(values.decode("ascii"))
    else:
        raise MinitxlError(
            f"{path} has the byte 0x{values[-1]:02x}, but the characters of {dataset.name} are "
            "all ASCII: give the right file"
        )
    new_ids = np.zeros(256, dtype=np.uint8)
    new_ids[np.frombuffer(values, np.uint8)] = np.arange(len(values))
    writer = Writer(folder / "new", vocab)
    ends = (0, *split_ends(n), n)
    for split, start, end in zip(SPLITS, ends[:-1], ends[1:], strict=True):
        blocks = _blocks(path, start, end)
        writer.write(split, (new_ids[np.frombuffer(block, np.uint8)] for block in blocks))
    return writer


def _prepare_words(dataset: Dataset, files: dict[str, list[Path]], folder: Path) -> Writer:
    """A set of words: they are numbered as they occur, then by their frequency in `train`."""
    index = WordIndex(dataset.eos, both_ends=dataset.both_ends)
    total = sum(path.stat().st_size for split in SPLITS for path in files[split])
    with tqdm(total=total, unit="B", unit_scale=True, disable=None) as bar:
        bar.set_description(f"preparing {dataset.name}")
        for split in SPLITS:
            with open(folder / f"{split}.numbers", "xb") as file:
                for path in files[split]:
                    for numbers in index.ids_of_file(decoded(str(path), _blocks(path, bar=bar))):
                        file.write(numbers.tobytes())
    counts = index.counts(_numbers(folder / "train.numbers"))
    vocab = WordVocab.from_counts(
        counts, eos=dataset.eos, unk=dataset.unk, add_unk=True, min_count=dataset.min_count
    )
    writer = Writer(folder / "new", vocab)
    writer.n_lines = counts.get(dataset.eos, 0) // (2 if dataset.both_ends else 1)
    new_ids = index.new_ids(vocab).astype(writer.dtype)
    for split in SPLITS:
        blocks = _numbers(folder / f"{split}.numbers")
        writer.write(split, (new_ids[numbers] for numbers in blocks))
    return writer


def _check_enough(dataset: Dataset, writer: Writer) -> None:
    for split, n in writer.n_tokens.items():
        if n < MIN_TOKENS:
            raise MinitxlError(
                f"{dataset.name} has {n} {split} tokens, needs {MIN_TOKENS}: use more text"
            )


def _check_counts(dataset: Dataset, writer: Writer, way_out: str) -> None:
    found = {f"{split} tokens": n for split, n in writer.n_tokens.items()}
    known = {f"{split} tokens": n for split, n in dataset.n_tokens.items()}
    known |= {"training lines": dataset.n_lines, "symbols": dataset.n_token}
    found |= {"training lines": writer.n_lines, "symbols": writer.vocab.n_token}
    for what, n in known.items():
        if n is not None and n != found[what]:
            raise MinitxlError(
                f"this {dataset.name} has {found[what]:,} {what}, the real one has {n:,}: {way_out}"
            )


def _blocks(
    path: Path, start: int = 0, end: int | None = None, bar: tqdm | None = None
) -> Iterator[bytes]:
    """Yield the bytes of a file from `start` to `end`, block by block."""
    end = path.stat().st_size if end is None else end
    with path.open("rb") as file:
        file.seek(start)
        while start < end and (block := file.read(min(_CHUNK, end - start))):
            start += len(block)
            if bar is not None:
                bar.update(len(block))
            yield block


def _numbers(path: Path) -> Iterator[np.ndarray]:
    """Yield what `_prepare_words` has stored, uint32, block by block."""
    with path.open("rb") as file:
        while (numbers := np.fromfile(file, np.uint32, _CHUNK)).size:
            yield numbers
