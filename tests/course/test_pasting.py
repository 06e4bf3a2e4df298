"""Nothing that stands on the pages gets a point by being pasted: code, docstrings, formulas."""

import ast

import pytest

pytest.importorskip("nbformat")

from helpers import pasting
from helpers.course_answers import source_of
from minitxl.course import EXERCISES
from minitxl.course import notebooks as nb

SOFTMAX = EXERCISES["softmax-backward"]
FORMULA = "p * (dp - (p * dp).sum(axis=-1, keepdims=True))"


@pytest.mark.parametrize("exercise_id", EXERCISES)
def test_nothing_that_is_pasted_gets_points(exercise_id):
    found, names = pasting.everything()
    assert pasting.pasted_answers(EXERCISES[exercise_id], found, names) == []


def test_what_is_pasted_is_much():
    """All notebooks, and each kind: else the test above could not fail."""
    found, names = pasting.everything()
    kinds = [one.args is None for one in found]
    assert len(nb.known()) == 9 and sum(kinds) > 2000 and kinds.count(False) > 30
    for exercise in EXERCISES.values():
        assert any(pasting.candidates(exercise, found, names)), exercise.id


@pytest.mark.parametrize(
    "seen",
    [
        f"ds = {FORMULA}",  # in a cell
        f"versions = {{'right': lambda a, b: {FORMULA.replace('dp', 'a').replace('p *', 'b *')}}}",
        f"def library(dp, p):\n    return {FORMULA}",
        f"for dp, p in runs:\n    print({FORMULA})",
        "s = (p * dp).sum(axis=-1, keepdims=True)\nds = p * (dp - s)",  # a run of statements
        "print(1)\ns = (p * dp).sum(axis=-1, keepdims=True)\ng = dp - s\nds = p * g\nprint(ds)",
        source_of("softmax-backward"),
    ],
)
def test_pasting_finds_code(seen):
    found = list(pasting.pieces(ast.parse(seen)))
    assert pasting.pasted_answers(SOFTMAX, found, {})


@pytest.mark.parametrize(
    "seen",
    [
        f"The library has `{FORMULA}` there.",
        f"Of old:\n\n    {FORMULA}\n\nand so on",
        f"> ds = {FORMULA}",
        f"- {FORMULA};",
        f"```python\nds = {FORMULA}\n```",
    ],
)
def test_pasting_finds_code_in_texts(seen):
    found = [piece for tree in pasting.code_in(seen) for piece in pasting.pieces(tree)]
    assert pasting.pasted_answers(SOFTMAX, found, {})


def test_functions_of_other_cells_are_at_hand():
    """Those alone that need nothing of the library."""
    cell = "def f(dp, p):\n    return g(p, dp)\n\ndef g(a, b):\n    return a * (b - inner(a, b))\n"
    cell += "def inner(a, b):\n    return (a * b).sum(axis=-1, keepdims=True)\n"
    cell += "def h(x):\n    return ops.linear_forward(x)\n"
    tree = ast.parse(cell)
    names = pasting.own({node.name: node for node in tree.body})
    assert set(names) == {"f", "g", "inner"}
    assert pasting.pasted_answers(SOFTMAX, list(pasting.pieces(ast.parse("x = g(p, dp)"))), names)


def test_outputs_under_their_own_names():
    """A run that sets dq, dk, dv somewhere in it, and something else at its end."""
    inside = source_of("attention-backward").split("v, p):\n")[1].replace("    ", "")
    seen = inside.replace("return dq, dk, ", "dv = ") + "check = dq.sum()"
    exercise = EXERCISES["attention-backward"]
    assert pasting.pasted_answers(exercise, list(pasting.pieces(ast.parse(seen))), {})


def test_docstrings_are_seen():
    cells = ["from minitxl import ops\nfrom minitxl import course as c, Stream\nops.linear_forward"]
    assert any("y = x w" in text for text in pasting.helped(cells))
    assert pasting.shown(["from minitxl import ops\nhelp(ops.softmax_backward)"])
    assert not pasting.shown(cells)


# --- formulas ------------------------------------------------------------------------------------


def test_no_page_tells_a_formula_that_the_steps_hold_back():
    assert pasting.told_formulas(pasting.all_pages()) == []


@pytest.mark.parametrize(
    ("exercise_id", "text"),
    [
        ("softmax-backward", "so ds = p (dp - sum(dp p)) over keys"),
        ("attention-backward", r"| $o = p\,v$ | $dv = p^\top do$, $\quad dp = do\,v^\top$ |"),
        ("the-stop", r"| $k = \tilde h\,W_k$ | $dW_k = \tilde h^\top dk$, $\quad$ |"),
        ("layer-norm-backward", r"$$dx = \mathrm{rstd}\,(g - mean(g) - x^ mean(g x^))$$"),
    ],
)
def test_formulas_are_known_in_latex_too(exercise_id, text):
    assert exercise_id in {found[0] for found in pasting.told_formulas({"a page": [text]})}


def test_steps_are_not_told_before():
    """Nor in the stub, nor anywhere in the notebook's script; nor is the library's source shown."""
    for exercise in EXERCISES.values():
        text = pasting.script(exercise.notebook)
        assert "getsource(" not in text
        assert not any(step in text or step in exercise.stub for step in exercise.steps)
    assert any(exercise.steps for exercise in EXERCISES.values())
