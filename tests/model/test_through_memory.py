"""The memory's rows of h, taken out of dW_k and dW_v."""

import numpy as np
import pytest

from minitxl import Config, TransformerXL
from minitxl.errors import MinitxlError
from minitxl.model.gradcheck import RTOL, attention_block, check_op, sequence_slope
from minitxl.model.through_memory import sequence_gradients, without_memory_rows

B, T, M = 2, 3, 4


@pytest.mark.parametrize("attn_type", range(6))
@pytest.mark.parametrize("pre_lnorm", [False, True])
def test_what_the_memory_rows_give(attn_type, pre_lnorm):
    """The memory's share of dW_k and dW_v is there, and nothing else has changed."""
    sizes = dict(n_layer=2, d_model=8, n_head=2, d_head=4, d_inner=12, tgt_len=T, mem_len=M)
    config = Config(n_token=9, attn_type=attn_type, pre_lnorm=pre_lnorm, init_std=0.3, **sizes)
    model = TransformerXL(config, device="cpu", dtype="float64")
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, 9, (2, B, T))
    mems = [rng.normal(size=(B, M, 8)) for _ in range(2)]
    for given in (mems, None):
        _, _, cache = model.forward(tokens, targets, given)
        whole = model.backward(cache)
        part = model.backward(without_memory_rows(cache, xp=np))
        again = model.backward(cache)  # the cache itself is as it was
        for name in whole:
            np.testing.assert_array_equal(again[name], whole[name])
            reads_memory = given is not None and name.endswith(("w_k", "w_v"))
            assert np.array_equal(part[name], whole[name]) != reads_memory, name


def test_they_are_rows_times_gradients():
    """By hand, for layer 1: the memory's rows of h, transposed, times those of dk."""
    config = Config(
        n_token=9, n_layer=1, d_model=8, n_head=2, d_head=4, d_inner=12, tgt_len=T, mem_len=M
    )
    model = TransformerXL(config, device="cpu", dtype="float64")
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, 9, (2, B, T))
    mems = [rng.normal(size=(B, M, 8))]
    _, _, cache = model.forward(tokens, targets, mems)
    part = model.backward(without_memory_rows(cache, xp=np))
    whole = model.backward(cache)
    for name in ("w_k", "w_v"):
        difference = whole[f"layers.0.attn.{name}"] - part[f"layers.0.attn.{name}"]  # (D, H*Dh)
        # It lies in the space of the memory's rows; and with a row at a time set to 0 they add up.
        shares = []
        for b in range(B):
            for j in range(M):
                linear = getattr(cache.hidden.layers[0].attn.heads, name[-1])
                rows = np.zeros((B, M + T, 8))
                rows[b, j] = mems[0][b, j]
                heads = cache.hidden.layers[0].attn.heads._replace(
                    **{name[-1]: linear._replace(x=rows.reshape(-1, 8))}
                )
                layer = cache.hidden.layers[0]
                layer = layer._replace(attn=layer.attn._replace(heads=heads))
                one = cache._replace(hidden=cache.hidden._replace(layers=[layer]))
                shares.append(model.backward(one)[f"layers.0.attn.{name}"])
        np.testing.assert_allclose(sum(shares), difference, rtol=1e-10, atol=1e-14)


def test_each_gradient_of_a_sequence_is_a_slope():
    """The full one of the loss as it is, the stopped one of the loss with its memories given."""
    sizes = dict(n_layer=2, d_model=8, n_head=2, d_head=4, d_inner=12, tgt_len=T, mem_len=M)
    config = Config(n_token=9, init_std=0.3, **sizes)
    model = TransformerXL(config, device="cpu", dtype="float64")
    rng = np.random.default_rng(0)
    pieces = [tuple(rng.integers(0, 9, (2, B, T))) for _ in range(3)]
    upstream = [np.full((B, T), 1 / (3 * B * T))] * 3
    direction = rng.normal(size=model.params.flat.size)
    before, slopes = model.params.flat.copy(), {}
    for held in (False, True):
        gradient = sequence_gradients(model, pieces, upstream, through_memory=not held).params.flat
        slopes[held] = sequence_slope(model, pieces, direction, hold_memory=held)
        assert abs(slopes[held] - gradient @ direction) < 1e-6 * np.linalg.norm(gradient)
    assert abs(slopes[True] - slopes[False]) > 1e-4
    np.testing.assert_array_equal(model.params.flat, before)
    with pytest.raises(MinitxlError, match="float32"):
        sequence_slope(TransformerXL(config, device="cpu"), pieces, direction)


def test_the_block_of_the_course_is_right_and_its_planted_mistake_is_seen():
    forward, backward, inputs = attention_block(n_mem=M)
    assert max(check_op(forward, backward, inputs).values()) < RTOL
    _, forgetful, _ = attention_block(n_mem=M, forget=True)
    errors = check_op(forward, forgetful, inputs)
    assert [name for name, error in errors.items() if error > RTOL] == ["w_k"]
