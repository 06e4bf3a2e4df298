"""Fixtures: the CPU, and a strict stand-in for every other device."""

import numpy as np
import pytest
from strict_backend import StrictBackend

from minitxl import Config, TransformerXL
from minitxl.backend import get_backend
from minitxl.backend.cupy_backend import why_not

# All dimensions differ, so that a swap of two of them cannot pass unseen.
B, H, DH, T, M, D, F, V = 2, 3, 4, 5, 6, 14, 9, 11


def pytest_collection_modifyitems(items):
    reason = why_not()
    for item in items:
        if "gpu" in item.keywords and reason:
            item.add_marker(pytest.mark.skip(reason=f"no GPU: {reason}"))


@pytest.fixture(params=["numpy", "strict"])
def backend(request):
    """Each test that asks for it runs on NumPy and on array_api_strict's second device."""
    return get_backend("cpu", "float64") if request.param == "numpy" else StrictBackend()


def make_model(backend, scale=0.3, seed=0, **options):
    """A small float64 model whose parameters are all far from 0 and 1, biases included."""
    fields = dict(n_token=V, n_layer=2, d_model=D, n_head=H, d_head=DH, d_inner=F)
    fields |= dict(tgt_len=T, mem_len=M, dropout=0.0)
    model = TransformerXL(Config(**{**fields, **options}), device=backend, seed=seed)
    noise = np.random.default_rng(seed).normal(size=model.n_params) * scale
    model.params.flat[...] = model.params.flat + backend.asarray(noise, dtype=backend.dtype)
    return model


def make_tokens(*shape, seed=0, n_token=V):
    """Random token ids."""
    return np.random.default_rng(seed + 100).integers(0, n_token, shape)
