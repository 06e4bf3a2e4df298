"""Pictures of the experiments: their words follow from the results, and stay inside."""

import numpy as np
import pytest

from minitxl.errors import MinitxlError
from minitxl.experiments import draw, stored
from minitxl.experiments.ablation import difference
from minitxl.experiments.coherence import known
from minitxl.experiments.context_figure import middle
from minitxl.experiments.memory_budget import cell_of, recall_of
from minitxl.experiments.stop_gradient import median_updates, of_way, stalled


def context(r) -> list:
    of = {(a["arm"], x["reading"]): x for a in r["arms"] for x in a["readings"]}
    keys = (("xl-112", "memory"), ("xl-112", "longer memory"), ("vanilla-16", "sliding"))
    far, farther, vanilla = (f"{middle(of[key]):.0f}" for key in keys)
    return [
        f"from {far} characters back",
        f"from {farther}; a window of 16 from {vanilla}",
        "2 of 5",
    ]


def ablation(r) -> list:
    chunks, window = (
        difference(r, f"XL: no recurrence, {how}")["mean"] for how in ("in chunks", "by a window")
    )
    return [f"{chunks:.3f} bits against fixed chunks, {window:.3f} against a window"]


def stop_gradient(r) -> list:
    stopped, full = (of_way(r, way) for way in ("stopped", "full"))
    n, (low, high) = stalled(stopped)
    return [
        f"{median_updates(stopped):g} updates in the median if stopped, "
        f"{median_updates(full):g} if let through",
        f"{n} of {len(stopped['learned_after'])} not in {r['settings']['steps']}",
        f"[{low:.0%}, {high:.0%}]",
    ]


def memory_budget(r) -> list:
    few, many = (
        [np.mean([*recall_of(r, cell_of(r, arm), (97, 513), n).values()]) for arm in arms]
        for n, arms in (((1, 16), ("delta+", "mean")), ((64, 128), ("delta+", "mean")))
    )
    return [
        f"a matrix answers {few[0]:.0%} of up to 16 pairs, means {few[1]:.0%}",
        f"{many[0]:.0%} and {many[1]:.0%}",
        f"{r['settings']['seeds']} seeds",
    ]


def memory_ladder(r) -> list:
    twice = [
        p["minus_trained"]["mean"]
        for m in r["models"]
        for p in m["points"]
        if (p["option"], p["mem_len"]) == ("plain", 2 * m["tgt_len"])
    ]
    return [", ".join(f"{x:+.3f}" for x in twice)]


def coherence(r) -> list:
    by = {w["writer"]: np.mean(known(w, "quotations")) for w in r["writers"]}
    return [f"{by['memory 0']:.0%} of the paragraphs", f"{by['memory 512']:.0%} with 512"]


@pytest.mark.parametrize(
    "said",
    [context, ablation, stop_gradient, memory_budget, memory_ladder, coherence],
    ids=lambda f: f.__name__,
)
def test_pictures_say_what_the_results_say_and_stay_inside(said):
    results = stored(said.__name__)
    picture = draw(said.__name__)
    assert all(words in picture.caption for words in said(results)), picture.caption
    stays_inside(picture.figure)


def stays_inside(figure):
    figure.canvas.draw()
    texts = [t for ax in figure.axes for t in (*ax.texts, ax.xaxis.label, ax.yaxis.label, ax.title)]
    texts += [t for ax in figure.axes for t in ax.get_yticklabels()]
    for text in (*texts, *figure.texts):
        box = text.get_window_extent()
        inside = box.x0 >= -1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1
        assert inside and box.x1 <= figure.bbox.x1, text.get_text()


QUESTIONS = {
    "XL: no recurrence, in chunks": "without memory",
    "with memory: naive absolute, not sound": "naive",
}


@pytest.mark.parametrize(
    ("name", "part", "options", "said"),
    [
        ("ablation", "chosen", {"questions": QUESTIONS}, ["0.142 bits against fixed chunks"]),
        ("attention_spans", "terms", {}, ["c is missed least", "content only (a + c) costs most"]),
        ("context", "half_distances", {}, ["2 of 5 with M = 112", "hollow"]),
        ("memory_budget", "maps", {}, ["it leads", "with every seed"]),
        ("stop_gradient", "learning", {}, ["2 of 24 not in 600"]),
    ],
)
def test_a_part_says_what_the_whole_says_and_stays_inside(name, part, options, said):
    picture = draw(name, part=part, **options)
    assert all(words in picture.caption for words in said), picture.caption
    stays_inside(picture.figure)
    width, height = picture.figure.get_size_inches()
    assert height < draw(name).figure.get_size_inches()[1] and width == 10.4


def test_chosen_differences_are_those_of_the_results():
    axes = draw("ablation", part="chosen", questions=QUESTIONS).figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(QUESTIONS.values())
    want = difference(stored("ablation"), "XL: no recurrence, in chunks")
    low, high = axes.lines[0].get_xdata()
    assert [low, high] == want["interval"]
    assert "+0.67" in axes.texts[0].get_text()  # beyond the axis: written out


def test_the_maps_key_has_what_the_maps_show():
    axes = draw("memory_budget", part="maps").figure.axes
    shown = {text.get_text() for ax in axes[:3] for text in ax.texts}
    key = [text.get_text() for text in axes[3].texts]
    assert {letter for letter in key[::2]} == shown
    assert not any("compressive" in words for words in key)


def test_a_part_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(MinitxlError, match=r"'context' has no part 'maps'; .*'half_distances'"):
        draw("context", part="maps")
