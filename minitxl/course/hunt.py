"""Five models that are subtly broken, and what can be seen of it from outside.

Each is the shipped model, read in a wrong way: a subclass of `Sound` that changes one method, by a
mistake that people make. `symptoms` measures them all. Which of them is which is an exercise.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minitxl.backend import get_backend
from minitxl.backend.threads import one_blas_thread
from minitxl.backend.twins import Namespace
from minitxl.course.variants import COMMON, value_of
from minitxl.model.attention import Inspection, heads_forward
from minitxl.model.ops import sinusoid
from minitxl.model.params import Params
from minitxl.model.through_memory import memory_shares, segment_rows
from minitxl.model.transformer_xl import TransformerXL

TGT_LEN, MEM_LEN = 32, 64
ROWS, SEGMENTS = 16, 8  # of the text that is read


class Sound:
    """A model that reads a text in rows side by side, segment by segment."""

    def __init__(self, model: TransformerXL):
        backend = get_backend("cpu", model.backend.dtype_name, fused=False)
        backend.xp = Namespace(np, self.operations())
        old = model.params
        params = Params(old.shapes, old.flat.copy(), xp=backend.xp, constants=old.constants)
        config = model.config.replace(tgt_len=TGT_LEN, mem_len=MEM_LEN)
        self.model = TransformerXL(config, device=backend, params=params)

    def batch(self, text, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and targets (B, T) of segment n of every row."""
        per_row = (len(text) - 1) // (ROWS * TGT_LEN) * TGT_LEN
        at = np.arange(ROWS)[:, None] * per_row + n * TGT_LEN + np.arange(TGT_LEN)
        return text[at], text[at + 1]

    def start(self) -> list:
        """The memory of a stream's start."""
        return self.model.start_mems(ROWS)

    def operations(self) -> dict[str, Callable]:
        """Operations of the model that are not the library's."""
        return {}


class Shuffled(Sound):
    """A stream that does not continue."""

    def batch(self, text, n):
        at = (n * ROWS + np.arange(ROWS)[:, None]) * TGT_LEN + np.arange(TGT_LEN)
        return text[at], text[at + 1]


class KeptKeys(Sound):
    """Keys and values cached while weights change."""

    def operations(self):
        self.kept, self.calls = {}, 0
        return {"heads_forward": self.heads}

    def heads(self, x, h, w_q, w_k, w_v, *, n_head, xp):
        q, k, v, cache = heads_forward.plain(x, h, w_q, w_k, w_v, n_head=n_head, xp=xp)
        layer, n_mem = self.calls % self.model.config.n_layer, h.shape[1] - x.shape[1]
        self.calls += 1
        if n_mem:  # those of the memory are there already: w_k and w_v need not see it again
            old_k, old_v = self.kept[layer]
            k = np.concatenate([old_k[:, :, -n_mem:], k[:, :, n_mem:]], axis=2)
            v = np.concatenate([old_v[:, :, -n_mem:], v[:, :, n_mem:]], axis=2)
            own = [segment_rows(linear, n_mem, xp=np) for linear in (cache.k, cache.v)]
            cache = cache._replace(k=own[0], v=own[1])
        self.kept[layer] = k, v
        return q, k, v, cache


class NoMemoryInMask(Sound):
    """A mask that ignores M."""

    def operations(self):
        return {"attention_mask": self.mask}

    @staticmethod
    def mask(*, n_query, n_mem, max_keys, device, xp):
        return np.arange(n_mem + n_query) > np.arange(n_query)[:, None]


class ZeroPadding(Sound):
    """Zeros as padding of a memory that is not yet full."""

    def start(self):
        c = self.model.config
        return [np.zeros((ROWS, MEM_LEN, c.d_model), self.model.backend.dtype)] * c.n_layer


class RestartedPositions(Sound):
    """Positions that restart at every segment."""

    def operations(self):
        return {"sinusoid_table": self.table}

    @staticmethod
    def table(n_key, inv_freq, *, clamp_len=-1, xp):
        return sinusoid(np.arange(n_key - 1, -1, -1) % TGT_LEN, inv_freq, xp=xp)


BUGS: dict[str, type[Sound]] = {
    "stream": Shuffled,
    "keys": KeptKeys,
    "mask": NoMemoryInMask,
    "zeros": ZeroPadding,
    "positions": RestartedPositions,
}
_ORDER = {"A": "zeros", "B": "positions", "C": "keys", "D": "stream", "E": "mask"}
MODELS = tuple(_ORDER)


@dataclass(frozen=True)
class Symptoms:
    """What one model shows."""

    by_segment: np.ndarray  # (S,) bits per character of the stream's first, second ... segment
    by_place: np.ndarray  # (T,) bits of the characters of a segment, once the memory is full
    seen: np.ndarray  # (T, K) attention weights of the second segment, mean of heads, layers, rows
    share: float  # of the gradient of w_k that comes from the memory's rows, mean of the layers


def order(variant: str = COMMON) -> dict[str, str]:
    """Return the bug of each model; a variant has them in an order of its own."""
    places, bugs = value_of("bug-hunt", variant) or range(5), tuple(_ORDER.values())
    return {name: bugs[place] for name, place in zip(MODELS, places, strict=True)}


def symptoms(
    model: TransformerXL, text: np.ndarray, *, variant: str = COMMON
) -> dict[str, Symptoms]:
    """Measure the sound model and the five broken ones, on the beginning of a text."""
    text = np.asarray(text)[: ROWS * TGT_LEN * SEGMENTS + 1]
    kinds = {"sound": Sound, **{name: BUGS[bug] for name, bug in order(variant).items()}}
    with one_blas_thread():
        return {name: _measured(kind(model), text) for name, kind in kinds.items()}


def _measured(reader: Sound, text) -> Symptoms:
    mems, losses, seen, cache = reader.start(), [], Inspection(), None
    for n in range(SEGMENTS):
        tokens, targets = reader.batch(text, n)
        look = seen if n == 1 else None
        nll, mems, cache = reader.model.forward(tokens, targets, mems, inspect=look)
        losses.append(nll / math.log(2))
    bits = np.array(losses)  # (S, B, T)
    full = -(-MEM_LEN // TGT_LEN)  # the first segment with a full memory
    share = float(np.mean(memory_shares(reader.model, cache)["w_k"]))
    maps = np.mean([p.mean(axis=(0, 1)) for p in seen.probs], axis=0)
    return Symptoms(bits.mean(axis=(1, 2)), bits[full:].mean(axis=(0, 1)), maps, share)


def culprits(bugs: list[str]) -> tuple[int, ...]:
    """Return, for each of the models A to E, the place of its bug in a list of bugs."""
    return tuple(bugs.index(bug) for bug in _ORDER.values())


def reveal(*, variant: str = COMMON) -> None:
    """Print what is wrong in the code of each model whose bug is found: by `culprits`, there."""
    answer, bugs = sys._getframe(1).f_globals.get("culprits"), list(BUGS)
    try:
        found = [bugs[int(place)] for place in answer(bugs)]
    except Exception:  # not solved yet, or no five places: `course.check` says what it is
        found = []
    missing = []
    for name, bug, said in zip(
        MODELS, order(variant).values(), [*found, *[None] * 5], strict=False
    ):
        if said == bug:
            print(f"Model {name}\n\n{inspect.getsource(BUGS[bug])}\n")
        else:
            missing.append(name)
    if missing:
        print(f"not found yet: {', '.join(missing)}")
