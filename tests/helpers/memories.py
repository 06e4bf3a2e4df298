"""Every kind and option of the other memories, in small models, and texts for them."""

import itertools

import numpy as np
import pytest

from helpers.models import B, make_model, make_tokens
from minitxl import Memory

LENGTHS = (5, 3, 6)  # of consecutive segments
SETTINGS = [
    dict(dropout=0.2, dropatt=0.1),
    dict(pre_lnorm=True, untie_r=True, clamp_len=4),
]


def compressive(compress="mean", loss="none", rate=2, n_coarse=3, mem_len=4):
    options = dict(n_coarse=n_coarse, rate=rate, compress=compress, loss=loss)
    return dict(mem_len=mem_len, memory=Memory(kind="compressive", **options))


def matrix(rule="delta", feature="unit", reads="all", mem_len=0):
    return dict(
        mem_len=mem_len, memory=Memory(kind="matrix", rule=rule, feature=feature, reads=reads)
    )


TOKENS = dict(mem_len=0, memory=Memory(kind="tokens", n_slot=3))
KINDS = {
    "mean": compressive(),
    "max": compressive("max", rate=3),
    "conv": compressive("conv"),
    "conv-attention": compressive("conv", "attention"),
    "conv-autoencode": compressive("conv", "autoencode", rate=3),
    "every": compressive("every"),
    "random": compressive("random"),
    "no-fine": compressive("conv", "attention", mem_len=0),
    "no-coarse": compressive(n_coarse=0),
    **{
        "-".join(names): matrix(*names, mem_len=3 * (n % 2))
        for n, names in enumerate(
            itertools.product(("sum", "delta"), ("unit", "elu"), ("all", "past"))
        )
    },
    "delta-rows": matrix(mem_len=3),
    "sum-elu-rows": matrix("sum", "elu", mem_len=3),
    "tokens": TOKENS,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def built(kind, turn, backend, **options):
    """A model of a kind; of the settings every other kind has the same, in turn."""
    settings = SETTINGS[(list(KINDS).index(kind) + turn) % 2]
    return make_model(backend, **{**KINDS[kind], **settings, **options})


def text_of(lengths=LENGTHS, batch=B):
    """Segments (tokens, targets) of one text, and dLoss/dnll of each but the second."""
    ids, rng, stop = make_tokens(batch, sum(lengths) + 1), np.random.default_rng(1), 0
    segments, upstream = [], []
    for n, length in enumerate(lengths):
        start, stop = stop, stop + length
        segments.append((ids[:, start:stop], ids[:, start + 1 : stop + 1]))
        upstream.append(None if n == 1 else rng.normal(size=(batch, length)))
    return segments, upstream
