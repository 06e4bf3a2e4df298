"""How old weights are felt in training: a memory as it was left, and by the weights of now."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minitxl.config import Config, TrainConfig
from minitxl.data.stream import Stream
from minitxl.model.transformer_xl import TransformerXL
from minitxl.training.trainer import Trainer

T, ROWS = 32, 16
SMALL = dict(n_layer=3, d_model=64, n_head=2, d_head=32, d_inner=128, tgt_len=T, mem_len=T)
SMALL |= dict(pre_lnorm=True, dropout=0.0)  # without dropout: the weights alone make a difference


def stale_memories(corpus, updates: Sequence[int]) -> tuple[list, list]:
    """Train a small model from scratch; after some updates compare its memory with a fresh one.

    updates: rising, from 1; the last ends the training. The memory that update n leaves was
    computed by the weights before it. Computed again by those after it, from the same tokens and
    the same memory before them, it differs. Returns for each of `updates` the relative differences
    |old - new| / |new| by layer, and the losses of the next batch (old, new), in nats.
    """
    pupil = TransformerXL(Config(n_token=corpus.vocab.n_token, **SMALL), device="cpu")
    settings = TrainConfig(steps=updates[-1], batch_size=ROWS, lr=3e-3, warmup=20, threads=1)
    trainer, stream = Trainer(pupil, settings), Stream(corpus.train, batch_size=ROWS, tgt_len=T)
    differences, costs = [], []
    lesson, past = stream.next(), None  # (tokens, targets, fresh); the memory before them
    for n in range(1, updates[-1] + 1):
        following = stream.next()
        trainer.step(*lesson)
        old = trainer.mems[0]  # one thread, one piece of the batch
        if n in updates:
            _, new = pupil.score(*lesson[:2], past)
            pairs = list(zip(old, new, strict=True))
            differences.append([float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs])
            costs.append([float(pupil.score(*following[:2], m)[0].mean()) for m in (old, new)])
        lesson, past = following, old
    return differences, costs
