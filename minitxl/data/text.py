"""Corpora: the two texts that ship with the package, and any file of the user's own."""

import codecs
import difflib
import hashlib
import lzma
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minitxl.data.vocab import ByteVocab, CharVocab
from minitxl.errors import MinitxlError

LEVELS = ("char", "byte")
MIN_SYMBOLS = 40  # leaves two each for valid and test: one to read and one to predict

_CHUNK = 1 << 20  # bytes read at once
_UTF8_BOM = codecs.BOM_UTF8


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
    """A text as token ids, split 90/5/5 by symbols: the last tenth of the text is held out.

    name      the name of a shipped text, else the absolute path of the file, so that
              load_corpus(corpus.name, corpus.level) loads it again from anywhere
    vocab     CharVocab of every symbol in the whole text, or ByteVocab
    train     first 90%: one-dimensional and read-only, of uint8, uint16 or uint32, the smallest
              type that holds n_token values; valid and test, the next and last 5%, likewise
    source    one sentence: where from, and the licence
    level     "char" or "byte": what a symbol is
    """

    name: str
    vocab: CharVocab | ByteVocab
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    source: str
    level: str


def load_corpus(name_or_path: str | os.PathLike = "war-and-peace", level: str = "char") -> Corpus:
    """Return the shipped corpus of that name, else the text of the file at that path.

    level="char" reads UTF-8 (a byte-order mark at the start is dropped, line ends stay as they
    are) and takes characters as symbols; level="byte" takes the bytes of any file. The vocabulary
    is that of the whole text, held-out parts included, as is the custom in character modelling.

    Raises MinitxlError if there is no such name or file, if it is a folder, cannot be read, is
    not UTF-8 (telling where), or has fewer than 40 symbols.
    """
    if level not in LEVELS:
        raise MinitxlError(f'level must be "char" or "byte", got {repr(level)[:40]}')
    if isinstance(name_or_path, str) and name_or_path in CORPORA:
        shipped = CORPORA[name_or_path]
        return _corpus(name_or_path, [_shipped_text(name_or_path)], shipped.source, level)
    path = _file(name_or_path)
    name = str(path.resolve())
    source = f"{path.name!r}, a file of the user's own: its licence is not known."
    try:
        with path.open("rb") as file:
            return _corpus(name, iter(lambda: file.read(_CHUNK), b""), source, level)
    except OSError as error:
        raise MinitxlError(
            f"cannot read {str(path)!r} ({_why(error)}): check its permissions, or copy it"
        ) from error


def _corpus(name: str, blocks: Iterable[bytes], source: str, level: str) -> Corpus:
    """Build the corpus from the text's bytes, which may come in blocks of any size."""
    if level == "byte":
        vocab = ByteVocab()
        tokens = np.frombuffer(b"".join(blocks), dtype=np.uint8)
        _check_length(name, tokens.size, "bytes")
    else:
        vocab, tokens = _characters(name, blocks)
    n = tokens.size
    tokens.setflags(write=False)  # the three parts are views of one array, shared by all readers
    ends = 9 * n // 10, 19 * n // 20
    train, valid, test = tokens[: ends[0]], tokens[ends[0] : ends[1]], tokens[ends[1] :]
    return Corpus(name, vocab, train, valid, test, source, level)


def _characters(name: str, blocks: Iterable[bytes]) -> tuple[CharVocab, np.ndarray]:
    """Return the vocabulary and the ids of UTF-8 text, never holding more than text and ids.

    Going block by block spares the four bytes per character that one big step would take.
    """
    texts, symbols = [], set()
    for text in _decoded(name, blocks):
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
            "use a longer text"
        )


def _decoded(name: str, blocks: Iterable[bytes]) -> Iterator[str]:
    """Yield the text of UTF-8 blocks; an error names the byte's place in the whole file."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0  # in the file, of the first byte that the decoder has not yet turned into text
    for block in _then_end(blocks):
        if offset == 0 and block.startswith(_UTF8_BOM):
            block, offset = block[len(_UTF8_BOM) :], len(_UTF8_BOM)
        pending = len(decoder.getstate()[0])
        try:
            yield decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            bad = error.object[error.start]
            utf16 = offset == 0 and error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            raise MinitxlError(
                f"{name!r} is not UTF-8 text: byte {offset + error.start} is 0x{bad:02x} "
                f"({error.reason}): save it as UTF-8"
                f'{" (it looks like UTF-16)" if utf16 else ""}, or use level="byte" (--level byte)'
            ) from error
        offset += pending + len(block) - len(decoder.getstate()[0])


def _then_end(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the blocks, then the empty block that tells a decoder to finish."""
    yield from blocks
    yield b""


def _file(name_or_path: str | os.PathLike) -> Path:
    """Return the path of an existing file that is not a folder."""
    try:
        path = Path(name_or_path)
        if path.is_dir():
            raise MinitxlError(f"{str(path)!r} is a folder: give a text file in it")
        found = path.exists()
    except (OSError, TypeError) as error:
        raise MinitxlError(
            f"not a name or path: {repr(name_or_path)[:80]} ({_why(error)})"
        ) from error
    if not found:
        known = ", ".join(CORPORA)
        close = difflib.get_close_matches(str(path), CORPORA, n=1) or _neighbours(path)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise MinitxlError(
            f"no file and no shipped text is called {str(path)[:200]!r}{hint}: "
            f"give the path of a text file, or one of the shipped texts {known}"
        )
    return path


def _why(error: Exception) -> str:
    """Return the system's own words, without the path that it repeats at full length."""
    return getattr(error, "strerror", None) or str(error)


def _neighbours(path: Path) -> list[str]:
    """Return the file in the same folder whose name is nearest, if any is near."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    except (OSError, ValueError):
        return []
    return [str(path.parent / n) for n in difflib.get_close_matches(path.name, names, n=1)]


def _shipped_text(name: str) -> bytes:
    """Return the plain bytes of a shipped text, proven to be those that were packed."""
    cure = "reinstall minitxl"
    try:
        packed = resources.files("minitxl.data").joinpath("corpora", f"{name}.txt.xz").read_bytes()
    except OSError as error:
        raise MinitxlError(f"the shipped text {name!r} is missing: {cure}") from error
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
