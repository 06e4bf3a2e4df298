"""The course as it is handed out, in real kernels: unsolved, wrong, right, the lecturer's own."""

import copy

import pytest

from helpers.course_answers import MISTAKES, source_of, with_mistake

nbformat = pytest.importorskip("nbformat")

from minitxl.course import EXERCISES  # noqa: E402
from minitxl.course import notebooks as nb  # noqa: E402
from minitxl.course.notebooks import check_id  # noqa: E402

COURSE = [name for name in nb.known() if nb.exercises_of(name)]
FAST = "05_reach"


def answered(book, source):
    """A copy of a notebook in which source(exercise's id) stands in every exercise's cell."""
    book = copy.deepcopy(book)
    for cell in book.cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = source(cell.metadata.nbgrader.grade_id)
    return book


def ours(book):
    return [cell for cell in book.cells if "nbgrader" in cell.metadata]


def verdicts(cells):
    """What the checks among executed cells printed, by exercise."""
    found = {}
    for cell in cells:
        if cell.metadata.get("nbgrader", {}).get("grade"):
            assert all(output.name == "stdout" for output in cell.outputs)
            found[cell.metadata.nbgrader.grade_id] = "".join(o.text for o in cell.outputs)
    return found


def full_marks(exercise):
    return f"✓ right, {exercise.points} of {exercise.points} points | {exercise.name}"


def test_every_exercise_has_its_mistake():
    assert set(MISTAKES) == set(EXERCISES)


@pytest.mark.parametrize("name", COURSE)
def test_unsolved_wrong_right_and_the_lecturers_own(name):
    """Exercises and checks alone, nothing else of the notebook run: four times in one kernel."""
    book = nb.notebook_from(name)
    books = [book, answered(book, with_mistake), answered(book, source_of)]
    sheets = [ours(each) for each in (*books, nb.notebook_from(name, solved=True))]
    book.cells = [copy.deepcopy(cell) for sheet in sheets for cell in sheet]
    for number, cell in enumerate(book.cells):
        cell.id = f"cell-{number}"
        cell.outputs = []
    nb.execute(book)
    n = len(sheets[0])
    unsolved, wrong, right, solved = (
        verdicts(book.cells[i * n : (i + 1) * n]) for i in range(len(sheets))
    )
    for exercise in nb.exercises_of(name):
        at = check_id(exercise.id)
        start = f"not solved yet, 0 of {exercise.points} points | {exercise.name}: "
        assert unsolved[at].startswith(f"… {start}the function still raises NotImplementedError")
        assert wrong[at][0] in "✗◐" and MISTAKES[exercise.id][2] in wrong[at]
        assert right[at] == full_marks(exercise) + "\n"
        assert solved[at].startswith(full_marks(exercise))


def test_no_cell_but_the_checks_was_run():
    """Nothing was run, and nothing is there: no check ends in an error."""
    book = nb.notebook_from(FAST)
    book.cells = [cell for cell in ours(book) if cell.metadata.nbgrader.grade]
    nb.execute(book)
    for text in verdicts(book.cells).values():
        assert text.startswith("… not solved yet, 0 of ") and "it is not there: run its" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", COURSE)
def test_solved_notebook_runs_to_its_end(name):
    """Nothing that a right answer is called stands in the way of a cell after it."""
    book = answered(nb.notebook_from(name), source_of)
    nb.execute(book)
    found = verdicts(book.cells)
    for exercise in nb.exercises_of(name):
        assert found[check_id(exercise.id)].startswith(full_marks(exercise))


@pytest.mark.slow
def test_the_lecturers_notebook_runs_to_its_end():
    book = nb.notebook_from(FAST, solved=True)
    nb.execute(book)
    found = verdicts(book.cells)
    for exercise in nb.exercises_of(FAST):
        assert found[check_id(exercise.id)].startswith(full_marks(exercise))
