"""The bug hunt: five readers that are wrong each in its way, and told apart by what they show."""

import numpy as np
import pytest

from helpers.course_answers import ANSWERS
from minitxl import course, load_corpus, load_pretrained
from minitxl.course import EXERCISES, hunt
from minitxl.viz import draw_symptoms


@pytest.fixture(scope="module")
def model():
    return load_pretrained("war-and-peace", device="cpu").model


@pytest.fixture(scope="module")
def shown(model):
    before = model.params.flat.copy()
    found = hunt.symptoms(model, load_corpus("war-and-peace").test)
    np.testing.assert_array_equal(model.params.flat, before)
    assert list(found) == ["sound", *hunt.MODELS]
    names = {"sound": "sound"} | {bug: name for name, bug in hunt._ORDER.items()}
    return {bug: found[name] for bug, name in names.items()}


def test_each_bug_shows_where_the_notebook_says(shown):
    sound = shown["sound"]
    costs = {bug: s.by_segment - sound.by_segment for bug, s in shown.items()}
    assert np.abs(costs["keys"]).max() < 1e-5 and shown["keys"].share == 0.0 < sound.share
    assert abs(costs["zeros"][0]) > 0.1 and np.abs(costs["zeros"][-3:]).max() < 0.02
    assert shown["zeros"].seen.shape[1] > sound.seen.shape[1]
    for bug in ("mask", "positions"):  # sound without a memory
        assert abs(costs[bug][0]) < 1e-5 and costs[bug][1:].min() > 1
    late = slice(16, None)
    stranger = shown["stream"].by_place - sound.by_place
    assert stranger[:3].min() > 1 > stranger[late].mean() and stranger[late].max() < 1
    segment = slice(-hunt.TGT_LEN, None)
    assert shown["mask"].seen[:, segment].sum() == 0
    apart = shown["positions"].seen[:, : hunt.TGT_LEN].diagonal().mean()
    assert apart > 2 * sound.seen[:, : hunt.TGT_LEN].diagonal().mean()


def test_the_text_is_read_whole(model):
    """All but the stream read the same characters; it reads as many, and each once."""
    text = np.arange(hunt.ROWS * hunt.TGT_LEN * hunt.SEGMENTS + 1)
    for kind in (hunt.Sound, *hunt.BUGS.values()):
        batches = [kind(model).batch(text, n) for n in range(hunt.SEGMENTS)]
        tokens = np.concatenate([x for x, _ in batches], axis=None)
        assert np.array_equal(np.sort(tokens), text[:-1])
        assert all(np.array_equal(x + 1, y) for x, y in batches)


def test_the_picture_names_all(shown):
    parts = ("by_segment", "by_place", "seen", "share")
    picture = draw_symptoms(*({n: getattr(x, p) for n, x in shown.items()} for p in parts))
    titles = [ax.get_title("left") for ax in picture.figure.axes]
    assert titles[2:] == list(shown)
    assert "0% of" in picture.figure.axes[2 + list(shown).index("keys")].get_xlabel()


@pytest.mark.parametrize(
    ("answer", "open_"),
    [
        (ANSWERS["bug-hunt"], ""),
        (lambda bugs: [bugs.index("zeros")] * 5, "B, C, D, E"),
        (lambda bugs: None, "A, B, C, D, E"),
        (lambda bugs: 1 / 0, "A, B, C, D, E"),
        (lambda bugs: [99], "A, B, C, D, E"),
    ],
)
def test_the_code_is_shown_of_those_that_are_found(answer, open_, capsys):
    exec("reveal()", {"reveal": course.hunt.reveal, "culprits": answer})
    out = capsys.readouterr().out
    for name, bug in hunt._ORDER.items():
        code = f"Model {name}\n\nclass {hunt.BUGS[bug].__name__}(Sound):"
        assert (code in out) != (name in open_.split(", "))
    assert ("not found yet: " + open_ in out) == bool(open_)


def test_every_wrong_bug_gets_a_clue_and_no_answer():
    exercise = EXERCISES["bug-hunt"]
    for at, name in enumerate(hunt.MODELS):
        for wrong in set(hunt.BUGS) - {hunt._ORDER[name]}:

            def answer(bugs, at=at, wrong=wrong):
                found = ANSWERS["bug-hunt"](bugs)
                found[at] = bugs.index(wrong)
                return found

            verdict = exercise.judge(answer, np.random.default_rng(0))
            assert verdict.score == pytest.approx(0.8)
            assert verdict.message.startswith(f"{name}: not {wrong!r}: ")
            assert hunt._ORDER[name] not in verdict.message.split("; right")[0]
