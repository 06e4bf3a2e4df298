"""RECL: the algorithm on losses with a known answer, how contexts are read, the experiment."""

import json
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.models import make_model, make_tokens
from minitxl import MinitxlError, TransformerXL
from minitxl.backend import get_backend
from minitxl.experiments import recl
from minitxl.experiments.group import Shape, settings_of_member
from minitxl.experiments.recl import (
    Settings,
    content_curves,
    context_losses,
    effective_lengths,
    gain_curves,
    gains,
    last_losses,
    run,
    summary,
)
from minitxl.experiments.recl_figure import draw_recl

CPU = get_backend("cpu", "float64")
rng = np.random.default_rng(0)


def falling(reach, lengths, step=0.1, n=50):
    """Losses (C, N) that fall by `step` nats for every length up to `reach`."""
    level = [3.0 - step * sum(x <= reach for x in lengths[: i + 1]) for i in range(len(lengths))]
    return np.repeat(np.array(level)[:, None], n, axis=1)


# --- the algorithm ---


def test_gains_by_hand():
    """Two models, four tokens; r = 0.5 counts the two that are hardest for the better model."""
    near = np.array([[1.0, 4.0, 2.0, 0.5], [2.0, 3.0, 2.5, 9.0]])  # b = 1, 3, 2, 0.5
    far = np.array([[9.0, 2.0, 2.5, 0.0], [0.0, 3.5, 1.0, 0.0]])
    # T = tokens 1 and 2: f(c, c) = 2.5; f(c, c') = (2 + 2) / 2 and (3 + 1) / 2
    np.testing.assert_allclose(gains(near, far, 0.5), [1 - np.exp(-0.5)] * 2)
    # all: f = 1.625; (1 + 2 + 2 + 0) / 4 and (0 + 3 + 1 + 0) / 4
    want = 1 - np.exp(np.array([1.25, 1.0]) - 1.625)
    np.testing.assert_allclose(gains(near, far, 1.0), want)
    np.testing.assert_allclose(gains(near, far, 1e-9), [1 - np.exp(-1.0), 0.0])  # token 1 alone


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0])
def test_each_model_goes_as_far_as_its_losses_fall(ratio):
    lengths = [8, 16, 24, 32, 40]
    losses = np.stack([falling(reach, lengths) for reach in (8, 16, 32, 40)])
    curves = gain_curves(losses, losses[:, 1:], ratio)
    assert effective_lengths(lengths, curves) == [8, 16, 32, 40]
    # The same falls, but from a level that the best of the group has long reached, are no gain.
    late = np.stack([falling(40, lengths), falling(40, lengths) + 0.5])
    curves = gain_curves(late, late[:, 1:], ratio)
    assert effective_lengths(lengths, curves) == [40, 8]


def test_the_threshold_and_the_end():
    lengths = [1, 2, 3]
    curves = np.array([[0.01, 0.0099], [0.0, 0.5], [0.02, 0.01], [0.0099, 0.0]])
    assert effective_lengths(lengths, curves) == [2, 1, 3, 1]  # it stops at the first small gain
    assert effective_lengths(lengths, curves, threshold=0.001) == [3, 1, 3, 2]


def test_noise_lengthens_and_never_shortens():
    """Losses without any fall but with noise: what the null control is there for."""
    noisy = 2.0 + rng.normal(scale=0.5, size=(3, 6, 4000))
    curves = gain_curves(noisy, noisy[:, 1:], 1.0)
    assert (curves > 0.01).all()
    assert effective_lengths(range(6), curves) == [5, 5, 5]
    null = gain_curves(noisy, 2.0 + rng.normal(scale=0.5, size=(3, 5, 4000)), 1.0)
    np.testing.assert_allclose(curves - null, 0.0, atol=0.01)


def test_content_is_what_true_far_tokens_are_better_by_than_foreign_ones():
    """Of two models that foreign text helps alike only the first gains by what the text says."""
    losses = np.stack([falling(3, [1, 2, 3]), falling(3, [1, 2, 3])])
    null = losses[:, 1:].copy()
    null[0] += 0.2
    curves = content_curves(losses, null, 0.5)
    np.testing.assert_allclose(curves, [[1 - np.exp(-0.2)] * 2, [0.0] * 2])
    assert effective_lengths([1, 2, 3], curves) == [3, 1]
    assert (gain_curves(losses, null, 0.5)[1] > 0.05).all()  # which the paper's measure counts
    assert (content_curves(losses, losses[:, 1:] - 0.1, 0.5) < 0).all()
    # Only the hardest count: here one of ten positions, where the context says something.
    near, far = np.full((1, 2, 10), 1.0), np.full((1, 1, 10), 1.0)
    near[0, 0, 4], far[0, 0, 4] = 2.0, 1.5
    np.testing.assert_allclose(content_curves(near, far, 0.1), [[1 - np.exp(-0.5)]])
    np.testing.assert_allclose(content_curves(near, far, 1.0), [[1 - np.exp(-0.05)]])


def test_noise_cuts_both_ways_for_content():
    noisy = 2.0 + rng.normal(scale=0.5, size=(3, 6, 20000))
    null = 2.0 + rng.normal(scale=0.5, size=(3, 5, 20000))
    curves = content_curves(noisy, null, 1.0)
    assert np.abs(curves).max() < 0.02 and (curves < 0).any() and (curves > 0).any()


def test_the_algorithm_in_general():
    pytest.importorskip("hypothesis")
    from hypothesis import given, settings
    from hypothesis import strategies as st
    from hypothesis.extra.numpy import arrays

    shape = st.tuples(st.integers(1, 4), st.integers(2, 5), st.integers(1, 12))
    losses = shape.flatmap(lambda s: arrays(np.float64, s, elements=st.floats(0, 20)))

    @settings(max_examples=60, deadline=None)
    @given(losses, st.floats(0.01, 1.0), st.floats(0.0, 5.0))
    def check(losses, ratio, shift):
        n_model, n_length, n_token = losses.shape
        lengths = list(range(10, 10 + n_length))
        curves = gain_curves(losses, losses[:, 1:], ratio)
        assert curves.shape == (n_model, n_length - 1)
        assert (curves >= -1e-12).all() and (curves < 1.0).all()
        found = effective_lengths(lengths, curves)
        # Literally the appendix, for each model.
        for i in range(n_model):
            n = 0
            while n < n_length - 1:
                b = [min(losses[j, n, t] for j in range(n_model)) for t in range(n_token)]
                hard = sorted(range(n_token), key=lambda t: -b[t])[: max(1, round(ratio * n_token))]
                f = np.mean([b[t] for t in hard])
                f_far = np.mean([min(b[t], losses[i, n + 1, t]) for t in hard])
                g = (np.exp(f) - np.exp(f_far)) / np.exp(f)
                assert curves[i, n] == pytest.approx(g, abs=1e-9)
                if g < 0.01:
                    break
                n += 1
            if abs(curves[i] - 0.01).min() > 1e-9:
                assert found[i] == lengths[n]
        # A model without gains of its own; a level that all share; a threshold that is lower.
        flat = np.maximum(losses, losses.max())
        still = gain_curves(
            np.concatenate([losses, flat]), np.concatenate([losses, flat])[:, 1:], ratio
        )
        assert (np.abs(still[n_model:]) < 1e-12).all()
        np.testing.assert_allclose(
            gain_curves(losses + shift, losses[:, 1:] + shift, ratio), curves, atol=1e-9
        )
        longer = effective_lengths(lengths, curves, 0.001)
        assert all(a >= b for a, b in zip(longer, found, strict=True))

    check()


# --- how contexts are read ---


def one_by_one(model, contexts, targets, segment_len):
    """The loss after each context, token by token through `predict`, the odd piece first."""
    out = []
    for x, y in zip(contexts, targets, strict=True):
        mems, at = None, 0
        for n in [len(x) % segment_len] * (len(x) % segment_len > 0) + [segment_len] * (
            len(x) // segment_len
        ):
            log_p, mems = model.predict(x[None, at : at + n], mems)
            at += n
        out.append(-float(log_p[0, -1, y]))
    return np.array(out)


@pytest.mark.parametrize("attn_type", [0, 1])
@pytest.mark.parametrize("length", [3, 5, 12, 15])
def test_contexts_are_read_in_segments_with_memory(monkeypatch, attn_type, length):
    monkeypatch.setattr(recl, "TOKENS_AT_ONCE", 3 * length)  # rows in several batches, one short
    more = {"max_klen": 11} if attn_type == 1 else {}
    model = make_model(CPU, attn_type=attn_type, **more)
    contexts, targets = make_tokens(7, length), make_tokens(7, seed=1)
    got = last_losses(model, contexts, targets, 5)
    np.testing.assert_allclose(got, one_by_one(model, contexts, targets, 5), rtol=1e-10)


def test_members_read_as_they_can(monkeypatch):
    """Vanilla: the last T; no recurrence: all at once; recurrence: segments."""
    text, at, seen = np.arange(1000) % 11, np.array([100, 300, 500, 700]), []
    model = make_model(CPU)  # T = 5
    monkeypatch.setattr(
        recl, "last_losses", lambda m, x, y, segment_len: seen.append((x, y, segment_len))
    )
    for name, length, segment_len in (("xl", 12, 5), ("xl-alone", 12, 12), ("abs-alone", 5, 5)):
        context_losses(model, name, text, at, 12)
        x, y, n = seen.pop()
        assert n == segment_len
        np.testing.assert_array_equal(x, text[at[:, None] - np.arange(length, 0, -1)])
        np.testing.assert_array_equal(y, text[at])
    context_losses(model, "abs-alone", text, at, 3)
    assert seen.pop()[0].shape == (4, 3)


def test_control_borrows_the_far_tokens_only(monkeypatch):
    text, at, seen = np.arange(1000), np.array([100, 300, 500, 700]), []
    monkeypatch.setattr(recl, "last_losses", lambda m, x, y, n: seen.append(x))
    context_losses(make_model(CPU), "xl", text, at, 12, borrowed=4)
    (x,) = seen
    np.testing.assert_array_equal(x[:, 4:], at[:, None] - np.arange(8, 0, -1))
    elsewhere = np.array([500, 700, 100, 300])
    np.testing.assert_array_equal(x[:, :4], elsewhere[:, None] - np.arange(12, 8, -1))


# --- the experiment ---


@pytest.fixture(scope="module")
def results():
    """Two groups of initial values: training them has tests of its own."""

    def untrained(name, seed, shape, folder):
        config, _ = settings_of_member(name, seed, shape, 78)
        model = TransformerXL(config, device="cpu", seed=seed)
        model.params.flat[...] *= 4.0  # so that context matters
        return SimpleNamespace(model=model)

    s = Settings(shape=Shape.quick(), seeds=2, positions=60, resamples=9, longest=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recl, "trained", untrained)
        return json.loads(json.dumps(run(s)))


def test_results_follow_from_the_gains(results):
    s = results["settings"]
    assert len(results["groups"]) == 2 * 2 * 3 * 4
    for g in results["groups"]:
        lengths = list(range(g["delta"], 33, g["delta"]))
        assert len(g["gains"]) == len(g["null_gains"]) == len(lengths) - 1
        for key in ("recl", "null_recl", "content_recl"):
            curve = key.replace("recl", "gains")
            want = effective_lengths(lengths, np.array([g[curve]]), s["threshold"])
            assert [g[key]] == want
            low, high = g["intervals"][key]
            assert lengths[0] <= low <= high <= lengths[-1]
        if (
            g["member"] == "abs-alone" and g["delta"] == 16
        ):  # T = 16: from there on it reads no more
            assert g["gains"] == [0.0] and g["recl"] == 16
    assert results["lengths"] == [8, 16, 24, 32]
    vanilla = results["bpc"]["abs-alone"]
    assert all(row["16"] == row["24"] == row["32"] != row["8"] for row in vanilla)
    null = results["null_bpc"]["abs-alone"]
    for row, far in zip(vanilla, null, strict=True):
        assert far["16"] == {"32": row["32"]}  # what is borrowed it does not read
        assert far["8"]["16"] != row["16"] and far["8"]["24"] == row["24"]
    for m in results["mean"]:
        key = (m["member"], m["delta"], m["ratio"])
        of = [g for g in results["groups"] if (g["member"], g["delta"], g["ratio"]) == key]
        for name in ("recl", "null_recl", "content_recl"):
            values, mean = [g[name] for g in of], m[name]
            assert len(values) == 2 and mean["mean"] == np.mean(values)
            assert (mean["min"], mean["max"]) == (min(values), max(values))
            if m["member"] == "abs-alone":
                assert mean["longer"] == 0.0


def test_more_losses_in_one_direction_are_more_length():
    """A group made up: the first model gains at every step, the second never."""
    n, lengths = 40, [8, 16, 24, 32]
    s = Settings(longest=32, deltas=(8,), members=("xl", "abs-alone"), resamples=20)
    group = []
    for losses in (falling(32, lengths, n=n), falling(8, lengths, n=n)):
        true = {str(c): row.tolist() for c, row in zip(lengths, losses, strict=True)}
        null = {str(c): losses[i].tolist() for i, c in enumerate(lengths[1:])}
        group.append({"true": true, "null": {"8": null}})
    first, second = recl._lengths_of(group, 8, 0.5, s)
    assert (first["recl"], first["null_recl"], first["content_recl"]) == (32, 8, 32)
    assert first["intervals"]["recl"] == [32.0, 32.0]
    assert second["recl"] == second["content_recl"] == 8
    means = recl._means([g | {"seed": 0} for g in (first, second)], replace(s, ratios=(0.5,)))
    assert [means[0][k]["longer"] for k in ("recl", "null_recl", "content_recl")] == [3.0, 0.0, 3.0]


def test_settings_that_leave_no_step():
    for wrong in (dict(longest=40), dict(longest=16), dict(members=("xl",)), dict(positions=10**7)):
        with pytest.raises(MinitxlError) as error:
            run(replace(Settings(), **wrong))
        assert "\n" not in str(error.value)


def test_the_paper_in_percent():
    assert f"{recl.paper_longer('Transformer-XL 128M', 'vanilla Transformer'):.0%}" == "447%"
    assert f"{recl.paper_longer('Transformer-XL 151M', 'QRNN'):.0%}" == "80%"


def test_summary(results):
    text = summary(results)
    assert "steps of 8 characters" in text and "447%" in text and "vanilla Transformer" in text


# --- the picture ---


def test_picture_is_byte_stable(tmp_path, results):
    files = []
    for name in "ab":
        picture = draw_recl(results)
        saved = [picture.save(tmp_path / f"{name}{suffix}") for suffix in (".png", ".svg")]
        files.append([path.read_bytes() for path in saved])
    assert files[0] == files[1] and "+447%" in picture.caption


def test_labels_neither_overlap_nor_leave_the_picture(results):
    figure = draw_recl(results).figure
    figure.canvas.draw()
    texts = [t for ax in figure.axes for t in (*ax.texts, ax.xaxis.label, ax.yaxis.label, ax.title)]
    boxes = [(t.get_text(), t.get_window_extent()) for t in (*texts, *figure.texts) if t.get_text()]
    for text, box in boxes:
        inside = box.x0 >= 0 and box.y0 >= 0
        assert inside and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    for (a, one), (b, other) in combinations(boxes, 2):
        assert not one.overlaps(other), f"{a!r} lies on {b!r}"
