"""What a memory of one's own is worth: a small model trained with none, the paper's, one's own.

All else is the same: first weights, batches, updates. It runs the student's function in this
process, with the rights of whoever calls it.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minitxl.backend import get_backend
from minitxl.backend.threads import one_blas_thread
from minitxl.config import Config, TrainConfig
from minitxl.course.project.memory import ARMS, FILE, NAME, SEEDS, digest, last_states
from minitxl.course.running import quiet
from minitxl.course.yours import install
from minitxl.data.stream import Stream, segments
from minitxl.data.text import load_corpus
from minitxl.errors import MinitxlError
from minitxl.inference.units import bits
from minitxl.model.transformer_xl import TransformerXL
from minitxl.training.optim import Adam, clip_by_norm, learning_rate


@dataclass(frozen=True)
class Settings:
    """The model, its training and the text that is read."""

    n_layer: int = 2
    d_model: int = 64
    tgt_len: int = 16
    mem_len: int = 32
    batch_size: int = 16
    steps: int = 1000
    lr: float = 4e-3
    seeds: int = SEEDS
    read: int = 20_000  # characters of the validation text

    @classmethod
    def quick(cls) -> Settings:
        """A run of seconds, to see that it works."""
        return cls(d_model=16, steps=4, read=200)


def own_function(path: Path) -> Callable:
    """Return the function that a file of the project defines."""
    try:
        with quiet():
            found = runpy.run_path(str(path)).get(NAME)
    except Exception as error:
        text = " ".join(str(error).split())[:120]
        raise MinitxlError(f"{path} does not run, {type(error).__name__}: {text}") from error
    if not callable(found):
        raise MinitxlError(f"{path} defines no {NAME}(mem, h, mem_len)")
    return found


def measure(
    folder: Path, settings: Settings = Settings(), progress: Callable = lambda line: None
) -> dict:
    """Return bits per character of held-out text, by arm and seed, for folder/own_memory.py."""
    own = own_function(folder / FILE)
    functions = {"none": None, "last": last_states, "own": own}
    found: dict[str, list] = {arm: [] for arm in ARMS}
    corpus = load_corpus("war-and-peace")
    with one_blas_thread():
        for seed in range(settings.seeds):
            for arm, function in functions.items():
                found[arm].append(_trained(function, seed, corpus, settings))
                progress(f"{arm}, seed {seed}: {found[arm][-1]:.3f} bits")
    source = digest((folder / FILE).read_text(encoding="utf-8"))
    return {"source": source, "settings": vars(settings), "bits": found}


def _trained(function: Callable | None, seed: int, corpus, s: Settings) -> float:
    """Train a model with a memory, or none, and return its bits on the validation text."""
    sizes = {"n_layer": s.n_layer, "d_model": s.d_model, "n_head": 2, "d_head": s.d_model // 2}
    sizes |= {"d_inner": 4 * s.d_model, "tgt_len": s.tgt_len}
    config = Config(
        n_token=corpus.vocab.n_token, mem_len=s.mem_len if function else 0, dropout=0.0, **sizes
    )
    model = TransformerXL(config, device=get_backend("cpu", fused=False), seed=seed)
    if function:
        model = install(model, update_memory=function)
    how = TrainConfig(steps=s.steps, batch_size=s.batch_size, lr=s.lr, warmup=s.steps // 10)
    stream, mems = Stream(corpus.train, batch_size=s.batch_size, tgt_len=s.tgt_len), None
    adam = Adam(model.params.flat, xp=np)
    for n in range(s.steps):
        tokens, targets, fresh = stream.next()
        _, mems, cache = model.forward(tokens, targets, None if fresh else mems)
        grads = model.backward(cache)
        clip_by_norm(grads.flat, how.clip, xp=np)
        adam.step(model.params.flat, grads.flat, learning_rate(n, how))
    total, n, mems = 0.0, 0, None
    for tokens, targets in segments(corpus.valid[: s.read + 1], batch_size=1, tgt_len=s.tgt_len):
        nll, mems = model.score(tokens, targets, mems)
        total, n = total + float(nll.sum(dtype=np.float64)), n + targets.size
    return bits(total / n)
