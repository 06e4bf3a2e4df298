"""`course.check`: what it prints while one learns, and whether an answer calls the library."""

import sys
import warnings

import numpy as np
import pytest

from helpers.course_answers import ANSWERS
from minitxl import MinitxlError, course
from minitxl.course import EXERCISES, running
from minitxl.course.notebooks import check_sources
from minitxl.data.stream import Stream
from minitxl.model import ops


def function_of(source, name):
    names = {}
    exec(source, names)
    return names[name]


def right(dp, p):
    return ANSWERS["softmax-backward"](dp, p)


# --- answers that are the library's -------------------------------------------------------------


def helper(dp, p):
    return ops.softmax_backward(dp, ops.SoftmaxCache(p), xp=np)


def by_helper(dp, p):
    return helper(dp, p)


def by_import(dp, p):
    from minitxl.model import ops as o

    return o.softmax_backward(dp, o.SoftmaxCache(p), xp=np)


def by_class(text, batch_size, tgt_len, n):
    return Stream(text, batch_size=batch_size, tgt_len=tgt_len).next()[:2]


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (helper, "minitxl.model.ops.SoftmaxCache"),
        (by_helper, "minitxl.model.ops.SoftmaxCache"),
        (by_import, "minitxl.model"),
        (by_class, "minitxl.data.stream.Stream"),
        (ops.softmax_backward, "minitxl.model.ops.softmax_backward"),
        (lambda dp, p: [helper(x, y) for x, y in zip(dp, p, strict=True)], "minitxl.model.ops"),
        (right, None),
        (np.exp, None),
    ],
)
def test_a_use_of_the_library_is_seen(answer, name):
    found = running.library_use(answer)
    assert found is None if name is None else found.startswith(name)


# --- check: while learning ------------------------------------------------------------------------


def test_check_prints_one_line(capsys):
    for answer, line in [
        (right, "✓ right, 3 of 3 points | softmax_backward"),
        (lambda dp, p: p * dp, "✗ wrong, 0 of 3 points | softmax_backward: the sum is missing"),
        (None, "… not solved yet, 0 of 3 points | softmax_backward: softmax_backward is None"),
        (1, "✗ wrong, 0 of 3 points | softmax_backward: softmax_backward is of type int"),
    ]:
        assert course.check("softmax-backward", answer) is None
        out = capsys.readouterr().out
        assert out.startswith(line) and out.count("\n") == 1
    one = lambda *a: (*ANSWERS["attention-backward"](*a)[:2], a[4])  # noqa: E731
    assert course.check("attention-backward", one) is None
    assert capsys.readouterr().out.startswith("◐ partly right, 2.67 of 4 points | attention")


def test_check_finds_the_function_by_its_name(capsys):
    """A cell that was deleted, or not run, is an exercise not solved: no error."""
    cell = check_sources(EXERCISES["softmax-backward"])[0]
    exec(cell, {})
    assert capsys.readouterr().out == (
        "… not solved yet, 0 of 3 points | softmax_backward: it is not there: run its cell, "
        "`def softmax_backward(dp, p):`\n"
    )
    exec(cell, {"softmax_backward": None, "course": None})  # `course` was overwritten
    assert "not solved yet, 0 of 3 points | softmax_backward: softmax_backward is None" in (
        capsys.readouterr().out
    )
    exec(cell, {"softmax_backward": right})
    assert capsys.readouterr().out == "✓ right, 3 of 3 points | softmax_backward\n"


def test_check_lets_the_model_solution_pass_while_learning(capsys):
    e = EXERCISES["rel-shift"]
    course.check("rel-shift", function_of(e.solution, e.name))
    assert capsys.readouterr().out.startswith("✓ right, 2 of 2 points | rel_shift: this is the lib")
    # Nothing else that calls the library.
    course.check("rel-shift", lambda x: ops.rel_shift_forward(x, xp=np)[0])
    assert "it calls minitxl.model.ops.rel_shift_forward: write" in capsys.readouterr().out


def test_check_is_the_same_at_every_try(capsys):
    for _ in range(2):
        course.check("softmax-backward", lambda dp, p: dp + p)
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_an_unknown_exercise():
    with pytest.raises(MinitxlError, match="there is no exercise 'softmax'; there are context"):
        course.check("softmax", right)


def test_prints_are_shown_and_warnings_are_not(capsys):
    def chatty(dp, p):
        print("shape", p.shape)
        print("aside", file=sys.stderr)
        warnings.warn("careful", stacklevel=1)
        np.log(np.zeros(1))
        return right(dp, p)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        course.check("softmax-backward", chatty)
    out, err = capsys.readouterr()
    assert "shape (" in out and "aside" in out and "✓ right" in out and not err


def test_nbgrader_gives_no_points_by_itself(monkeypatch, capsys):
    """Its `validate` is told what is wrong; its `autograde`, without our judge, gives nothing."""
    monkeypatch.setenv("NBGRADER_EXECUTION", "validate")
    assert course.check("softmax-backward", right) is None
    with pytest.raises(AssertionError, match=r"✗ wrong, 0 of 3 points .*the sum is missing"):
        course.check("softmax-backward", lambda dp, p: p * dp)
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(AssertionError, match="points are given by"):
        course.check("softmax-backward", right)
