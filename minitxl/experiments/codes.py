"""Text in which names are codes of two capitals: only an earlier mention tells the second letter.

    ... said KD to VU. "the cossacks" KD laughed ...

Within a piece of text no two names share a letter, and the next piece deals the letters anew. So
the second letter of a name can be known from the last mention alone, whatever a model has learned
of language, and its price against the distance to that mention says how far a model looks.

A third of the text is the book in blocks, its commonest names in code and the rest in lower case.
Names there come back after hundreds of characters, from which models as small as these do not begin
to learn to copy; so two thirds are "scenes", in which names come back soon, or late, or very late.
"""

from __future__ import annotations

import math
import random
import re
from bisect import bisect
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from minitxl.data.text import Corpus

NAMES = (
    "Pierre", "Andrew", "Natasha", "Rostov", "Mary", "Napoleon",
    "Kutuzov", "Nicholas", "Denisov", "Sonya", "Anna", "Boris",
)  # fmt: skip
BLOCK = 2048  # characters of the book in one piece
SCENE = (60, 1500)  # characters of a scene, log-uniform between
NEW_NAME = 1.5  # of m mentions so far the next is of somebody new with 1.5 / (1.5 + m)
HARMONIC = list(accumulate(1 / rank for rank in range(1, len(NAMES) + 1)))
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Coded(NamedTuple):
    """A text, and every mention of a name in it that is not the name's first in its piece."""

    ids: np.ndarray  # (L,) in the corpus's vocabulary
    place: np.ndarray  # (N,) where the second letter of a mention stands
    distance: np.ndarray  # (N,) to the second letter of the mention before
    start: np.ndarray  # (N,) where the mention's piece begins
    free: np.ndarray  # (N, 2) ids of two capitals that no name of the piece has


def coded_text(corpus: Corpus, split: str, n_char: int, seed: int) -> Coded:
    """Return n_char characters, or a few more, made of one split ("train", "valid", "test").

    The book's blocks come in their order, from a place that the seed chooses, and begin again at
    its end.
    """
    rng = random.Random(f"{split} {seed}")
    book = corpus.vocab.decode(getattr(corpus, split))
    words = re.findall(r"(?<= )[a-z]+(?= )", book)
    at = rng.randrange(len(book) // BLOCK) * BLOCK
    pieces, length, of_book = [], 0, 0
    while length < n_char:
        codes = rng.sample(LETTERS, len(LETTERS))
        if of_book <= length / 3:
            piece = _block(book[at : at + BLOCK], codes)
            at = at + BLOCK if at + 2 * BLOCK <= len(book) else 0
            of_book += len(piece)
        else:
            piece = _scene(words, codes, rng)
        pieces.append((piece, codes[-2:]))
        length += len(piece)
    return _with_mentions(pieces, corpus)


def _block(text: str, codes: list) -> str:
    """A block of the book: the names in code, all else in lower case."""
    code = {name: codes[2 * i] + codes[2 * i + 1] for i, name in enumerate(NAMES)}
    parts = re.split(rf"\b({'|'.join(NAMES)})\b", text)
    return "".join(code.get(part) or part.lower() for part in parts)


def _scene(words: list, codes: list, rng: random.Random) -> str:
    """Names by move-to-front, the one at rank r with a chance of 1 / r, and words between them."""
    low, high = (math.log(x) for x in SCENE)
    left = math.exp(rng.uniform(low, high))
    recent: list = []  # names, the last mentioned first
    said: list = []
    n_mention = n_name = 0
    while left > 0:
        if n_name < len(NAMES) and rng.random() < NEW_NAME / (NEW_NAME + n_mention):
            name = codes[2 * n_name] + codes[2 * n_name + 1]
            n_name += 1
        else:
            shares = HARMONIC[: len(recent)]
            name = recent.pop(bisect(shares, rng.random() * shares[-1], hi=len(shares) - 1))
        recent.insert(0, name)
        n_mention += 1
        said.append(name)
        if rng.random() < 0.5:
            said.append(words[int(rng.random() * len(words))])
            left -= len(said[-1]) + 1
        left -= 3
    return " ".join(said) + "\n"


def _with_mentions(pieces: list, corpus: Corpus) -> Coded:
    text = "".join(piece for piece, _ in pieces)
    found, start = [], 0
    for piece, free in pieces:
        last: dict = {}
        unused = corpus.vocab.encode("".join(free)).tolist()
        for mention in re.finditer("[A-Z][A-Z]", piece):
            name, at = mention.group(), mention.start() + 1
            if name in last:
                found.append((start + at, at - last[name], start, *unused))
            last[name] = at
        start += len(piece)
    table = np.array(found, dtype=np.int64).reshape(-1, 5)
    return Coded(corpus.vocab.encode(text), *table[:, :3].T, table[:, 3:])
