"""The recall task: its texts, its model's gradients, and what is measured."""

import numpy as np
import pytest

from minitxl.backend import get_backend
from minitxl.config import Config, TrainConfig
from minitxl.experiments.recall import EDGES, Recall, measure, new_model, train
from minitxl.model.gradcheck import check_model

TASK = Recall(tgt_len=8, n_segment=4, n_key=12, n_value=5, n_filler=3, n_pairs=(2, 4, 10))


def parts(task, tokens):
    """(what, beside): ids of filler or key, and of a value or nothing."""
    return np.divmod(tokens, task.n_slot)


def check_text(task, tokens, targets, asked, lag):
    """Every question's target stands beside its key, `lag` tokens before; no key comes twice."""
    what, beside = parts(task, tokens)
    pair, key = beside < task.n_value, what >= task.n_filler
    question = key & ~pair
    np.testing.assert_array_equal(asked, question)
    assert key[pair].all()
    assert len(set(what[pair])) == pair.sum()
    for place in np.flatnonzero(question):
        origin = place - lag[place]
        assert 0 <= origin < place and pair[origin]
        assert what[origin] == what[place] and beside[origin] == targets[place]
    return pair.sum(), np.flatnonzero(pair)


def test_texts():
    batch = TASK.draw(np.random.default_rng(0), 400)
    assert batch.tokens.shape == (400, 32) and batch.tokens.max() < TASK.n_token
    found = [check_text(TASK, *row) for row in zip(*batch, strict=True)]
    counts = [n for n, _ in found]
    assert set(counts) == {2, 4, 10}
    for n in (2, 4, 10):  # written among at least 1.25 n places, and at most all
        last = [where[-1] for m, where in found if m == n]
        assert min(last) >= n - 1 and np.mean([x < 1.3 * n + 8 for x in last]) > 0.2
    places = ~batch.asked
    first = [where[0] for _, where in found]
    after = sum((np.arange(32) > f).sum() for f in first) - sum(counts) + len(counts)
    assert batch.asked.sum() / after == pytest.approx(0.6, abs=0.02) and places.any()


def test_each_key_is_asked_once():
    task = Recall(n_pairs=(16, 64))
    for n_pair in task.n_pairs:
        batch = task.ask_once(np.random.default_rng(1), 30, n_pair)
        for row in zip(*batch, strict=True):
            n, where = check_text(task, *row)
            assert n == n_pair and where[-1] < 128
            asked = parts(task, row[0])[0][row[2]]
            assert len(set(asked)) == len(asked) >= 0.8 * n_pair
        counts, _ = np.histogram(batch.lag[batch.asked], EDGES)
        # every bin that fits; beyond the length of the text nothing
        assert counts[:9].min() > 0.02 * counts.sum() and not counts[10:].any()


def model_of(dtype, **options):
    sizes = dict(n_layer=2, d_model=6, n_head=2, d_head=3, d_inner=7, tgt_len=8, dropout=0.0)
    config = Config(n_token=TASK.n_token, mem_len=6, pre_lnorm=True, **sizes, **options)
    return new_model(config, TASK, seed=0, device=get_backend("cpu", dtype))


def test_gradients():
    """Of the vectors of tokens as well, each a sum."""
    model = model_of("float64")
    batch = TASK.draw(np.random.default_rng(2), 3)
    cuts = [(batch.tokens[:, i : i + 8], batch.targets[:, i : i + 8]) for i in (0, 8)]
    _, mems = model.score(*cuts[0])
    errors = check_model(model, *cuts[1], mems)
    assert set(errors) >= {"word_emb", "value_emb", "pair_emb", "what_emb"}
    assert max(errors.values()) < 1e-6, errors


def test_first_weights():
    model = model_of("float32")
    np.testing.assert_array_equal(
        model.params["layers.1.attn.w_k"], model.params["layers.1.attn.w_q"]
    )
    assert not model.params["r_w_bias"].any()
    other = new_model(model.config, TASK, seed=1)
    assert np.abs(other.params.flat - model.params.flat).max() > 0.1
    big = Config(n_token=TASK.n_token, n_layer=1, d_model=64, n_head=2, d_head=32, d_inner=256)
    params = new_model(big, TASK, seed=0).params
    sizes = {name: float(params[name].std()) for name in params}
    assert sizes["layers.0.attn.w_q"] == pytest.approx(64**-0.5, rel=0.05)
    assert sizes["layers.0.ff.w_2"] == pytest.approx((2 * 256) ** -0.5, rel=0.05)
    assert sizes["what_emb"] == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("through", [False, True])
def test_training_learns(through):
    task = Recall(tgt_len=4, n_segment=4, n_key=3, n_value=2, n_filler=1, n_pairs=(1, 2))
    sizes = dict(n_layer=1, d_model=16, n_head=2, d_head=8, d_inner=16, tgt_len=4, mem_len=16)
    config = Config(n_token=task.n_token, pre_lnorm=True, dropout=0.0, **sizes)
    model = new_model(config, task, seed=0)
    how = TrainConfig(steps=80, batch_size=64, lr=1e-2, warmup=6, clip=1.0, threads=1)
    losses = train(model, task, how, segments_per_update=2, through_memory=through)
    assert len(losses) == 80 and np.mean(losses[-10:]) < 0.3 < np.mean(losses[:10])


def test_measure_counts_by_lag():
    """A model that answers value 2 is right where that is the answer, in the right bins."""
    batch = TASK.draw(np.random.default_rng(3), 50)

    class Constant:
        backend = get_backend("cpu")

        def predict(self, tokens, mems):
            assert tokens.shape == (50, 8)
            return np.broadcast_to(np.eye(5)[2], (50, 8, 5)), mems

    asked, right = measure(Constant(), TASK, batch)
    hit = batch.asked & (batch.targets == 2)
    for counts, where in ((asked, batch.asked), (right, hit)):
        np.testing.assert_array_equal(counts[1:], np.histogram(batch.lag[where], EDGES)[0])
    inside = sum(
        row_asked[i] and i // 8 == (i - row_lag[i]) // 8
        for row_asked, row_lag in zip(batch.asked, batch.lag, strict=True)
        for i in range(32)
    )
    assert asked[0] == inside > 0
