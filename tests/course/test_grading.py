"""Grading with nbgrader: whatever is handed in ends as points with a reason."""

import csv
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

nbformat = pytest.importorskip("nbformat")
pytestmark = pytest.mark.xdist_group("grading")  # with the few notebooks of test_course_grading.py

from minitxl.cli import course as course_command  # noqa: E402
from minitxl.cli import main  # noqa: E402
from minitxl.course.grading import grading, submissions  # noqa: E402
from minitxl.course.notebooks import notebook_from, write  # noqa: E402
from minitxl.errors import MinitxlError  # noqa: E402

NAME, ID = "02_attention_by_hand", "softmax-backward"
SCRIPT = """\
# %%
import numpy as np

from minitxl import course

# %% exercise softmax-backward

# %% check softmax-backward

# %%
print("the end")
"""
HEAD = "def softmax_backward(dp, p):\n"
RIGHT = HEAD + "    return p * (dp - (dp * p).sum(axis=-1, keepdims=True))"
LIBRARY = (
    "    from minitxl import ops\n    return ops.softmax_backward(dp, ops.SoftmaxCache(p), xp=np)"
)
DEAF = """\
    import time
    while True:
        try:
            time.sleep(0.1)
        except BaseException:
            pass
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    (folder / f"{NAME}.py").write_text(SCRIPT, encoding="utf-8")
    return folder


def answered(source, answer=None):
    book = notebook_from(NAME, source)
    if answer is not None:
        book.cells[1].source = answer
    return book


def with_cell(book, at, text):
    book.cells.insert(at, nbformat.v4.new_code_cell(text))
    return book


# --- without nbgrader ----------------------------------------------------------------------------


def hand_in(tmp_path, book):
    path = tmp_path / f"{NAME}.ipynb"
    write(book, path)
    return path


def test_a_submission_as_it_should_be(source, tmp_path):
    book, remarks = submissions.received(
        hand_in(tmp_path, answered(source, RIGHT)), answered(source)
    )
    nbformat.validate(book)
    want = answered(source, RIGHT)
    assert not remarks
    assert [c.source for c in book.cells] == [c.source for c in want.cells]
    assert [c.metadata for c in book.cells] == [c.metadata for c in want.cells]


def test_edited_check_is_put_back(source, tmp_path):
    book = answered(source, RIGHT)
    book.cells[2].update(source="print('right')")
    book.cells[2].metadata.nbgrader.points = 100
    book.cells[2].metadata.tags = ["skip-execution"]
    got, remarks = submissions.received(hand_in(tmp_path, book), answered(source))
    assert remarks == ["softmax-backward-check: the check was edited; the original counts"]
    assert got.cells[2].source == answered(source).cells[2].source
    assert got.cells[2].metadata == answered(source).cells[2].metadata


def test_checks_of_earlier_notebooks_are_no_edited_ones(source, tmp_path):
    book = answered(source, RIGHT)
    book.cells[2].source = 'course.check("softmax-backward", softmax_backward)'
    for metadata in (book.cells[2].metadata, {}):
        book.cells[2].metadata = metadata
        got, remarks = submissions.received(hand_in(tmp_path, book), answered(source))
        assert not remarks
        assert got.cells[2].source == answered(source).cells[2].source


def test_deleted_check_is_put_back(source, tmp_path):
    book = answered(source, RIGHT)
    check = book.cells.pop(2)
    got, remarks = submissions.received(hand_in(tmp_path, book), answered(source))
    assert "deleted" in remarks[0]
    assert got.cells[-1] == check


def test_lost_metadata_and_copies(source, tmp_path):
    book = answered(source, RIGHT)
    for number, cell in enumerate(book.cells):
        cell.update(metadata={}, id=f"other-{number}")
    got, remarks = submissions.received(hand_in(tmp_path, book), answered(source))
    assert not remarks
    assert [c.metadata for c in got.cells] == [c.metadata for c in answered(source).cells]
    book = answered(source, RIGHT)
    book.cells.append(nbformat.v4.new_code_cell(RIGHT, metadata=book.cells[1].metadata))
    got, _ = submissions.received(hand_in(tmp_path, book), answered(source))
    assert "nbgrader" not in got.cells[1].metadata and "nbgrader" in got.cells[-1].metadata


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is an empty file"),
        ('{"cells": [{"x', "is no readable notebook"),
        ("[1, 2]", "is no readable notebook"),
        ('{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": 3}', "no readable"),
    ],
)
def test_unreadable_notebooks(source, tmp_path, text, message):
    path = tmp_path / f"{NAME}.ipynb"
    path.write_text(text)
    book, (remark,) = submissions.received(path, answered(source))
    assert book is None and message in remark and "\n" not in remark


def test_students_and_their_files(tmp_path):
    with pytest.raises(MinitxlError, match="holds no folders"):
        submissions.students(tmp_path)
    with pytest.raises(MinitxlError, match="is no folder"):
        submissions.students(tmp_path / "nowhere")
    deep = tmp_path / "Meyer, Ännchen_17" / "work" / ".ipynb_checkpoints"
    deep.mkdir(parents=True)
    (deep / f"{NAME}.ipynb").touch()
    found = submissions.students(tmp_path)
    assert list(found) == ["Meyer_Ännchen_17"]  # no comma: nbgrader writes plain CSV
    assert submissions.find(found["Meyer_Ännchen_17"], NAME) is None
    path = deep.parent / f"Meyer_{NAME} (1).ipynb"
    path.touch()
    assert submissions.find(found["Meyer_Ännchen_17"], NAME) == path
    (tmp_path / "Meyer Ännchen 17").mkdir()
    with pytest.raises(MinitxlError, match="look alike"):
        submissions.students(tmp_path)


def test_without_nbgrader(tmp_path, source, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code = main(["course", "grade", str(tmp_path), "--out", str(tmp_path / "o")])
    assert code == 2
    assert capsys.readouterr().err == (
        'minitxl: error: grading needs nbgrader, which is missing: pip install -e ".[lecturer]"\n'
    )


def test_windows_has_no_exchange(tmp_path, source, capsys, monkeypatch):
    """The lecturer's commands say so, there alone."""
    monkeypatch.setattr(grading, "grade", lambda *args, **options: ([], {}))
    monkeypatch.setattr(grading, "table", lambda *args: "")
    for platform in ("linux", "win32"):
        for kind in ("student", "solutions", "grade"):
            argv = ["course", kind, "--out", str(tmp_path / platform / kind)]
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


def test_the_table():
    rows = [grading.Row("ann", NAME, ID, 6.0, 6.0, ""), grading.Row("bob", NAME, ID, 1.5, 6.0, "x")]
    rows += [grading.Row("cat", NAME, name, 0.0, 2.0, "y") for name in ("one", "two")]
    assert grading.table(rows, [("bob", NAME, "late")]).splitlines() == [
        "student     points  remarks",
        "ann          6 / 6",
        f"bob        1.5 / 6  {NAME}: late",
        f"                    {ID}: x",
        "cat          0 / 4  one, two: y",
    ]


# --- with nbgrader -------------------------------------------------------------------------------

CASES = {  # student: points, part of the reason
    "right": (6, None),
    "wrong": (0, "the sum is missing"),
    "half": (3, "masked keys"),
    "unsolved": (0, "NotImplementedError"),
    "loop": (0, "it took over 4 s, and was interrupted"),
    "deaf": (0, "could not be interrupted"),
    "exits": (0, "it ended the Python process: exit code 3"),
    "segfault": (6, None),
    "memory": (0, "MemoryError"),
    "empty": (0, "is an empty file"),
    "missing": (0, "no notebook was handed in"),
    "library": (0, "it calls minitxl.model.ops.softmax_backward"),
    "flood": (0, "printed more than 100,000 characters"),
    "environment": (6, None),
    "replaced": (0, "`course` was replaced"),
    "overwritten": (6, None),
    "deleted": (0, "it is not there: run its cell"),
    "syntax": (0, "its cell: SyntaxError"),
}


def make_submissions(folder, source):
    def put(who, answer=None, cell=None):
        (folder / who).mkdir(parents=True)
        book = answered(source, answer)
        write(with_cell(book, *cell) if cell else book, folder / who / f"{NAME}.ipynb")

    put("right", RIGHT)
    put("wrong", HEAD + "    return p * dp")
    put("half", RIGHT.replace("return", "assert p.all(), 'zero'\n    return"))
    put("unsolved")
    put("loop", HEAD + "    while True: pass")
    put("deaf", HEAD + DEAF)
    put("exits", HEAD + "    import os\n    os._exit(3)")
    put("segfault", RIGHT, (1, "import ctypes\nctypes.string_at(0)"))
    put("memory", HEAD + "    x = []\n    while True: x.append(np.empty(10**7))")
    put("library", HEAD + LIBRARY)
    put("flood", HEAD + "    while True: print('x' * 1000)")
    change = "import os\nopen('f.txt', 'w').write('x')\nos.environ.clear()\n"
    put("environment", RIGHT, (0, change + "os.environ['MINITXL_COURSE_SEED'] = 'x'"))
    fake = "import minitxl\nclass Fake:\n    check = lambda *a: 1000\nminitxl.course = Fake"
    put("replaced", HEAD + "    return 1", (2, fake))
    put("overwritten", RIGHT, (2, "course = None"))
    put("syntax", HEAD + "    return p *")
    book = answered(source)
    del book.cells[1]
    (folder / "deleted").mkdir()
    write(book, folder / "deleted" / f"{NAME}.ipynb")
    (folder / "missing").mkdir()
    (folder / "empty").mkdir()
    (folder / "empty" / f"{NAME}.ipynb").touch()


@pytest.fixture(scope="module")
def graded(tmp_path_factory, source):
    pytest.importorskip("nbgrader", reason="nbgrader is not installed (extra lecturer)")
    folder, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("graded") / "out"
    make_submissions(folder, source)
    limits = grading.Limits(timeout=4, memory=1.5)
    rows, remarks = grading.grade(folder, out, source=source, limits=limits, seed=5, jobs=2)
    return {row.student: row for row in rows}, remarks, out


@pytest.mark.slow
@pytest.mark.parametrize("student", CASES)
def test_points_and_reasons(graded, student):
    row = graded[0][student]
    points, why = CASES[student]
    assert (row.points, row.of) == (points, 6), row.remark
    assert (why or "") in row.remark and bool(row.remark) == bool(why)


@pytest.mark.slow
def test_a_cell_that_was_left_out_is_reported(graded):
    texts = [text for student, _, text in graded[1] if student == "segfault"]
    assert texts == ["cell 2 was left out: it ended the Python process: SIGSEGV"]


@pytest.mark.slow
def test_what_nbgrader_leaves(graded):
    out = graded[2]
    with open(out / "grades.csv", newline="") as file:
        table = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert table == {student: points for student, (points, _) in CASES.items()}
    with open(out / "exercises.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(CASES)
    for student in CASES:
        page = (out / "feedback" / student / "minitxl" / f"{NAME}.html").read_text("utf-8")
        assert "softmax_backward" in page
        if student != "loop":  # else the line that was interrupted is shown
            assert "course/__init__.py" not in page  # the verdict, without a traceback
    assert not list(out.rglob("f.txt"))  # it was written elsewhere
    released = nbformat.read(out / "release" / "minitxl" / f"{NAME}.ipynb", as_version=4)
    assert "NotImplementedError" in released.cells[1].source
    assert "ops" not in released.cells[1].source


@pytest.mark.slow
def test_a_folder_that_has_been_graded_stays(graded, source, tmp_path):
    (tmp_path / "someone").mkdir()
    with pytest.raises(MinitxlError, match="is not empty"):
        grading.grade(tmp_path, graded[2], source=source)


# --- several at once -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_result_one_by_one(graded, source, tmp_path):
    few = ["environment", "half", "right", "wrong"]
    make_submissions(tmp_path / "all", source)
    for who in few:
        (tmp_path / "few").mkdir(exist_ok=True)
        (tmp_path / "all" / who).rename(tmp_path / "few" / who)
    out = tmp_path / "out"
    rows, remarks = grading.grade(tmp_path / "few", out, source=source, seed=5, jobs=1)
    assert rows == [graded[0][who] for who in few] and not remarks
    for name in ("grades.csv", "exercises.csv"):
        head, *lines = (graded[2] / name).read_text("utf-8").splitlines()
        kept = [line for line in lines if set(line.split(",")) & set(few)]
        assert (out / name).read_text("utf-8").splitlines() == [head, *kept]


def is_running(pid: int) -> bool:
    psutil = pytest.importorskip("psutil")
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_an_end_leaves_nothing_behind(source, tmp_path, how):
    """Ctrl-C, or the end of the process that grades, ends what submissions started, too."""
    pytest.importorskip("nbgrader", reason="nbgrader is not installed (extra lecturer)")
    noted = tmp_path / "pids"
    noted.mkdir()
    for who in ("ann", "bob"):
        text = (
            "import os, subprocess\nchild = subprocess.Popen(['sleep', '600'])\n"
            f"with open({str(noted / who)!r}, 'w') as file:\n"
            "    file.write(f'{os.getppid()} {os.getpid()} {child.pid}\\n')\n"
            "while True: pass"
        )
        (tmp_path / "in" / who).mkdir(parents=True)
        book = with_cell(answered(source), 1, text)
        write(book, tmp_path / "in" / who / f"{NAME}.ipynb")
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "minitxl", "course", "grade", str(tmp_path / "in")]
    command += ["--out", str(tmp_path / "out"), "--source", str(source), "--jobs", "2"]
    process = subprocess.Popen(
        command,
        cwd=Path(grading.__file__).parents[3],
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not all(
            (noted / who).exists() and (noted / who).read_text() for who in ("ann", "bob")
        ):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        pids = [int(pid) for path in noted.iterdir() for pid in path.read_text().split()]
        if how == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        else:
            process.send_signal(signal.Signals[how])
        error = process.communicate(timeout=20)[1]
        deadline = time.monotonic() + 10
        while any(map(is_running, pids)):
            assert time.monotonic() < deadline, [pid for pid in pids if is_running(pid)]
            time.sleep(0.1)
    finally:
        process.kill()
    if how == "SIGINT":
        assert process.returncode == 130
        assert error.splitlines()[1:] == ["", "minitxl: interrupted"]
        assert not list((tmp_path / "tmp").iterdir())
