"""The pictures of notebooks 1, 2 and 3 say what is in their numbers, and refuse what cannot be."""

import numpy as np
import pytest

from helpers.models import V, make_model
from minitxl import Inspection
from minitxl.backend import get_backend
from minitxl.errors import MinitxlError
from minitxl.experiments import stored
from minitxl.viz.lessons import by_hand, fragmentation
from minitxl.viz.lessons.four_terms import changes, draw_four_terms, draw_leak
from minitxl.viz.widgets.scene import Scene

rng = np.random.default_rng(0)


def texts(ax):
    return [text.get_text() for text in ax.texts]


# --- fragmentation --------------------------------------------------------------------------------


def test_group_by_position_tells_the_first_and_the_last_gap():
    results = stored("ablation")
    cells = {c["member"]: np.array(c["by_position"]) for c in results["cells"]}
    gap = (cells["xl-alone"] - cells["xl"]).mean(axis=0)
    picture = fragmentation.draw_group_by_position(results)
    assert f"{gap[0]:.2f} bits apart at the first character, {gap[-1]:.2f}" in picture.caption
    (ax,) = picture.figure.axes
    thick = [line for line in ax.lines if line.get_linewidth() > 2]
    assert len(thick) == 3 and len(ax.lines) == 3 + 3 * results["settings"]["seeds"]
    np.testing.assert_allclose(thick[-1].get_ydata()[0], cells["xl"][:, 0].mean())


def test_the_saw_repeats_the_means():
    results = stored("ablation")
    cells = {c["member"]: np.array(c["by_position"]).mean(axis=0) for c in results["cells"]}
    picture = fragmentation.draw_saw(results, segments=2)
    (ax,) = picture.figure.axes
    for line, name in zip(ax.lines, ("xl-alone", "xl"), strict=False):
        np.testing.assert_allclose(line.get_ydata(), np.tile(cells[name], 2))
    gap = cells["xl-alone"] - cells["xl"]
    assert f"costs {gap[0]:.2f} bits at the first character, {gap.mean():.2f} on" in picture.caption


def test_segment_lengths_are_binned_by_doubling_and_averaged():
    without = {t: rng.uniform(1, 3, (6, t)) for t in (4, 8)}
    picture = fragmentation.draw_segment_lengths(without, {4: 1.5, 8: 1.4})
    left, right = picture.figure.axes
    for bars, bits in zip(left.containers, without.values(), strict=True):
        line, mean = bars.lines[0], bits.mean(axis=0)
        np.testing.assert_allclose(line.get_ydata()[:3], [mean[0], mean[1], mean[2:4].mean()])
        low, high = bars.lines[2][0].get_segments()[0][:, 1]  # two standard errors either side
        np.testing.assert_allclose(high - low, 4 * bits[:, 0].std() / 6**0.5)
    np.testing.assert_allclose(right.lines[1].get_ydata(), [1.5, 1.4])
    assert f"saves {without[4].mean() - 1.5:.2f} bits" in picture.caption
    assert f"{without[8].mean() - 1.4:.2f} at T = 8" in picture.caption


def test_sliding_window_gains_and_prices():
    passages = [(8, 1.0, [1.9, 2.1]), (4, 2.0, [1.65, 1.85]), (1, 8.0, [1.4, 1.6])]
    picture = fragmentation.draw_sliding(passages, np.array([1.4, 1.4]))
    assert "8 readings of each character are enough" in picture.caption
    assert "gains 0.50 bits" in picture.caption
    assert "gets 0.60 ± 0.10" in picture.caption  # of 0.5 and 0.7
    assert texts(picture.figure.axes[0])[:3] == ["stride 8", "stride 4", "stride 1"]


# --- by hand --------------------------------------------------------------------------------------


def test_checks_count_the_wrong_versions_that_pass():
    def right(dp, p):
        return p * (dp - (dp * p).sum(axis=-1, keepdims=True))

    versions = {"right": right, "blind": lambda dp, p: 2 * right(dp, p), "seen": lambda dp, p: dp}
    picture = by_hand.draw_checks(versions)
    assert picture.caption.startswith("An upstream of ones lets 1 of 2 wrong versions pass")
    drawn = [line.get_xdata()[0] for line in picture.figure.axes[0].lines[:6]]
    assert max(drawn[:3]) < 1e-9 and min(drawn[3:]) > 1e-2  # right twice, blind by ones


def test_the_stop_is_drawn_at_the_cached_states_alone(monkeypatch):
    scenes = []
    figure = Scene.figure
    monkeypatch.setattr(Scene, "figure", lambda scene: scenes.append(scene) or figure(scene))
    assert "stopped, at cached states alone" in by_hand.draw_stop().caption
    (scene,) = scenes
    words = [s["words"] for s in scene.shapes if s["kind"] == "text"]
    bars = [s for s in scene.shapes if s["kind"] == "lines" and s.get("width") == 5]
    assert len(bars) == words.count("cached") == 3 and words.count("h") == 2


# --- four terms -----------------------------------------------------------------------------------


def case(t=3, k=5):
    hidden = np.arange(k) > np.arange(t)[:, None] + k - t
    terms = {name: rng.normal(size=(1, 2, t, k)) for name in "abcd"}
    p = rng.uniform(size=(1, 2, t, k)) * ~hidden
    return Inspection(probs=[p, p], terms=[terms, terms], mask=[hidden, hidden])


def test_four_terms_are_drawn_where_they_are_seen_without_their_row_means():
    seen = case()
    picture = draw_four_terms(seen, layer=1, head=2)
    assert picture.caption.startswith("Layer 1, head 2:")
    hidden, terms = seen.mask[0], {x: seen.terms[0][x][0, 1] for x in "abcd"}
    shown = [ax.images[0].get_array() for ax in picture.figure.axes[:6]]
    for image in shown:
        np.testing.assert_array_equal(np.ma.getmaskarray(image), hidden)
    np.testing.assert_array_equal(shown[2].data, terms["c"])
    np.testing.assert_array_equal(shown[3].data, terms["d"])
    for image in (shown[0], shown[1], shown[4]):
        np.testing.assert_allclose(image.mean(axis=1), 0, atol=1e-12)
    total = sum(terms.values())
    rows = np.where(hidden, 0, total).sum(1) / (~hidden).sum(1)
    np.testing.assert_allclose(shown[4].data, total - rows[:, None])


def test_a_head_that_is_not_there_is_an_error():
    for where in (dict(layer=3, head=1), dict(layer=1, head=0)):
        with pytest.raises(MinitxlError, match=r"layers 1 \.\.\. 2 and heads 1 \.\.\. 2"):
            draw_four_terms(case(), **where)


@pytest.mark.parametrize("pre_lnorm", [True, False])
def test_without_the_mask_outputs_change_with_the_future(pre_lnorm):
    model = make_model(get_backend("cpu", "float64"), pre_lnorm=pre_lnorm)
    tokens = rng.integers(0, V, 8)
    future = np.triu(np.ones((4, 4), bool), k=1)
    masked, free = (changes(model, tokens, masked=way) for way in (True, False))
    assert (masked[future] == 0).all() and (free[future] > 0).all()
    assert (masked[~future] > 0).all()
    # The garbage: of the next query, where a number of it stands beside the padded 0.
    garbage = changes(model, tokens, masked=False, queries_alone=True)
    assert np.argwhere(garbage * future).tolist() == [[0, 1], [1, 2]]
    caption = draw_leak(model, tokens).caption
    assert "masked 0 of 6, through rel-shift's garbage 2, through all 6" in caption
