"""The two experiments on the latch task, and the gradients through several segments they use."""

import json
import math

import numpy as np
import pytest

from helpers.models import V, make_model, make_tokens
from minitxl import MinitxlError
from minitxl.backend import get_backend
from minitxl.config import TrainConfig
from minitxl.experiments import latch, reach, stop_gradient
from minitxl.experiments.latch import FILLER, N_MARKER, QUERY, Latch
from minitxl.experiments.parts import Parts
from minitxl.experiments.reach_figure import draw_reach
from minitxl.model.through_memory import hidden_gradients, sequence_gradients

CPU = get_backend("cpu", "float64")


# --- gradients over several segments ---


def pieces(lengths=(5, 3, 6, 4), seed=0):
    """Segments of several lengths and an upstream gradient for each, the second without loss."""
    tokens = make_tokens(2, sum(lengths) + 1, seed=seed)
    cuts = np.cumsum(lengths)[:-1]
    parts = (np.split(a, cuts, axis=1) for a in (tokens[:, :-1], tokens[:, 1:]))
    segments = list(zip(*parts, strict=True))
    rng = np.random.default_rng(seed)
    upstream = [rng.normal(size=y.shape) for _, y in segments]
    upstream[1] = None
    return segments, upstream


def total_loss(model, segments, upstream):
    mems, loss = None, 0.0
    for (x, y), w in zip(segments, upstream, strict=True):
        nll, mems = model.score(x, y, mems)
        loss += 0.0 if w is None else float((nll * w).sum())
    return loss


@pytest.mark.parametrize("options", [{}, {"pre_lnorm": True, "untie_r": True}, {"mem_len": 2}])
def test_full_gradient_is_that_of_finite_differences(options):
    """Of every parameter, in float64: the memory is no constant here."""
    model = make_model(CPU, **options)
    segments, upstream = pieces()
    found = sequence_gradients(model, segments, upstream, through_memory=True).params
    rng, step = np.random.default_rng(1), 1e-5
    for name, view in model.params.items():
        before, direction = view.copy(), rng.normal(size=view.shape)
        values = []
        for sign in (1, -1):
            model.params[name] = before + sign * step * direction
            values.append(total_loss(model, segments, upstream))
        model.params[name] = before
        numeric = (values[0] - values[1]) / (2 * step)
        size = np.linalg.norm(found[name])
        assert abs(numeric - (found[name] * direction).sum()) < 1e-6 * size, name


def test_stopped_gradient_is_the_sum_of_the_segments_own():
    model = make_model(CPU)
    segments, upstream = pieces()
    found = sequence_gradients(model, segments, upstream)
    mems, total = None, 0.0
    for (x, y), w, nll in zip(segments, upstream, found.nll, strict=True):
        expected, mems, cache = model.forward(x, y, mems)
        np.testing.assert_array_equal(nll, expected)
        if w is not None:
            total = total + model.backward(cache, w).flat
    np.testing.assert_allclose(found.params.flat, total, rtol=1e-12, atol=1e-14)
    full = sequence_gradients(model, segments, upstream, through_memory=True)
    assert np.abs(full.params.flat - total).max() > 1e-3


@pytest.mark.parametrize("through", [False, True])
def test_hidden_gradients_are_those_of_the_last_loss(through):
    model = make_model(CPU)
    segments, _ = pieces()
    last = np.full(segments[-1][1].shape, 1.0 / segments[-1][1].size)
    upstream = [None] * 3 + [last]
    expected = sequence_gradients(model, segments, upstream, through).hidden
    for a, b in zip(hidden_gradients(model, segments, through), expected, strict=True):
        np.testing.assert_array_equal(np.stack(a), np.stack(b))
    assert np.any(expected[0][0]) == through and np.any(expected[-1][0])


def test_a_loss_for_every_segment():
    segments, upstream = pieces()
    with pytest.raises(MinitxlError, match="4 segments with 3 upstream"):
        sequence_gradients(make_model(CPU, n_token=V), segments, upstream[1:])


# --- the task ---


@pytest.mark.parametrize("sparse", [False, True])
def test_sequences(sparse):
    task = Latch(4, 6, sparse)
    assert task.n_segment == 3  # a marker at place 3, 6 more tokens: 10 tokens
    batch = task.all()
    assert len(batch.tokens) == len(np.unique(batch.tokens, axis=0)) == 32 * (6 if sparse else 1)
    for tokens, targets, distance, asked in zip(*batch, strict=True):
        (place,) = np.flatnonzero(tokens < N_MARKER)
        assert place < 4 and (targets == tokens[place]).all()
        np.testing.assert_array_equal(distance, np.arange(12) - place)
        questions = np.flatnonzero(tokens == QUERY)
        if sparse:
            np.testing.assert_array_equal(np.flatnonzero(asked), questions)
            assert len(questions) == 1 and 1 <= distance[questions[0]] <= 6
        else:
            assert len(questions) == 0 and distance[asked].tolist() == [1, 2, 3, 4, 5, 6]
        assert (tokens == FILLER).sum() == 12 - 1 - len(questions)
    every = {tuple(row) for row in batch.tokens}
    drawn = task.draw(np.random.default_rng(0), 2000)
    assert {tuple(row) for row in drawn.tokens} == every


def test_theory_is_what_a_count_of_queries_gives():
    """Share of the pairs (place, query) at a distance whose segment sees the place."""
    t, r = 4, 6
    for d in range(1, 14):
        sees = [p >= (p + d) // t * t - r for p in range(t)]
        assert latch.seen(d, r, t) == pytest.approx(np.mean(sees)), d
        expected = np.mean([1.0 if x else 1 / 8 for x in sees])
        assert latch.expected_accuracy(d, r, t) == pytest.approx(expected)
    assert latch.loss_floor(r, Latch(t, 6)) == 0
    assert latch.loss_floor(0, Latch(1, 5)) == pytest.approx(math.log(8))


def test_measure_looks_at_the_right_places():
    """A model that answers marker 0 everywhere is right once in eight, at every distance."""
    task = Latch(4, 6)

    class Constant:
        backend = get_backend("cpu")

        def predict(self, tokens, mems):
            assert tokens.shape == (32, 4)
            return np.log(np.eye(latch.N_TOKEN)[np.zeros_like(tokens)] * 0.9 + 0.01), mems

    found = latch.measure(Constant(), task)
    assert found["accuracy"] == [0.125] * 6
    nll = -(math.log(0.91) + 7 * math.log(0.01)) / 8
    np.testing.assert_allclose(found["nll"], nll, atol=1e-4)


def test_training_is_repeatable_and_lets_the_gradient_through():
    task, how = Latch(4, 8, sparse=True), TrainConfig(steps=3, batch_size=16, lr=1e-3, warmup=1)
    weights = []
    for through in (False, False, True):
        model = latch.new_model(2, 4, 4, seed=0)
        losses = latch.train(model, task, how, through_memory=through)
        assert len(losses) == 3 and abs(losses[0] - math.log(10)) < 0.5
        weights.append(model.params.flat.copy())
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.abs(weights[0] - weights[2]).max() > 1e-4


# --- reach ---


@pytest.fixture(scope="module")
def reached():
    settings = reach.Settings(models=((1, 4, 0), (2, 4, 2)), seeds=2, steps=70)
    return json.loads(json.dumps(reach.run(settings)))


def test_reach_is_the_formula_and_is_learned(reached):
    vanilla, uneven = reached["models"]
    assert vanilla["reach"] == {"formula": 0, "n_layer * mem_len": 0, "by perturbation": 0}
    assert uneven["reach"] == {"formula": 6, "n_layer * mem_len": 4, "by perturbation": 6}
    for model in reached["models"]:
        assert len(model["runs"]) == 2
        assert model["largest_difference"] < 0.05, model["accuracy"]
        assert model["loss"]["mean"] < model["loss"]["floor"] + 0.2
    assert uneven["edge"] == {"theory": 7, "mean": 7, "min": 7, "max": 7}


def test_no_model_beats_theory(reached):
    """What is not seen is guessed: 1/8 exactly, over all sequences."""
    for model in reached["models"]:
        for run in model["runs"]:
            assert (np.array(run["accuracy"]) <= np.array(model["theory"]) + 1e-4).all()


def test_edge():
    assert reach.edge([1.0, 0.95, 0.89, 0.95]) == 3
    assert reach.edge([1.0, 1.0]) == 3


RULED = [(2, 4, 8), (3, 4, 4), (2, 5, 3), (4, 2, 5), (3, 6, 1), (1, 3, 7), (2, 1, 4)]


def left_ends(changes):
    """How far before the segment's start the first token is that changes each output (T,)."""
    start = changes.shape[1] - changes.shape[0]
    return start - (changes > 0).argmax(axis=1)


@pytest.mark.parametrize("shape", RULED)
def test_the_rule_of_the_reach_and_what_moves_it(shape):
    """Notebook 5's table: R; (N-1) T + M for M < T; R + ext_len; N (M-1) with same_length."""
    n, t, m = shape
    rule = (n - 1) * t * math.ceil(m / t) + m
    if m % t == 0:
        assert rule == n * m
    if m < t:
        assert rule == (n - 1) * t + m
    assert (left_ends(reach.changes_by_token(shape)) == rule).all()
    for extra in (1, t + 1):
        changes = reach.changes_by_token(shape, ext_len=extra)
        assert left_ends(changes).max() == rule + extra
    changes = reach.changes_by_token(shape, same_length=True)
    np.testing.assert_array_equal(left_ends(changes) + np.arange(t), n * (m - 1))


def test_influence_ends_where_the_reach_does():
    model = make_model(CPU, n_layer=2, tgt_len=4, mem_len=6, n_token=V)
    far = reach.exact_reach(2, 4, 6)
    text = np.random.default_rng(0).integers(0, V, 200)
    moved = reach.influence_by_distance(model, text, [1, far, far + 1], asked=3)
    assert moved[0] > moved[1] > moved[2] == 0.0


def test_reach_summary_and_picture(reached):
    text = reach.summary(reached)
    assert text.count("\n") == 4 and "perturbed" in text
    picture = draw_reach(reached)
    assert picture.png() == draw_reach(reached).png()
    assert "2 seeds" in picture.caption


# --- stop_gradient ---


@pytest.fixture(scope="module")
def stopped():
    settings = stop_gradient.Settings(
        n_layer=2, tgt_len=4, lrs=(3e-3, 1e-6), pilot_seeds=(7,), seeds=2, steps=90, every=10
    )
    return json.loads(json.dumps(stop_gradient.run(settings)))


def test_the_gradient_is_zero_left_of_the_edge_where_it_is_stopped(stopped):
    for group in stopped["groups"]:
        norms = group["runs"][0]["gradient"]
        cut, full = (np.array(norms[way]) for way in ("stopped", "full"))
        assert cut.shape == full.shape == (3, 12)
        assert (cut[:, :8] == 0).all() and cut[:2, 8:11].min() > 0
        assert full[0, 2] > 0 and (full[1, 4:8] > 0).all()
        np.testing.assert_allclose(cut[:, 8:], full[:, 8:], rtol=1e-3)
        assert (full[:, 11] == 0).all()  # after the question


def test_full_back_propagation_learns_what_it_can(stopped):
    full = stop_gradient.of_way(stopped, "full")
    assert full["lr"] == 3e-3  # the other is no learning rate
    assert None not in full["learned_after"] and np.min(full["accuracy_by_hop"]) > 0.9
    cut = stop_gradient.of_way(stopped, "stopped")
    assert stop_gradient.median_updates(full) < stop_gradient.median_updates(cut)
    assert stopped["floors"] == sorted(stopped["floors"], reverse=True)


def test_pilots_choose_and_are_not_reported(stopped):
    """Who never learns counts with all updates; the reported seeds are others."""
    pilots = {(p["way"], p["lr"]): p["learned_after"] for p in stopped["pilots"]}
    assert pilots["full", 1e-6] == [None] and pilots["full", 3e-3][0] < 90
    s = stop_gradient.Settings(**stopped["settings"])
    found = {f"pilot {w}, lr {lr}, seed 7": {"learned_after": x[0], "curve": [2.0]}
             for (w, lr), x in pilots.items()}  # fmt: skip
    assert stop_gradient.best_rates(found, s)["full"] == 3e-3
    assert not set(s.pilot_seeds) & set(range(s.seeds))


def test_training_ends_once_it_is_learned(stopped):
    s, floor = stopped["settings"], stopped["floors"][-1]
    for group in stopped["groups"]:
        for run, after in zip(group["runs"], group["learned_after"], strict=True):
            assert len(run["curve"]) * s["every"] == (after or s["steps"])
            assert all(x > floor + stop_gradient.NEAR for x in run["curve"][:-1])
            assert (run["curve"][-1] <= floor + stop_gradient.NEAR) == (after is not None)


def test_the_survival_curve_counts(stopped):
    for group in stopped["groups"]:
        for point in group["not_yet"]:
            left = [x is None or x > point["updates"] for x in group["learned_after"]]
            assert point["share"] == np.mean(left)
            assert point["interval"][0] <= point["share"] <= point["interval"][1]
        assert group["not_yet"][0]["share"] == 1


def test_learned_after():
    assert stop_gradient.learned_after([2.0, 0.5, 0.4, 0.3], 0.3, 20) == 60
    assert stop_gradient.learned_after([2.0, 0.5], 0.3, 20) is None


def test_stop_gradient_summary(stopped):
    text = stop_gradient.summary(stopped)
    assert text.count("not in 90") == 2 and "loss floors" in text


def test_results_go_on_from_kept_parts(tmp_path, monkeypatch):
    """Every training is a part."""
    settings = reach.Settings(models=((1, 4, 0),), seeds=2, steps=2)
    kept, seeds = tmp_path / "parts.json", []
    parts = Parts(reach.dataclasses.asdict(settings), kept)
    first = reach.run(settings, parts)
    monkeypatch.setattr(reach, "_trained", lambda *x: seeds.append(x))
    again = reach.run(settings, Parts(reach.dataclasses.asdict(settings), kept, resume=True))
    assert not seeds and again == first
