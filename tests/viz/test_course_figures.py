"""The pictures of notebooks 1, 2 and 3 say what is in their numbers, and refuse what cannot be."""

import numpy as np
import pytest

from minitxl.errors import MinitxlError
from minitxl.experiments import stored
from minitxl.viz.lessons import by_hand, fragmentation
from minitxl.viz.lessons.four_terms import draw_four_terms, draw_leak

rng = np.random.default_rng(0)


def texts(ax):
    return [text.get_text() for text in ax.texts]


# --- fragmentation --------------------------------------------------------------------------------


def test_surprise_shades_each_character_by_its_bits():
    without, kept = rng.uniform(0, 8, (2, 3, 4))
    picture = fragmentation.draw_surprise(list("abc defg\nhij"), without, kept)
    for ax, bits in zip(picture.figure.axes, (without, kept), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), bits)
        assert texts(ax) == list("abc·defg↵hij")
        assert f"{bits.mean():.2f} bits per character" in ax.get_title(loc="left")
    first = without[1:, 0].mean(), kept[1:, 0].mean()
    assert f"costs {first[0]:.2f} bits" in picture.caption
    assert f"{first[1]:.2f} with it" in picture.caption


def test_surprise_of_another_length_is_an_error():
    with pytest.raises(MinitxlError, match=r"\(3, 4\).*\(3, 5\).*12 symbols"):
        fragmentation.draw_surprise(list("abcdefghijkl"), np.ones((3, 4)), np.ones((3, 5)))


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


def test_segment_lengths_are_binned_by_doubling_and_averaged():
    without = {t: rng.uniform(1, 3, (6, t)) for t in (4, 8)}
    picture = fragmentation.draw_segment_lengths(without, {4: 1.5, 8: 1.4})
    left, right = picture.figure.axes
    for line, bits in zip(left.lines, without.values(), strict=True):
        mean = bits.mean(axis=0)
        np.testing.assert_allclose(line.get_ydata()[:3], [mean[0], mean[1], mean[2:4].mean()])
    np.testing.assert_allclose(right.lines[1].get_ydata(), [1.5, 1.4])
    assert f"saves {without[4].mean() - 1.5:.2f} bits" in picture.caption
    assert f"{without[8].mean() - 1.4:.2f} at T = 8" in picture.caption


def test_sliding_window_gains_and_prices():
    picture = fragmentation.draw_sliding([(8, 1.0, 2.0), (4, 2.0, 1.75), (1, 8.0, 1.5)], (1.0, 1.4))
    assert "reads every character 8 times" in picture.caption
    assert "gains 0.50 bits" in picture.caption and "gets 0.60" in picture.caption
    assert texts(picture.figure.axes[0])[:3] == ["stride 8", "stride 4", "stride 1"]


# --- by hand --------------------------------------------------------------------------------------


def test_ledger_writes_every_number_and_hatches_what_is_stopped():
    forward = [("p", "", [0.25, 0.75])]
    backward = [("dk", "", [-1.5, 0.0]), ("dh", "", [None, 2.0])]
    picture = by_hand.draw_ledger(forward, backward, n_mem=1)
    (ax,) = picture.figure.axes
    for shown in ("0.250", "0.750", "\u22121.500", "0", "2.000", "cached 1", "segment 1"):
        assert shown in texts(ax)
    assert sum(bool(patch.get_hatch()) for patch in ax.patches) == 1
    with pytest.raises(MinitxlError, match="2 values"):
        by_hand.draw_ledger(forward, [("dk", "", [1.0])], n_mem=1)


def test_checks_count_the_wrong_versions_that_pass():
    rows = [("right", 1e-13, 0.0), ("blind", 1e-12, 0.1), ("seen", 0.5, 0.5)]
    picture = by_hand.draw_checks(rows, passes=1e-6)
    assert picture.caption.startswith("An upstream of ones lets 1 of 2 wrong versions pass")
    drawn = [line.get_xdata()[0] for line in picture.figure.axes[0].lines[:6]]
    np.testing.assert_allclose(drawn, [1e-13, 1e-17, 1e-12, 0.1, 0.5, 0.5])  # 0 has a place too


def test_memory_rows_are_shares():
    shares = {"dW_k": np.array([0.25, 0.5]), "dW_v": np.array([0.75, 0.4])}
    picture = by_hand.draw_memory_rows(shares)
    (ax,) = picture.figure.axes
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], [25, 50, 75, 40])
    assert picture.caption.startswith("25% to 75%")


# --- four terms -----------------------------------------------------------------------------------


def case(t=3, k=5):
    hidden = np.arange(k) > np.arange(t)[:, None] + k - t
    terms = {name: rng.normal(size=(t, k)) for name in "abcd"}
    p = rng.uniform(size=(t, k)) * ~hidden
    return terms, p, hidden


def test_four_terms_are_drawn_where_they_are_seen_without_their_row_means():
    terms, p, hidden = case()
    figure = draw_four_terms(terms, p, hidden, "layer 1, head 2").figure
    shown = [ax.images[0].get_array() for ax in figure.axes[:6]]
    for image in shown:
        np.testing.assert_array_equal(np.ma.getmaskarray(image), hidden)
    np.testing.assert_array_equal(shown[2].data, terms["c"])
    np.testing.assert_array_equal(shown[3].data, terms["d"])
    for image in (shown[0], shown[1], shown[4]):
        np.testing.assert_allclose(image.mean(axis=1), 0, atol=1e-12)
    total = sum(terms.values())
    rows = np.where(hidden, 0, total).sum(1) / (~hidden).sum(1)
    np.testing.assert_allclose(shown[4].data, total - rows[:, None])


def test_four_terms_of_other_shapes_are_an_error():
    terms, p, hidden = case()
    for bad in ({**terms, "d": terms["d"][:, 1:]}, {x: terms[x] for x in "abc"}):
        with pytest.raises(MinitxlError, match=r"\(3, 5\)"):
            draw_four_terms(bad, p, hidden, "head")


def test_leak_counts_links_into_the_future():
    masked = np.tril(np.ones((4, 4)))
    unmasked = masked.copy()
    unmasked[0, 2] = unmasked[1, 3] = 1e-3
    caption = draw_leak(masked, unmasked).caption
    assert "0 of 6 links forward with it, 2 without" in caption
