"""Tokens of any kind, such as pieces of text, events of music, or bare numbers.

A vocabulary is any object that has

    n_token         how many symbols it knows; their ids are 0 ... n_token - 1
    encode(text)    the ids of a text, one-dimensional
    decode(ids)     the text of one-dimensional ids

With that a model trains, is measured, writes and is explored. It is stored in run.json, as plain
JSON, so that nothing of a run is code: the vocabularies of this package as they are, any other as
a `TokenVocab` of what it shows for each id. `load_run(folder, vocab=...)` gives the object itself
back to a program that has it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from minitxl.data.checks import checked_ids, kind, short
from minitxl.errors import MinitxlError
from minitxl.files import reading

_MAX_FILE = 16 * 2**20  # bytes of a vocabulary file: what a run.json may hold


class Vocabulary(Protocol):
    """What a vocabulary must have."""

    @property
    def n_token(self) -> int: ...

    def encode(self, text: str) -> Any: ...

    def decode(self, ids) -> str: ...


class TokenVocab:
    """Symbols of any length as tokens: token `i` is `symbols[i]`.

    spaced: in a text one space stands between two symbols, as between names of events; else they
    follow each other, as pieces of words do, and `encode` takes the fewest that make up the text.
    Raises MinitxlError unless the symbols are a list of str, spaced ones without white space.
    """

    def __init__(self, symbols: Iterable[str], spaced: bool = False):
        symbols = [] if isinstance(symbols, str) else list(symbols)
        wrong = [s for s in symbols if not isinstance(s, str)]
        if wrong or not symbols or not isinstance(spaced, bool):
            what = f"one that has a {kind(wrong[0])} in it" if wrong else "none"
            raise MinitxlError(f"a vocabulary of tokens needs a list of str as symbols, got {what}")
        for i, symbol in enumerate(symbols):
            if spaced and symbol.split() != [symbol]:
                raise MinitxlError(
                    f"symbol {i} of the vocabulary, {short(symbol)}, is empty or has white space "
                    "in it: rename it, or give the symbols as a JSON list"
                )
            if any(0xD800 <= ord(c) < 0xE000 for c in symbol):
                raise MinitxlError(
                    f"symbol {i} of the vocabulary, {short(symbol)}, has half a surrogate pair in "
                    "it, which UTF-8 cannot hold: leave it out"
                )
        self.symbols, self.spaced = symbols, spaced
        self._ids = {symbol: i for i, symbol in reversed(list(enumerate(symbols))) if symbol}
        lengths: dict[str, set[int]] = {}  # of the symbols that begin with a character
        for symbol in self._ids:
            lengths.setdefault(symbol[0], set()).add(len(symbol))
        self._lengths = {first: sorted(found) for first, found in lengths.items()}

    @property
    def n_token(self) -> int:
        """Number of different tokens."""
        return len(self.symbols)

    def encode(self, text: str) -> np.ndarray:
        """Return the token ids of `text`, one-dimensional int32.

        Of symbols that look alike it is the first. MinitxlError names what is not known.
        """
        _check_text(text)
        ids = self._of_names(text) if self.spaced else self._of_pieces(text)
        return np.asarray(ids, dtype=np.int32)

    def _of_names(self, text: str) -> list[int]:
        names = _names(text)
        for place, name in enumerate(names):
            if name not in self._ids:
                raise MinitxlError(
                    f"the vocabulary of {self.n_token} has no symbol {short(name)}, at place "
                    f"{place} (from 0): replace it, or use a vocabulary that has it"
                )
        return [self._ids[name] for name in names]

    def _of_pieces(self, text: str) -> list[int]:
        """Fewest pieces: best[i] is how many make up the first i characters, last[i] the length of
        the last of them; of equally few the longest last one."""
        never, n = len(text) + 1, len(text)
        best, last, ids = [0] + [never] * n, [0] * (n + 1), self._ids
        for i, c in enumerate(text):
            count = best[i] + 1
            if count <= never:
                for length in self._lengths.get(c, ()):
                    end = i + length
                    if end <= n and count < best[end] and text[i:end] in ids:
                        best[end], last[end] = count, length
        if best[n] == never:
            place = max(i for i in range(n) if best[i] < never)
            raise MinitxlError(
                f"no symbol of the vocabulary of {self.n_token} goes on at position {place} (from "
                f"0), {short(text[place : place + 20])}: replace it, or use another vocabulary"
            )
        found, i = [], n
        while i:
            found.append(ids[text[i - last[i] : i]])
            i -= last[i]
        return found[::-1]

    def decode(self, ids) -> str:
        """Return the text of a one-dimensional sequence of token ids, each in [0, n_token)."""
        shown = map(self.symbols.__getitem__, checked_ids(ids, self.n_token).tolist())
        return (" " if self.spaced else "").join(shown)

    def to_bytes(self, ids) -> bytes:
        """Return the text of `ids` as UTF-8 bytes."""
        return self.decode(ids).encode("utf-8")

    def decoder(self) -> TokenDecoder:
        """Return a decoder for one id at a time, for showing text while it is generated."""
        return TokenDecoder(self)

    def to_dict(self) -> dict:
        """Return what `vocab_from_dict` needs, as plain JSON."""
        return {"type": "token", "symbols": self.symbols, "spaced": self.spaced}

    def __eq__(self, other) -> bool:
        return isinstance(other, TokenVocab) and (
            (self.symbols, self.spaced) == (other.symbols, other.spaced)
        )

    def __hash__(self) -> int:
        return hash((tuple(self.symbols), self.spaced))

    def __repr__(self) -> str:
        return f"TokenVocab({short(self.symbols[:5])}, n_token={self.n_token})"


class NumberVocab:
    """Ids alone, shown as numbers with a space between: token 7 is "7"."""

    spaced = True

    def __init__(self, n_token: int):
        if type(n_token) is not int or n_token < 1:
            raise MinitxlError(f"n_token={short(n_token)} must be a whole number of 1 or more")
        self.n_token = n_token

    def encode(self, text: str) -> np.ndarray:
        """Return the numbers that a text holds, one-dimensional int32."""
        _check_text(text)
        names = _names(text)
        for place, name in enumerate(names):
            known = name.isascii() and name.isdigit() and len(name) < 12
            if not known or int(name) >= self.n_token:
                raise MinitxlError(
                    f"{short(name)} at place {place} (from 0) is no id of the model, whose tokens "
                    f"are shown as the numbers 0 to {self.n_token - 1} with spaces between"
                )
        return np.asarray([int(name) for name in names], dtype=np.int32)

    def decode(self, ids) -> str:
        """Return the numbers with a space between two."""
        return " ".join(map(str, checked_ids(ids, self.n_token).tolist()))

    def to_bytes(self, ids) -> bytes:
        """Return the text of `ids` as bytes."""
        return self.decode(ids).encode("ascii")

    def decoder(self) -> TokenDecoder:
        """Return a decoder for one id at a time, for showing text while it is generated."""
        return TokenDecoder(self)

    def to_dict(self) -> dict:
        """Return what `vocab_from_dict` needs, as plain JSON."""
        return {"type": "number", "n_token": self.n_token}

    def __eq__(self, other) -> bool:
        return isinstance(other, NumberVocab) and self.n_token == other.n_token

    def __hash__(self) -> int:
        return hash((NumberVocab, self.n_token))

    def __repr__(self) -> str:
        return f"NumberVocab({self.n_token})"


class TokenDecoder:
    """Text from one token id after another: all that `feed` returns is `decode` of all ids."""

    def __init__(self, vocab: TokenVocab | NumberVocab):
        self._vocab, self._gap = vocab, ""

    def feed(self, token_id: int) -> str:
        """Return the symbol, behind a space if it follows another one that is spaced."""
        text = self._gap + self._vocab.decode([token_id])
        self._gap = " " if self._vocab.spaced else ""
        return text

    def flush(self) -> str:
        """Return "": a token is complete at once."""
        return ""


def _check_text(text) -> None:
    if not isinstance(text, str):
        raise MinitxlError(f"a vocabulary of tokens encodes str, got {kind(text)}: decode it first")


def _names(text: str) -> list[str]:
    names = text.split()
    if text and not names:
        raise MinitxlError(f"there is no symbol in the text {short(text)}: use names with spaces")
    return names


def as_tokens(vocab: Vocabulary) -> TokenVocab:
    """Return what a vocabulary shows for each of its ids, as which one of no known kind is stored.

    MinitxlError where it lacks a part of the protocol, or shows nothing for one of its ids.
    """
    check_vocab(vocab)
    symbols = []
    for i in range(vocab.n_token):
        try:
            symbol = vocab.decode([i])
        except Exception as error:  # of code that is not ours
            raise MinitxlError(
                f"the vocabulary cannot be stored: decode([{i}]) fails with "
                f"{kind(error)}: {short(str(error))}; its n_token is {vocab.n_token}"
            ) from error
        if not isinstance(symbol, str):
            raise MinitxlError(
                f"the vocabulary cannot be stored: decode([{i}]) is a {kind(symbol)}, must be str"
            )
        symbols.append(symbol)
    names = all(symbol.split() == [symbol] for symbol in symbols)
    pair = [0, min(1, len(symbols) - 1)]
    spaced = names and vocab.decode(pair) == " ".join(symbols[i] for i in pair)
    return TokenVocab(symbols, spaced)


def check_vocab(vocab) -> None:
    """Raise MinitxlError for an object that is no vocabulary."""
    n_token = getattr(vocab, "n_token", None)
    lacks = [name for name in ("encode", "decode") if not callable(getattr(vocab, name, None))]
    if not isinstance(n_token, int) or isinstance(n_token, bool) or n_token < 1 or lacks:
        what = f"lacks {' and '.join(lacks)}" if lacks else f"has n_token={short(n_token)}"
        raise MinitxlError(
            f"the vocabulary, a {kind(vocab)}, {what}: it must have n_token, a whole number from 1 "
            "up, encode(text) and decode(ids)"
        )


def load_vocab(path: str | os.PathLike) -> TokenVocab:
    """Return the vocabulary in a file.

    A file NAME.json holds a list of symbols, by id, or an object {symbol: id}; in a text they
    follow each other without a space. Any other is a text in UTF-8, a symbol on each line, and in
    a text one space stands between two. MinitxlError for anything else.
    """
    name = os.fspath(path)
    with reading(path) as file:
        data = file.read(_MAX_FILE + 1)
    try:
        if len(data) > _MAX_FILE:
            raise ValueError(f"it has more than {_MAX_FILE:,} bytes")
        text = data.decode("utf-8-sig")
        is_json = str(name).lower().endswith(".json")
        symbols = _from_json(json.loads(text)) if is_json else _lines(text)
        vocab = TokenVocab(symbols, spaced=not is_json)
        first: dict[str, int] = {}
        if twice := [s for i, s in enumerate(symbols) if first.setdefault(s, i) != i]:
            raise ValueError(f"the symbol {short(twice[0])} comes twice: leave one out")
    except (ValueError, RecursionError) as error:
        raise MinitxlError(
            f"{name} is no vocabulary: {short(str(error)) if len(str(error)) > 300 else error}; it "
            "is to have a symbol on each line, or as NAME.json a list of symbols or {symbol: id}"
        ) from error
    return vocab


def read_vocab(vocab: Vocabulary | str | os.PathLike | None) -> Vocabulary | None:
    """Return a vocabulary that may be given as the path of a file."""
    return load_vocab(vocab) if isinstance(vocab, str | os.PathLike) else vocab


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def _from_json(found) -> list:
    """Return the symbols by id; ValueError for JSON of another form."""
    if isinstance(found, dict):
        by_id = {i: symbol for symbol, i in found.items() if type(i) is int}
        if sorted(by_id) != list(range(len(found))):
            raise ValueError(f"its ids must be 0 to {len(found) - 1}, one for each symbol")
        return [by_id[i] for i in range(len(found))]
    if not isinstance(found, list):
        raise ValueError(f"it holds a {kind(found)}")
    return found
