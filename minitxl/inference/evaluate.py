"""Evaluation: nats, bits and perplexity of a text, with a memory of any length."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from minitxl.backend.threads import Workers, threads_for
from minitxl.data.documents import checked_starts
from minitxl.data.stream import one_dimensional, segments
from minitxl.errors import MinitxlError
from minitxl.inference.cached import reader_of
from minitxl.inference.plain import PlainReader
from minitxl.inference.units import bits, perplexity
from minitxl.model.transformer_xl import TransformerXL


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over `n_tokens` predicted tokens."""

    nats: float  # per token
    n_tokens: int
    seconds: float

    @property
    def bpc(self) -> float:
        """Bits per token: nats / ln 2 (bits per character where tokens are characters)."""
        return bits(self.nats)

    @property
    def perplexity(self) -> float:
        """exp(nats)."""
        return perplexity(self.nats)


def evaluate(
    model: TransformerXL,
    tokens,
    batch_size: int = 1,
    tgt_len: int | None = None,
    mem_len: int | None = None,
    clamp_len: int | None = None,
    same_length: bool | None = None,
    max_tokens: int | None = None,
    threads: int | None = None,
    progress: bool = False,
    cached: bool = True,
    document_starts=None,
) -> Evaluation:
    """Read `tokens` (1-D ids) in order, carrying the memory, and return the mean loss.

    batch_size rows are read side by side, each a contiguous part of the text: more is faster, but
    every row starts with an empty memory. The lengths default to the model's; another mem_len
    shows what a longer or shorter memory is worth (sec. 4.4 evaluates with longer ones than in
    training). max_tokens reads only the beginning.
    threads: how many groups of rows are read at once; None: as many as there are cores (which share
    the work of a single row, too). cached: keep keys and values of the memory where that is exact
    (`cached.py`); False projects them again for every segment, as the released code does: the same
    loss, up to the last digit. document_starts, such as `np.flatnonzero(tokens == eos) + 1`: where
    documents begin; none sees another. Raises `MinitxlError` for fewer than batch_size + 1 tokens.
    """
    lengths = dict(tgt_len=tgt_len, mem_len=mem_len, clamp_len=clamp_len, same_length=same_length)
    model = model.with_options(**{k: v for k, v in lengths.items() if v is not None})
    tokens = one_dimensional(tokens)
    documents = None if document_starts is None else checked_starts(document_starts, len(tokens))
    if max_tokens is not None:
        if max_tokens < 1:
            raise MinitxlError(f"max_tokens={max_tokens} must be at least 1")
        tokens = tokens[: max_tokens + 1]
    if batch_size < 1 or len(tokens) < batch_size + 1:
        raise MinitxlError(
            f"the text has {len(tokens)} tokens, batch_size={batch_size} rows need at least "
            f"{batch_size + 1}; use a longer text or a smaller batch_size (at least 1)"
        )
    row_len = (len(tokens) - 1) // batch_size
    within: int | None = 1  # threads of one reader
    if threads is None:
        threads = threads_for(batch_size) if model.backend.name == "cpu" else 1
        within = None if threads == 1 else 1
    rows = batch_size // threads  # of each thread; they do not know of each other
    # Row b is tokens[b * row_len : (b + 1) * row_len], so neighbouring rows are one stretch.
    starts = [i * rows * row_len for i in range(threads)]

    def part_from(start: int):
        part = tokens[start : start + rows * row_len + 1]
        # A part's first document begins with it at the latest: there is nothing before.
        own = None if documents is None else np.unique(np.clip(documents - start, 0, len(part)))
        return part, own

    parts = [part_from(start) for start in starts]
    began = time.perf_counter()
    n_token = batch_size * row_len
    with counted(n_token, progress) as count:

        def read(part) -> float:
            reader = reader_of(model, rows, within) if cached else PlainReader(model, rows)
            ids, own = part
            return _sum_nll(reader, ids, own, count)

        nll = Workers(threads).map(read, parts)
    return Evaluation(sum(nll) / n_token, n_token, time.perf_counter() - began)


@contextmanager
def counted(n_token: int, shown: bool) -> Iterator[Callable[[int], object]]:
    """Yield a function to be called with the number of tokens just read; shown: in a bar."""
    if not shown:
        yield lambda n: None
        return
    from tqdm import tqdm

    with tqdm(total=n_token, unit="tok", unit_scale=True) as bar:
        yield bar.update


def _sum_nll(reader, tokens, documents, count: Callable[[int], object]) -> float:
    """Read tokens in the reader's rows, segment by segment; return the sum of nll in nats."""
    c, back, total = reader.model.config, reader.model.backend, 0.0
    lengths = dict(batch_size=reader.batch_size, tgt_len=c.tgt_len, ext_len=c.ext_len)
    for x, y, *places in segments(tokens, **lengths, document_starts=documents):
        nll = reader.score(x, y, *places)  # (B, T)
        # Sum over a segment in the model's float, over segments in Python's double.
        total += float(back.xp.sum(nll))
        count(y.size)
    return total
