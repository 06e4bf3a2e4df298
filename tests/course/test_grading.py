"""A class graded with nbgrader: points, pages, tables; late, again, one by one; nothing is left."""

import contextlib
import csv
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

nbformat = pytest.importorskip("nbformat")
pytestmark = pytest.mark.xdist_group("grading")  # with the few notebooks of test_course_grading.py

from helpers.hand_ins import HEAD, ID, NAME, RIGHT, make_source  # noqa: E402
from minitxl.cli import course as course_command  # noqa: E402
from minitxl.cli import main  # noqa: E402
from minitxl.course.grading import grading  # noqa: E402
from minitxl.course.grading.grading import Graded, Order, grade  # noqa: E402
from minitxl.course.grading.judge import Limits  # noqa: E402
from minitxl.course.grading.roster import Person, Roster  # noqa: E402
from minitxl.course.notebooks import notebook_from, write  # noqa: E402
from minitxl.errors import MinitxlError  # noqa: E402


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source"))


def put(folder, source, who, answer=None, cell=None, when=None):
    book = notebook_from(NAME, source)
    if answer is not None:
        book.cells[1].source = answer
    if cell is not None:
        book.cells.insert(1, nbformat.v4.new_code_cell(cell))
    path = folder / who / f"{NAME}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    write(book, path)
    if when is not None:
        os.utime(path, (when, when))


def test_without_nbgrader(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code = main(["course", "grade", str(tmp_path), "--out", str(tmp_path / "o")])
    assert code == 2
    assert capsys.readouterr().err == (
        'minitxl: error: grading needs nbgrader, which is missing: pip install -e ".[lecturer]"\n'
    )


def test_windows_has_no_exchange(tmp_path, source, capsys, monkeypatch):
    """The lecturer's commands say so, there alone."""
    monkeypatch.setattr(grading, "grade", lambda *args, **options: Graded([], {}, []))
    for platform in ("linux", "win32"):
        for kind in ("student", "solutions", "grade"):
            out = tmp_path / platform / kind
            out.mkdir(parents=True)
            argv = ["course", kind, "--out", str(out)]
            argv += [str(tmp_path)] if kind == "grade" else ["--source", str(source)]
            with monkeypatch.context() as patch:
                patch.setattr(course_command, "sys", SimpleNamespace(platform=platform))
                assert main(argv) == 0
            told = "nbgrader has no exchange on Windows" in capsys.readouterr().err
            assert told == (platform == "win32" and kind != "student")


def test_writing_notebooks(tmp_path, source, capsys):
    for kind in ("student", "solutions"):
        out = tmp_path / kind
        assert main(["course", kind, "--out", str(out), "--source", str(source)]) == 0
        text = (out / f"{NAME}.ipynb").read_text(encoding="utf-8")
        assert ("BEGIN SOLUTION" in text) == (kind == "solutions")
    assert capsys.readouterr().out.count(NAME) == 2


def test_what_nbgrader_cannot_take_ends_nothing(tmp_path, source, monkeypatch):
    """Its other notebooks are graded; the one gets a reason."""
    book = notebook_from(NAME, source)
    tried = []

    def autograde(assignment, student):
        tried.append(api.coursedir.notebook_id)
        fails = tried[-1] == "*" or (tried[-1] == "b" and tried.count("b") == 1)
        return {"success": not fails, "log": "ValidationError: no" if fails else ""}

    api = SimpleNamespace(coursedir=SimpleNamespace(notebook_id="*"), autograde=autograde)
    monkeypatch.setattr(grading, "_worker", grading._Worker(api, contextlib.nullcontext()))
    pytest.importorskip("nbgrader", reason="nbgrader is not installed (extra lecturer)")
    books = {"a": book, "b": book}
    grading._enter("ann", books, tmp_path, lambda name: notebook_from(NAME, source))
    assert tried == ["*", "a", "b", "b"] and api.coursedir.notebook_id == "*"
    reason = nbformat.read(tmp_path / "b.ipynb", as_version=4).metadata["minitxl_not_run"]
    assert reason == "nbgrader could not take it: ValidationError: no"
    assert "minitxl_not_run" not in books["a"].metadata


# --- with nbgrader -------------------------------------------------------------------------------

DUE = 1_700_000_000
CASES = {  # student: points, part of the reason, what it costs to be late
    "right": (3, None, 0),
    "wrong": (0, "the sum is missing", 0),
    "half": (1.5, "masked keys", 0),
    "unsolved": (0, "NotImplementedError", 0),
    "empty": (0, "is an empty file", 0),
    "late": (3, None, 0.6),
    "missing": (0, "no notebook was handed in", 0),
}


def make_class(folder, source):
    put(folder, source, "right", RIGHT, when=DUE - 1)
    put(folder, source, "wrong", HEAD + "    print('a number: 3.0')\n    return p * dp", when=DUE)
    half = RIGHT.replace("return", "assert p.all(), 'zero'\n    return")
    put(folder, source, "half", half, when=DUE)
    put(folder, source, "unsolved", when=DUE)
    put(folder, source, "late", RIGHT, "import ctypes", DUE + 100_000)
    (folder / "missing").mkdir()
    (folder / "empty").mkdir()
    (folder / "empty" / f"{NAME}.ipynb").touch()
    os.utime(folder / "empty" / f"{NAME}.ipynb", (DUE, DUE))


ORDER = {"limits": Limits(timeout=10, memory=2.0), "seed": 5, "jobs": 2, "due": DUE + 0.0}


@pytest.fixture(scope="module")
def graded(tmp_path_factory, source):
    pytest.importorskip("nbgrader", reason="nbgrader is not installed (extra lecturer)")
    folder, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("graded") / "out"
    make_class(folder, source)
    roster = Roster((*(Person(name) for name in CASES), Person("nobody")))
    order = Order(source=source, late="10%/day", roster=roster, **ORDER)
    return grade(folder, out, order), out, folder


@pytest.mark.slow
@pytest.mark.parametrize("student", CASES)
def test_points_and_reasons(graded, student):
    record = next(r for r in graded[0].records if r.student == student)
    points, why, penalty = CASES[student]
    (row,) = record.rows
    assert (row.points, row.of, record.penalty) == (points, 3, penalty), row.remark
    assert (why or "") in row.remark and bool(row.remark) == bool(why)


@pytest.mark.slow
def test_remarks_and_who_is_missing(graded):
    assert graded[0].missing == ["nobody"] and not graded[0].notes
    remarks = {r.student: [text for _, text in r.remarks] for r in graded[0].records if r.remarks}
    assert remarks == {
        "late": ["have a look, its cells have ctypes",
                 "late by 27.8 hours, which costs 0.6 points"],
    }  # fmt: skip


@pytest.mark.slow
def test_what_nbgrader_leaves(graded):
    result, out, _ = graded
    with open(out / "grades.csv", newline="") as file:
        table = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert table == {r.student: r.points for r in result.records} | {"nobody": 0.0}
    for student in CASES:
        page = (out / "feedback" / student / "minitxl" / f"{NAME}.html").read_text("utf-8")
        assert "softmax_backward" in page and "Softmax backwards" in page
        assert "<script" not in page and "the end" not in page  # what was handed out is left out
        assert "Traceback (most" not in page and "AssertionError:" not in page  # the verdict alone
    released = nbformat.read(out / "release" / "minitxl" / f"{NAME}.ipynb", as_version=4)
    assert "NotImplementedError" in released.cells[1].source
    assert "ops.softmax" not in released.cells[1].source


@pytest.mark.slow
def test_one_by_one_again_and_on_from_before(graded, source, tmp_path):
    """The same result whatever the way; what was handed in anew is seen."""
    few = ("half", "late", "wrong")
    for who in few:
        shutil.copytree(graded[2] / who, tmp_path / "in" / who)
    out = tmp_path / "out"
    order = {"source": source, "late": "10%/day"} | ORDER | {"jobs": 1}
    first = grade(tmp_path / "in", out, Order(**order))
    same = [r for r in graded[0].records if r.student in few]
    assert first.records == same
    seen = []
    order = {"source": source, "jobs": 1, "limits": ORDER["limits"]}
    put(tmp_path / "in", source, "wrong", RIGHT, when=DUE)
    put(tmp_path / "in", source, "zoe", RIGHT, when=DUE)
    again = grade(tmp_path / "in", out, Order(resume=True, **order), seen.append)
    assert [r.points for r in again.records] == [1.5, 2.4, 3, 3]
    assert seen[-2:] == ["wrong: 3 points", "zoe: 3 points"]
    once = grade(tmp_path / "in", out, Order(only=("late",), **order), seen.append)
    assert once.records == again.records and seen[-1] == "late: 2.4 points"
    with open(out / "grades.csv", newline="") as file:
        assert [float(r["score"]) for r in csv.DictReader(file)] == [1.5, 2.4, 3, 3]
    for changed, message in (
        ({"only": ("nobody",)}, "nobody handed in nothing"),
        ({"resume": True, "seed": 6}, "seed = 6 contradicts what .* was graded by, 5"),
        ({"resume": True, "late": "5%/day"}, "late = 5%/day contradicts"),
    ):
        with pytest.raises(MinitxlError, match=message):
            grade(tmp_path / "in", out, Order(**(order | changed)))


@pytest.mark.slow
def test_questions_are_graded_by_hand(graded, source, tmp_path):
    """An empty answer gets 0 at once; another waits, and counts when its points are entered."""
    from minitxl.course.grading import course_folder, tables

    book = notebook_from(NAME, source, questions=True)
    book.cells[1].source = RIGHT
    of = {"question-2-1": 2, "question-2-2": 2, "question-2-3": 2}
    for cell in book.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") in ("question-2-1", "question-2-2"):
            cell.source = cell.source.replace("*Write your answer here.*", "LayerNorm, $x$.")
    (tmp_path / "in" / "ann").mkdir(parents=True)
    write(book, tmp_path / "in" / "ann" / f"{NAME}.ipynb")
    order = {"source": source, "jobs": 1, "limits": ORDER["limits"]}
    out = tmp_path / "out"
    first = grade(tmp_path / "in", out, Order(questions=True, seed=1, **order))
    assert first.records[0].by_hand == (0, sum(of.values()), 2)
    assert "2 answers to questions wait to be graded" in tables.table(first)
    with course_folder.quiet(), course_folder.interface(out).gradebook as gradebook:
        found = gradebook.find_grade("question-2-1", NAME, "minitxl", "ann")
        found.manual_score, found.needs_manual_grade = 2.0, False
        gradebook.db.commit()
    again = grade(tmp_path / "in", out, Order(resume=True, **order))
    (record,) = again.records
    assert (record.by_hand, record.points, record.of) == ((2.0, 6.0, 1), 5.0, 9.0)
    with open(out / "grades.csv", newline="") as file:
        assert [float(r["score"]) for r in csv.DictReader(file)] == [5.0]


@pytest.mark.slow
def test_a_gradebook_that_was_written_into(graded, source, tmp_path):
    """The judge's points count, and the table says that others were there."""
    out = tmp_path / "out"
    shutil.copytree(graded[1], out)
    from minitxl.course.grading import course_folder

    with course_folder.quiet(), course_folder.interface(out).gradebook as gradebook:
        found = gradebook.find_grade(f"{ID}-check", NAME, "minitxl", "wrong")
        found.auto_score = 3.0
        gradebook.db.commit()
    order = Order(source=source, resume=True, jobs=1, limits=ORDER["limits"])
    result = grade(graded[2], out, order)
    (note,) = result.notes
    assert note.startswith(f"wrong, {ID}: the gradebook had 3.0 points, the judge gave 0")
    assert next(r for r in result.records if r.student == "wrong").points == 0
    with open(out / "grades.csv", newline="") as file:
        assert {r["student_id"]: float(r["score"]) for r in csv.DictReader(file)}["wrong"] == 0


@pytest.mark.slow
def test_folders_that_cannot_be_used(graded, source, tmp_path):
    (tmp_path / "someone").mkdir()
    with pytest.raises(MinitxlError, match="is not empty"):
        grade(tmp_path, graded[1], Order(source=source))
    with pytest.raises(MinitxlError, match="holds nothing that was graded before"):
        grade(tmp_path, tmp_path / "new", Order(source=source, resume=True))
    with pytest.raises(MinitxlError, match="jobs = 0 must be 1"):
        grade(tmp_path, tmp_path / "new", Order(source=source, jobs=0))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(("how", "sandbox"), [("SIGINT", "auto"), ("SIGKILL", "none")])
def test_an_end_leaves_nothing_behind(source, tmp_path, how, sandbox):
    """Ctrl-C, or the end of the process that grades, ends what submissions started, too."""
    pytest.importorskip("nbgrader", reason="nbgrader is not installed (extra lecturer)")
    psutil = pytest.importorskip("psutil")
    for who in ("ann", "bob"):
        put(tmp_path / "in", source, who, HEAD + "    while True: pass")
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "minitxl", "course", "grade", str(tmp_path / "in")]
    command += ["--out", str(tmp_path / "out"), "--source", str(source), "--jobs", "2"]
    process = subprocess.Popen(
        [*command, "--sandbox", sandbox, "--seed", "1"],
        cwd=Path(grading.__file__).parents[3],
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        found, students = [], 0
        while students < 2:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.2)
            found = psutil.Process(process.pid).children(recursive=True)
            lines = []
            for one in found:
                try:
                    lines.append((one.ppid(), " ".join(one.cmdline()), one.cpu_times().user))
                except psutil.Error:
                    pass
            busy = [line for line in lines if "student.py" in line[1] and line[2] > 0.5]
            students = len(busy)
        if how == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        else:
            process.send_signal(signal.Signals[how])
        error = process.communicate(timeout=60)[1]
        _gone, alive = psutil.wait_procs(found, timeout=30)
        assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    finally:
        process.kill()
    if how == "SIGINT":
        assert process.returncode == 130
        assert error.splitlines()[2:] == ["", "minitxl: interrupted"]
        assert not list((tmp_path / "tmp").iterdir())
