"""Two vocabularies as one, by symbol: a model goes on with a text that may have others."""

from __future__ import annotations

import dataclasses

import numpy as np

from minitxl.data.checks import kind, short
from minitxl.data.text import Corpus
from minitxl.data.tokens import NumberVocab, TokenVocab, Vocabulary
from minitxl.data.vocab import ByteVocab, CharVocab, Known, stored_vocab, vocab_from_dict
from minitxl.data.words import WordVocab
from minitxl.errors import MinitxlError


def merged(known: Known, other: Vocabulary) -> Known:
    """Return the vocabulary of all symbols of a model, and of those that a text has beside them.

    Characters and bytes stand in their order, so that ids may change; words and tokens that are new
    come behind the known ones, and an end of a line and unknown words are the model's. Where the
    model has no carriage return none is added: line ends are plain (`translated`).
    """
    other = other if isinstance(other, Known) else vocab_from_dict(stored_vocab(other))
    _check_alike(known, other)
    if other == known:
        return known
    have = set(_keys(known))
    new = [key for key in _keys(other) if key not in have]
    if isinstance(known, CharVocab):
        plain = {"\n"} if "\r" in new else set()
        return CharVocab("".join(sorted({*known.symbols, *new, *plain} - {"\r"} | have)))
    if isinstance(known, ByteVocab):
        return ByteVocab(bytes(sorted({*known.values, *new})))
    if isinstance(known, NumberVocab):
        return NumberVocab(max(known.n_token, other.n_token))
    if isinstance(known, WordVocab):
        names = {("unk",): known.unk}
        words = [*known.symbols, *(names.get(key, key) for key in new)]
        return WordVocab(words, eos=known.eos, unk=known.unk)
    return TokenVocab([*known.symbols, *new], known.spaced) if new else known


def id_map(vocab: Vocabulary, within: Vocabulary, used=None) -> np.ndarray:
    """Return the id that each symbol of a vocabulary has in another one, (n_token,).

    MinitxlError where that one lacks some of those whose ids are `used`; None: of any.
    """
    vocab, within = (
        v if isinstance(v, Known) else vocab_from_dict(stored_vocab(v)) for v in (vocab, within)
    )
    _check_alike(vocab, within)
    if vocab == within:  # also where two of its symbols look alike
        return np.arange(vocab.n_token)
    ids = {key: i for i, key in enumerate(_keys(within))}
    if isinstance(vocab, CharVocab) and "\r" not in ids and "\n" in ids:
        ids["\r"] = ids["\n"]
    keys = _keys(vocab)
    lacking = [i for i in (range(len(keys)) if used is None else used) if keys[i] not in ids]
    if lacking:
        raise MinitxlError(
            f"{len(lacking)} of the text's {vocab.n_token} symbols are not among the model's "
            f"{within.n_token}, such as {short(keys[lacking[0]])}: take the text that it was "
            "trained on"
        )
    return np.array([ids.get(key, 0) for key in keys])


def used_ids(corpus: Corpus) -> np.ndarray:
    """Return the ids that occur in a corpus, in order."""
    parts = (corpus.train, corpus.valid, corpus.test)
    counts = sum(np.bincount(ids, minlength=corpus.vocab.n_token) for ids in parts)
    return np.flatnonzero(counts)


def translated(corpus: Corpus, vocab: Vocabulary) -> Corpus:
    """Return a corpus in the ids of another vocabulary, which has all symbols that occur in it.

    Where that has no carriage return, the line ends "\\r\\n" and "\\r" become "\\n", as eval reads.
    """
    table = id_map(corpus.vocab, vocab, used_ids(corpus))
    table = table.astype(np.min_scalar_type(vocab.n_token - 1))
    if np.array_equal(table, np.arange(len(table))):
        return dataclasses.replace(corpus, vocab=vocab)
    parts = {}
    for name in ("train", "valid", "test"):
        ids = _plain_ends(getattr(corpus, name), corpus.vocab, vocab)
        parts[name] = table[ids]
        parts[name].setflags(write=False)
    return dataclasses.replace(corpus, vocab=vocab, **parts)


def _plain_ends(ids: np.ndarray, vocab, within) -> np.ndarray:
    """Leave "\\r" out where "\\n" follows it, if the other vocabulary has none."""
    if not isinstance(vocab, CharVocab) or not isinstance(within, CharVocab):
        return ids
    if "\r" in within.symbols or "\r" not in vocab.symbols or "\n" not in vocab.symbols:
        return ids
    before = ids[:-1] == vocab.symbols.index("\r")
    before &= ids[1:] == vocab.symbols.index("\n")
    return ids[~np.append(before, False)]


def _check_alike(known: Known, other: Known) -> None:
    spaced = [getattr(vocab, "spaced", None) for vocab in (known, other)]
    if type(known) is not type(other) or spaced[0] != spaced[1]:
        names = [
            kind(v) + (" with spaces" if s else "")
            for v, s in zip((known, other), spaced, strict=True)
        ]
        raise MinitxlError(
            f"the vocabularies are of different kinds, {names[0]} and {names[1]}: their symbols "
            "cannot be told to be the same; give a text and a vocabulary of the model's kind"
        )


def _keys(vocab: Known) -> list:
    """Return what makes each symbol the one that it is."""
    if isinstance(vocab, CharVocab):
        return list(vocab.symbols)
    if isinstance(vocab, ByteVocab):
        return list(vocab.values)
    if isinstance(vocab, NumberVocab):
        return list(range(vocab.n_token))
    if isinstance(vocab, WordVocab):
        special = {vocab.unk: ("unk",), vocab.eos: ("eos",)}
        return [special.get(symbol, symbol) for symbol in vocab.symbols]
    if len(set(vocab.symbols)) < len(vocab.symbols):
        raise MinitxlError(
            f"some of the {vocab.n_token} symbols of the vocabulary look alike, so they cannot be "
            "matched by what they show: use ids of the model's own vocabulary"
        )
    return vocab.symbols
