"""The course as it is handed out, graded by nbgrader from what several students hand in."""

import csv

import pytest

from helpers.course_answers import MISTAKES, source_of, with_mistake

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbgrader", reason="nbgrader is not installed (extra lecturer)")

from minitxl.course import EXERCISES  # noqa: E402
from minitxl.course.grading.grading import Order, grade  # noqa: E402
from minitxl.course.notebooks import exercises_of, known, notebook_from, write  # noqa: E402

COURSE = [name for name in known() if exercises_of(name)]
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("grading")]


def hand_in_course(folder, source=None, solved=False):
    """Put notebooks into a student's folder; source(id) is what stands in an exercise's cell."""
    folder.mkdir(parents=True)
    for name in COURSE:
        book = notebook_from(name, solved=solved)
        for cell in book.cells:
            if source and cell.metadata.get("nbgrader", {}).get("solution"):
                cell.source = source(cell.metadata.nbgrader.grade_id)
        write(book, folder / f"{name}.ipynb")


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Four students hand in the whole course."""
    folder, out = tmp_path_factory.mktemp("course"), tmp_path_factory.mktemp("graded") / "out"
    hand_in_course(folder / "right", source_of)
    hand_in_course(folder / "wrong", with_mistake)
    hand_in_course(folder / "unsolved")
    hand_in_course(folder / "solutions", solved=True)
    return grade(folder, out, Order(jobs=2)), out


def test_the_whole_course_right(graded):
    record = next(r for r in graded[0].records if r.student == "right")
    assert not record.remarks
    assert sorted(row.exercise for row in record.rows) == sorted(EXERCISES)
    assert all(row.points == row.of and not row.remark for row in record.rows)
    total = sum(e.points for e in EXERCISES.values())
    assert record.points == total
    with open(graded[1] / "grades.csv", newline="") as file:
        assert {r["student_id"]: float(r["score"]) for r in csv.DictReader(file)}["right"] == total


@pytest.mark.parametrize("student", ["wrong", "unsolved", "solutions"])
def test_points_and_reasons_in_the_course(graded, student):
    record = next(r for r in graded[0].records if r.student == student)
    assert [row.exercise for row in record.rows] == [e.id for n in COURSE for e in exercises_of(n)]
    for row in record.rows:
        if student == "wrong":
            assert row.points < row.of and MISTAKES[row.exercise][2] in row.remark
        else:
            assert row.points == 0
        if student == "unsolved":
            assert row.remark == "the function still raises NotImplementedError"
        elif student == "solutions":
            assert row.remark.startswith("it calls minitxl.") and "write it yourself" in row.remark
