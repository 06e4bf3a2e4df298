"""What a memory of one's own is worth: small models with it and with others of as many bytes.

Two tasks: to recall pairs of a key and a value across segments (`experiments/recall.py`), and the
next character of a novel. All learn from the same data, in the same order, with as many updates,
each after some segments; "+": the gradient flows through these, otherwise it stops at the memory.
"""

from __future__ import annotations

import hashlib
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
from minitxl.course.project.memory_checks import load, walk
from minitxl.data.stream import Stream, segments
from minitxl.data.text import load_corpus
from minitxl.errors import MinitxlError
from minitxl.experiments import recall
from minitxl.experiments.intervals import spread
from minitxl.experiments.recall import EDGES, Recall, new_model
from minitxl.inference.units import bits
from minitxl.model.family.memories.kinds import Memory
from minitxl.model.through_memory import sequence_gradients
from minitxl.model.transformer_xl import TransformerXL
from minitxl.training.optim import Adam, clip_by_norm, learning_rate

RATE = 4  # c: states for a coarse row
SEGMENTS = 4  # of an update
RECALL = Recall(tgt_len=16, n_key=64, n_value=16, n_filler=8, n_pairs=(4, 8, 16))
_corpus = cache(load_corpus)


@dataclass(frozen=True)
class Settings:
    """The model, its training and how much is read."""

    n_layer: int = 2
    d_model: int = 64
    mem_len: int = 32
    batch_size: int = 16
    steps: int = 160  # updates
    lr: float = 8e-3
    seeds: int = 3
    read: int = 20_000  # characters of the validation text
    texts: int = 32  # of each number of pairs

    @classmethod
    def quick(cls) -> Settings:
        """A run of seconds, to see that it works."""
        return cls(d_model=16, steps=1, batch_size=4, read=200, texts=2)

    def config(self, n_token: int, fields: dict) -> Config:
        """Return the model's configuration."""
        return Config(
            n_token=n_token, n_layer=self.n_layer, d_model=self.d_model, n_head=2,
            d_head=self.d_model // 2, d_inner=2 * self.d_model, tgt_len=RECALL.tgt_len,
            dropout=0.0, pre_lnorm=True, init_std=0.1, **fields,
        )  # fmt: skip

    @property
    def training(self) -> TrainConfig:
        """Return how it is trained."""
        short = dict(steps=self.steps, batch_size=self.batch_size, lr=self.lr)
        return TrainConfig(**short, warmup=self.steps // 10, clip=1.0, threads=1)


class Arm(NamedTuple):
    """A memory; fields: mem_len -> those of Config; own: with the class that is given."""

    label: str
    fields: Callable[[int], dict]
    through: bool = False
    own: bool = False


def _halves(n_row: int) -> dict:
    """Half of the rows fine, half of them coarse."""
    n_coarse = n_row // 2
    settings = MemorySettings(kind="compressive", n_coarse=n_coarse, rate=RATE)
    return {"mem_len": n_row - n_coarse, "memory": settings}


def _last(n_row: int) -> dict:
    return {"mem_len": n_row}


ARMS = {
    "none": Arm("no memory", lambda n: {"mem_len": 0}),
    "xl": Arm("the last states", _last),
    "xl+": Arm("the last states, gradient through", _last, through=True),
    "mean": Arm("half of them means of 4", _halves),
    "own": Arm("yours", _last, own=True),
    "own+": Arm("yours, gradient through", _last, through=True, own=True),
}


def digest(source: str) -> str:
    """Return what a memory's source is known again by."""
    return hashlib.sha256(source.encode("utf-8")).hexdigest()


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
        results |= {"settings": asdict(settings), "paid": {}}
        for name, task in TASKS.items():
            results["paid"][name] = paid = rank(kind, settings, progress, task)
            progress(table(paid, task))
    return results


# --- tasks ----------------------------------------------------------------------------------------


class Task(NamedTuple):
    """What is learned. learn(fields, memory, seed, *, through, s) -> what is paid: less is better.

    fields: those of Config that make the memory; memory: the class, where it is one's own.
    """

    unit: str
    learn: Callable[..., float]


def on_recall(
    fields: dict, memory: type[Memory] | None, seed: int, *, through: bool, s: Settings
) -> float:
    """Return the percentage of wrong answers where the pair stood in an earlier segment."""
    model = new_model(s.config(RECALL.n_token, fields), RECALL, seed, memory=memory)
    recall.train(model, RECALL, s.training, SEGMENTS, through)
    rng, first = np.random.default_rng(1), EDGES.index(RECALL.tgt_len + 1)
    counts = sum(
        recall.measure(model, RECALL, RECALL.ask_once(rng, s.texts, n)) for n in RECALL.n_pairs
    )
    asked, right = counts[:, 1 + first :].sum(axis=1)  # the first column is of no lag
    return float(100.0 * (1.0 - right / asked))


def on_text(
    fields: dict, memory: type[Memory] | None, seed: int, *, through: bool, s: Settings
) -> float:
    """Return the bits per character of a text that was not learned."""
    corpus = _corpus("war-and-peace")
    config = s.config(corpus.vocab.n_token, fields)
    model = TransformerXL(config, device="cpu", seed=seed, memory=memory)
    _learn(model, corpus.train, s, through=through)
    total, n, mems = 0.0, 0, None
    text = corpus.valid[: s.read + 1]
    for tokens, targets in segments(text, batch_size=8, tgt_len=config.tgt_len):
        nll, mems = model.score(tokens, targets, mems)
        total, n = total + float(nll.sum(dtype=np.float64)), n + targets.size
    return bits(total / n)


def _learn(model: TransformerXL, text, s: Settings, *, through: bool) -> None:
    """Train a model on a text, in place."""
    how, t = s.training, model.config.tgt_len
    stream = Stream(text, batch_size=s.batch_size, tgt_len=SEGMENTS * t)
    adam, mems = Adam(model.params.flat, xp=np), None
    weight = np.full((s.batch_size, t), 1 / (SEGMENTS * s.batch_size * t), model.backend.dtype)
    cuts = [slice(i * t, (i + 1) * t) for i in range(SEGMENTS)]
    for n in range(s.steps):
        tokens, targets, fresh = stream.next()
        parts = [(tokens[:, cut], targets[:, cut]) for cut in cuts]
        mems = None if fresh else mems
        found = sequence_gradients(model, parts, [weight] * SEGMENTS, through, mems)
        mems = found.mems
        clip_by_norm(found.params.flat, how.clip, xp=np)
        adam.step(model.params.flat, found.params.flat, learning_rate(n, how))


TASKS = {
    "recall": Task("% of questions wrong", on_recall),
    "text": Task("bits per character", on_text),
}


# --- the ranking ----------------------------------------------------------------------------------


def rank(
    kind: type[Memory],
    s: Settings = Settings(),
    progress: Callable = lambda line: None,
    task: Task = TASKS["recall"],
) -> dict[str, list[float]]:
    """Return what a model with each memory pays, by arm, one number for each seed."""
    found: dict[str, list] = {name: [] for name in ARMS}
    with one_blas_thread():
        for seed in range(s.seeds):
            for name, arm in ARMS.items():
                memory = kind if arm.own else None
                paid = task.learn(arm.fields(s.mem_len), memory, seed, through=arm.through, s=s)
                if not np.isfinite(paid):
                    raise MinitxlError(f"{arm.label}, seed {seed}: the training has no finite loss")
                found[name].append(paid)
                progress(f"{arm.label}, seed {seed}: {paid:.3f} {task.unit}")
    return found


def table(paid: dict, task: Task) -> str:
    """Return the ranking as lines: the best first, each beside the paper's memory, by seed."""
    lines = [f"{task.unit:36}{'':8}   less than the last states, 95 % interval over seeds"]
    for name in sorted(paid, key=lambda name: statistics.fmean(paid[name])):
        gain = spread([a - b for a, b in zip(paid["xl"], paid[name], strict=True)])
        low, high = gain["interval"] or (gain["mean"],) * 2
        beside = "" if name == "xl" else f"   {gain['mean']:+.3f}  [{low:+.3f}, {high:+.3f}]"
        lines.append(f"{ARMS[name].label:36}{statistics.fmean(paid[name]):8.3f}{beside}")
    return "\n".join(lines)
