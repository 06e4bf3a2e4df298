"""Evaluation without recurrence: fixed segments and the sliding window."""

import numpy as np
import pytest

from helpers.models import V, make_model, make_tokens
from minitxl import MinitxlError, TrainConfig
from minitxl.backend import get_backend
from minitxl.data.stream import Stream, segments
from minitxl.inference.evaluate import evaluate
from minitxl.inference.sliding import evaluate_sliding, windows
from minitxl.training.trainer import Trainer

CPU = get_backend("cpu", "float64")


@pytest.mark.parametrize("attn_type", [0, 2, 3])
@pytest.mark.parametrize(("window", "stride"), [(6, 1), (6, 4), (6, 6), (1, 1), (40, 1)])
def test_window(attn_type, window, stride):
    """Token by token: the contexts that the windows give, each read from nothing."""
    vanilla = make_model(CPU, attn_type=attn_type, mem_len=0, tgt_len=6, max_klen=6)
    tokens = make_tokens(24)
    total, done, start = 0.0, 0, 0
    first = min(window, 23)
    read = []  # (first token of the window, its length, targets), one for each window
    read.append((0, first, range(1, first + 1)))
    done, start = first, 0
    while done + stride <= 23:
        start, done = start + stride, done + stride
        read.append((start, first, range(done - stride + 1, done + 1)))
    if done < 23:
        read.append((23 - first, first, range(done + 1, 24)))
    for start, length, targets in read:
        log_p = vanilla.predict(tokens[None, start : start + length])[0][0]
        total -= sum(float(log_p[t - 1 - start, tokens[t]]) for t in targets)
    for batch_size, threads in ((1, 1), (3, 1), (16, 2)):
        got = evaluate_sliding(vanilla, tokens, window, stride, batch_size, threads=threads)
        assert got.n_tokens == 23
        assert got.nats == pytest.approx(total / 23, rel=1e-12)


def test_every_token_is_a_target_once():
    text = np.arange(60)
    for window, stride in [(1, 1), (7, 1), (7, 3), (7, 7), (59, 1), (80, 5)]:
        targets = np.concatenate([y.ravel() for _, y in windows(text, window, stride, 4)])
        np.testing.assert_array_equal(np.sort(targets), text[1:])


def test_stride_of_a_window_is_fixed_segments():
    vanilla = make_model(CPU, attn_type=2, mem_len=0, tgt_len=6)
    tokens = make_tokens(6 * 5 + 1)
    fixed = evaluate(vanilla, tokens)
    assert evaluate_sliding(vanilla, tokens, 6, 6).nats == pytest.approx(fixed.nats, rel=1e-12)


def test_a_memory_does_for_one_layer_what_the_window_does():
    """One relative layer that sees the last 6 tokens: same numbers, at a window's cost or none."""
    model = make_model(CPU, n_layer=1, mem_len=6, same_length=True)
    tokens = make_tokens(40)
    by_memory = evaluate(model, tokens, tgt_len=1).nats
    assert evaluate_sliding(model, tokens, 6, 1).nats == pytest.approx(by_memory, rel=1e-12)


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (4, 5), (4, 0)])
def test_wrong_lengths(window, stride):
    with pytest.raises(MinitxlError, match=f"stride={stride} must be between 1 and {window=}"):
        evaluate_sliding(make_model(CPU), make_tokens(20), window, stride)
    with pytest.raises(MinitxlError, match="1 tokens"):
        evaluate_sliding(make_model(CPU), make_tokens(1), 4, 1)


# --- ext_len in streams, and the loss on half a segment ---


def test_ext_len_in_streams():
    """Every target once, each after its own token; context where there is some."""
    text = np.arange(100)
    for x, y in segments(text, batch_size=2, tgt_len=8, ext_len=3):
        np.testing.assert_array_equal(x[:, -y.shape[1] :] + 1, y)
        assert x.shape[1] - y.shape[1] == (3 if x[0, 0] else 0)
    stream = Stream(text, batch_size=2, tgt_len=8, ext_len=3)
    shapes = [tuple(a.shape for a in stream.next()[:2]) for _ in range(3)]
    assert shapes == [((2, 8), (2, 8)), ((2, 11), (2, 8)), ((2, 11), (2, 8))]


def test_ext_len_evaluates_as_a_longer_memory():
    """What is read again and what is remembered together are what a longer memory remembers."""
    model = make_model(CPU, n_layer=1, mem_len=50)
    tokens = make_tokens(41)
    plain = evaluate(model, tokens, tgt_len=8).nats
    again = evaluate(model.with_options(ext_len=3), tokens, tgt_len=8).nats
    assert again == pytest.approx(plain, rel=1e-12)


def test_training_on_half_the_segment():
    """The loss is the mean of the recent half; the older half gets no gradient of its own."""
    model = make_model(CPU, tgt_len=6)
    x, y = make_tokens(4, 6), make_tokens(4, 6, seed=1)
    nll = model.forward(x, y)[0]
    settings = TrainConfig(steps=4, batch_size=4, loss_on="half", threads=1)
    trainer = Trainer(model, settings)
    assert float(trainer.step(x, y)) == pytest.approx(nll[:, 3:].mean(), rel=1e-12)
    y[:, :3] = (y[:, :3] + 1) % V  # targets that do not count
    other = make_model(CPU, tgt_len=6)
    Trainer(other, settings).step(x, y)
    np.testing.assert_array_equal(other.params.flat, model.params.flat)


def test_training_with_ext_len():
    model = make_model(CPU, tgt_len=6, ext_len=2, mem_len=6)
    trainer = Trainer(model, TrainConfig(steps=4, batch_size=4, threads=2))
    stream = Stream(np.tile(make_tokens(40), 4), batch_size=4, tgt_len=6, ext_len=2)
    losses = [float(trainer.step(*stream.next())) for _ in range(4)]
    assert np.isfinite(losses).all()
    assert trainer.mems[0][0].shape[1] == 6
