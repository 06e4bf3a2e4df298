"""What is written about a class: tables for people and platforms, and its page."""

import csv
import inspect
import io
import re
import textwrap
import time

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("psutil")

from helpers.course_answers import source_of  # noqa: E402
from helpers.hand_ins import ID, NAME  # noqa: E402
from minitxl.course import EXERCISES  # noqa: E402
from minitxl.course.grading import tables  # noqa: E402
from minitxl.course.grading.feedback import improve  # noqa: E402
from minitxl.course.grading.records import Graded, Record, Row  # noqa: E402
from minitxl.course.grading.roster import Person  # noqa: E402
from minitxl.course.grading.similar import alike, is_copy, shape  # noqa: E402
from minitxl.course.notebooks import notebook_from  # noqa: E402


@pytest.fixture
def graded():
    bob = [Row("bob", NAME, ID, 1.5, 6.0, "x <y>")]
    cat = [Row("cat", NAME, "reach", 0.0, 6.0, "=y")]
    records = [
        Record("ann", rows=[Row("ann", NAME, ID, 6.0, 6.0, "")]),
        Record("bob", rows=bob, remarks=[(NAME, "edited"), ("", "late")], penalty=0.5, late=9.0),
        Record("cat", rows=cat),
    ]
    people = [
        Person("ann", "Ann Lee", "ann@x.org", "101", "901"),
        Person("bob"),
        Person("cat", "=cmd"),
        Person("dan", "Dan Oh"),
    ]
    return Graded(records, {p.id: p for p in people}, ["eve is not in the roster"])


def test_the_table(graded):
    assert tables.table(graded).splitlines() == [
        "student     points  remarks",
        "ann          6 / 6",
        f"bob          1 / 6  {NAME}: edited",
        "                    late",
        f"                    {ID}: x <y>",
        "cat          0 / 6  reach: =y",
        "dan              -  handed in nothing",
        "eve is not in the roster",
    ]


def read(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_tables_for_platforms(graded, tmp_path):
    tables.write_tables(graded, tmp_path)
    moodle = read(tmp_path / "moodle.csv")
    assert list(moodle[0]) == [
        "Identifier", "Full name", "Email address", "Grade", "Feedback comments"
    ]  # fmt: skip
    assert moodle[0]["Identifier"] == "Participant 101" and moodle[0]["Grade"] == "6"
    assert moodle[1]["Grade"] == "1" and moodle[1]["Feedback comments"] == f"{ID}: x <y>"
    assert moodle[2]["Full name"] == "'=cmd"  # no formula
    assert moodle[3]["Grade"] == "" and moodle[3]["Feedback comments"] == "handed in nothing"
    possible, ann, *_ = canvas = read(tmp_path / "canvas.csv")
    assert list(ann) == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "minitxl"]
    assert possible["Student"].strip() == "Points Possible" and possible["minitxl"] == "6"
    assert (ann["ID"], ann["SIS Login ID"], ann["minitxl"]) == ("901", "", "6")
    assert canvas[2]["SIS Login ID"] == "bob" and canvas[4]["minitxl"] == ""
    rows = read(tmp_path / "exercises.csv")
    assert [row["student"] for row in rows] == ["ann", "bob", "cat"]


def test_the_page_of_the_class(graded, tmp_path):
    tables.write_tables(graded, tmp_path)
    page = (tmp_path / "class.html").read_text(encoding="utf-8")
    assert "3 of 4 students handed in" in page and "0 to 6 of 6" in page
    assert "1&times; x &lt;y&gt;" in page and "<y>" not in page
    assert EXERCISES[ID].title in page and "dan" in page and "eve is not in the roster" in page
    assert "http" not in page


def with_answer(source, exercise_id="layer-norm-backward"):
    book = notebook_from(EXERCISES[exercise_id].notebook)
    for cell in book.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == exercise_id:
            cell.source = source
    return shape(book, EXERCISES[exercise_id])


def test_a_copy_in_another_cell_is_seen():
    """The answer calls a helper, which is a neighbour's, or the library's."""
    exercise = EXERCISES["layer-norm-backward"]
    calls = "def layer_norm_backward(dy, x, gamma, eps):\n    return helper(dy, x, gamma, eps)"

    def handed_in(helper, more=""):
        book = notebook_from(exercise.notebook)
        for cell in book.cells:
            cell.metadata["minitxl_same"] = "nbgrader" not in cell.metadata
        at = next(
            n for n, c in enumerate(book.cells)
            if c.metadata.get("nbgrader", {}).get("grade_id") == exercise.id
        )  # fmt: skip
        book.cells[at].source = calls
        book.cells[at:at] = [nbformat.v4.new_code_cell(text) for text in (helper, more)]
        return book

    helper = source_of(exercise.id).replace("def layer_norm_backward", "def helper")
    books = [handed_in(helper), handed_in(f"import math\n{helper}", "x = 3\nprint(x)")]
    first, second = (shape(book, exercise) for book in books)
    assert first == second != "" and not any(is_copy(book, exercise) for book in books)
    other = handed_in(helper.replace("axis=-1", "axis=2"))
    assert shape(other, exercise) != first
    assert shape(other, exercise, 2) == shape(
        handed_in(helper.replace("axis=-1", "axis=3")), exercise, 3
    )  # parameters of two variants
    theirs = EXERCISES["contiguous-batch"]
    pasted = textwrap.dedent(inspect.getsource(theirs.shown[0])).replace("class Stream", "class S")
    book = notebook_from(theirs.notebook)
    book.cells.insert(1, nbformat.v4.new_code_cell(pasted))
    assert is_copy(book, theirs)


def test_answers_that_are_alike():
    one = source_of("layer-norm-backward")
    same = one.replace("rstd", "r").replace("x_hat", "z").replace("return", "# done\n    return")
    assert with_answer(one) == with_answer(same) != ""
    assert with_answer(one) != with_answer(one.replace("axis=-1", "axis=2"))
    assert with_answer("x = 1") == with_answer("def (") == ""  # short, and unreadable
    for e in EXERCISES.values():  # not begun; some have more code in their cells than others
        assert with_answer(e.stub, e.id) == ""
    records = [Record(n, shapes={"a": "1", "b": n, "c": "9"}) for n in ("ann", "bob")]
    records += [Record(n, shapes={"a": n, "b": n, "c": "9"}) for n in "cdefgh"]
    assert alike(records) == [("ann", "bob", ["a"])]  # c has everyone


PAGE = """<html><head><script src="https://x.org/MathJax.js">x</script></head><body>
<a href="#softmax-backward-check">Test cell</a> Grade cell: <code>softmax-backward-check</code>
<p>so $ds = p \\odot dp$, and $\\begin{pmatrix}$; it costs 5$ and 6$</p>
<pre>$x$</pre></body></html>"""


def test_an_answer_that_is_the_librarys():
    """Pasted, with other names and without comments; a right answer of one's own is not."""
    exercise = EXERCISES["contiguous-batch"]
    found = {}
    for e in EXERCISES.values():
        book = notebook_from(e.notebook)
        cell = next(c for c in book.cells if c.metadata.get("nbgrader", {}).get("grade_id") == e.id)
        cell.source = source_of(e.id)
        assert not is_copy(book, e)
        for shown in e.shown:
            text = textwrap.dedent(inspect.getsource(shown))
            cell.source = re.sub(r"#.*", "", text).replace("x_hat", "z").replace("scores", "s")
            found[e.id] = found.get(e.id, False) or is_copy(book, e)
    assert found[exercise.id] and sum(found.values()) >= 12, found


def test_scripts_go_whatever_they_look_like():
    start = "<html><head></head><body>"
    for text in ("<script>a</script>", "<SCRIPT src=x>", "<script>" * 10**5, "<pre" * 10**5):
        began = time.monotonic()
        assert "<script" not in improve(start + text + "<p>x</p>", []).lower()
        assert time.monotonic() - began < 5


def test_pages_for_students():
    pytest.importorskip("matplotlib")
    page = improve(PAGE, [EXERCISES[ID]])
    assert "<script" not in page and "https" not in page.replace("http://www.w3.org", "")
    assert f'<a href="#{ID}-check">Softmax backwards</a>' in page
    assert f"Softmax backwards (<code>{ID}-check</code>)" in page
    assert page.count("<svg") == 1 and "$\\begin{pmatrix}$" in page and "5$ and 6$" in page
    assert "<pre>$x$</pre>" in page and "pre-wrap" in page
