"""Lines scored each by itself: what a model thinks of sentences that have no past."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from minitxl.data.encoded import encoded_text
from minitxl.errors import MinitxlError
from minitxl.inference.cached import reader_of
from minitxl.inference.generate import start_of_text


class LineScore(NamedTuple):
    """A line, the number of its tokens and what all of them cost together in nats."""

    text: str
    n_tokens: int
    nats: float


def score_lines(model, vocab, lines: Iterable[str]) -> Iterator[LineScore]:
    """Yield the score of every line that is not empty; each follows a new line and no more.

    So every token of a line is predicted, its first one too. MinitxlError names the line in which
    the vocabulary lacks a symbol.
    """
    # All of a line is read in segments of the model's length; nothing of it is read twice.
    reader, tgt_len = reader_of(model.with_options(ext_len=0)), model.config.tgt_len
    before = start_of_text(vocab)
    for number, line in enumerate(lines, start=1):
        try:
            ids = encoded_text(vocab, line)
        except MinitxlError as error:
            raise MinitxlError(f"line {number}: {error}") from error
        if not len(ids):
            continue
        reader.reset()
        tokens = np.concatenate([before, ids])[None]  # (1, n + 1)
        nats = 0.0
        for at in range(len(before) - 1, len(tokens[0]) - 1, tgt_len):
            targets = tokens[:, at + 1 : at + 1 + tgt_len]
            nll = reader.score(tokens[:, at : at + targets.shape[1]], targets)
            nats += float(model.backend.xp.sum(nll))
        yield LineScore(line, len(ids), nats)
