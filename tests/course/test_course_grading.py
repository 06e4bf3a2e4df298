"""The course as it is handed out, graded by nbgrader from what several students hand in."""

import csv

import pytest

from helpers.course_answers import MISTAKES, source_of, with_mistake

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbgrader", reason="nbgrader is not installed (extra lecturer)")

from minitxl.course import EXERCISES  # noqa: E402
from minitxl.course.grading import grading, reasons  # noqa: E402
from minitxl.course.notebooks import exercises_of, known, notebook_from, write  # noqa: E402

FEW = ["02_attention_by_hand", "03_relative_positions", "05_reach"]  # the fast ones


def hand_in_course(folder, names, source=None, solved=False):
    """Put notebooks into a student's folder; source(id) is what stands in an exercise's cell."""
    folder.mkdir(parents=True)
    for name in names:
        book = notebook_from(name, solved=solved)
        for cell in book.cells:
            if source and cell.metadata.get("nbgrader", {}).get("solution"):
                cell.source = source(cell.metadata.nbgrader.grade_id)
        write(book, folder / f"{name}.ipynb")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Three students hand in a few notebooks."""
    folder, out = tmp_path_factory.mktemp("few"), tmp_path_factory.mktemp("graded") / "out"
    hand_in_course(folder / "wrong", FEW, with_mistake)
    hand_in_course(folder / "unsolved", FEW)
    hand_in_course(folder / "solutions", FEW, solved=True)
    return grading.grade(folder, out, names=FEW)


@pytest.fixture(scope="module")
def whole_course(tmp_path_factory):
    """One student hands in the whole course, right."""
    folder, out = tmp_path_factory.mktemp("course"), tmp_path_factory.mktemp("graded") / "out"
    course = [name for name in known() if exercises_of(name)]
    hand_in_course(folder / "right", course, source_of)
    return *grading.grade(folder, out), out


@pytest.mark.slow
@pytest.mark.xdist_group("the whole course")
def test_the_whole_course_right(whole_course):
    rows, remarks, out = whole_course
    assert not remarks
    assert sorted(row.exercise for row in rows) == sorted(EXERCISES)
    assert all(row.points == row.of and not row.remark for row in rows)
    assert sum(row.points for row in rows) == 100
    with open(out / "grades.csv", newline="") as file:
        assert [float(row["score"]) for row in csv.DictReader(file)] == [100]


@pytest.mark.slow
@pytest.mark.xdist_group("the whole course")
def test_a_solved_course_has_no_error_in_any_cell(whole_course):
    """Nothing that a right answer is called stands in the way of a cell after it."""
    pytest.importorskip("anywidget", reason="widgets need anywidget")
    books = sorted((whole_course[2] / "autograded" / "right").rglob("*.ipynb"))
    assert [path.stem for path in books] == [name for name in known() if exercises_of(name)]
    for path in books:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not reasons.errors(cell), f"{path.stem}: {cell.source}\n{cell.outputs}"


@pytest.mark.slow
@pytest.mark.xdist_group("grading")
@pytest.mark.parametrize("student", ["wrong", "unsolved", "solutions"])
def test_points_and_reasons_in_the_course(few, student):
    rows, remarks = few
    own = [row for row in rows if row.student == student]
    assert not remarks
    assert [row.exercise for row in own] == [e.id for name in FEW for e in exercises_of(name)]
    for row in own:
        if student == "wrong":
            assert row.points < row.of and MISTAKES[row.exercise][2] in row.remark
        else:
            assert row.points == 0
        if student == "unsolved":
            assert row.remark == "the function still raises NotImplementedError"
        elif student == "solutions":
            assert row.remark.startswith("it calls minitxl.") and "write it yourself" in row.remark
