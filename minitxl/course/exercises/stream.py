"""Exercises: fixed segments, rows of text that go on, and a text read with a memory."""

from __future__ import annotations

import numpy as np

from minitxl.course.exercise import Case, Exercise, Mistake, sizes
from minitxl.data import stream
from minitxl.model import network

# --- fragmentation -------------------------------------------------------------------------------


def _context_cases(rng):
    t, rest, many = sizes(rng, 3, low=3)
    n = many * t + 1 + rest % (t - 1)  # the last segment is shorter
    return [
        Case((n, t), f"n = {n}, T = {t}"),
        Case((t - 1, t), "a text shorter than T", edge=True),
        Case((many, 1), "T = 1", edge=True),
    ]


CONTEXT = Exercise(
    id="context-lengths",
    title="What a fixed segment knows",
    lines=1,
    ideas=1,
    notebook="01_fragmentation",
    head='''
def context_lengths(n_target, tgt_len):
    """Return, for each of n_target predictions in a row, how many characters it is made from: (n,).

    No memory: segments of T = tgt_len begin at the characters 0, T, 2T, ... (the last may be
    shorter); prediction t = 0, 1, ... is made after reading character t, from what its segment has
    of the text up to there, t itself included.
    """
''',
    imports="import numpy as np\n\nfrom minitxl.data.stream import segments\n",
    body="""
pairs = segments(np.arange(n_target + 1), batch_size=1, tgt_len=tgt_len)
return np.concatenate([tokens[0] - tokens[0, 0] + 1 for tokens, targets in pairs])
""",
    shown=(stream.segments,),
    outputs=("lengths",),
    cases=_context_cases,
    mistakes=(
        Mistake(
            "every number is one too small: the character just read counts as well",
            lambda n, t: np.arange(n) % t,
        ),
        Mistake(
            "a prediction does not see its whole segment, only what of it comes before",
            lambda n, t: np.full(n, t),
        ),
        Mistake(
            "nothing is forgotten at a segment's start: without memory each begins from nothing",
            lambda n, t: np.arange(n) + 1,
        ),
        Mistake(
            "the first T predictions are right, but then it is a window that slides; fixed "
            "segments begin from nothing",
            lambda n, t: np.minimum(np.arange(n) + 1, t),
        ),
    ),
)


def _stream_cases(rng):
    b, t, n = sizes(rng, 3, low=3, high=7)  # n segments a row
    per_row = n * t
    text = rng.permutation(b * per_row + 1 + b * int(rng.integers(1, t)))  # with a rest
    return [
        Case((text, b, t, 1), f"B = {b}, T = {t}, n = 1"),
        Case((text, b, t, n - 1), f"B = {b}, T = {t}, n = {n - 1}"),
        Case((text, b, t, 0), "n = 0", edge=True),
        Case((text, 1, t, 1), "B = 1", edge=True),
        Case((text[: b * per_row + 1], b, t, n - 1), "a text without rest", edge=True),
        Case((text[: b * per_row], b, t, n - 2), "a text that lacks its last target", edge=True),
    ]


def _batch(text, b, t, n, whole=True, targets="next", lag=1):
    """A batch of the stream; whole: rows of whole segments; targets: how they are made."""
    per_row = (len(text) - 1) // (b * t) * t if whole else (len(text) - 1) // b
    at = np.arange(b)[:, None] * per_row + n * t + np.arange(t)
    tokens = text[at]
    if targets == "rolled":
        return tokens, np.roll(tokens, -1, axis=1)
    return tokens, text[at + lag]


def _in_order(text, b, t, n):
    at = n * b * t + np.arange(b * t).reshape(b, t)
    return text[at], text[at + 1]


def _across(text, b, t, n):
    """Characters one by one over the rows, as a reshape to (L, B) deals them out."""
    at = (n * t + np.arange(t)) * b + np.arange(b)[:, None]
    return text[at], text[np.minimum(at + 1, len(text) - 1)]


STREAM = Exercise(
    id="contiguous-batch",
    title="Rows that go on",
    lines=6,
    ideas=1,
    notebook="04_memory",
    head='''
def contiguous_batch(text, batch_size, tgt_len, n):
    """Return batch n = 0, 1, ... of a text: tokens and targets, both (B, T).

    text (L,) ids. It is cut into B rows of S T tokens, S = (L - 1) // (B T) segments; what is left
    over at the end is not used. Batch n has segment n of every row, so that row b of batch n + 1
    goes on where row b of batch n ended. A target is the token that follows in the text.
    """
''',
    imports="from minitxl.data.stream import Stream\n",
    body="""
stream = Stream(text, batch_size=batch_size, tgt_len=tgt_len)
for _ in range(n):
    stream.next()
tokens, targets, _ = stream.next()
return tokens, targets
""",
    shown=(stream.Stream,),
    outputs=("tokens", "targets"),
    cases=_stream_cases,
    mistakes=(
        Mistake(
            "the segments are dealt out in the order of the text, so row b does not go on where it "
            "ended: its memory would be another row's past",
            _in_order,
        ),
        Mistake(
            "the tokens are dealt out over the rows one by one; a row is a piece of text",
            _across,
        ),
        Mistake(
            "the rows have L // B tokens; they must have whole segments, S T of them",
            lambda *a: _batch(*a, whole=False),
        ),
        Mistake(
            "the targets are the tokens themselves, must be one token later",
            lambda *a: _batch(*a, lag=0),
        ),
        Mistake(
            "a segment's last target is its own first token, as np.roll does it, must be the "
            "token that follows in the text",
            lambda *a: _batch(*a, targets="rolled"),
        ),
        Mistake(
            "the targets are the tokens before, must be those after",
            lambda *a: _batch(*a, lag=-1),
        ),
    ),
)


# --- segment by segment --------------------------------------------------------------------------


def _read_cases(rng):
    b, t, rest, d = sizes(rng, 4)
    n, more = int(rng.integers(2, 4)), int(rng.integers(1, t))

    def arrays(length, n_layer=n):
        return rng.normal(size=(b, length, d)), rng.normal(size=(n_layer, d, d)) / d**0.5

    return [
        Case((*arrays(3 * t), t, t + more), f"N = {n}, L = {3 * t}, T = {t}, mem_len = {t + more}"),
        Case((*arrays(3 * t), t, t - more), f"N = {n}, L = {3 * t}, T = {t}, mem_len = {t - more}"),
        Case((*arrays(2 * t + rest % t), t, t), "a last segment that is shorter", edge=True),
        Case((*arrays(2 * t, 1), t, t + more), "N = 1, one layer", edge=True),
        Case((*arrays(2 * t), t, 5 * t), "a memory that is never full", edge=True),
        Case((*arrays(2 * t), t, 0), "mem_len = 0", edge=True),
    ]


def layer(both, n_mem, w):
    """A layer in small: both = [memory ; segment] (B, M + T, D) -> the segment's (B, T, D)."""
    seen = np.arange(1, both.shape[1] + 1)[:, None]
    mean = np.cumsum(both, axis=1) / seen  # of all rows up to each
    return both[:, n_mem:] + np.tanh(mean @ w)[:, n_mem:]


def _kept(mem, h, mem_len):
    both = np.concatenate([mem, h], axis=1)
    return both[:, max(0, both.shape[1] - mem_len) :]


def _read(x, weights, t, mem_len, *, keep=_kept, of="input", used=True, start=0, drop=False):
    """keep: how a memory is updated; of: what it holds; used: whether it is read at all."""
    mems = [np.zeros((len(x), start, x.shape[2])) for _ in weights]
    length = x.shape[1] // t * t if drop else x.shape[1]
    tops = []
    for first in range(0, length, t):
        bottom = h = x[:, first : min(first + t, length)]
        for n, w in enumerate(weights):
            mem = mems[n] if used else mems[n][:, :0]
            y = layer(np.concatenate([mem, h], axis=1), mem.shape[1], w)
            mems[n] = keep(mems[n], {"input": h, "output": y, "bottom": bottom}[of], mem_len)
            h = y
        tops.append(h)
    return np.concatenate(tops, axis=1), np.stack(mems)


def _one_memory(x, weights, t, mem_len):
    """A single memory, which each layer reads and overwrites in its turn."""
    mem, tops = x[:, :0], []
    for first in range(0, x.shape[1], t):
        h = x[:, first : first + t]
        for w in weights:
            y = layer(np.concatenate([mem, h], axis=1), mem.shape[1], w)
            mem, h = _kept(mem, h, mem_len), y
        tops.append(h)
    return np.concatenate(tops, axis=1), np.stack([mem] * len(weights))


READ = Exercise(
    id="read-segments",
    title="A text, segment by segment",
    lines=10,
    ideas=2,
    notebook="04_memory",
    given=layer,
    head='''
def read_segments(x, weights, tgt_len, mem_len):
    """Return h (B, L, D), the top layer's outputs for the whole text, and mems (N, B, M, D).

    x (B, L, D): the first layer's inputs; weights (N, D, D): `layer` takes one of them. Cut x into
    segments of T = tgt_len; the last one may be shorter. Each layer has a memory of its own, empty
    at first, of at most mem_len rows; it reads its memory and its inputs for this segment, and
    then remembers as in `update_memory`. mems: what a next segment would find, for every layer.
    """
''',
    imports="""
from minitxl.config import Config
from minitxl.model.network import update_mems
""",
    body="""
config, outputs = Config(n_token=1, mem_len=mem_len), []
mems = [x[:, :0] for _ in weights]
for first in range(0, x.shape[1], tgt_len):
    h = x[:, first : first + tgt_len]
    for n, w in enumerate(weights):
        both, n_mem = np.concatenate([mems[n], h], axis=1), mems[n].shape[1]
        mems[n] = update_mems(both, n_mem=n_mem, config=config, xp=np)
        h = layer(both, n_mem, w)
    outputs.append(h)
return np.concatenate(outputs, axis=1), np.stack(mems)
""",
    shown=(network.hidden_forward,),
    steps=(
        "two loops: over the segments, and in it over the layers; N memories live outside of both",
        "layer n reads [mems[n] ; its inputs]; its inputs, not its outputs, are remembered",
        "mems[n] becomes the last mem_len rows of [mems[n] ; h], then h = layer(...), of the next",
    ),
    outputs=("h", "mems"),
    cases=_read_cases,
    mistakes=(
        Mistake(
            "the memory is not read: every segment begins from nothing",
            lambda *a: _read(*a, used=False),
        ),
        Mistake(
            "the memory holds the layer's outputs, must hold its inputs",
            lambda *a: _read(*a, of="output"),
        ),
        Mistake(
            "every layer remembers the inputs of the first; each has a memory of its own inputs",
            lambda *a: _read(*a, of="bottom"),
        ),
        Mistake(
            "there is one memory for all layers; each has its own",
            _one_memory,
        ),
        Mistake(
            "the old memory is gone after each segment: with T < mem_len a part of it is kept",
            lambda *a: _read(*a, keep=lambda mem, h, n: h[:, max(0, h.shape[1] - n) :]),
        ),
        Mistake(
            "nothing is forgotten: a memory has at most mem_len rows",
            lambda *a: _read(*a, keep=lambda mem, h, n: np.concatenate([mem, h], axis=1)),
        ),
        Mistake(
            "the oldest rows are kept, must be the newest",
            lambda *a: _read(*a, keep=lambda mem, h, n: np.concatenate([mem, h], axis=1)[:, :n]),
        ),
        Mistake(
            "one row too few is kept",
            lambda *a: _read(*a, keep=lambda mem, h, n: _kept(mem, h, max(0, n - 1))),
        ),
        Mistake(
            "the memory begins with a row of zeros, which is read as any other; it begins empty",
            lambda *a: _read(*a, start=1),
        ),
    ),
)

EXERCISES = (CONTEXT, STREAM, READ)
