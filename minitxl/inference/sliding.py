"""Evaluation of a model without recurrence by a sliding window (paper sec. 4.5, "vanilla").

A model of fixed segments predicts the first token of each segment from nothing. To give every
token a full context, the window is moved on by `stride` tokens and read again as a whole, and only
its last `stride` predictions count. With stride 1, as in the paper's comparison, every token costs
a whole window: this is what recurrence saves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from minitxl.backend.threads import Workers, threads_for
from minitxl.data.stream import one_dimensional
from minitxl.errors import MinitxlError
from minitxl.inference.evaluate import Evaluation, counted
from minitxl.model.transformer_xl import TransformerXL


def evaluate_sliding(
    model: TransformerXL,
    tokens,
    window: int,
    stride: int = 1,
    batch_size: int = 16,
    max_tokens: int | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Return the mean loss of tokens (1-D ids), each predicted from a window of earlier ones.

    The paper's way for models without recurrence (sec. 4.5).
    Every window is read from an empty memory; a prediction has between window - stride + 1 and
    `window` tokens of context, those of the first window fewer. batch_size: windows read side by
    side; max_tokens: reads only the beginning; threads: batches at once, None: one per core.
    Raises `MinitxlError` for a text of fewer than 2 tokens and lengths out of range.
    """
    if not 1 <= stride <= window:
        raise MinitxlError(
            f"stride={stride} must be between 1 and window={window}: so many of a window's "
            "predictions are new"
        )
    for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens)):
        if value is not None and value < 1:
            raise MinitxlError(f"{name}={value} must be at least 1")
    tokens = one_dimensional(tokens)
    if max_tokens is not None:
        tokens = tokens[: max_tokens + 1]
    if len(tokens) < 2:
        raise MinitxlError(f"the text has {len(tokens)} tokens; one to read and one to predict")
    model = model.with_options(mem_len=0, tgt_len=window, ext_len=0, same_length=False)
    if threads is None:
        threads = threads_for(60) if model.backend.name == "cpu" else 1
    began = time.perf_counter()
    n_token = len(tokens) - 1
    with counted(n_token, progress) as count:

        def nats(batch) -> float:
            x, y = batch
            nll, _ = model.score(x, y)
            count(y.size)
            return float(model.backend.xp.sum(nll))

        total = sum(Workers(threads).map(nats, windows(tokens, window, stride, batch_size)))
    return Evaluation(total / n_token, n_token, time.perf_counter() - began)


def windows(
    tokens, window: int, stride: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (tokens (B, <= window), targets (B, S)): every token but the first is a target once.

    The first window's targets are all that follow its tokens, those of the others the last
    `stride`; at the end of the text a last window has what is left.
    """
    n = len(tokens) - 1  # tokens that can be read: each needs the one after it as a target
    window = min(window, n)
    yield tokens[None, :window], tokens[None, 1 : window + 1]
    starts = range(stride, n - window + 1, stride)
    for first in range(0, len(starts), batch_size):
        part = np.asarray(starts[first : first + batch_size])[:, None]  # (B, 1)
        read = part + np.arange(window)  # (B, window) places in the text
        yield tokens[read], tokens[read[:, window - stride :] + 1]
    done = window + len(starts) * stride  # targets so far
    if done < n:
        yield tokens[None, n - window : n], tokens[None, done + 1 :]
