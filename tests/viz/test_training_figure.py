"""The live curves of notebook 6: their numbers, and how they behave in a notebook."""

import base64

import numpy as np
import pytest

from minitxl.errors import MinitxlError
from minitxl.viz.lessons.learning import LiveCurves, draw_learning, trailing_mean
from minitxl.viz.theme import DPI

NAMES = ("with memory", "without memory")


def bits(start, steps=8, tgt_len=4):
    """Losses (n, T) that fall by a tenth a step; the first place costs 1 more."""
    falling = start - 0.1 * np.arange(steps)[:, None]
    return falling + (np.arange(tgt_len) == 0)


def test_trailing_mean_is_short_at_the_start_and_then_as_long_as_asked():
    losses = np.arange(1.0, 41.0)
    mean = trailing_mean(losses, mean_of=5)
    assert mean[0] == 1.0  # the first step shows what a new model costs
    assert mean[7] == losses[5:8].mean()  # 1 + 8 // 4 steps
    np.testing.assert_allclose(mean[-1], losses[-5:].mean())
    assert len(mean) == 40


def test_the_picture_says_what_is_in_the_curves():
    curves = dict(zip(NAMES, (bits(3.0), bits(5.0)), strict=True))
    picture = draw_learning(curves, steps=20, mean_of=2)
    # last two of eight steps: 3.0 - 0.65; the first place 1 more, all places a quarter more
    assert picture.caption.startswith("Step 8 of 20: ")
    assert "first character costs 3.35 with memory, 5.35 without memory" in picture.caption
    assert "All characters: 2.60 with memory, 4.60 without memory" in picture.caption
    left, right = picture.figure.axes
    assert {t.get_text() for t in left.texts} == {
        "with memory, all 2.60",
        "with memory, first 3.35",
        "without memory, all 4.60",
        "without memory, first 5.35",
    }
    np.testing.assert_allclose(right.lines[0].get_ydata(), [3.35, 2.35, 2.35, 2.35])
    assert left.get_xlim() == (0, 20)  # how far it still is


def test_names_of_lines_that_end_together_keep_apart():
    picture = draw_learning(dict.fromkeys(NAMES, bits(3.0)), steps=8)
    left = picture.figure.axes[0]
    heights = sorted(text.get_position()[1] for text in left.texts)
    low, high = left.get_ylim()
    assert min(np.diff(heights)) >= 0.07 * (high - low)


@pytest.mark.parametrize("curves", [{}, {"a": bits(3.0)[:0]}, dict.fromkeys("abc", bits(3.0))])
def test_what_cannot_be_drawn_is_an_error(curves):
    with pytest.raises(MinitxlError, match="one or two curves with steps"):
        draw_learning(curves, steps=8)


def test_outside_a_notebook_it_only_records(capsys):
    live = LiveCurves(NAMES, steps=3)
    with live:
        live.add(NAMES[0], np.ones((2, 4)))
        assert live.done == 0  # the other model has made no step
        live.add(NAMES[1], np.full((2, 4), 2.0))
    assert live.done == 1
    assert capsys.readouterr().out == ""
    assert "1.00 with memory, 2.00 without memory" in live.picture().caption


def test_an_interrupt_ends_the_loop_and_loses_nothing_and_other_errors_pass(capsys):
    live = LiveCurves(NAMES[:1], steps=3)
    with live:
        live.add(NAMES[0], np.ones((2, 4)))
        raise KeyboardInterrupt
    assert "after 1 of 3 steps" in capsys.readouterr().out
    with live:
        while live.done < live.steps:
            live.add(NAMES[0], np.ones((2, 4)))
    assert live.picture().caption.startswith("Step 3 of 3")
    with pytest.raises(ZeroDivisionError), live:
        _ = 1 / 0


LOOP = """
import numpy as np
from minitxl.viz.lessons import learning
learning.PAUSE = learning.PATIENCE = 0.0  # a picture for every step
live = learning.LiveCurves(["with memory"], steps=4)
with live:
    while live.done < live.steps:
        live.add("with memory", np.full((2, 4), 3.0))
        if live.done == 3:
            raise KeyboardInterrupt
"""


def test_in_a_notebook_one_output_is_redrawn_and_stored():
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    seen = []

    class Client(client.NotebookClient):
        def process_message(self, message, cell, index):
            if message["msg_type"] in ("display_data", "update_display_data"):
                data = message["content"]["data"]
                seen.extend([] if "text/html" in data else [data["text/plain"]])
            return super().process_message(message, cell, index)

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(LOOP)])
    Client(book, timeout=60).execute()
    outputs = book.cells[0].outputs  # one is a style: once a kernel, for a dark notebook
    picture, said = (o for o in outputs if "text/html" not in o.get("data", {}))
    assert len(outputs) == 3
    assert base64.b64decode(picture.data["image/png"]).startswith(b"\x89PNG")
    assert picture.metadata["image/png"]["width"] == round(10.4 * DPI)
    assert picture.data["text/plain"].startswith("Step 3 of 4")
    assert "Interrupted after 3 of 4" in said.text
    assert [text[:6] for text in seen] == ["The cu", "Step 1", "Step 2", "Step 3", "Step 3"]
