"""The pictures of notebooks 4, 5 and 8 say what is in their numbers."""

import numpy as np
import pytest

from minitxl.errors import MinitxlError
from minitxl.model.attention import attention_mask
from minitxl.viz.lessons.beyond import draw_reading_cost
from minitxl.viz.lessons.influence import draw_changes, draw_learned_reach
from minitxl.viz.lessons.memory_rows import draw_masks, draw_recurrence, draw_stale_states
from minitxl.viz.widgets.scene import Scene


def mask(max_keys):
    return attention_mask(n_query=3, n_mem=4, max_keys=max_keys, device="cpu", xp=np)


def texts(picture):
    return [text.get_text() for ax in picture.figure.axes for text in ax.texts]


def test_recurrence_counts_what_is_kept(monkeypatch):
    scenes = []
    figure = Scene.figure
    monkeypatch.setattr(Scene, "figure", lambda scene: scenes.append(scene) or figure(scene))
    draw_recurrence(tgt_len=4, mem_len=6, n_segments=4)
    (scene,) = scenes
    words = [s["words"] for s in scene.shapes if s["kind"] == "text"]
    assert [x for x in words if x.startswith("M = ")] == ["M = 0", "M = 4", "M = 6", "M = 6"]
    filled = [s for s in scene.shapes if s["kind"] == "boxes" and s.get("fill")]
    assert len(filled) == 4 + 8 + 10 + 10  # each segment, and its memory


def test_masks_show_how_many_keys_each_query_sees():
    shown = texts(draw_masks({"plain": mask(None), "limited": mask(4)}, n_mem=4))
    assert [x for x in shown if x.isdigit()] == ["5", "6", "7", "4", "4", "4"]


def test_masks_of_another_memory_are_an_error():
    with pytest.raises(MinitxlError, match="n_mem=3"):
        draw_masks({"plain": mask(None)}, n_mem=3)


def test_stale_states_name_the_largest_difference():
    caption = draw_stale_states([1, 10], [[0.1, 0.25], [0.01, 0.02]], [[2.5, 2.0], [1, 1]]).caption
    assert "25% of the norm (after update 1)" in caption and "0.5000 nats" in caption


def test_changes_tell_the_reach_that_is_in_the_data():
    changes = np.zeros((2, 10))
    changes[:, 3:] = 0.5  # 5 tokens before the segment's 2
    assert "up to 5 before" in draw_changes(changes, n_layer=2, tgt_len=2, mem_len=2).caption


def test_learned_reach_tells_from_where_on_little_changes():
    heads = [{"layer": 1, "span": 7}, {"layer": 2, "span": 9}]
    shape = dict(n_layer=2, tgt_len=8, mem_len=8)
    picture = draw_learned_reach(heads, [1, 4, 12, 16, 17], [0.1, 0.01, 1e-4, 1e-6, 0.0], **shape)
    assert "reach 16 characters back; from 12 on" in picture.caption
    assert {"exactly 0", "one head: 15 at most", "R = 16"} <= set(texts(picture))
    starts = [ax.patches[0].get_x() for ax in picture.figure.axes]
    assert starts == [15.5, 16.5]  # hatched: beyond M + T - 1 of one head, beyond R of all
    picture = draw_learned_reach(heads, [1, 4, 12, 17], [0.1, 0.01, 1e-4, 1e-9], **shape)
    assert "exactly 0" not in texts(picture)


def test_costs():
    flops = {"attention": [1e6, 3e6], "all else": [2e6, 2e6]}
    caption = draw_reading_cost([0, 2000], [0.5, 1.5], flops, segment_len=16).caption
    assert "0.50 ms + 0.50 ms per 1,000" in caption


def test_the_note_of_the_learned_reach_stays_inside():
    """With the shipped model's sizes, whose numbers are the longest."""
    heads = [{"layer": n % 6 + 1, "head": n // 6 + 1, "span": 120 + n} for n in range(30)]
    influence = [1e-1, 1e-2, 1e-4, 1e-6, 0.0]
    shape = dict(n_layer=6, tgt_len=128, mem_len=128)
    figure = draw_learned_reach(heads, [1, 100, 300, 768, 769], influence, **shape).figure
    figure.canvas.draw()
    for text in figure.texts:
        assert text.get_window_extent().x1 <= figure.bbox.x1, text.get_text()
    assert "179, if spread evenly" in figure.texts[-1].get_text()
