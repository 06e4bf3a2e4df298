"""A training step of CuPy's backend on a GPU made of NumPy (`host_cuda.py`): the same numbers with
and without the twins, no look at a number on the way, and how many launches it takes.

A launch is a kernel, a product, a copy or a fill that is put into the GPU's stream. Calls of the
array library are counted as the least that CuPy 14 launches for them; what the twins launch
themselves is counted exactly. A GPU takes 5 to 20 us for each, whatever it does.
"""

import numpy as np
import pytest

from helpers import host_cuda
from helpers.memories import KINDS
from helpers.models import make_model, make_tokens
from minitxl import TrainConfig
from minitxl.backend import get_backend
from minitxl.storage.model_arrays import memory_arrays
from minitxl.training.trainer import Trainer

MEMORIES = ("conv-attention", "random", "delta-rows", "sum-elu-rows", "tokens")
PIECES = dict(batch_size=4, accumulate=2, threads=1, clip=0.25, lr=0.01, warmup=0)


def train(backend, steps=3, settings=PIECES, **options):
    """Return losses, norms and parameters of a few steps, and the launches of the last."""
    options = dict(dropout=0.3, dropatt=0.2) | options
    model = make_model(backend, **options)
    trainer, found = Trainer(model, TrainConfig(**settings)), []
    shape = (settings["batch_size"], model.config.tgt_len)
    gpu = getattr(model.params.flat, "gpu", None)
    for seed in range(steps):
        before = gpu.launches if gpu else 0
        loss = trainer.step(make_tokens(*shape, seed=seed), make_tokens(*shape, seed=seed + 9))
        launches = gpu.launches - before if gpu else 0
        found += [backend.to_numpy(loss), backend.to_numpy(trainer.grad_norm)]
    return [*found, backend.to_numpy(model.params.flat)], launches


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(pre_lnorm=True, dropatt=0.0),
        dict(clamp_len=3, same_length=True, untie_r=True, mem_len=3),
        dict(attn_type=1),
        dict(attn_type=2),
        dict(attn_type=4),
        dict(attn_type=5),
        *(KINDS[kind] for kind in MEMORIES),
    ],
    ids=["post-norm", "pre-norm", "options", "shaw", "absolute", "rope", "alibi", *MEMORIES],
)
def test_a_step_with_twins_is_the_plain_step(options, monkeypatch):
    """Whole steps with dropout and clipping, in float64; arrays refuse to be read by the host."""
    results = []
    for fused in (True, False):
        gpu = host_cuda.Gpu()
        results.append(train(host_cuda.backend(monkeypatch, gpu, fused=fused), **options)[0])
        assert bool(set(gpu.kernels) - {"uniform", "gemm"}) == fused
        gpu.check_guards()
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, dict(accumulate=1)),
        (dict(pre_lnorm=True), {}),
        (dict(clamp_len=3, same_length=True, untie_r=True), dict(loss_on="half")),
        (dict(tgt_len=5, mem_len=3), dict(accumulate=1)),
        *((dict(tgt_len=4) | KINDS[kind], dict(accumulate=1)) for kind in MEMORIES),
    ],
    ids=["plain", "pieces, pre-norm", "options", "short memory", *MEMORIES],
)
def test_a_replayed_step_is_the_step(options, settings, monkeypatch):
    """Recorded once, then replayed with other tokens, rates and random numbers; a step that does
    not continue the one before, and a state that is loaded, in between."""
    results, settings = [], PIECES | dict(warmup=4, lr_end=0.1, steps=9) | settings
    for records in (True, False):
        gpu = host_cuda.Gpu()
        backend = host_cuda.backend(monkeypatch, gpu)
        if not records:
            backend.replayed = lambda function: function
        model = make_model(backend, **(dict(dropout=0.3, dropatt=0.2) | options))
        trainer, found = Trainer(model, TrainConfig(**settings)), []
        shape, saved = (4, model.config.tgt_len), None
        for n in range(14):
            if n == 6:
                saved = trainer.state()
            if n == 8:
                trainer.load_state(*saved)
            trainer.step(make_tokens(*shape, seed=n), make_tokens(*shape, seed=n + 9), fresh=n == 9)
            found.append(trainer.grad_norm)
        assert gpu.replays >= 2 if records else gpu.replays == 0
        mems = memory_arrays(trainer.mems[0], "mems").values()
        found += [model.params.flat, trainer.adam.m, *mems]
        results.append([backend.to_numpy(a) for a in found])
        gpu.check_guards()
    for got, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_tokens_that_lie_on_the_gpu_are_replayed_too(monkeypatch):
    """They do not go over the host, where CuPy's arrays refuse to become NumPy's."""
    to_host, results = np.ascontiguousarray, []

    def refusing(a):
        assert not isinstance(a, host_cuda.HostArray), "an array of the GPU on the host"
        return to_host(a)

    monkeypatch.setattr(np, "ascontiguousarray", refusing)
    for there in (True, False):
        gpu = host_cuda.Gpu()
        backend = host_cuda.backend(monkeypatch, gpu)
        trainer, found = Trainer(make_model(backend, dropout=0.3), TrainConfig(**PIECES)), []
        for n in range(6):
            batch = [make_tokens(4, 5, seed=seed).astype(np.int32) for seed in (n, n + 9)]
            batch = [backend.asarray(a) for a in batch] if there else batch
            found.append(backend.to_numpy(trainer.step(*batch)))
        assert gpu.replays >= 2
        results.append(found)
    np.testing.assert_array_equal(*results)


def test_products_of_views_are_recorded(monkeypatch):
    """Heads that lie beside each other, transposed matrices, and tables that the batch shares."""
    gpu = host_cuda.Gpu()
    backend = host_cuda.backend(monkeypatch, gpu)
    rng, xp = np.random.default_rng(0), backend.xp
    heads, keys = (rng.normal(size=(2, n, 3, 5)) for n in (4, 6))  # (B, L, H, Dh)
    table = rng.normal(size=(6, 3, 5))  # (K, H, Dh)
    q, k = (a.transpose(0, 2, 1, 3) for a in (heads, keys))
    r = table.transpose(1, 2, 0)  # (H, Dh, K)
    pairs = [(q, k.swapaxes(2, 3)), (q, r), (np.ones((2, 3, 6, 4)).swapaxes(2, 3), k)]
    pairs.append((q @ r, table.transpose(1, 0, 2)))

    def products(inputs, state):
        return tuple(xp.matmul(a, b) for a, b in inputs), state

    call = backend.replayed(products)
    for times in (1.0, 2.0, 3.0):  # as it is, recorded, replayed
        inputs = tuple((backend.asarray(a * times), backend.asarray(b)) for a, b in pairs)
        found, _ = call(inputs, ())
        for got, (a, b) in zip(found, pairs, strict=True):
            np.testing.assert_allclose(backend.to_numpy(got), (a * times) @ b, rtol=1e-12)
    assert gpu.replays == 2 and not call.why_not
    gpu.check_guards()


def test_what_cannot_be_recorded_runs_as_it_is(monkeypatch):
    """Where CuPy itself multiplies it refuses; the steps are made."""
    gpu = host_cuda.Gpu()
    backend = host_cuda.backend(monkeypatch, gpu)
    backend.xp.matmul = np.matmul
    trainer = Trainer(make_model(backend, attn_type=1), TrainConfig(**PIECES))
    losses = []
    for n in range(5):
        losses.append(trainer.step(make_tokens(4, 5, seed=n), make_tokens(4, 5, seed=n + 9)))
    assert gpu.replays == 0 and "cuBLAS" in trainer._update.why_not
    assert gpu.recorded is None and np.isfinite(backend.to_numpy(losses[-1]))


def test_it_is_the_step_of_the_cpu(monkeypatch):
    """Without dropout, whose random numbers are a device's own, NumPy gives the same."""
    options = dict(dropout=0.0, dropatt=0.0)
    got, _ = train(host_cuda.backend(monkeypatch, host_cuda.Gpu()), **options)
    expected, _ = train(get_backend("cpu", "float64", fused=False), **options)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


def test_the_host_cannot_read(monkeypatch):
    """The arrays of these tests do notice a look."""
    a = host_cuda.backend(monkeypatch, host_cuda.Gpu()).asarray(np.ones(1))
    for look in (float, int, bool, lambda x: x.item(), lambda x: x.get(), range):
        with pytest.raises(AssertionError, match="host read"):
            look(a)
    with pytest.raises(TypeError, match="host"):
        a + np.ones(1)


# 12 layers, plain vocabulary, one piece, clipping and Adam. (More than 512 rows in a batch take up
# to five launches a layer more: sums over rows then go in two steps.)
@pytest.mark.parametrize(
    ("fused", "dropout", "most"),
    [(False, 0.0, 1930), (True, 0.0, 925), (False, 0.1, 2165), (True, 0.1, 1005)],
)
def test_launches_of_twelve_layers(fused, dropout, most, monkeypatch):
    gpu = host_cuda.Gpu()
    small = dict(n_head=2, d_head=4, d_model=8, d_inner=8, tgt_len=2, mem_len=2)
    settings = PIECES | dict(batch_size=1, accumulate=1)
    backend = host_cuda.backend(monkeypatch, gpu, fused=fused)
    _, launches = train(backend, 2, settings, n_layer=12, dropout=dropout, dropatt=0.0, **small)
    assert 0.9 * most < launches <= most, f"{launches} launches a step"
