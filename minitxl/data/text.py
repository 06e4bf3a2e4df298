"""Corpora: the texts that ship with minitxl, prepared data sets, and files of the user's own."""

import difflib
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minitxl.data.checks import checked_ids, why
from minitxl.data.datasets import DATASETS, Dataset, split_ends
from minitxl.data.ids import is_ids, load_ids
from minitxl.data.prepared import load_prepared
from minitxl.data.tokens import NumberVocab, Vocabulary, check_vocab
from minitxl.data.utf8 import decoded
from minitxl.data.vocab import ByteVocab, CharVocab
from minitxl.data.words import WordIndex, WordVocab
from minitxl.errors import MinitxlError

LEVELS = ("char", "byte", "word", "token")
MIN_SYMBOLS = 40  # leaves two each for valid and test: one to read and one to predict

PIPED = 256 * 2**20  # bytes that are read of what is no plain file, such as a pipe: it may not end

_CHUNK = 1 << 20  # bytes read at once
_OWN = "{!r}, a file of the user's own: its licence is not known."
_UNITS = {"char": "characters", "byte": "bytes", "word": "words", "token": "tokens"}


class _Shipped(NamedTuple):
    sha256: str  # of the plain text
    source: str


CORPORA = {
    "war-and-peace": _Shipped(
        sha256="c774019da073b9aeeca1daa7d8f87c87d0fe0b4a8c202b3152f6f3c17ae7395e",
        source="Leo Tolstoy, War and Peace, in the English of Louise and Aylmer Maude (1922-23), "
        "without front matter; public domain in the United States.",
    ),
    "tiny-shakespeare": _Shipped(
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        source="William Shakespeare, 40,000 lines from the plays, "
        "the sample known as Tiny Shakespeare; public domain.",
    ),
}
"""The shipped texts by name; where they come from is told at length in corpora/SOURCES.md."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as token ids in three parts; by default the last tenth of it is held out.

    name      the name of a shipped text or prepared data set, else the absolute path of the file,
              so that load_corpus(corpus.name, corpus.level) loads it again from anywhere
    vocab     CharVocab of every symbol in the whole text, ByteVocab, or WordVocab of the words in
              the training part; of other tokens any `Vocabulary`
    train     one-dimensional and read-only, of uint8, uint16 or uint32, the smallest type that
              holds n_token values; first 90%, or the data set's own part; valid and test likewise,
              the next and last 5%. Those of a data set are files mapped into memory
    source    one sentence: where from, and the licence; of a data set also whether it is a part
    level     "char", "byte", "word" or "token": what a symbol is
    """

    name: str
    vocab: Vocabulary
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    source: str
    level: str


def load_corpus(
    name_or_path: str | os.PathLike = "war-and-peace",
    level: str | None = None,
    check: bool = False,
    vocab: Vocabulary | None = None,
) -> Corpus:
    """Return the shipped text or prepared data set of that name, else the file at that path.

    level: what a token is; by default "char", or for a data set (see `minitxl.data.datasets`) its
    own level, the only one it has. "char" reads UTF-8 (a byte-order mark at the start is dropped,
    line ends stay as they are) and takes characters as symbols, "byte" takes the bytes of any
    file; their vocabulary is that of the whole text, held-out parts included, as is the custom.
    "word" takes the words of UTF-8 text and <eos> for each end of a line. Its vocabulary is that
    of the training part, with <unk> for words that come only later. "token" takes the ids in a file
    NAME.npy, which is so by default, or the tokens that a vocabulary makes of a text. check: read a
    prepared set whole and compare its checksums, not the sizes of its files alone. vocab: any
    `Vocabulary` (`data/tokens.py`), for tokens; None: ids of a .npy file are shown as numbers.

    Raises MinitxlError if there is no such name or file, if it is a folder, cannot be read, is
    not UTF-8 (telling where), has fewer than 40 symbols, or is a data set not yet prepared.
    """
    if level not in (None, *LEVELS):
        raise MinitxlError(f"level must be one of {', '.join(LEVELS)}, got {repr(level)[:40]}")
    if vocab is not None or (level is None and is_ids(name_or_path)):
        if level not in (None, "token"):
            raise MinitxlError(
                f"level {level!r} has a vocabulary of its own: leave level or vocabulary out"
            )
        level = "token"
    if level == "token":
        return _tokens(name_or_path, vocab)
    if isinstance(name_or_path, str) and name_or_path in DATASETS:
        return _dataset(DATASETS[name_or_path], level, check)
    level = level or "char"
    if isinstance(name_or_path, str) and name_or_path in CORPORA:
        shipped = CORPORA[name_or_path]
        return _corpus(name_or_path, blocks_of(name_or_path), shipped.source, level)
    path = find_file(name_or_path)
    source = _OWN.format(path.name)
    return _corpus(str(path.resolve()), blocks_of(path), source, level)


def blocks_of(name_or_path: str | os.PathLike) -> Iterator[bytes]:
    """Yield the bytes of a shipped text or of a file, in blocks: the one way in which all read.

    Raises MinitxlError if there is no such file, if it cannot be read, or if it is a pipe or a
    device with more than 256 MiB.
    """
    if isinstance(name_or_path, str) and name_or_path in CORPORA:
        yield shipped_text(name_or_path)
        return
    path = find_file(name_or_path)
    try:
        with path.open("rb") as file:
            yield from _blocks(file, str(path), plain=path.is_file())
    except OSError as error:
        raise MinitxlError(
            f"cannot read {str(path)!r} ({why(error)}): check its permissions, or copy it"
        ) from error


def blocks_of_stdin() -> Iterator[bytes]:
    """Yield the bytes of standard input, as `blocks_of` does those of a pipe."""
    try:
        yield from _blocks(sys.stdin.buffer, "standard input", plain=False)
    except (AttributeError, OSError) as error:  # closed, or none
        raise MinitxlError("cannot read standard input: write the text to a file") from error


def _blocks(file, name: str, *, plain: bool) -> Iterator[bytes]:
    n_bytes = 0
    while block := file.read(_CHUNK):
        n_bytes += len(block)
        if not plain and n_bytes > PIPED:
            raise MinitxlError(
                f"{name!r} is no plain file and does not end within {PIPED:,} bytes: "
                "write the text to a file and give that"
            )
        yield block


def _dataset(dataset: Dataset, level: str | None, check: bool) -> Corpus:
    if level not in (None, dataset.level):
        raise MinitxlError(
            f"the tokens of {dataset.name} are of level {dataset.level!r}, not {level!r}: leave "
            "the level out"
        )
    vocab, parts, exact = load_prepared(dataset, check=check)
    source = dataset.source
    if not exact:
        n = sum(ids.size for ids in parts.values())
        source = f"{dataset.name}, a part of it ({n:,} {dataset.level}s): {source}"
    return Corpus(name=dataset.name, vocab=vocab, **parts, source=source, level=dataset.level)


def _tokens(name_or_path: str | os.PathLike, vocab: Vocabulary | None) -> Corpus:
    """Return the corpus of a file of ids, or of a text whose tokens a vocabulary knows."""
    if isinstance(name_or_path, str) and name_or_path in DATASETS:
        raise MinitxlError(
            f"the tokens of {name_or_path} are of level {DATASETS[name_or_path].level!r}, with a "
            "vocabulary of their own: leave level and vocabulary out"
        )
    if vocab is not None:
        check_vocab(vocab)
    if isinstance(name_or_path, str) and name_or_path in CORPORA:
        name, source = name_or_path, CORPORA[name_or_path].source
    else:
        path = find_file(name_or_path)
        name, source = str(path.resolve()), _OWN.format(path.name)
    if is_ids(name):
        ids = load_ids(name, None if vocab is None else vocab.n_token)
        vocab = NumberVocab(int(ids.max(initial=0)) + 1) if vocab is None else vocab
    elif vocab is None:
        raise MinitxlError(
            f"{name!r} is a text, whose tokens only a vocabulary knows: give one (--vocab FILE), "
            "or ids as a file NAME.npy"
        )
    else:
        text = "".join(decoded(name, blocks_of(name_or_path)))
        ids = checked_ids(vocab.encode(text), vocab.n_token)
        ids = ids.astype(np.min_scalar_type(vocab.n_token - 1))
    return _split(name, vocab, ids, source, "token")


def _corpus(name: str, blocks: Iterable[bytes], source: str, level: str) -> Corpus:
    """Build the corpus from the text's bytes, which may come in blocks of any size."""
    if level == "byte":
        vocab = ByteVocab()
        tokens = np.frombuffer(b"".join(blocks), dtype=np.uint8)
    elif level == "word":
        vocab, tokens = _words(name, blocks)
    else:
        vocab, tokens = _characters(name, blocks)
    return _split(name, vocab, tokens, source, level)


def _split(name: str, vocab, tokens: np.ndarray, source: str, level: str) -> Corpus:
    _check_length(name, tokens.size, _UNITS[level])
    tokens.setflags(write=False)  # the three parts are views of one array, shared by all readers
    train_end, valid_end = split_ends(tokens.size)
    train, valid, test = tokens[:train_end], tokens[train_end:valid_end], tokens[valid_end:]
    return Corpus(name, vocab, train, valid, test, source, level)


def _words(name: str, blocks: Iterable[bytes]) -> tuple[WordVocab, np.ndarray]:
    """Return the vocabulary of the training part and the ids of the whole text."""
    index = WordIndex()
    parts = index.ids_of_file(decoded(name, blocks))
    numbers = np.concatenate([np.zeros(0, np.uint32), *parts])
    _check_length(name, numbers.size, "words")
    train_end, _ = split_ends(numbers.size)
    vocab = WordVocab.from_counts(index.counts([numbers[:train_end]]), add_unk=True)
    new_ids = index.new_ids(vocab).astype(np.min_scalar_type(vocab.n_token - 1))
    return vocab, new_ids[numbers]


def _characters(name: str, blocks: Iterable[bytes]) -> tuple[CharVocab, np.ndarray]:
    """Return the vocabulary and the ids of UTF-8 text, never holding more than text and ids.

    Going block by block spares the four bytes per character that one big step would take.
    """
    texts, symbols = [], set()
    for text in decoded(name, blocks):
        texts.append(text)
        symbols.update(text)
    n = sum(map(len, texts))
    _check_length(name, n, "characters")
    vocab = CharVocab("".join(sorted(symbols)))
    tokens = np.empty(n, dtype=np.min_scalar_type(vocab.n_token - 1))
    start = 0
    for text in texts:
        tokens[start : start + len(text)] = vocab.encode(text)
        start += len(text)
    return vocab, tokens


def _check_length(name: str, n: int, unit: str) -> None:
    if n < MIN_SYMBOLS:
        raise MinitxlError(
            f"{name!r} has {n} {unit}, at least {MIN_SYMBOLS} are needed to split it 90/5/5: "
            "use a longer text (eval takes a short one as a whole: --split all)"
        )


def find_file(name_or_path: str | os.PathLike) -> Path:
    """Return the path of an existing file that is not a folder."""
    try:
        path = Path(name_or_path)
        if path.is_dir():
            raise MinitxlError(f"{str(path)!r} is a folder: give a text file in it")
        found = path.exists()
    except (OSError, TypeError) as error:
        raise MinitxlError(
            f"not a name or path: {repr(name_or_path)[:80]} ({why(error)})"
        ) from error
    if not found:
        names = (*CORPORA, *DATASETS)
        close = difflib.get_close_matches(str(path), names, n=1) or _neighbours(path)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise MinitxlError(
            f"no file and no text is called {str(path)[:200]!r}{hint}: give the path of a text "
            f"file, one of the shipped texts {', '.join(CORPORA)}, or a data set: "
            f"{', '.join(DATASETS)}"
        )
    return path


def _neighbours(path: Path) -> list[str]:
    """Return the file in the same folder whose name is nearest, if any is near."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    except (OSError, ValueError):
        return []
    return [str(path.parent / n) for n in difflib.get_close_matches(path.name, names, n=1)]


def shipped_text(name: str) -> bytes:
    """Return the plain bytes of a shipped text, proven to be those that were packed."""
    cure = "reinstall minitxl"
    try:
        packed = resources.files("minitxl.data").joinpath("corpora", f"{name}.txt.xz").read_bytes()
    except OSError as error:
        raise MinitxlError(f"the shipped text {name!r} is missing: {cure}") from error
    try:
        import lzma
    except ImportError as error:  # a browser's Python
        raise MinitxlError(
            f"the shipped text {name!r} is packed with xz, and this Python has no module lzma: "
            "give the path of a plain text file"
        ) from error
    try:
        plain = lzma.decompress(packed)
    except (lzma.LZMAError, EOFError) as error:
        raise MinitxlError(f"the shipped text {name!r} is damaged ({error}): {cure}") from error
    digest = hashlib.sha256(plain).hexdigest()
    if digest != CORPORA[name].sha256:
        raise MinitxlError(
            f"the shipped text {name!r} has sha256 {digest[:16]}..., "
            f"expected {CORPORA[name].sha256[:16]}...: {cure}"
        )
    return plain
