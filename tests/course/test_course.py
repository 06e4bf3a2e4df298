"""The exercises: right answers pass, known mistakes are named, whatever else comes is a verdict."""

import ast
import dataclasses
import inspect
import math
import sys

import numpy as np
import pytest

from helpers.course_answers import ANSWERS, source_of
from minitxl.course import EXERCISES, exercise, running
from minitxl.course.hints import hint
from minitxl.model import ops

SEEDS = range(5)
IDS = sorted(EXERCISES)
MISTAKES = [(e, n) for e in IDS for n in range(len(EXERCISES[e].mistakes))]


def judged(exercise_id, answer, seed=0):
    return EXERCISES[exercise_id].judge(answer, np.random.default_rng(seed))


def function_of(source, name):
    names = {}
    exec(source, names)
    return names[name]


def right(dp, p):
    return ANSWERS["softmax-backward"](dp, p)


# --- the exercises -------------------------------------------------------------------------------


def test_all_exercises():
    assert sum(e.points for e in EXERCISES.values()) == 120
    assert set(ANSWERS) == set(EXERCISES)
    assert len({e.name for e in EXERCISES.values()}) == len(EXERCISES) >= 10
    notebooks = [e.notebook for e in EXERCISES.values()]
    assert notebooks == sorted(notebooks)
    with pytest.raises(TypeError):
        EXERCISES["reach"] = None


@pytest.mark.parametrize("exercise_id", IDS)
def test_an_exercise_is_well_made(exercise_id):
    e = EXERCISES[exercise_id]
    assert e.id == exercise_id and e.title and e.shown and len(e.mistakes) >= 4
    assert all(hasattr(shown, "__module__") for shown in e.shown)
    for source in (e.stub, e.solution):
        functions = [x for x in ast.parse(source).body if isinstance(x, ast.FunctionDef)]
        assert functions[-1].name == e.name and all(map(ast.get_docstring, functions))
        assert [f.name for f in functions[:-1]] == ([e.given.__name__] if e.given else [])
        assert max(map(len, source.splitlines())) <= 100
    cases = e.cases(np.random.default_rng(0))
    assert any(not c.edge for c in cases) and any(c.edge for c in cases)
    first, second = (e.cases(np.random.default_rng(seed)) for seed in (1, 2))
    assert str(first) != str(second)


@pytest.mark.parametrize("exercise_id", IDS)
def test_points_follow_the_work(exercise_id):
    tree = ast.parse(inspect.getsource(ANSWERS[exercise_id]))
    e, n = EXERCISES[exercise_id], sum(isinstance(node, ast.stmt) for node in ast.walk(tree)) - 1
    assert (e.lines, e.points) == (n, math.ceil(e.ideas + n / 4))


@pytest.mark.parametrize("exercise_id", IDS)
def test_the_solution_passes(exercise_id):
    solution = function_of(EXERCISES[exercise_id].solution, EXERCISES[exercise_id].name)
    for seed in SEEDS:
        assert judged(exercise_id, solution, seed).passed
    assert running.library_use(solution).startswith("minitxl")


@pytest.mark.parametrize("exercise_id", IDS)
def test_a_right_answer_passes(exercise_id):
    for seed in SEEDS:
        verdict = judged(exercise_id, ANSWERS[exercise_id], seed)
        assert verdict == exercise.Verdict(True, 1.0, "right"), verdict.message
    name = EXERCISES[exercise_id].name
    assert judged(exercise_id, function_of(source_of(exercise_id), name)).passed


@pytest.mark.parametrize("exercise_id", IDS)
def test_an_empty_stub_is_not_solved_yet(exercise_id):
    e = EXERCISES[exercise_id]
    for answer in (function_of(e.stub, e.name), lambda *a: None, None, ...):
        verdict = judged(exercise_id, answer)
        assert not verdict.passed and not verdict.solved and verdict.score == 0.0


@pytest.mark.parametrize(("exercise_id", "n"), MISTAKES)
def test_a_known_mistake_is_named(exercise_id, n):
    mistake = EXERCISES[exercise_id].mistakes[n]
    for seed in range(3):
        verdict = judged(exercise_id, mistake.wrong, seed)
        assert not verdict.passed and verdict.score < 1.0
        assert mistake.message in verdict.message, f"seed {seed}"
        others = [m.message for m in EXERCISES[exercise_id].mistakes if m is not mistake]
        assert not any(other in verdict.message for other in others)


@pytest.mark.parametrize("exercise_id", IDS)
def test_a_mistake_costs_the_same_in_every_grading(exercise_id):
    """Shapes and numbers are drawn anew: no answer may be right by luck."""
    e = dataclasses.replace(EXERCISES[exercise_id], mistakes=())  # their names cost time
    scores = [set() for _ in EXERCISES[exercise_id].mistakes]
    for seed in range(10):
        cases = e.cases(np.random.default_rng(seed))
        for found, mistake in zip(scores, EXERCISES[exercise_id].mistakes, strict=True):
            got = [running.call(mistake.wrong, c.args, e.arguments, e.outputs) for c in cases]
            found.add(e.verdict(cases, got).score)
    assert all(len(found) == 1 for found in scores)


def attends(hide):
    """attention-forward with another way to hide keys: hide(scores, mask) -> probabilities."""

    def attend(q, k, v, mask):
        return hide(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]), mask) @ v

    return attend


def softmax(scores):
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def renormalised(scores, mask):
    p = np.where(mask, 0.0, softmax(scores))
    return p / p.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("hide", "score"),
    [
        (lambda scores, mask: softmax(np.where(mask, -1e9, scores)), 1.0),
        (lambda scores, mask: softmax(scores - 1e9 * mask), 1.0),
        (lambda scores, mask: softmax(np.where(mask, -100.0, scores)), 0.5),
        (lambda scores, mask: softmax(np.where(mask, -1000.0, scores)), 0.5),
        (renormalised, 0.5),  # exp of every visible score may be 0 beside a hidden one's
    ],
)
def test_ways_to_hide_a_key_get_the_same_points_in_every_grading(hide, score):
    for seed in range(40):
        assert judged("attention-forward", attends(hide), seed).score == score


def test_the_same_mistake_in_two_outputs_is_told_once():
    def attention_backward(do, q, k, v, p):
        dq, dk, dv = ANSWERS["attention-backward"](do, q, k, v, p)
        return dq * math.sqrt(q.shape[-1]), dk * math.sqrt(q.shape[-1]), dv

    message = judged("attention-backward", attention_backward).message
    assert message.startswith("dq, dk: you forgot to divide") and message.endswith("; right: dv")
    assert message.count("sqrt(d_head)") == 1


def test_outputs_in_another_order_are_recognised():
    def attention_backward(*args):
        dq, dk, dv = ANSWERS["attention-backward"](*args)
        return dk, dq, dv

    message = judged("attention-backward", attention_backward).message
    assert "dq: it is what dk should be: return dq, dk, dv, in this order" in message


def test_a_mistake_is_recognised_by_the_ordinary_cases():
    """h[:, -mem_len:] is everything with mem_len = 0, unlike the wrong version that is known."""
    message = judged("memory-update", lambda mem, h, mem_len: h[:, -mem_len:]).message
    assert message == "the old memory is gone: with T < mem_len a part of it is kept"


def test_a_transpose_of_all_axes_is_recognised():
    verdict = judged("attention-forward", lambda q, k, v, mask: q @ k.T @ v)
    assert ".T turns all axes round, np.swapaxes(x, -1, -2) the last two" in verdict.message


def test_two_mistakes_in_two_outputs_are_both_named():
    def two(dk, dv, h, w_k, w_v, n_mem):
        _, dw_k, _ = ANSWERS["the-stop"](
            dk[:, n_mem:], dv[:, n_mem:], h[:, n_mem:], w_k, w_v, n_mem
        )
        return dk @ w_k.T + dv @ w_v.T, dw_k, np.einsum("bkd,bke->de", h, dv)

    verdict = judged("the-stop", two)
    assert "dw_k: your gradient lacks the memory rows" in verdict.message
    assert "dh: nothing is stopped" in verdict.message
    assert verdict.message.endswith("right: dw_v")
    assert verdict.score == pytest.approx(1 / 3)


def test_no_argument_is_changed_in_place():
    """Nor an array in a tuple of arguments, in which a layer's weights come."""

    def spoils(h, bias, w, n_mem):
        w[0][:] = 0.0
        return h[:, n_mem:]

    assert "it changes its argument w in place" in judged("layer-forward", spoils).message


def test_an_edge_case_costs_half():
    def breaks(mem, h, mem_len):
        if mem_len == 0:
            raise ValueError("no memory")
        return ANSWERS["memory-update"](mem, h, mem_len)

    verdict = judged("memory-update", breaks)
    assert verdict.score == 0.5
    assert verdict.message.startswith("right, but not for mem_len = 0: ValueError in line")
    nothing = judged("reach", lambda *a: ANSWERS["reach"](*a) if a[2] else None)
    assert (
        nothing.score == 0.5
        and "right, but not for M = 0, no memory: the function returns N" in (nothing.message)
    )
    # An error in the ordinary case is worth nothing.
    assert judged("memory-update", lambda mem, h, n: h[:, :n] + mem).score == 0.0


# --- hints that fit any exercise -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: -x, "has the wrong sign"),
        (lambda x: 0.25 * x, "is 0.25 times what it should be"),
        (lambda x: x.swapaxes(-1, -2), "a transpose missing"),
        (lambda x: x[..., :-1], "must have (6, 8, 9)"),
        (lambda x: x * np.nan, "holds NaN"),
        (lambda x: x / 0.0, "holds inf"),
        (np.zeros_like, "is all zeros"),
        (lambda x: x + np.arange(6)[:, None, None] * (x > 0), ", must be "),
        (lambda x: x + 0.5, "is +0.5 off everywhere"),
        (lambda x: x / 9, "perhaps a mean over axis 2, of 9, for a sum"),
        (lambda x: x * np.arange(1, 9)[:, None], "another one for each place along axis 1"),
        (lambda x: x / x.sum(-1, keepdims=True), "wrong factor for each row along axis 2"),
        (lambda x: x + np.arange(1, 9)[:, None], "has something constant along axis"),
        (lambda x: np.flip(x, 1), "runs the wrong way along axis 1"),
        (lambda x: np.roll(x, 1, -1), "is rolled by one along axis 2"),
        (lambda x: np.concatenate([0 * x[:, :1], x[:, :-1]], 1), "is off by one along axis 1"),
        (lambda x: np.where(np.arange(8)[:, None] < 3, 7.0, x), "right but for 0 to 2 of the 8"),
        (lambda x: np.concatenate([x, x], 1), "its first 8 along axis 1 are right"),
        (lambda x: x.sum(0), "it was summed over axis 0"),
    ],
)
def test_general_hints(change, message):
    shapes = (6, 8, 9)
    rng = np.random.default_rng(0)
    case = exercise.Case(
        (rng.normal(size=shapes), np.full(shapes, 1 / 9) + 0.1 * rng.normal(size=shapes)), "here"
    )
    e = dataclasses.replace(EXERCISES["softmax-backward"], cases=lambda rng: [case], mistakes=())
    verdict = e.judge(lambda dp, p: change(right(dp, p)), rng)
    assert message in verdict.message and verdict.score == 0.0


def test_a_memory_that_is_ignored_is_recognised():
    """K = 7 rows, of which the segment has T = 5."""
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(3, 5, 4)), rng.normal(size=(3, 7, 4))
    wrong = np.where(np.arange(7)[:, None] < 2, rng.normal(size=k.shape), k + 1)
    text = hint(wrong, k + 1, {"q": q, "k": k, "n": 3})
    assert text.startswith("is right but for 0 to 1 of the 7 along axis 1 (the memory's rows: are")


def test_an_input_returned_is_recognised():
    assert "it is p, unchanged" in judged("softmax-backward", lambda dp, p: p).message


# --- hostile answers ------------------------------------------------------------------------------


class Equal:
    """Claims to be equal to everything."""

    def __eq__(self, other):
        return True

    __hash__ = None
    shape = (1,)


class EqualArray(np.ndarray):
    def __eq__(self, other):
        return np.ones(self.shape, dtype=bool)

    def __sub__(self, other):
        return np.zeros(self.shape)


class RudeError(Exception):
    def __str__(self):
        raise RuntimeError("no")


def rude(dp, p):
    raise RudeError


def deep(dp, p):
    return deep(dp, p)


def in_place(dp, p):
    dp -= (dp * p).sum(axis=-1, keepdims=True)
    dp *= p
    return dp


def leaving(dp, p):
    sys.exit(0)


async def coroutine(dp, p):
    return right(dp, p)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (7, "must be a function"),
        ("softmax", "softmax_backward is of type str"),
        (lambda dp, p: "done", "ds is of type str, must be real numbers"),
        (lambda dp, p: Equal(), "ds is of type Equal, must be real numbers"),
        (lambda dp, p: np.zeros_like(p).view(EqualArray), "is all zeros"),
        (lambda dp, p: {"ds": 1}, "ds is of type dict"),
        (lambda dp, p: right(dp, p) + 0j, "an array of complex128"),
        (lambda dp, p: [[1.0], [1.0, 2.0]], "a list of unequal parts"),
        (lambda dp, p: (right(dp, p), None), "a tuple of 2, must be ds alone"),
        (lambda dp, p: 3.0, "has shape (), must have (8, 9, 4)"),
        (lambda dp, p: [], "has shape (0,)"),
        (lambda dp, p: np.zeros((10**7, 10**8)), "MemoryError"),
        (lambda dp, p: 1 / 0, "ZeroDivisionError in line"),
        (eval("lambda dp, p: nope(p)"), "'nope' is not defined; is it misspelt, or its cell not"),
        (lambda dp: dp, "takes 1 positional argument"),
        (rude, "RudeError in line"),
        (deep, "RecursionError in line"),
        (in_place, "it changes its argument dp in place"),
        (leaving, "SystemExit in line"),
        (ops.softmax_backward, "missing 1 required keyword-only argument"),
        (coroutine, "ds is of type coroutine"),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine")
def test_hostile_answers_are_verdicts(answer, message):
    verdict = judged("softmax-backward", answer, seed=3)
    assert message in verdict.message and not verdict.passed and verdict.score == 0.0
    assert "\n" not in verdict.message


def test_the_learners_own_line_is_shown(tmp_path):
    path = tmp_path / "cell.py"
    path.write_text("def softmax_backward(dp, p):\n    y = dp\n    return y @ p[0, 0, 0] @ p\n")
    answer = function_of(compile(path.read_text(), str(path), "exec"), "softmax_backward")
    message = judged("softmax-backward", answer).message
    assert "ValueError" in message or "IndexError" in message
    assert "in line 3, `return y @ p[0, 0, 0] @ p`: " in message


def test_a_stop_by_hand_goes_through():
    def stopped(dp, p):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judged("softmax-backward", stopped)
