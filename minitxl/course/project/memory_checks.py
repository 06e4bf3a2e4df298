"""What a memory of one's own must pass: a class behind the model's interface, with its gradient.

The class is run here as any program is, with the rights of whoever calls this.
"""

from __future__ import annotations

import runpy
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minitxl.backend import get_backend
from minitxl.config import Config
from minitxl.errors import MinitxlError
from minitxl.model.family.memories.kinds import Memory
from minitxl.model.gradcheck import RTOL, directional_error
from minitxl.model.through_memory import sequence_gradients
from minitxl.model.transformer_xl import TransformerXL
from minitxl.storage.model_arrays import memories_of, memory_arrays

# Small enough for seconds; consecutive segments of lengths that differ, the first of them longer
# than the memory: so something is evicted at once.
SIZES = dict(n_token=13, n_layer=2, d_model=8, n_head=2, d_head=4, d_inner=12, tgt_len=4, mem_len=8)
SIZES |= dict(dropout=0.0, init_std=0.4)
LENGTHS = (10, 5, 3, 6, 4, 7)
BATCH = 2


class Found(NamedTuple):
    """What came of a check; text: what was found, or why it is not passed, in one line."""

    title: str
    passed: bool
    text: str


def load(path: Path) -> type[Memory]:
    """Return the memory that a file defines; MinitxlError where there is none, or several."""
    if not path.is_file():
        raise MinitxlError(f"{path} is not there: begin with the template of `release --project`")
    try:
        names = runpy.run_path(str(path), run_name="own_memory")
    except Exception as error:
        raise MinitxlError(f"{path} does not run: {_told(error, path)}") from error
    kinds = [
        kind
        for kind in names.values()
        if isinstance(kind, type) and issubclass(kind, Memory) and kind.__module__ == "own_memory"
    ]
    if len(kinds) != 1:
        known = ", ".join(kind.__name__ for kind in kinds) or "none"
        raise MinitxlError(f"{path} must define one subclass of Memory, it has {known}")
    return kinds[0]


def walk(kind: type[Memory], path: Path | None = None) -> Iterator[Found]:
    """Yield what came of each check, in order; whatever the class does is no error here."""
    for title, check in CHECKS:
        try:
            yield Found(title, True, check(kind))
        except MinitxlError as error:
            yield Found(title, False, str(error))
        except Exception as error:
            yield Found(title, False, f"it stops with {_told(error, path)}")


def _told(error: Exception, path: Path | None) -> str:
    """Return the kind of an error, its message, and the student's own line."""
    text = " ".join(str(error).split())[:160]
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    where = f" in line {lines[-1].lineno}, `{lines[-1].line}`" if lines else ""
    return f"{type(error).__name__}{where}: {text}"


# --- what is asked of a memory --------------------------------------------------------------------


def _model(memory: type[Memory] | None, seed: int = 0) -> TransformerXL:
    """A small model whose numbers are all far from 0."""
    model = TransformerXL(Config(**SIZES), get_backend("cpu", "float64"), seed=seed, memory=memory)
    noise = np.random.default_rng(seed).normal(size=model.n_params)
    model.params.flat[...] += 0.1 * noise
    return model


def _text(seed: int = 0) -> list[np.ndarray]:
    """Segments of a text (B, T + 1): the tokens and, one later, the targets."""
    ids = np.random.default_rng(seed).integers(0, SIZES["n_token"], (BATCH, sum(LENGTHS) + 1))
    stops = np.cumsum(LENGTHS)
    return [ids[:, stop - length : stop + 1] for stop, length in zip(stops, LENGTHS, strict=True)]


def _read(model: TransformerXL, text, mems=None):
    """Return log-probabilities of each segment, and the states after it."""
    out, states = [], []
    for part in text:
        log_p, mems = model.predict(part[:, :-1], mems)
        out.append(log_p)
        states.append(mems)
    return out, states


def _arrays(mems: list) -> dict:
    return memory_arrays(mems, "state")


def fits(kind: type[Memory]) -> str:
    """States and rows have the shapes that are told, as many bytes as XL's at most."""
    model = _model(kind)
    memory, c = model.network.memory, model.config
    budget, most = Memory(c).n_bytes(8), 0
    mems = model.start_mems(BATCH)
    for s, part in enumerate(_text(), start=1):
        before = {name: np.array(a) for name, a in _arrays(mems).items()}
        log_p, left = model.predict(part[:, :-1], mems)
        changed = [name for name, a in _arrays(mems).items() if not np.array_equal(a, before[name])]
        if changed:
            raise MinitxlError(f"update changes the state that it finds ({changed[0]}); make a new")
        try:
            mems = model.checked_mems(left, BATCH)  # that they are what `shapes` says
        except MinitxlError as error:
            raise MinitxlError(f"after {s} segments {str(error).split('; ')[0]}") from error
        if not np.isfinite(log_p).all():
            raise MinitxlError(f"after {s} segments there are NaN or inf among the probabilities")
        rows = [tuple(memory.rows(state, xp=np).shape) for state in mems]
        if len(set(rows)) > 1 or rows[0][::2] != (BATCH, c.d_model) or rows[0][1] > c.mem_len:
            raise MinitxlError(
                f"after {s} segments the layers have rows {', '.join(map(str, set(rows)))}, must "
                f"be ({BATCH}, m, {c.d_model}) with one m for all, at most mem_len={c.mem_len}"
            )
        floats = [a for a in _arrays(mems).values() if a.dtype.kind == "f"]
        most = max(most, sum(a.nbytes for a in floats) // BATCH)
    if most > min(budget, memory.n_bytes(8)):
        raise MinitxlError(
            f"the states take {most} bytes for a text, n_bytes says {memory.n_bytes(8)}, and XL's "
            f"of mem_len={c.mem_len} takes {budget}: no more than these may be kept"
        )
    return f"{rows[0][1]} rows of {c.mem_len}, {most} bytes of {budget} for a text, in float64"


def is_causal(kind: type[Memory]) -> str:
    """Neither another row of the batch nor a later token has a say."""
    model, text, other = _model(kind), _text(), _text(1)
    want, _ = _read(model, text)
    mixed = [np.concatenate([a[:1], b[1:]]) for a, b in zip(text, other, strict=True)]
    for s, (a, b) in enumerate(zip(want, _read(model, mixed)[0], strict=True), start=1):
        if not np.allclose(a[0], b[0], rtol=0, atol=1e-9):
            raise MinitxlError(f"in segment {s} text 0 depends on text 1, its neighbour in a batch")
    for s, at in ((0, 4), (3, 2)):
        later = [*text[:s], text[s].copy()]
        later[s][:, at:] = other[s][:, at:]
        found = _read(model, later)[0][s]
        if not np.allclose(want[s][:, :at], found[:, :at], rtol=0, atol=1e-9):
            raise MinitxlError(f"in segment {s + 1} a token depends on one that comes later")
    return "each text by itself, each token by those before it"


def resumes(kind: type[Memory]) -> str:
    """Reading goes on from states that were kept, in a model made anew, to the bit."""
    model, text, cut = _model(kind), _text(), 3
    want, _ = _read(model, text)
    _, states = _read(model, text[:cut])
    arrays = {name: np.array(a) for name, a in _arrays(states[-1]).items()}
    again = _model(kind)
    _read(again, _text(2))  # another text in between
    mems = memories_of(again, arrays, "state")
    found, _ = _read(again, text[cut:], mems)
    for s, (a, b) in enumerate(zip(want[cut:], found, strict=True), start=cut + 1):
        if not np.array_equal(a, b):
            off = float(np.abs(a - b).max())
            raise MinitxlError(
                f"read on from kept states, segment {s} differs by {off:.2g}: something is kept "
                "elsewhere than in the state (in self?), or drawn at random"
            )
    return f"after {cut} segments, to the bit"


def has_right_gradient(kind: type[Memory]) -> str:
    """Through up to four segments, and stopped, every gradient is the derivative."""
    model, text = _model(kind), _text()
    segments = [(part[:, :-1], part[:, 1:]) for part in text]
    worst = 0.0
    for n in (1, 2, 3, 4):
        why = "`update_backward` is not the derivative of `update`: "
        why += {
            1: "even without anything kept; have `weights` or `attend` changed?",
            2: "what the segment's h gets, or where dmem goes",
            3: "what the state that was found gets",
        }.get(n, "what the state gets after several updates")
        worst = max(worst, _gradient_error(model, segments[:n], None, True, why))
    mems = _read(model, text[:3])[1][-1]
    why = "with the gradient stopped at the memory (dleft=None, dmem=None) it is wrong"
    worst = max(worst, _gradient_error(model, segments[3:4], mems, False, why))
    return f"through 1 to 4 segments and stopped, relative error {worst:.0e} at most"


def _gradient_error(model, segments, mems, through: bool, why: str) -> float:
    """Return the largest error of a parameter's gradient, of a loss on the last segment."""
    rng = model.backend.rng(0)
    dnll = np.random.default_rng(3).normal(size=segments[-1][1].shape)
    upstream = [None] * (len(segments) - 1) + [dnll]
    grads = sequence_gradients(model, segments, upstream, through, mems).params
    errors = {}
    for name, index in _groups(model).items():
        before = model.params.flat[index]

        def loss(value, index=index):
            model.params.flat[index], states = value, mems
            for tokens, targets in segments:
                nll, states = model.score(tokens, targets, states)
            return float((nll * dnll).sum())

        errors[name] = directional_error(loss, before, grads.flat[index], rng, model.backend)
        model.params.flat[index] = before
    name = max(errors, key=lambda key: errors[key])
    if not errors[name] <= RTOL:
        raise MinitxlError(
            f"{len(segments)} segments, {name}: off by {errors[name]:.1g} of its size: {why}"
        )
    return errors[name]


def _groups(model: TransformerXL) -> dict[str, list[int]]:
    """Where in the flat buffer the parameters of each layer, memory and of the rest are."""
    groups: dict[str, list[int]] = {}
    for name, (start, shape) in model.params.layout.items():
        group = " ".join(name.split(".")[:2]) if name.startswith("layers.") else "embedding"
        group = name if "memory" in name else group.replace("layers", "layer")
        groups.setdefault(group, []).extend(range(start, start + int(np.prod(shape))))
    return groups


def is_own(kind: type[Memory]) -> str:
    """It is not the paper's; how far back it reaches."""
    text = _text()
    model, paper = _model(kind), _model(None)
    rows = [model.network.memory.rows(m, xp=np) for m in _read(model, text)[1][-1]]
    theirs = Memory(paper.config)
    mems = paper.start_mems(BATCH)
    if model.n_params == paper.n_params:
        mems = _read(paper, text)[1][-1]
    if all(
        a.shape == b.shape and np.allclose(a, b, rtol=0, atol=1e-9)
        for a, b in zip(rows, (theirs.rows(m, xp=np) for m in mems), strict=True)
    ):
        raise MinitxlError("it keeps the last mem_len states, as the paper does: yours is to come")
    ours, other = _reach(model, text), _reach(paper, text)
    return f"the last segment depends on {ours} tokens before it (the paper's on {other})"


def _reach(model: TransformerXL, text) -> int:
    """How many tokens before the last segment its probabilities depend on, of those there are."""
    want, last = _read(model, text)[0][-1], len(text) - 1
    distance = 0
    for s in range(last):
        for t in range(LENGTHS[s]):
            changed = [part.copy() for part in text]
            changed[s][:, t] = (changed[s][:, t] + 1) % SIZES["n_token"]
            if not np.allclose(want, _read(model, changed)[0][-1], rtol=0, atol=1e-12):
                distance = max(distance, sum(LENGTHS[s:last]) - t)
    return distance


CHECKS: tuple[tuple[str, Callable], ...] = (
    ("it fits: shapes, and as many bytes as XL's at most", fits),
    ("it is causal, and texts are by themselves", is_causal),
    ("it goes on where it stopped", resumes),
    ("its gradient is right, through segments and stopped", has_right_gradient),
    ("it is another one than the paper's", is_own),
)
