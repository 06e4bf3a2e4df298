"""What a memory of one's own is worth: small models with it and with others of as many bytes.

All learn the same text by characters, in the same order, with as many updates, each after two
segments; "+": the gradient flows through these two, otherwise it stops at the memory (sec. 3.2).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minitxl.backend.threads import one_blas_thread
from minitxl.config import Config, TrainConfig
from minitxl.config import Memory as MemorySettings
from minitxl.course.project.memory import digest
from minitxl.course.project.memory_checks import load, walk
from minitxl.data.stream import Stream, segments
from minitxl.data.text import load_corpus
from minitxl.errors import MinitxlError
from minitxl.experiments.intervals import spread
from minitxl.inference.units import bits
from minitxl.model.family.memories.kinds import Memory
from minitxl.model.through_memory import sequence_gradients
from minitxl.model.transformer_xl import TransformerXL
from minitxl.training.optim import Adam, clip_by_norm, learning_rate

RATE = 4  # c: states for a coarse row
SEGMENTS = 2  # of an update
_corpus = cache(load_corpus)


@dataclass(frozen=True)
class Settings:
    """The model, its training and the text that is read."""

    n_layer: int = 2
    d_model: int = 64
    tgt_len: int = 16
    mem_len: int = 16
    batch_size: int = 16
    steps: int = 250  # updates
    lr: float = 1e-2
    seeds: int = 3
    read: int = 20_000  # characters of the validation text

    @classmethod
    def quick(cls) -> Settings:
        """A run of seconds, to see that it works."""
        return cls(d_model=16, steps=2, read=200)


class Arm(NamedTuple):
    """A memory; fields: mem_len -> those of Config; own: with the class that is given."""

    label: str
    fields: Callable[[int], dict]
    through: bool = False
    own: bool = False


def _halves(n_row: int, compress: str) -> dict:
    """Half of the rows fine, half of them coarse."""
    n_fine = n_row // 2
    settings = MemorySettings(
        kind="compressive", n_coarse=n_row - n_fine, rate=RATE, compress=compress
    )
    return {"mem_len": n_fine, "memory": settings}


def _last(n_row: int) -> dict:
    return {"mem_len": n_row}


ARMS = {
    "none": Arm("no memory", lambda n: {"mem_len": 0}),
    "xl": Arm("the last states", _last),
    "xl+": Arm("the last states, gradient through", _last, through=True),
    "every": Arm("half of them every 4th state", lambda n: _halves(n, "every")),
    "mean": Arm("half of them means of 4", lambda n: _halves(n, "mean")),
    "own": Arm("yours", _last, own=True),
    "own+": Arm("yours, gradient through", _last, through=True, own=True),
}


def measure(
    folder: Path, settings: Settings = Settings(), progress: Callable = lambda line: None
) -> dict:
    """Return what came of the checks of folder/own_memory.py and, if it passes all, its rank."""
    path = folder / "own_memory.py"
    kind = load(path)
    checks = []
    for found in walk(kind, path):
        checks.append(found._asdict())
        progress(f"{'passed' if found.passed else 'not passed'}: {found.title}: {found.text}")
    results = {"source": digest(path.read_text(encoding="utf-8")), "checks": checks}
    if all(check["passed"] for check in checks):
        results |= {"settings": asdict(settings), "bits": rank(kind, settings, progress)}
        progress(table(results))
    return results


def on_text(
    fields: dict, memory: type[Memory] | None, seed: int, *, through: bool, s: Settings
) -> float:
    """Return the bits per character that a model with a memory pays, once it is trained.

    fields: those of Config that make the memory, where it is none of one's own.
    """
    corpus = _corpus("war-and-peace")
    config = Config(
        n_token=corpus.vocab.n_token, n_layer=s.n_layer, d_model=s.d_model, n_head=2,
        d_head=s.d_model // 2, d_inner=2 * s.d_model, tgt_len=s.tgt_len, dropout=0.0,
        pre_lnorm=True, init_std=0.1, **fields,
    )  # fmt: skip
    model = TransformerXL(config, device="cpu", seed=seed, memory=memory)
    _learn(model, corpus.train, s, through=through)
    return _bits(model, corpus.valid, s)


def rank(
    kind: type[Memory],
    s: Settings = Settings(),
    progress: Callable = lambda line: None,
    task: Callable[..., float] = on_text,
) -> dict[str, list[float]]:
    """Return what a model with each memory pays, by arm, one number for each seed.

    task: what is learned; any other with the arguments of `on_text`.
    """
    found: dict[str, list] = {name: [] for name in ARMS}
    with one_blas_thread():
        for seed in range(s.seeds):
            for name, arm in ARMS.items():
                memory = kind if arm.own else None
                paid = task(arm.fields(s.mem_len), memory, seed, through=arm.through, s=s)
                if not np.isfinite(paid):
                    raise MinitxlError(f"{arm.label}, seed {seed}: the training has no finite loss")
                found[name].append(paid)
                progress(f"{arm.label}, seed {seed}: {paid:.3f} bits")
    return found


def _learn(model: TransformerXL, text, s: Settings, *, through: bool) -> None:
    """Train a model in place."""
    how = TrainConfig(steps=s.steps, batch_size=s.batch_size, lr=s.lr, warmup=s.steps // 10)
    stream = Stream(text, batch_size=s.batch_size, tgt_len=SEGMENTS * s.tgt_len)
    adam, mems = Adam(model.params.flat, xp=np), None
    weight = np.full((s.batch_size, s.tgt_len), 1 / (SEGMENTS * s.batch_size * s.tgt_len))
    for n in range(s.steps):
        tokens, targets, fresh = stream.next()
        cuts = [slice(i * s.tgt_len, (i + 1) * s.tgt_len) for i in range(SEGMENTS)]
        parts = [(tokens[:, cut], targets[:, cut]) for cut in cuts]
        upstream = [weight.astype(model.backend.dtype_name)] * SEGMENTS
        found = sequence_gradients(model, parts, upstream, through, None if fresh else mems)
        mems = found.mems
        clip_by_norm(found.params.flat, how.clip, xp=np)
        adam.step(model.params.flat, found.params.flat, learning_rate(n, how))


def _bits(model: TransformerXL, text, s: Settings) -> float:
    """Bits per character of the beginning of a text, in eight rows."""
    total, n, mems = 0.0, 0, None
    for tokens, targets in segments(text[: s.read + 1], batch_size=8, tgt_len=s.tgt_len):
        nll, mems = model.score(tokens, targets, mems)
        total, n = total + float(nll.sum(dtype=np.float64)), n + targets.size
    return bits(total / n)


def table(results: dict) -> str:
    """Return the ranking as lines: the best first, each beside the paper's memory, by seed."""
    found = results["bits"]
    lines = [f"{'':36}{'bits':>8}   less than the last states, 95 % interval over seeds"]
    for name in sorted(found, key=lambda name: statistics.fmean(found[name])):
        gain = spread([a - b for a, b in zip(found["xl"], found[name], strict=True)])
        low, high = gain["interval"] or (gain["mean"],) * 2
        beside = "" if name == "xl" else f"   {gain['mean']:+.3f}  [{low:+.3f}, {high:+.3f}]"
        lines.append(f"{ARMS[name].label:36}{statistics.fmean(found[name]):8.3f}{beside}")
    return "\n".join(lines)
