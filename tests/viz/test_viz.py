"""Pictures say what the arrays say: exact zeros, edges, shares; and they cost little to redraw."""

import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from helpers.colours import DEFICIENCIES, contrast, lab, luminance
from minitxl import Config, Inspection, MinitxlError, TransformerXL, cli, viz
from minitxl.data import CharVocab
from minitxl.experiments import figures
from minitxl.experiments.lead_figure import draw_links
from minitxl.model.through_memory import hidden_gradients
from minitxl.viz import theme
from minitxl.viz.attention import distance_bins
from minitxl.viz.lessons import idea
from minitxl.viz.passage import Passage
from minitxl.viz.reading import LOSSES

T, SEGMENTS = 8, 4
SYMBOLS = "abcdefghijklmnop \n"


@pytest.fixture(scope="module")
def vocab():
    return CharVocab("".join(sorted(SYMBOLS)))


@pytest.fixture(scope="module")
def model(vocab):
    config = Config(
        n_token=vocab.n_token,
        n_layer=3,
        d_model=12,
        n_head=2,
        d_head=4,
        d_inner=16,
        tgt_len=T,
        mem_len=T,
        init_std=0.3,
    )
    return TransformerXL(config, device="cpu", seed=1)


@pytest.fixture(scope="module")
def tokens(vocab):
    return np.random.default_rng(0).integers(0, vocab.n_token, SEGMENTS * T + 1)


def some_probs(t, m, seed=0):
    """Random attention (T, K): rows sum to 1, the future has none."""
    scores = np.random.default_rng(seed).normal(size=(t, m + t)) * 2
    scores[np.arange(m + t)[None, :] > np.arange(t)[:, None] + m] = -np.inf
    p = np.exp(scores)
    return p / p.sum(axis=1, keepdims=True)


# --- numbers behind the pictures ----------------------------------------------------------------


@pytest.mark.parametrize("m", [0, 3, 11])
def test_weight_by_distance_is_the_double_loop(m):
    p = some_probs(5, m)
    found = [[] for _ in range(m + 5)]
    for i in range(5):
        for j in range(i + m + 1):
            found[i + m - j].append(p[i, j])
    want = [np.mean(f) for f in found]
    np.testing.assert_allclose(viz.weight_by_distance(p), want, rtol=1e-12)


def test_nearest_first_starts_at_the_query_itself():
    p = some_probs(5, 3)
    np.testing.assert_array_equal(viz.nearest_first(p, 2), p[2, :6][::-1])


def test_span_holds_the_share():
    p = np.zeros((2, 6))
    p[1, [5, 4, 0]] = 0.5, 0.3, 0.2  # distances 0, 1 and 5
    assert viz.span(p, 1, 0.5) == 0
    assert viz.span(p, 1, 0.75) == 1
    assert viz.span(p, 1, 0.9) == 5


@pytest.mark.parametrize("n", [1, 2, 3, 10, 256])
def test_distance_bins_cover_every_distance_once(n):
    edges = distance_bins(n)
    assert edges[0] == 0 and edges[-1] == n and (np.diff(edges) > 0).all()


def test_gradient_norm_is_zero_only_where_every_entry_is():
    tiny = np.zeros((2, 3, 4), dtype=np.float32)
    tiny[1, 2, 3] = 1e-44  # a subnormal number; its square is 0 in float32
    norms = viz.gradient_norms([[tiny, tiny]])
    assert norms.shape == (2, 3)
    assert (norms[:, 2] > 0).all() and (norms[:, :2] == 0).all()


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (1e-9, "< 0.1 %"),
        (0.0012, "0.1 %"),
        (0.0432, "4.3 %"),
        (0.0996, "10 %"),
        (0.431, "43 %"),
        (0.994, "99 %"),
        (0.9968, "99.7 %"),
        (0.99999, "> 99.9 %"),
        (1, "100 %"),
    ],
)
def test_percent(share, text):
    assert theme.percent(share) == text


def test_idea_reaches_one_memory_per_layer():
    first = 2 * idea.SEGMENT
    keys = {key for _, _, key in idea.reached(first, idea.SEGMENT)}
    assert min(keys) == first - idea.LAYERS * idea.SEGMENT
    assert {key for _, _, key in idea.reached(first, 0)} == {first}


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mem_len", [0, 3, T, 3 * T, 10 * T])
def test_reading_is_a_plain_loop_over_segments(model, tokens, mem_len):
    reading = viz.Reading(model, tokens, tgt_len=T)
    other, mems = model.with_options(mem_len=mem_len), None
    for start in range(0, SEGMENTS * T, T):
        seen = Inspection()
        part = tokens[start : start + T][None, :]
        _, mems = other.predict(part, mems, inspect=seen)
    for got, want in zip(reading.attention(mem_len), seen.probs, strict=True):
        assert got.shape == (2, T, min(mem_len, 3 * T) + T)
        # The reading looks at the last segment alone; those before went through the faster twins.
        np.testing.assert_allclose(got, want[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(got.sum(axis=2), 1.0, rtol=1e-5)


def test_reading_computes_once(model, tokens):
    reading = viz.Reading(model, tokens, tgt_len=T)
    assert reading.attention(T) is reading.attention(T)
    first = reading.gradient(T, through_memory=True)
    assert reading.gradient(T, through_memory=True) is first


def test_gradient_stops_at_the_edge_and_only_if_stopped(model, tokens):
    reading = viz.Reading(model, tokens, tgt_len=T)
    left = (SEGMENTS - 1) * T
    stopped = reading.gradient(T, through_memory=False)
    full = reading.gradient(T, through_memory=True)
    assert stopped.shape == full.shape == (4, SEGMENTS * T)
    assert np.count_nonzero(stopped[:, :left]) == 0
    assert (stopped[:, left:] > 0).all()
    # the staircase: h_n gets a gradient N - n memories back, the top state none
    for n in range(4):
        reached = np.flatnonzero(full[n])
        assert left - reached.min() == (3 - n) * T
    by_hand = hidden_gradients(model, reading.segments, through_memory=True)
    by_hand = np.linalg.norm(by_hand[0][0][0].astype(np.float64), axis=1)
    np.testing.assert_allclose(full[0, :T], by_hand, rtol=1e-4)  # of a float32 model


def test_what_is_too_small_for_float32_is_not_exactly_0(vocab, tokens):
    small = Config(n_token=vocab.n_token, n_layer=3, d_model=12, n_head=2, d_head=4, d_inner=16,
                   tgt_len=T, mem_len=T, init_std=1e-9, pre_lnorm=True)  # fmt: skip
    model = TransformerXL(small, device="cpu", seed=1)
    reading = viz.Reading(model, tokens, tgt_len=T)
    full = reading.gradient(T, through_memory=True)
    assert np.flatnonzero(full[0]).min() == 0 and 0 < full[0, 0] < 1e-45
    in_float32 = hidden_gradients(model, reading.segments, through_memory=True)
    assert np.count_nonzero(in_float32[0][0]) == 0


def test_loss_on_one_character_reaches_no_later_one(model, tokens):
    reading = viz.Reading(model, tokens, tgt_len=T)
    first = reading.gradient(T, through_memory=False, loss=LOSSES[1])
    assert np.flatnonzero(first[0]).tolist() == [(SEGMENTS - 1) * T]
    with pytest.raises(MinitxlError, match="choose one of"):
        reading.gradient(T, through_memory=False, loss="nothing")


def test_reading_wants_two_segments(model, tokens):
    with pytest.raises(MinitxlError, match="at least 2 \\* 8 \\+ 1 tokens"):
        viz.Reading(model, tokens[: 2 * T], tgt_len=T)


def test_memory_share():
    p = some_probs(5, 7)
    share = viz.memory_share([p[None], p[None]])
    np.testing.assert_allclose(share, p[:, :7].sum(axis=1).mean(), rtol=1e-12)
    assert share.shape == (2, 1)


# --- drawing ------------------------------------------------------------------------------------


def text_of(n):
    return (SYMBOLS * n)[:n]


@pytest.mark.parametrize("m", [0, 3, T, 3 * T])
def test_attention_figure_shows_the_weights(m):
    figure = viz.AttentionFigure(text_of(SEGMENTS * T), tgt_len=T)
    p = some_probs(T, m)
    figure.update(p, 5, "title")
    shares = [label.get_text() for label in figure.share_texts]
    assert shares[-1] == theme.percent(p[5, m:].sum())
    assert shares.count("not in memory") == 3 - -(-m // T)
    pixels = np.asarray(figure.image.get_array())
    cached = (SEGMENTS - 1) * T
    np.testing.assert_allclose(pixels[0, cached + 1], to_rgb(theme.HIDDEN))  # the future
    assert (pixels[:, : cached - m] == to_rgb(theme.HIDDEN)).all()  # not in memory
    depth = theme.strength(p[5, m])
    want = theme.shade(np.array(to_rgb(theme.segment_colour(0))), depth)
    np.testing.assert_allclose(pixels[5, cached], want)
    if m:
        assert theme.percent(p[5, :m].sum()) in figure.caption
    assert figure.png().startswith(b"\x89PNG")


def test_attention_figure_refuses_another_shape():
    figure = viz.AttentionFigure(text_of(SEGMENTS * T), tgt_len=T)
    with pytest.raises(MinitxlError, match="T=8 queries"):
        figure.update(some_probs(T + 1, 0), 0, "title")
    with pytest.raises(MinitxlError, match="at most 32 keys"):
        figure.update(some_probs(T, 3 * T + 1), 0, "title")


def test_redrawing_leaves_nothing_behind():
    figure = viz.AttentionFigure(text_of(SEGMENTS * T), tgt_len=T)
    a, b = some_probs(T, T, seed=1), some_probs(T, 3 * T, seed=2)
    figure.update(a, 2, "one")
    first = figure.png()
    figure.update(b, 7, "two")
    assert figure.png() != first
    figure.picture().png()  # a stored picture in between changes nothing
    figure.update(a, 2, "one")
    assert figure.png() == first


def test_passage_wraps_and_marks_the_edge():
    axes = theme.new_figure(4, 4).add_subplot()
    passage = Passage(axes, text_of(30), tgt_len=10, columns=4)
    assert passage.centre[:10, 0].tolist() == [0.5, 1.5, 2.5, 3.5] * 2 + [0.5, 1.5]
    assert [age for age, _, _ in passage.rows] == [2, 1, 0]
    assert passage.rows[1][2] < passage.edge < passage.rows[2][1]
    with pytest.raises(MinitxlError, match="whole segments"):
        Passage(axes, text_of(31), tgt_len=10)


@pytest.mark.parametrize("symbol", ["a", " ", "\n", "\t", "\x00", "é", "\ufffd", "中"])
def test_every_symbol_can_be_drawn(symbol):
    assert len(theme.printable(symbol)) == 1
    figure = viz.AttentionFigure(symbol * 4, tgt_len=2)
    figure.update(some_probs(2, 2), 1, "title")
    assert figure.png()


def test_pictures_are_byte_stable(tmp_path):
    weights = some_probs(T, 3 * T)[4]
    files = []
    for name in ("a", "b"):
        picture = draw_links(
            text_of(SEGMENTS * T), weights, tgt_len=T, query=4, where="layer 1", target="a"
        )
        files.append([picture.save(tmp_path / f"{name}{s}").read_bytes() for s in (".png", ".svg")])
        files[-1].append(viz.draw_idea().png())
    assert files[0] == files[1]
    assert b"<dc:date>" not in files[0][1] and b"matplotlib" not in files[0][0]
    with pytest.raises(MinitxlError, match="one each"):
        draw_links(
            text_of(SEGMENTS * T), weights[1:], tgt_len=T, query=4, where="layer 1", target="a"
        )


FIGURES = Path(__file__).parents[2] / "figures"


def test_every_figure_is_committed_and_nothing_else():
    stored = {path.stem for path in FIGURES.iterdir() if path.suffix in (".png", ".svg")}
    recorded = {"explorer", "explorer_dark"}  # by figures/record_explorer.py, in a browser
    assert stored == recorded | set(figures.FIGURES)


SLOW = {"attention_over_memory", "training_small"}  # search the book, run the compressors


@pytest.mark.parametrize("name", sorted(set(figures.FIGURES) - SLOW))
def test_figures_are_drawn_from_stored_results(name, tmp_path, capsys):
    drawn = []
    for folder in ("once", "again"):  # (the stored ones were drawn by another matplotlib, perhaps)
        (tmp_path / folder).mkdir()
        assert cli.main(["figures", name, "--out", str(tmp_path / folder)]) == 0
        drawn.append([Path(line) for line in capsys.readouterr().out.splitlines()])
    assert [f.read_bytes() for f in drawn[0]] == [f.read_bytes() for f in drawn[1]]
    assert {f.name for f in drawn[0]} == {f.name for f in FIGURES.glob(f"{name}.*")}


def test_figures_by_wrong_names_and_places(tmp_path, capsys):
    assert cli.main(["figures", "nothing"]) == 2
    assert cli.main(["figures", "--out", str(tmp_path / "none")]) == 2
    assert cli.main(["figures", "reach", "--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and "'nothing' is unknown" in errors[0] and "folder" in errors[1]


# --- widgets ------------------------------------------------------------------------------------


def test_without_ipywidgets_the_message_says_so(model, tokens, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(MinitxlError, match="pip install ipywidgets"):
        viz.gradient_explorer(model, tokens, tgt_len=T)


# --- the look -----------------------------------------------------------------------------------


def test_text_is_legible_on_the_paper():
    assert contrast(theme.INK, theme.PAPER) > 12
    assert contrast(theme.MUTED, theme.PAPER) > 4.5
    for colour in theme.SEGMENT_COLOURS[:5]:
        assert contrast(colour, theme.PAPER) > 3.0  # bold labels, bars


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_segments_differ_for_every_kind_of_eye(kind):
    seen = [
        lab(np.asarray(DEFICIENCIES[kind]) @ luminance(colour)[1])
        for colour in theme.SEGMENT_COLOURS[:5]
    ]
    assert min(np.linalg.norm(a - b) for a, b in pairwise(seen)) > 20
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen[:4], 2)) > 14


def test_no_backend_is_switched():
    """Importing and drawing leave pyplot, and with it the user's backend, alone."""
    code = (
        "import sys; from minitxl import viz; viz.draw_idea().png();"
        "assert 'matplotlib.pyplot' not in sys.modules;"
        "assert 'ipywidgets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
