"""Every backward pass against the derivative of its forward pass, in float64."""

from functools import partial

import numpy as np
import pytest

from helpers.models import (
    DH,
    B,
    D,
    F,
    H,
    M,
    T,
    V,
    assert_right,
    make_model,
    make_tokens,
    second_segment,
)
from minitxl import MinitxlError, TransformerXL
from minitxl.backend import get_backend
from minitxl.model import attention, layers, ops
from minitxl.model.family import absolute, alibi, rope, shaw
from minitxl.model.gradcheck import check_model, check_op
from minitxl.model.params import layer_weights


def arrays(backend, **shapes):
    rng = np.random.default_rng(7)
    return {name: backend.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def causal(backend, t, m):
    """The additive causal mask (t, m + t)."""
    lengths = dict(n_query=t, n_mem=m, max_keys=None)
    mask = attention.attention_mask(**lengths, device=backend.device, xp=backend.xp)
    return attention.additive_mask(mask, dtype=backend.dtype, xp=backend.xp)


# --- ops ---


def test_linear(backend):
    xp = backend.xp
    errors = check_op(
        lambda x, w, b: ops.linear_forward(x, w, b, xp=xp),
        lambda dy, cache: ops.linear_backward(dy, cache, xp=xp),
        arrays(backend, x=(B, T, D), w=(D, F), b=(F,)),
        backend,
    )
    assert_right(errors)


def test_embedding(backend):
    xp = backend.xp
    tokens = backend.asarray(np.array([[3, 1, 3], [0, 3, 1]]))  # some ids twice, some never
    errors = check_op(
        lambda w: ops.embedding_forward(tokens, w, xp=xp),
        lambda dy, c: ops.embedding_backward(dy, c, scatter_add=backend.scatter_add, xp=xp),
        arrays(backend, w=(V, D)),
        backend,
    )
    assert_right(errors)


def test_layer_norm(backend):
    xp = backend.xp
    errors = check_op(
        lambda x, gamma, beta: ops.layer_norm_forward(x, gamma, beta, eps=1e-5, xp=xp),
        lambda dy, cache: ops.layer_norm_backward(dy, cache, xp=xp),
        arrays(backend, x=(B, T, D), gamma=(D,), beta=(D,)),
        backend,
    )
    assert_right(errors)


@pytest.mark.parametrize("name", ["relu", "softmax"])
def test_elementwise(backend, name):
    forward, backward = (getattr(ops, f"{name}_{way}") for way in ("forward", "backward"))
    errors = check_op(
        lambda x: forward(x, xp=backend.xp),
        lambda dy, cache: backward(dy, cache, xp=backend.xp),
        arrays(backend, x=(B, T, D)),
        backend,
    )
    assert_right(errors)


def test_dropout(backend):
    xp = backend.xp
    errors = check_op(
        lambda x: ops.dropout_forward(x, rate=0.4, rng=backend.rng(5), xp=xp),
        lambda dy, cache: ops.dropout_backward(dy, cache, xp=xp),
        arrays(backend, x=(B, T, D)),
        backend,
    )
    assert_right(errors)


def test_cross_entropy(backend):
    xp = backend.xp
    targets = backend.asarray(make_tokens(T))
    errors = check_op(
        lambda logits: ops.cross_entropy_forward(logits, targets, xp=xp),
        lambda dy, cache: ops.cross_entropy_backward(dy, cache, xp=xp),
        arrays(backend, logits=(T, V)),
        backend,
    )
    assert_right(errors)


@pytest.mark.parametrize(("t", "k"), [(5, 11), (5, 5), (1, 4), (1, 1), (3, 4), (6, 8)])
def test_rel_shift(backend, t, k):
    errors = check_op(
        lambda x: ops.rel_shift_forward(x, xp=backend.xp),
        lambda dy, cache: ops.rel_shift_backward(dy, cache, xp=backend.xp),
        arrays(backend, x=(B, H, t, k)),
        backend,
    )
    assert_right(errors)


# --- blocks ---

LENGTHS = [(5, 6), (5, 0), (1, 6), (1, 0), (6, 3), (3, 8)]  # (T, M): M < T, M > T, M = 0, T = 1


@pytest.mark.parametrize(("t", "m"), LENGTHS)
def test_attention_core(backend, t, m):
    xp, k = backend.xp, t + m
    mask = causal(backend, t, m)

    def forward(q, k, v, r, u, v_bias):
        rng = backend.rng(3)
        return attention.core_forward(q, k, v, r, u, v_bias, mask, dropatt=0.2, rng=rng, xp=xp)

    shapes = dict(q=(B, H, t, DH), k=(B, H, k, DH), v=(B, H, k, DH), r=(H, k, DH))
    errors = check_op(
        forward,
        lambda dy, cache: attention.core_backward(dy, cache, xp=xp),
        arrays(backend, **shapes, u=(H, DH), v_bias=(H, DH)),
        backend,
    )
    assert_right(errors)


def kinds(d, k):
    """Every attention: its functions, the class and shapes of its weights, and its `pos`."""
    heads = H * DH
    shared = dict(w_q=(d, heads), w_k=(d, heads), w_v=(d, heads), w_o=(heads, d))
    u, v = dict(r_w_bias=(H, DH)), dict(r_r_bias=(H, DH))
    pos = np.random.default_rng(1).normal(size=(k, d))
    relative = (attention.attention_forward, attention.attention_backward)
    learned, clamped = (partial(shaw.shaw_forward, clamp_len=n) for n in (-1, 3))
    tables = dict(r_emb=(5, H, DH), r_bias=(5, H))  # shorter than most K: far keys share a row
    return {
        "relative": (*relative, attention.AttentionWeights, shared | dict(w_r=(d, heads)) | u | v,
                     pos),
        "shaw": (learned, shaw.shaw_backward, shaw.ShawWeights, shared | u | tables, None),
        "shaw clamped": (clamped, shaw.shaw_backward, shaw.ShawWeights, shared | u | tables, None),
        "absolute": (partial(absolute.absolute_forward, n_head=H), absolute.absolute_backward,
                     absolute.AbsoluteWeights, shared, None),
        "rope": (partial(rope.rope_forward, n_head=H), rope.rope_backward,
                 absolute.AbsoluteWeights, shared, pos[:, :DH]),
        "alibi": (alibi.alibi_forward, alibi.alibi_backward, absolute.AbsoluteWeights, shared,
                  np.random.default_rng(1).normal(size=(H, k))),
    }  # fmt: skip


@pytest.mark.parametrize(("t", "m"), LENGTHS)
@pytest.mark.parametrize("memory_rows", [False, True])
@pytest.mark.parametrize("kind", kinds(7, 1))
def test_attention(backend, t, m, memory_rows, kind):
    """The whole block, with an odd D; the gradient into the memory only where it is asked for."""
    xp, d = backend.xp, 7
    attend, undo, weights, shapes, pos = kinds(d, t + m)[kind]
    mask = causal(backend, t, m)
    if pos is not None:
        pos = backend.asarray(pos)
    memory = backend.asarray(np.random.default_rng(2).normal(size=(B, m, d)))

    def forward(x, h, **w):
        if not memory_rows:
            h = xp.concat([memory, h], axis=1)
        rng = backend.rng(3)
        return attend(x, h, pos, weights(**w), mask, dropatt=0.2, rng=rng, xp=xp)

    def backward(dy, cache):
        dx, dh, dw = undo(dy, cache, memory_rows=memory_rows, xp=xp)
        return (dx, dh, *dw)

    shapes = {name: shapes[name] for name in weights._fields}
    inputs = dict(x=(B, t, d), h=(B, t + m if memory_rows else t, d))
    assert_right(check_op(forward, backward, arrays(backend, **inputs, **shapes), backend))


@pytest.mark.parametrize(("n_row", "clamp_len"), [(3, -1), (6, -1), (9, -1), (9, 4), (1, -1)])
def test_last_rows(backend, n_row, clamp_len):
    xp = backend.xp
    errors = check_op(
        lambda table: ops.last_rows_forward(table, n_row=n_row, clamp_len=clamp_len, xp=xp),
        lambda dy, cache: ops.last_rows_backward(dy, cache, xp=xp),
        arrays(backend, table=(6, H, DH)),
        backend,
    )
    assert_right(errors)


def test_feed_forward(backend):
    xp = backend.xp
    errors = check_op(
        lambda x, w_1, b_1, w_2, b_2: layers.feed_forward_forward(
            x, w_1, b_1, w_2, b_2, dropout=0.3, rng=backend.rng(3), xp=xp
        ),
        lambda dy, cache: layers.feed_forward_backward(dy, cache, xp=xp),
        arrays(backend, x=(B, T, D), w_1=(D, F), b_1=(F,), w_2=(F, D), b_2=(D,)),
        backend,
    )
    assert_right(errors)


@pytest.mark.parametrize("pre_lnorm", [False, True])
@pytest.mark.parametrize("memory", [False, True])
def test_layer(backend, pre_lnorm, memory):
    """dx and dmem of one layer, with and without the stop."""
    xp = backend.xp
    model = make_model(backend, pre_lnorm=pre_lnorm)
    w = layer_weights(model.params, 0)
    mask = causal(backend, T, M)
    pos = backend.asarray(np.random.default_rng(1).normal(size=(T + M, D)))
    config = model.config.replace(dropout=0.1, dropatt=0.1)
    fixed = arrays(backend, mem=(B, M, D))["mem"]

    def forward(x, mem=fixed):
        h, rng = xp.concat([mem, x], axis=1), backend.rng(3)
        return layers.layer_forward(h, pos, w, mask, config, n_mem=M, rng=rng, xp=xp)

    def backward(dy, cache):
        dx, dmem, _ = layers.layer_backward(dy, cache, memory_rows=memory, xp=xp)
        assert (dmem is None) == (not memory)
        return (dx, dmem) if memory else dx

    shapes = dict(x=(B, T, D)) | (dict(mem=(B, M, D)) if memory else {})
    assert_right(check_op(forward, backward, arrays(backend, **shapes), backend))


# --- the whole model ---

OPTIONS = [
    {},
    {"pre_lnorm": True},
    {"untie_r": True},
    {"clamp_len": 4},
    {"same_length": True},
    {"dropout": 0.3, "dropatt": 0.2},
    {"pre_lnorm": True, "untie_r": True, "same_length": True, "dropout": 0.2, "dropatt": 0.1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "default")
def test_model(backend, options):
    model = make_model(backend, **options)
    assert_right(check_model(model, *second_segment(model, T, M), key=(1, 2)))


@pytest.mark.parametrize(("t", "m"), LENGTHS)
@pytest.mark.parametrize("pre_lnorm", [False, True])
def test_model_lengths(t, m, pre_lnorm):
    model = make_model(get_backend("cpu", "float64"), pre_lnorm=pre_lnorm, mem_len=8)
    assert_right(check_model(model, *second_segment(model, t, m)))


def test_default_upstream_is_the_mean(backend):
    model = make_model(backend)
    tokens, targets, mems = second_segment(model, T, M)
    _, _, cache = model.forward(tokens, targets, mems)
    by_default = backend.to_numpy(model.backward(cache).flat)
    of_mean = model.backward(cache, np.full((B, T), 1 / (B * T)))
    np.testing.assert_array_equal(by_default, backend.to_numpy(of_mean.flat))


def test_float32_is_refused_with_the_way_out():
    """Right gradients would look wrong: an error of 1.11 where rounding is all there is."""
    model = TransformerXL(make_model(get_backend("cpu", "float64")).config, device="cpu")
    with pytest.raises(MinitxlError, match=r'the model is float32.*dtype="float64"'):
        check_model(model, make_tokens(B, T), make_tokens(B, T, seed=1))
    x = np.ones((2, 3), dtype=np.float32)
    with pytest.raises(MinitxlError, match="x is float32"):
        check_op(lambda x: (x, None), lambda dy, cache: dy, {"x": x})
