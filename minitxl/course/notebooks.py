"""Notebooks from scripts: for students, with stubs, and for lecturers, with the model solutions.

A notebook is written as a plain script, `notebooks/source/NAME.py`:

    # %%                  a code cell
    # %% [markdown]       a text cell, its lines commented out
    # %% exercise ID      the exercise's stub, or its solution; nothing of its own below
    # %% check ID         `course.check("ID")`

Both versions carry the cell metadata of nbgrader, which therefore can release and grade them.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import secrets
import tempfile
import textwrap
from pathlib import Path

import nbformat
from nbformat import NotebookNode

import minitxl
from minitxl.course import EXERCISES, Exercise
from minitxl.course.questions import QUESTIONS
from minitxl.course.variants import COMMON, code_of, text_of, vary
from minitxl.errors import MinitxlError
from minitxl.files import write_atomically
from minitxl.viz.in_browser import VIEW as WIDGET

ROOT = Path(minitxl.__file__).resolve().parents[1]  # the checkout, or where packages are installed
_SHIPPED = Path(__file__).resolve().parent / "source"  # a wheel has the scripts here: setup.py
SOURCE = _SHIPPED if _SHIPPED.is_dir() else ROOT / "notebooks" / "source"
TIMEOUT = 300  # seconds for one cell
SOCKET_PATH = 90  # characters: some systems end the path of a socket at 103, and "-ipc-5" is added
KEPT = ("nbgrader", "deletable", "editable")  # cell metadata


def known(source: Path = SOURCE) -> list[str]:
    """Return the names of all notebooks whose script is in the folder."""
    names = sorted(path.stem for path in source.glob("*.py"))
    if not names:
        raise MinitxlError(f"{source} has no notebook scripts NAME.py: give the folder by --source")
    return names


def cells_of(source: str) -> list[tuple[str, str]]:
    """Split a script into (kind, text): "markdown" or "code"; "exercise" or "check" with the ID."""
    cells: list[tuple[str, str, list[str]]] = []
    for line in source.splitlines():
        if line.startswith("# %%"):
            words = line.removeprefix("# %%").split()
            kind = "markdown" if "[markdown]" in words else "code"
            if words and words[0] in ("exercise", "check"):
                kind = words[0]
            cells.append((kind, " ".join(words[1:]), []))
        elif cells:
            cells[-1][2].append(line)
    out = []
    for kind, name, lines in cells:
        if kind == "markdown":
            lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
        text = "\n".join(lines).strip("\n")
        if kind in ("exercise", "check"):
            if text.strip():
                raise MinitxlError(
                    f"`# %% {kind} {name}` is followed by {text.splitlines()[0]!r}: "
                    "open another cell for it, as this one is filled by the build"
                )
            text = name
        out.append((kind, text))
    return out


def exercises_of(name: str, source: Path = SOURCE) -> list[Exercise]:
    """Return the exercises of a notebook in their order, each with a check after it."""
    return _exercises(name, cells_of(_script(name, source)))


def notebook_from(
    name: str,
    source: Path = SOURCE,
    *,
    solved: bool = False,
    listing: bool = True,
    questions: bool = False,
    variant: str = COMMON,
) -> NotebookNode:
    """Return the notebook of `NAME.py` without outputs; its cell ids are the same on every build.

    solved: the lecturer's version. listing: in it, show the library's source below a solution.
    questions: with a cell for the answer to each question, at the end, which a person grades.
    variant: the word of a student's own hand-out.
    Raises MinitxlError for exercises that do not exist, or are not in their place.
    """
    cells = cells_of(_script(name, source))
    _exercises(name, cells)
    book = nbformat.v4.new_notebook()
    texts = iter(text_of(name, [text for kind, text in cells if kind == "markdown"], variant))
    for number, (kind, text) in enumerate(cells):
        if kind == "exercise":
            book.cells.append(_exercise_cell(vary(EXERCISES[text], variant), solved))
            if solved and listing:
                book.cells.append(_listing(EXERCISES[text]))
        elif kind == "check":
            book.cells.append(_check_cell(EXERCISES[text], variant))
        elif kind == "markdown":
            book.cells.append(nbformat.v4.new_markdown_cell(next(texts), id=f"cell-{number:02}"))
        else:
            source = code_of(text, variant)
            book.cells.append(nbformat.v4.new_code_cell(source, id=f"cell-{number:02}"))
    for question in QUESTIONS.get(name, ()) if questions else ():
        text = question.solved if solved else question.stub
        cell = nbformat.v4.new_markdown_cell(text, id=question.id)
        marks = _nbgrader(question.id, grade=True, solution=True, points=question.points)
        cell.metadata = NotebookNode(deletable=False, nbgrader=marks)
        book.cells.append(cell)
    book.metadata["kernelspec"] = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    book.metadata["language_info"] = {"name": "python", "file_extension": ".py"}
    return book


def write(book: NotebookNode, path: Path) -> None:
    """Write a notebook, with the same bytes on every system."""
    write_atomically(path, (nbformat.writes(book) + "\n").encode("utf-8"))


# --- running -------------------------------------------------------------------------------------


def execute(book: NotebookNode, folder: Path | None = None) -> None:
    """Run all cells in a clean kernel; a failing cell raises.

    folder: where the kernel works, by default this process's own.
    """
    from nbclient import NotebookClient

    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # One thread: two wait for each other where other work runs beside, ten times as long or more.
    with environment({"PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}):
        client = NotebookClient(
            book,
            timeout=TIMEOUT,
            resources={"metadata": {"path": str(folder or Path.cwd())}},
            store_widget_state=False,
        )
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as sockets:
            by_sockets(client.create_kernel_manager(), sockets)
            client.execute()


def by_sockets(manager, folder: str) -> None:
    """Have a kernel that is to be started talk by sockets in a folder, where the system has such.

    By ports others on the machine might listen, of which the kernel warns whoever starts it; and
    two that start at once may choose the same.
    """
    path = os.path.join(folder, f"k{secrets.token_hex(4)}.json")
    if os.name == "posix" and len(os.fsencode(path)) < SOCKET_PATH:
        manager.transport, manager.connection_file = "ipc", path


@contextlib.contextmanager
def environment(changes: dict[str, str]):
    """Within it environment variables have these values."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def clean(book: NotebookNode) -> None:
    """Keep what a reader sees: no live views (they need a kernel), no times, no versions."""
    book.metadata.pop("widgets", None)
    book.metadata["language_info"] = {"name": "python", "file_extension": ".py"}
    for cell in book.cells:
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k in KEPT})
        streams: dict[str, NotebookNode] = {}
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
            if output.output_type == "stream":  # printed bit by bit: one text is easier to keep
                first = streams.setdefault(output.name, output)
                if first is not output:
                    first.text += output.text
                    output.text = ""
        if streams:
            cell.outputs = [o for o in cell.outputs if o.output_type != "stream" or o.text]


# --- cells ---------------------------------------------------------------------------------------


def check_id(exercise_id: str) -> str:
    """Return nbgrader's id of the cell that checks an exercise; the exercise's own is its ID."""
    return f"{exercise_id}-check"


def _exercise_cell(exercise: Exercise, solved: bool) -> NotebookNode:
    source = _with_solution(exercise) if solved else exercise.stub
    cell = nbformat.v4.new_code_cell(source.strip("\n"), id=f"exercise-{exercise.id}")
    cell.metadata = NotebookNode(deletable=False, nbgrader=_nbgrader(exercise.id, solution=True))
    return cell


def _with_solution(exercise: Exercise) -> str:
    head = exercise.stub.removesuffix("    raise NotImplementedError\n")
    inside = exercise.solution.removeprefix(head)
    return f"{head}    ### BEGIN SOLUTION\n{inside}    ### END SOLUTION\n"


def check_sources(exercise: Exercise) -> tuple[str, ...]:
    """Return what a check's cell says, and what it said in notebooks handed out earlier."""
    now = f'from minitxl import course\n\ncourse.check("{exercise.id}")'
    return now, f'course.check("{exercise.id}", {exercise.name})'


def _check_cell(exercise: Exercise, variant: str) -> NotebookNode:
    source = code_of(check_sources(exercise)[0], variant)
    cell = nbformat.v4.new_code_cell(source, id=f"check-{exercise.id}")
    metadata = _nbgrader(check_id(exercise.id), grade=True, locked=True, points=exercise.points)
    cell.metadata = NotebookNode(deletable=False, editable=False, nbgrader=metadata)
    return cell


def _nbgrader(grade_id: str, **changes) -> NotebookNode:
    plain = {"grade": False, "locked": False, "solution": False, "task": False}
    return NotebookNode({"schema_version": 3, "grade_id": grade_id, **plain, **changes})


def _listing(exercise: Exercise) -> NotebookNode:
    """A text cell with the source of the library's own answer."""
    parts = [f"*The library's own, for `{exercise.name}`:*"]
    for shown in exercise.shown:
        code = textwrap.dedent(inspect.getsource(shown)).strip("\n")
        where = f"{shown.__module__}.{shown.__qualname__}"
        parts.append(f"`{where}`\n\n```python\n{code}\n```")
    return nbformat.v4.new_markdown_cell("\n\n".join(parts), id=f"library-{exercise.id}")


def _script(name: str, source: Path) -> str:
    names = known(source)
    if name not in names:
        raise MinitxlError(f"there is no notebook {name}; there are {', '.join(names)}")
    return (source / f"{name}.py").read_text(encoding="utf-8")


def _exercises(name: str, cells: list[tuple[str, str]]) -> list[Exercise]:
    """Return a notebook's exercises, having seen that all is in order."""
    found: list[str] = []
    checked: set[str] = set()
    for kind, text in cells:
        if kind not in ("exercise", "check"):
            continue
        where = f"notebook {name}, `# %% {kind} {text}`"
        if text not in EXERCISES:
            here = [e.id for e in EXERCISES.values() if e.notebook == name]
            raise MinitxlError(
                f"{where}: there is no such exercise; here belong {', '.join(here) or 'none'}"
            )
        if EXERCISES[text].notebook != name:
            raise MinitxlError(f"{where}: it belongs to notebook {EXERCISES[text].notebook}")
        if text in (found if kind == "exercise" else checked):
            raise MinitxlError(f"{where}: it is there twice, must be once")
        if kind == "exercise":
            found.append(text)
        elif text not in found:
            raise MinitxlError(f"{where}: the exercise must come before its check")
        else:
            checked.add(text)
    for text in found:
        if text not in checked:
            raise MinitxlError(f"notebook {name}: `# %% check {text}` is missing")
    return [EXERCISES[text] for text in found]
