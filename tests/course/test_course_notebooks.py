"""From script to notebook: the student's version, the lecturer's, and nbgrader's metadata."""

import ast
import re
import textwrap
from collections import Counter

import pytest

nbformat = pytest.importorskip("nbformat")

from helpers.course_answers import ANSWERS  # noqa: E402
from minitxl import course  # noqa: E402
from minitxl.course import EXERCISES  # noqa: E402
from minitxl.course import notebooks as nb  # noqa: E402
from minitxl.course.questions import QUESTIONS, rubric_page  # noqa: E402
from minitxl.course.release import release  # noqa: E402
from minitxl.errors import MinitxlError  # noqa: E402

NAME = "02_attention_by_hand"
SCRIPT = """\
# %% [markdown]
# # Title

# %%
from minitxl import course

# %% exercise softmax-backward

# %% check softmax-backward

# %% [markdown]
# The end.
"""
COURSE = nb.known()  # the real notebooks


@pytest.fixture
def source(tmp_path):
    def script(text=SCRIPT, name=NAME):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        return tmp_path

    return script


def marked(book):
    return {c.metadata.nbgrader.grade_id: c for c in book.cells if "nbgrader" in c.metadata}


def test_student_gets_the_stub_and_the_check(source):
    book = nb.notebook_from(NAME, source())
    nbformat.validate(book)
    cells = marked(book)
    exercise = EXERCISES["softmax-backward"]
    assert cells["softmax-backward"].source == exercise.stub.strip("\n")
    assert cells["softmax-backward-check"].source == (
        'from minitxl import course\n\ncourse.check("softmax-backward")'
    )
    assert [c.id for c in book.cells] == [
        "cell-00",
        "cell-01",
        "exercise-softmax-backward",
        "check-softmax-backward",
        "cell-04",
    ]
    assert "SOLUTION" not in nbformat.writes(book)


def test_metadata_of_nbgrader(source):
    for solved in (False, True):
        cells = marked(nb.notebook_from(NAME, source(), solved=solved))
        plain = {"schema_version": 3, "task": False}
        assert cells["softmax-backward"].metadata.nbgrader == {
            **plain,
            "grade_id": "softmax-backward",
            "solution": True,
            "grade": False,
            "locked": False,
        }
        check = cells["softmax-backward-check"].metadata
        assert check.nbgrader == {
            **plain,
            "grade_id": "softmax-backward-check",
            "solution": False,
            "grade": True,
            "locked": True,
            "points": EXERCISES["softmax-backward"].points,
        }
        assert check.editable is False and check.deletable is False


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=lambda e: e.id)
def test_lecturer_gets_the_solution_between_marks(source, exercise):
    script = SCRIPT.replace("softmax-backward", exercise.id)
    folder = source(script, exercise.notebook)
    book = nb.notebook_from(exercise.notebook, folder, solved=True)
    nbformat.validate(book)
    text = marked(book)[exercise.id].source
    names = {}
    exec(text, names)
    assert exercise.is_model_solution(names[exercise.name])
    head, _, rest = text.partition("    ### BEGIN SOLUTION\n")
    inside, _, after = rest.partition("    ### END SOLUTION")
    assert head + "    raise NotImplementedError\n" == exercise.stub and not after
    assert head + inside == exercise.solution  # nothing of it stands outside of the marks


def test_lecturer_sees_the_library(source):
    book = nb.notebook_from(NAME, source(), solved=True)
    listing = next(c for c in book.cells if c.id == "library-softmax-backward")
    assert "minitxl.model.ops.softmax_backward" in listing.source
    assert "def softmax_backward(" in listing.source
    without = nb.notebook_from(NAME, source(), solved=True, listing=False)
    assert [c for c in book.cells if c is not listing] == without.cells


def test_same_bytes_on_every_build(source):
    once, again = (nbformat.writes(nb.notebook_from(NAME, source())) for _ in range(2))
    assert once == again


def test_cleaning_keeps_the_metadata_of_nbgrader(source):
    book = nb.notebook_from(NAME, source())
    before = [dict(c.metadata) for c in book.cells]
    for cell in book.cells:
        cell.metadata["execution"] = {"iopub.status.busy": "now"}
    nb.clean(book)
    assert [dict(c.metadata) for c in book.cells] == before


@pytest.mark.parametrize(
    "change, message",
    [
        (("exercise softmax", "exercise soft"), "there is no such exercise; here belong softmax"),
        (("softmax-backward", "reach"), "it belongs to notebook 05_reach"),
        (("# %% check softmax-backward\n", ""), "check softmax-backward` is missing"),
        (("# %% exercise softmax-backward\n", ""), "must come before its check"),
        (("# %% [markdown]\n# The", "# %% exercise softmax-backward\n# %%\n# The"), "twice"),
        (("check softmax-backward\n", "check softmax-backward\nprint(1)\n"), "'print(1)'"),
    ],
)
def test_a_script_out_of_order(source, change, message):
    with pytest.raises(MinitxlError, match="`") as error:
        nb.notebook_from(NAME, source(SCRIPT.replace(*change)))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_unknown_notebook(source, tmp_path):
    with pytest.raises(MinitxlError, match="there is no notebook 99; there are 02_attention"):
        nb.notebook_from("99", source())
    with pytest.raises(MinitxlError, match="no notebook scripts"):
        nb.known(tmp_path / "elsewhere")


# --- the release ---------------------------------------------------------------------------------


def test_a_release_has_no_answers(tmp_path):
    paths = release(tmp_path / "out")
    assert [p.name for p in paths] == ["INSTRUCTIONS.md", *(f"{name}.ipynb" for name in COURSE)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in paths)
    books = [nbformat.read(path, as_version=4) for path in paths[1:]]
    text = "\n".join(cell.source for book in books for cell in book.cells)
    page = paths[0].read_text(encoding="utf-8")
    for exercise in EXERCISES.values():
        assert textwrap.indent(exercise.body.strip(), "    ") not in text
        assert not any(step in text for step in exercise.steps)
        assert f"| {exercise.title} | {exercise.points} |" in page
        names = {}
        exec(exercise.stub, names)  # still a function with a docstring
        assert names[exercise.name].__doc__ and len(exercise.stub) > 100
    assert "getsource(" not in text
    assert f"with {sum(e.points for e in EXERCISES.values())} points" in page
    assert 'course.reveal("softmax-backward")' in text
    with pytest.raises(MinitxlError, match="is not empty"):
        release(tmp_path / "out")


def test_questions_have_cells_and_rubrics(tmp_path):
    """As many as the notebooks ask, and as the guide answers."""
    guide = (nb.SOURCE.parent / "README.md").read_text(encoding="utf-8")
    everything = [q for own in QUESTIONS.values() for q in own]
    assert [q.number for q in everything] == re.findall(r"\*\*(\d\.\d)\*\*", guide)
    for name, own in QUESTIONS.items():
        text = (nb.SOURCE / f"{name}.py").read_text(encoding="utf-8")
        tail = text.partition("## Questions")[2]
        asked = len(re.findall(r"\*\*Question \d", text)) + len(re.findall(r"^# \d\. ", tail, re.M))
        assert asked == len(own), name
        plain, book = nb.notebook_from(name), nb.notebook_from(name, questions=True)
        nbformat.validate(book)
        assert book.cells[: len(plain.cells)] == plain.cells
        for cell, question in zip(book.cells[len(plain.cells) :], own, strict=True):
            assert cell.metadata.nbgrader.points == question.points >= 1
            assert cell.metadata.nbgrader.grade and cell.metadata.nbgrader.solution
            assert question.rubric[0] not in cell.source
    pages = release(tmp_path / "out", ["05_reach"], questions=True)
    assert "3 questions, at the end" in pages[0].read_text(encoding="utf-8")
    assert all(f"| {q.number} |" in rubric_page() for q in everything)


def test_the_librarys_own_is_shown_once_it_is_solved(capsys, monkeypatch):
    monkeypatch.setattr(course, "_TRIES", {})
    code = 'from minitxl import course\ncourse.reveal("softmax-backward")'
    exec(code, {})
    assert capsys.readouterr().out.startswith("… 0 of 3 tries: try softmax_backward, check it")
    exec(code, {"softmax_backward": ANSWERS["softmax-backward"]})
    assert "def softmax_backward(" in capsys.readouterr().out
    with pytest.raises(MinitxlError, match="there is no exercise 'softmax'"):
        exec('from minitxl import course\ncourse.reveal("softmax")', {})


def test_an_answer_comes_in_steps_one_for_each_honest_try(capsys, monkeypatch):
    monkeypatch.setattr(course, "_TRIES", {})
    tries = [
        lambda dp, p: dp,
        lambda dp, p: dp,  # the same once more
        ANSWERS["softmax-backward"],  # none of the wrong ones
        lambda *a: None,  # not begun
        lambda dp, p: dp * p,
        lambda dp, p: 2 * dp,
    ]
    for answer, steps in zip(tries, (1, 1, 1, 1, 2, 3), strict=True):
        course.check("softmax-backward", answer)
        capsys.readouterr()
        exec("reveal('softmax-backward')", {"reveal": course.reveal})
        out = capsys.readouterr().out
        shown = [step in out for step in EXERCISES["softmax-backward"].steps]
        assert shown == [n < steps for n in range(3)]
    assert "tries" not in out and "def softmax_backward" not in out


# --- the course ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COURSE)
def test_a_notebook_has_its_exercises(name):
    want = {e.id for e in EXERCISES.values() if e.notebook == name}
    assert {e.id for e in nb.exercises_of(name)} == want


def bound(code):
    """Names that a cell sets when it runs, at any depth: assigned, imported, looped over, defined.

    Names of functions' arguments are none: they live in the function.
    """
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest


@pytest.mark.parametrize(
    "code",
    [
        "f = 1",
        "a, (b, *f) = c",
        "f += 1",
        "f: int = 1",
        "for f in a: pass",
        "[0 for f in a]",
        "(f := 1)",
        "def f(): pass",
        "class f: pass",
        "import f.g",
        "import a as f",
        "from a import f",
        "with a as f: pass",
        "try: pass\nexcept A as f: pass",
        "match a:\n    case [f, *_]: pass",
        "del f",
    ],
)
def test_names_that_a_cell_sets(code):
    assert "f" in set(bound(code))
    assert "f" not in set(bound("a.f = g(f); a[f] = 1; import f_g; from f import a"))


@pytest.mark.parametrize("name", COURSE)
def test_no_other_cell_takes_the_name_of_an_exercise(name):
    """Else a solved exercise turns wrong when cells are run again, out of order."""
    answers = {e.name for e in nb.exercises_of(name)}
    answers |= {e.given.__name__ for e in nb.exercises_of(name) if e.given}
    for kind, text in nb.cells_of((nb.SOURCE / f"{name}.py").read_text(encoding="utf-8")):
        if kind == "code":
            assert not answers & set(bound(text)), text


def test_every_exercise_is_in_one_notebook_and_points_add_up():
    used = Counter(e.id for name in COURSE for e in nb.exercises_of(name))
    assert used == Counter(EXERCISES.keys())
    points = 0
    for name in COURSE:
        cells = marked(nb.notebook_from(name)).values()
        points += sum(c.metadata.nbgrader.get("points", 0) for c in cells)
    assert points == sum(e.points for e in EXERCISES.values())


def test_the_guide_has_the_right_numbers():
    guide = (nb.SOURCE.parent / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"\((\w+)\.ipynb\) \|.*\| (\d+) \| (\d+) \|$", guide, re.MULTILINE)
    want = [(name, nb.exercises_of(name)) for name in COURSE]
    assert rows == [(name, str(len(es)), str(sum(e.points for e in es))) for name, es in want]
