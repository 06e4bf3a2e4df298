"""What students get: notebooks without answers, and a page of instructions; nothing else.

By a roster each student gets a hand-out of their own (`variants.py`). The lecturer's side (`course
solutions`, the guide in `notebooks/README.md`) stands apart. What a release cannot hide is said in
it: the library is open source, and answers are in it.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from minitxl import __version__
from minitxl.course import hunt
from minitxl.course.grading.roster import Roster
from minitxl.course.notebooks import SOURCE, exercises_of, known, notebook_from, write
from minitxl.course.project.claim import claim_of
from minitxl.course.project.handout import hand_out
from minitxl.course.questions import QUESTIONS
from minitxl.course.variants import COMMON, key_of, word_of
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
{own}"""
OWN = """\
- This hand-out is yours alone: checks, parameters of exercises ("Yours: ...") and numbers of
  questions differ from everyone else's, and points are given for yours. Leave `variant=` as it is.
"""


def release(
    out: Path,
    names=(),
    source: Path = SOURCE,
    *,
    questions: bool = False,
    roster: Roster | None = None,
    project: bool = False,
) -> list[Path]:
    """Write notebooks and INSTRUCTIONS.md into a new folder; return their paths.

    names: of notebooks; default all. questions: with cells for their answers. roster: each of its
    students gets a variant, OUT/students/ID, and the lecturer OUT/lecturer/variants.csv, in which
    is what each was asked. project: with the folder of projects. MinitxlError where the folder
    holds something.
    """
    if out.exists() and any(out.iterdir()):
        raise MinitxlError(f"{out} is not empty: give a new folder, or an answer may be left")
    names = list(names) or known(source)
    if roster is None:
        return _hand_out(out, names, source, questions, project, COMMON)
    words = {person.id: word_of(person.id) for person in roster.people}
    paths = []
    for student, word in words.items():
        whose = out / "students" / student
        paths += _hand_out(whose, names, source, questions, project, word)
    key = out / "lecturer" / "variants.csv"
    key.parent.mkdir()
    write_atomically(key, _key(words, names, source).encode("utf-8"))
    return [key, *paths]


def _hand_out(out, names, source, questions: bool, project: bool, variant: str) -> list[Path]:
    books = {
        name: notebook_from(name, source, questions=questions, variant=variant) for name in names
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, book in books.items():
        write(book, out / f"{name}.ipynb")
    page = out / "INSTRUCTIONS.md"
    text = _page(names, source, questions, own=bool(variant))
    write_atomically(page, text.encode("utf-8"))
    paths = [page, *(out / f"{name}.ipynb" for name in names)]
    return paths + (hand_out(out / "project", variant) if project else [])


def _key(words: dict[str, str], names: list[str], source: Path) -> str:
    """Return a table of what each student was asked, and of right answers to questions."""
    ids = [exercise.id for name in names for exercise in exercises_of(name, source)]
    rows = []
    for student, word in words.items():
        rows.append({"student": student, "variant": word, **key_of(word, ids, names)})
        rows[-1]["claim"] = claim_of(word)
        if "bug-hunt" in rows[-1]:
            rows[-1]["bug-hunt"] = ", ".join(f"{a} {bug}" for a, bug in hunt.order(word).items())
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    return file.getvalue()


def _page(names: list[str], source: Path, questions: bool, own: bool) -> str:
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
    values = {"count": len(names), "points": points, "version": __version__, "table": table}
    return PAGE.format(own=OWN if own else "", **values)
