"""A checker that cannot fail proves nothing: plant the mistakes that people make, demand alarms.

Each bug replaces one function of the backward pass by a version with a real-life mistake in it.
The check of the whole model must then report the parameters that the bug spoils, by name.
"""

import pytest

from helpers.models import M, T, make_model, second_segment
from minitxl.backend import get_backend
from minitxl.model import attention, embedding, layers, network, ops
from minitxl.model.gradcheck import RTOL, check_model
from minitxl.model.through_memory import segment_rows


def without_u(do, cache, *, xp):
    dq, dk, dv, dr, du, dv_bias = core_backward(do, cache, xp=xp)
    return dq, dk, dv, dr, du * 0, dv_bias


def u_and_v_swapped(do, cache, *, xp):
    dq, dk, dv, dr, du, dv_bias = core_backward(do, cache, xp=xp)
    return dq, dk, dv, dr, dv_bias, du


def without_shift(dy, cache=None, *, xp):
    return dy


def shifted_the_wrong_way(dy, cache=None, *, xp):
    return ops.rel_shift_forward(dy, xp=xp)[0]


def without_memory_rows(dq, dk, dv, cache, *, memory_rows, xp):
    """dW_k from the segment's rows alone, as if the memory had not been read."""
    cache = cache._replace(k=segment_rows(cache.k, cache.n_mem, xp=xp))
    return heads_backward(dq, dk, dv, cache, memory_rows=memory_rows, xp=xp)


def softmax_without_sum(dp, cache, *, xp):
    return dp * cache.p


def layer_norm_without_mean(dy, cache, *, xp):
    _, dgamma, dbeta = layer_norm_backward(dy, cache, xp=xp)
    return dy * cache.gamma * cache.rstd, dgamma, dbeta


def relu_that_lets_all_through(dy, cache, *, xp):
    return dy


def dropout_forgotten(dy, cache, *, xp):
    return dy


def embedding_not_added(dy, cache, *, scatter_add, xp):
    return ops.embedding_backward(dy, cache, scatter_add=scatter_add, xp=xp) * 0


def residual_forgotten(dy, cache, *, memory_rows=False, xp):
    dx, dmem, dw = layer_backward(dy, cache, memory_rows=memory_rows, xp=xp)
    return dx - dy, dmem, dw


core_backward = attention.core_backward
heads_backward = attention.heads_backward
layer_norm_backward = ops.layer_norm_backward
layer_backward = layers.layer_backward

U, V = "r_w_bias", "r_r_bias"
BUGS = [  # (bug, module, function, a parameter that the checker must name)
    (without_u, attention, "core_backward", U),
    (u_and_v_swapped, attention, "core_backward", V),
    (without_shift, attention, "rel_shift_backward", "layers.1.attn.w_r"),
    (shifted_the_wrong_way, attention, "rel_shift_backward", "layers.1.attn.w_q"),
    (without_memory_rows, attention, "heads_backward", "layers.1.attn.w_k"),
    (softmax_without_sum, attention, "softmax_backward", "layers.1.attn.w_k"),
    (layer_norm_without_mean, layers, "layer_norm_backward", "layers.1.ff.w_2"),
    (relu_that_lets_all_through, layers, "relu_backward", "layers.1.ff.w_1"),
    (dropout_forgotten, layers, "dropout_backward", "layers.1.ff.w_2"),
    (embedding_not_added, embedding, "embedding_backward", "word_emb"),
    (residual_forgotten, network, "layer_backward", "word_emb"),
]


def run(bug=None, module=None, function=None, monkeypatch=None):
    # Of the plain version: a twin does not call the functions in which the bugs are planted.
    backend = get_backend("cpu", "float64", fused=False)
    net = make_model(backend, pre_lnorm=bug is residual_forgotten)
    batch = second_segment(net, T, M)
    if bug:
        assert hasattr(module, function)
        monkeypatch.setattr(module, function, bug)
    net.config = net.config.replace(dropout=0.3, dropatt=0.2)
    return check_model(net, *batch, key=(1, 2))


def test_no_alarm_without_a_bug():
    assert max(run().values()) < RTOL


@pytest.mark.parametrize(
    ("bug", "module", "function", "name"), BUGS, ids=[b[0].__name__ for b in BUGS]
)
def test_alarm(bug, module, function, name, monkeypatch):
    errors = run(bug, module, function, monkeypatch)
    assert errors[name] > 1000 * RTOL, f"the checker missed {bug.__name__}"


def test_lost_tokens(monkeypatch):
    """The classic of NumPy: `out[index] += rows` keeps one of several equal indices."""
    net = make_model(get_backend("cpu", "float64"))
    batch = second_segment(net, T, M)

    def lossy(rows, index, *, n_rows):
        out = net.backend.xp.zeros((n_rows, rows.shape[1]))
        out[index] += rows
        return out

    monkeypatch.setattr(net.backend, "scatter_add", lossy)
    assert check_model(net, *batch)["word_emb"] > 1000 * RTOL
