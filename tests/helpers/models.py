"""Small models and texts whose dimensions all differ, and what is asked of them again and again."""

import dataclasses

import numpy as np

from minitxl import Config, TransformerXL
from minitxl.config import Released
from minitxl.model.gradcheck import RTOL

# All dimensions differ, so that a swap of two of them cannot pass unseen.
B, H, DH, T, M, D, F, V = 2, 3, 4, 5, 6, 14, 9, 11
LETTERS = "ab<\n &\"'cd>"  # as many as make_model's vocabulary; some must be escaped in HTML


def config_of(**options):
    """A Config; what belongs to `Config.released` may stand among the other fields."""
    names = {f.name for f in dataclasses.fields(Released)}
    released = {name: options.pop(name) for name in names & set(options)}
    return Config(**options, released=Released(**released)) if released else Config(**options)


def make_model(backend, scale=0.3, seed=0, **options):
    """A small float64 model whose parameters are all far from 0 and 1, biases included."""
    fields = dict(n_token=V, n_layer=2, d_model=D, n_head=H, d_head=DH, d_inner=F)
    fields |= dict(tgt_len=T, mem_len=M, dropout=0.0)
    model = TransformerXL(config_of(**{**fields, **options}), device=backend, seed=seed)
    noise = np.random.default_rng(seed).normal(size=model.n_params) * scale
    model.params.flat[...] = model.params.flat + backend.asarray(noise, dtype=backend.dtype)
    return model


def make_tokens(*shape, seed=0, n_token=V):
    """Random token ids."""
    return np.random.default_rng(seed + 100).integers(0, n_token, shape)


class Letters:
    """A vocabulary for made-up models."""

    def decode(self, ids):
        return "".join(LETTERS[i] for i in ids)


def read(model, tokens, lengths):
    """Read tokens (B, n) in segments of the given lengths; return log-probabilities (B, n, V)."""
    out, mems, start = [], None, 0
    for length in lengths:
        log_p, mems = model.predict(tokens[:, start : start + length], mems)
        out.append(model.backend.to_numpy(log_p))
        start += length
    return np.concatenate(out, axis=1)


def second_segment(model, t, m):
    """Tokens, targets and a memory of m real states."""
    mems = None
    if m:
        _, mems, _ = model.with_options(mem_len=m).forward(
            make_tokens(B, m, seed=1), make_tokens(B, m, seed=2)
        )
    return make_tokens(B, t, seed=3), make_tokens(B, t, seed=4), mems


def assert_right(errors):
    wrong = {name: error for name, error in errors.items() if not error < RTOL}
    assert not wrong, f"gradients that are not the derivative: {wrong}"
