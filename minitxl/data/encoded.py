"""A text in the vocabulary of a model: what eval, explore and generate read, all in one way.

Bytes are taken as they are. Of UTF-8 text a byte-order mark is dropped; and where the vocabulary
has no carriage return, the line ends "\\r\\n" and "\\r" are read as "\\n", so that a text that
went through another system is the same text.
"""

from __future__ import annotations

import os

import numpy as np

from minitxl.data.ids import is_ids, load_ids
from minitxl.data.text import blocks_of, blocks_of_stdin, find_file
from minitxl.data.tokens import NumberVocab, TokenVocab
from minitxl.data.utf8 import decoded
from minitxl.data.vocab import ByteVocab, CharVocab
from minitxl.data.words import WordVocab


def encoded_file(vocab, path: str | os.PathLike) -> np.ndarray:
    """Return the ids of a whole file, or of a shipped text by its name, (n,) integers.

    A model of tokens also reads ids from a file NAME.npy. The last line of a text of words ends, as
    in training. MinitxlError for a file that cannot be read, is not UTF-8, or has symbols that the
    vocabulary lacks.
    """
    if isinstance(vocab, TokenVocab | NumberVocab) and is_ids(path):
        return load_ids(find_file(path), vocab.n_token)
    if isinstance(vocab, ByteVocab):
        return vocab.encode(b"".join(blocks_of(path)))
    text = file_text(path)
    if isinstance(vocab, WordVocab) and text and not text.endswith(("\n", "\r")):
        text += "\n"
    return encoded_text(vocab, text)


def prompt_of_file(vocab, path: str | os.PathLike) -> str | bytes | np.ndarray:
    """Return what stands in a file, or in standard input for "-", for `encoded_text`; or its ids.

    Its last line stays without an end where it has none: it is to be continued.
    """
    if isinstance(vocab, TokenVocab | NumberVocab) and is_ids(path):
        return load_ids(find_file(path), vocab.n_token)
    name, blocks = (
        ("standard input", blocks_of_stdin()) if path == "-" else (str(path), blocks_of(path))
    )
    if isinstance(vocab, ByteVocab):
        return b"".join(blocks)
    return "".join(decoded(name, blocks))


def file_text(path: str | os.PathLike) -> str:
    """Return the text of a UTF-8 file, line ends as they are."""
    return "".join(decoded(str(path), blocks_of(path)))


def unknown_words(vocab, text) -> list[str]:
    """Return the words of a text, each once, that a vocabulary of words does not know."""
    if not (isinstance(vocab, WordVocab) and isinstance(text, str)):
        return []
    known = set(vocab.symbols)
    return [word for word in dict.fromkeys(text.split()) if word not in known]


def encoded_text(vocab, text: str | bytes | np.ndarray) -> np.ndarray:
    """Return the ids of a text that is at hand, such as a prompt, (n,) int32; ids as they are."""
    if isinstance(text, np.ndarray):
        return text.astype(np.int32)
    if isinstance(vocab, CharVocab) and isinstance(text, str):
        text = text.removeprefix("\ufeff") if "\ufeff" not in vocab.symbols else text
        if "\r" not in vocab.symbols:
            text = plain_line_ends(text)
    return np.asarray(vocab.encode(text), dtype=np.int32)


def plain_line_ends(text: str) -> str:
    """Return the text with "\\n" alone at the ends of lines."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
