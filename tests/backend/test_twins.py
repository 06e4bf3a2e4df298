"""Every twin of the NumPy backend against the plain version of its operation."""

import itertools

import numpy as np
import pytest

from helpers.models import make_tokens
from minitxl import Config, Inspection, TransformerXL
from minitxl.backend import get_backend, numpy_twins
from minitxl.backend.twins import Namespace, has_twin
from minitxl.model import attention, layers, ops
from minitxl.training.optim import Adam

TOLERANCE = {"float64": 1e-12, "float32": 3e-5}  # of the largest entry


def backends(dtype):
    return get_backend("cpu", dtype), get_backend("cpu", dtype, fused=False)


def assert_same(ours, plain, dtype):
    """Arrays or tuples of them; None stands for None."""
    ours, plain = (x if isinstance(x, tuple | list) else (x,) for x in (ours, plain))
    for a, b in zip(ours, plain, strict=True):
        if b is None:
            assert a is None
            continue
        assert a.shape == b.shape and a.dtype == b.dtype
        size = np.max(np.abs(b), initial=1.0)
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE[dtype] * size)


def draw(dtype, *shapes):
    rng = np.random.default_rng(3)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def both(name, module, inputs, upstream, dtype, **options):
    """Forward and backward of the twin and of the plain version; inputs must stay as they are."""
    fused, plain = backends(dtype)
    kept = [np.copy(x) for x in inputs]
    results = []
    for backend in (fused, plain):
        forward, backward = (getattr(module, f"{name}_{way}") for way in ("forward", "backward"))
        y, cache = forward(*inputs, xp=backend.xp, **options)
        first = backward(upstream, cache, xp=backend.xp)
        assert_same(backward(upstream, cache, xp=backend.xp), first, dtype)  # the cache is whole
        results.append((y, first, type(cache)))
    for x, before in zip(inputs, kept, strict=True):
        np.testing.assert_array_equal(x, before)
    (y, dx, kind), (plain_y, plain_dx, plain_kind) = results
    assert kind is not plain_kind, "the twin was not used"
    assert_same(y, plain_y, dtype)
    assert_same(dx, plain_dx, dtype)


SHAPES = [  # B, H, T, M, Dh
    (2, 3, 5, 6, 4), (3, 2, 64, 64, 8), (2, 2, 65, 0, 4), (1, 2, 130, 70, 4), (2, 1, 1, 9, 4),
    (1, 1, 1, 0, 3), (5, 2, 200, 600, 4),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("shape", "keys"), list(itertools.product(SHAPES, (None, 1, 50, "own"))))
def test_core(shape, keys, dtype):
    """Also where whole blocks of keys lie too far behind (same_length), and over several blocks."""
    b, h, t, m, dh = shape
    k = t + m
    if keys == "own":  # each row of the batch has documents of its own
        places = np.random.default_rng(0).integers(0, k, b)[:, None] + np.arange(t)
        keys = (places % max(k // 2, 1) + 1)[:, None, :, None]
    mask = attention.attention_mask(n_query=t, n_mem=m, max_keys=keys, device="cpu", xp=np)
    mask = attention.additive_mask(mask, dtype=np.dtype(dtype), xp=np)
    shapes = [(b, t, h, dh), (b, k, h, dh), (b, k, h, dh), (h, k, dh), (h, dh), (h, dh)]
    q, keys_, v, *rest = draw(dtype, *shapes)
    heads = [x.transpose(0, 2, 1, 3) for x in (q, keys_, v)]  # as split_heads lays them out
    (do,) = draw(dtype, (b, h, t, dh))
    options = dict(dropatt=0.0, rng=None)
    both("core", attention, [*heads, *rest, mask], do, dtype, **options)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 1, 1), (40, 300, 64), (1, 3, 100_000)])
def test_layer_norm(shape, dtype):
    x, gamma, beta, dy = draw(dtype, shape, shape[-1:], shape[-1:], shape)
    both("layer_norm", ops, [x, gamma, beta], dy, dtype, eps=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(6, 5), (1, 1), (300, 1000), (3, 100_000)])
def test_cross_entropy(shape, dtype):
    logits, dnll = draw(dtype, shape, shape[:1])
    logits[0, 0] = 200.0  # exp of it would overflow
    targets = make_tokens(shape[0], n_token=shape[1])
    both("cross_entropy", ops, [logits, targets], dnll, dtype)


@pytest.mark.parametrize("shape", [(3, 5, 7), (5, 100_001)])
def test_dropout(shape):
    """The same numbers are drawn, block by block."""
    (x, dy), (fused, plain) = draw("float32", shape, shape), backends("float32")
    for backend in (fused, plain):
        y, cache = ops.dropout_forward(x, rate=0.3, rng=backend.rng(1, 2), xp=backend.xp)
        dx = ops.dropout_backward(dy, cache, xp=backend.xp)
        if backend is fused:
            kept = y, dx
    np.testing.assert_array_equal(kept[0], y)
    np.testing.assert_array_equal(kept[1], dx)


MODELS = [
    {},
    {"dropout": 0.1, "pre_lnorm": True},
    {"dropatt": 0.1, "dropout": 0.1},
    {"same_length": True, "untie_r": True, "clamp_len": 20},
    {"attn_type": 1},
    {"attn_type": 3, "cutoffs": (5, 9), "div_val": 2},
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("options", MODELS, ids=lambda o: "-".join(o) or "default")
def test_model(options, dtype):
    """Loss, memories and all gradients over three segments."""
    config = Config(n_token=13, n_layer=2, tgt_len=80, mem_len=70, **{"dropout": 0.0, **options})
    fused, plain = (TransformerXL(config, device=b, seed=1) for b in backends(dtype))
    noise = np.random.default_rng(0).normal(size=plain.n_params) * 0.1
    for model in (fused, plain):
        model.params.flat[...] += noise
    mems = [None, None]
    for n, length in enumerate((80, 80, 7)):
        x, y = (make_tokens(3, length, seed=s, n_token=13) for s in (n, n + 50))
        out = []
        for i, model in enumerate((fused, plain)):
            nll, mems[i], cache = model.forward(x, y, mems[i], rng=model.backend.rng(n))
            out.append((nll, *mems[i], model.backward(cache).flat))
        for a, b in zip(*out, strict=True):
            # Of the norm: in float32 rounding may switch a ReLU that stands near 0.
            error = np.linalg.norm(a - b) / np.linalg.norm(b)
            assert error < {"float64": 1e-12, "float32": 1e-3}[dtype]


def test_pictures_come_from_the_plain_version():
    """An inspected pass keeps probabilities and terms, and can be differentiated all the same."""
    fused, _ = backends("float64")
    model = TransformerXL(Config(n_token=5, n_layer=1, dropout=0.0), device=fused)
    x, seen = make_tokens(2, 6, n_token=5), Inspection()
    nll, _, cache = model.forward(x, x, inspect=seen)
    grads = model.backward(cache).flat
    again, _, cache = model.forward(x, x)
    assert_same((nll, grads), (again, model.backward(cache).flat), "float64")
    assert seen.probs[0].shape == (2, 4, 6, 6)


def test_one_switch_turns_all_off():
    fused, plain = backends("float32")
    assert set(fused.xp.twins) == set(numpy_twins.TWINS) and not hasattr(plain.xp, "twins")
    for name in numpy_twins.TWINS:  # each is the twin of a marked operation
        homes = [m for m in (ops, attention, layers) if hasattr(m, name)]
        assert any(hasattr(getattr(m, name), "plain") for m in homes), name


def test_dispatch():
    @has_twin
    def twice(x, *, xp):
        return 2 * x

    odd = Namespace(np, {"twice": lambda x, *, xp: x + x + 0.5 if x % 2 else NotImplemented})
    assert twice(3, xp=np) == twice.plain(3, xp=odd) == 6
    assert twice(3, xp=odd) == 6.5 and twice(4, xp=odd) == 8  # declined
    assert odd.float32 is np.float32 and twice.__name__ == "twice"
    with pytest.raises(AttributeError):
        _ = odd.no_such_name


def test_blocks_of_adam():
    """Updated block by block or all at once: the same bits."""
    (flat, grad) = draw("float32", (1000,), (1000,))
    other = flat.copy()
    a, b = Adam(flat, xp=np), Adam(other, block=64, xp=np)
    for _ in range(3):
        a.step(flat, grad, 0.1)
        b.step(other, grad, 0.1)
    np.testing.assert_array_equal(flat, other)
