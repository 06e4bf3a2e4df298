"""`course`: notebooks for students and for lecturers, and grading what students hand in."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from minitxl.cli.common import Parser, add_command, say

GRADE_EPILOG = """\
SUBMISSIONS holds one folder for each student, with notebooks. nbgrader does the work (extra
`lecturer`); DIR becomes its course folder: feedback/STUDENT/minitxl/*.html, grades.csv, and
exercises.csv with the reason for every point lost. Shapes and numbers differ in every grading.
Submissions are programs: grade them as a user, or in a container, that may be lost.
On Windows nbgrader has no exchange; this command needs none."""

NO_EXCHANGE = (
    "nbgrader has no exchange on Windows: its commands release_assignment, fetch, submit and "
    "collect do not work; hand the notebooks out and take them back as folders (course grade)"
)


def add(commands) -> None:
    """Add the command, its three own commands and their options."""
    parser = add_command(
        commands, "course", run, "write notebooks for students or lecturers, grade what comes back"
    )
    parser.set_defaults(parser=parser)
    kinds = parser.add_subparsers(dest="kind", metavar="COMMAND", parser_class=Parser)
    for kind, sentence in (
        ("student", "write the notebooks as students get them"),
        ("solutions", "write the lecturer's notebooks, with solutions and nbgrader's marks"),
    ):
        notebooks = add_command(kinds, kind, run, sentence)
        _add_names(notebooks)
        notebooks.add_argument(  # `options.run` is the command itself
            "--run", dest="outputs", action="store_true", help="run them, and keep the outputs"
        )
    grade = add_command(kinds, "grade", run, "grade submissions with nbgrader", GRADE_EPILOG)
    grade.add_argument("submissions", type=Path, metavar="SUBMISSIONS", help="folder of folders")
    _add_names(grade)
    add = grade.add_argument
    add("--timeout", type=int, default=60, metavar="S", help="seconds for a cell (default: 60)")
    add("--total", type=int, default=900, metavar="S", help="for a notebook (default: 900)")
    add("--memory", type=float, default=4.0, metavar="GIB", help="for a notebook (default: 4)")
    add("--jobs", type=int, metavar="N", help="students at once (default: by cores and memory)")
    add("--seed", type=int, help="of shapes and numbers in the checks (default: random)")


def _add_names(parser: Parser) -> None:
    add = parser.add_argument
    add("--notebook", nargs="+", default=[], metavar="NAME", help="only these (default: all)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--source", type=Path, metavar="DIR", help="of the scripts (default: those that ship)")


def run(options: argparse.Namespace) -> int:
    """Write notebooks and print their paths, or grade and print the table."""
    if options.kind is None:
        options.parser.print_help()
        return 2
    return _grade(options) if options.kind == "grade" else _write(options)


def _write(options: argparse.Namespace) -> int:
    from minitxl.course import notebooks

    source = options.source or notebooks.SOURCE
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.notebook or notebooks.known(source):
        solved = options.kind == "solutions"
        book = notebooks.notebook_from(name, source, solved=solved)
        if options.outputs:
            began = time.perf_counter()
            notebooks.execute(book, options.out)
            notebooks.clean(book)
            say(f"{name}: all cells in {time.perf_counter() - began:.0f} s")
        path = options.out / f"{name}.ipynb"
        notebooks.write(book, path)
        print(path)
    if options.kind == "solutions" and sys.platform == "win32":
        say(NO_EXCHANGE)
    return 0


def _grade(options: argparse.Namespace) -> int:
    from minitxl.course.grading import grading
    from minitxl.course.notebooks import SOURCE

    rows, remarks = grading.grade(
        options.submissions,
        options.out,
        names=options.notebook,
        source=options.source or SOURCE,
        limits=grading.Limits(options.timeout, options.total, options.memory),
        seed=options.seed,
        jobs=options.jobs,
        progress=say,
    )
    print(grading.table(rows, remarks))
    print(f"\nfeedback pages, grades.csv and exercises.csv: {options.out}")
    if sys.platform == "win32":
        say(NO_EXCHANGE)
    return 0
