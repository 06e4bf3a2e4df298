"""What students get: notebooks without answers, and a page of instructions; nothing else.

The lecturer's side (`course solutions`, the guide in `notebooks/README.md`) stands apart. What a
release cannot hide is said in it: the library is open source, and answers are in it.
"""

from __future__ import annotations

from pathlib import Path

from minitxl import __version__
from minitxl.course.notebooks import SOURCE, exercises_of, known, notebook_from, write
from minitxl.course.questions import QUESTIONS
from minitxl.errors import MinitxlError
from minitxl.files import write_atomically

PAGE = """\
# Instructions

{count} notebooks{points}. You need Python 3.11, 3.12 or 3.13:

    python -m venv .venv
    source .venv/bin/activate          # Windows: .venv\\Scripts\\activate
    pip install "minitxl[notebooks]=={version}"
    jupyter lab

(If your lecturer gave you a file `minitxl-{version}-....whl`: `pip install "FILE[notebooks]"`.)
Texts and models come with it; no GPU is needed.

{table}

- An exercise is a cell to fill in; the check below it says whether it is right, and if not, which
  mistake it looks like. It gives no points: these are given later, for other shapes and numbers.
- Write it yourself, in NumPy or PyTorch. Where points are given the library is not to be had: an
  answer that calls `minitxl` is worth nothing. Helpers of your own may stand in other cells.
- `course.reveal` shows an answer in steps, one for each try, and the library's own once yours is
  right.
- The library is open, so its answers can be found. Two answers that are the same but for names and
  comments are seen.
- Hand in the notebooks, as files or in one zip. They need not have been run. Of several the latest
  counts.
"""


def release(out: Path, names=(), source: Path = SOURCE, *, questions: bool = False) -> list[Path]:
    """Write notebooks and INSTRUCTIONS.md into a new folder; return their paths.

    names: of notebooks; default all. questions: with cells for their answers. MinitxlError
    where the folder holds something.
    """
    if out.exists() and any(out.iterdir()):
        raise MinitxlError(f"{out} is not empty: give a new folder, or an answer may be left")
    names = list(names) or known(source)
    books = {name: notebook_from(name, source, questions=questions) for name in names}
    out.mkdir(parents=True, exist_ok=True)
    for name, book in books.items():
        write(book, out / f"{name}.ipynb")
    page = out / "INSTRUCTIONS.md"
    write_atomically(page, _page(names, source, questions).encode("utf-8"))
    return [page, *(out / f"{name}.ipynb" for name in names)]


def _page(names: list[str], source: Path, questions: bool) -> str:
    rows = ["| notebook | exercise | points |", "|---|---|---:|"]
    total = 0
    for name in names:
        for exercise in exercises_of(name, source):
            rows.append(f"| `{name}.ipynb` | {exercise.title} | {exercise.points} |")
            total += exercise.points
        if questions and (own := QUESTIONS.get(name)):
            points = sum(question.points for question in own)
            rows.append(f"| `{name}.ipynb` | {len(own)} questions, at the end | {points} |")
            total += points
    points = f", with {total} points" if total else ""
    table = "\n".join(rows) if total else ""
    return PAGE.format(count=len(names), points=points, version=__version__, table=table)
