"""`course`: notebooks and projects for students, their solutions, and grading what comes back."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from minitxl.cli.common import Parser, add_command, say

PROJECTS = ("corpus", "memory", "claim")
GRADE_EPILOG = """\
SUBMISSIONS holds one folder for each student, with notebooks or zips, or is a download of Moodle or
Canvas (or a zip of these). Of several hand-ins the latest counts. nbgrader keeps the gradebook
(extra `lecturer`); DIR becomes its course folder: feedback/STUDENT/minitxl/*.html, grades.csv, and
besides exercises.csv with the reason for every point lost, moodle.csv, canvas.csv, class.html.
Shapes and numbers differ in every grading. Submissions are programs: each is run in a process apart
from its judge, in a sandbox where there is one (bubblewrap: `apt install bubblewrap`).
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
    notebooks.add_argument(
        "--project", action="store_true", help="with those of the projects; --run trains them, too"
    )
    released = add_command(
        kinds, "release", run, "write what students get: notebooks without answers, instructions"
    )
    released.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    _add_notebooks(released)
    released.add_argument(
        "--seed-by-student",
        type=Path,
        metavar="CSV",
        help="the roster: each of it gets a variant, OUT/students/ID; OUT/lecturer has the key",
    )
    released.add_argument("--project", action="store_true", help="with the folder of projects")
    project = add_command(kinds, "project", run, "say which milestones of projects are reached")
    project.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="as handed out")
    project.add_argument("--only", nargs="+", default=[], choices=PROJECTS, help="these alone")
    project.add_argument(
        "--measure",
        action="store_true",
        help="first train with a memory in it (runs its code)",
    )
    project.add_argument(
        "--seed-by-student", type=Path, metavar="CSV", help="the roster; FOLDERs are named by id"
    )
    project.add_argument("--csv", type=Path, metavar="FILE", help="write a table, too")
    site = add_command(
        kinds, "site", run, "write the course as web pages, to be read without Python"
    )
    site.add_argument("out", type=Path, metavar="OUT", help="a new folder; begin at its index.html")
    site.add_argument(
        "--notebooks", type=Path, metavar="DIR", help="that were run (default: the repository's)"
    )
    scope = add_command(kinds, "gradescope", run, "write the zip of an autograder for Gradescope")
    scope.add_argument("out", type=Path, metavar="ZIP", help="a new file")
    scope.add_argument("--seed", type=int, default=0, help="of shapes and numbers (default: 0)")
    scope.add_argument("--notebook", nargs="+", default=[], metavar="NAME", help="only these")
    scope.add_argument(
        "--seed-by-student", type=Path, metavar="CSV", help="as released: the roster, for variants"
    )
    scope.add_argument("--source", type=Path, metavar="DIR", help="of the scripts")
    grade = add_command(kinds, "grade", run, "grade submissions with nbgrader", GRADE_EPILOG)
    grade.add_argument("submissions", type=Path, metavar="SUBMISSIONS", help="folder of folders")
    _add_names(grade)
    add = grade.add_argument
    add("--roster", type=Path, metavar="CSV", help="the class: id, and name, email, moodle, canvas")
    add("--due", metavar="TIME", help="such as 2026-12-01T18:00")
    add("--late", default="none", metavar="PENALTY", help="such as 10%%/day (default: none)")
    add("--only", nargs="+", default=[], metavar="STUDENT", help="grade these again")
    add("--resume", action="store_true", help="go on with DIR: what is new or was handed in again")
    add("--seed-by-student", action="store_true", help="as released: variants, by --roster")
    add("--sandbox", choices=("auto", "bwrap", "docker", "none"), default="auto", help="see README")
    add("--timeout", type=int, default=60, metavar="S", help="seconds for a task (default: 60)")
    add("--total", type=int, default=900, metavar="S", help="for a notebook (default: 900)")
    add("--memory", type=float, default=4.0, metavar="GIB", help="for a process (default: 4)")
    add("--jobs", type=int, metavar="N", help="students at once (default: by cores and memory)")
    add("--seed", type=int, help="of shapes and numbers in the checks (default: random)")


def _add_names(parser: Parser) -> None:
    _add_notebooks(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")


def _add_notebooks(parser: Parser) -> None:
    add = parser.add_argument
    add("--notebook", nargs="+", default=[], metavar="NAME", help="only these (default: all)")
    add("--questions", action="store_true", help="with cells for them, which a person grades")
    add("--source", type=Path, metavar="DIR", help="of the scripts (default: those that ship)")


def run(options: argparse.Namespace) -> int:
    """Write notebooks and print their paths, or grade and print the table."""
    if options.kind is None:
        options.parser.print_help()
        return 2
    own = {"grade": _grade, "release": _release, "gradescope": _gradescope}
    own |= {"site": _site, "project": _project}
    return own.get(options.kind, _write)(options)


def _site(options: argparse.Namespace) -> int:
    from minitxl.cli.explore import component
    from minitxl.course.site import write_site

    notebooks = {} if options.notebooks is None else {"notebooks": options.notebooks}
    for path in write_site(options.out, component, **notebooks):
        print(path)
    return 0


def _gradescope(options: argparse.Namespace) -> int:
    from minitxl.course.grading.gradescope import write_zip
    from minitxl.course.grading.roster import read_roster
    from minitxl.course.notebooks import SOURCE

    roster = read_roster(options.seed_by_student) if options.seed_by_student else None
    print(write_zip(options.out, options.notebook, options.source or SOURCE, options.seed, roster))
    return 0


def _release(options: argparse.Namespace) -> int:
    from minitxl.course.grading.roster import read_roster
    from minitxl.course.notebooks import SOURCE
    from minitxl.course.release import release

    roster = read_roster(options.seed_by_student) if options.seed_by_student else None
    source, asked = options.source or SOURCE, {"questions": options.questions, "roster": roster}
    asked["project"] = options.project
    for path in release(options.out, options.notebook, source, **asked):
        print(path)
    return 0


def _write(options: argparse.Namespace) -> int:
    from minitxl.course import notebooks
    from minitxl.course.questions import rubric_page
    from minitxl.files import write_atomically

    source = options.source or notebooks.SOURCE
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.notebook or notebooks.known(source):
        solved = options.kind == "solutions"
        book = notebooks.notebook_from(name, source, solved=solved, questions=options.questions)
        if options.outputs:
            began = time.perf_counter()
            notebooks.execute(book, options.out)
            notebooks.clean(book)
            say(f"{name}: all cells in {time.perf_counter() - began:.0f} s")
        path = options.out / f"{name}.ipynb"
        notebooks.write(book, path)
        print(path)
    if options.kind == "solutions" and options.questions:
        path = options.out / "RUBRIC.md"
        write_atomically(path, rubric_page().encode("utf-8"))
        print(path)
    if options.kind == "solutions" and options.project:
        from minitxl.course.project import solution

        for path in solution.write(options.out / "project"):
            print(path)
        if options.outputs:
            solution.run(options.out / "project", progress=say)
    if options.kind == "solutions" and sys.platform == "win32":
        say(NO_EXCHANGE)
    return 0


def _project(options: argparse.Namespace) -> int:
    from minitxl.course.grading.roster import read_roster
    from minitxl.course.project import assess

    roster = read_roster(options.seed_by_student) if options.seed_by_student else None
    rows = []
    for folder in options.folders:
        if options.measure:
            print(assess.measured(folder, say, options.only))
        lines, found = assess.assessed(folder, options.only, roster)
        print("\n".join(lines))
        rows += found
    if options.csv:
        assess.write_csv(options.csv, rows)
    return 0


def _grade(options: argparse.Namespace) -> int:
    from minitxl.course.grading import tables
    from minitxl.course.grading.grading import Order, grade
    from minitxl.course.grading.judge import Limits
    from minitxl.course.grading.late import read_due
    from minitxl.course.grading.roster import read_roster
    from minitxl.course.notebooks import SOURCE

    order = Order(
        names=tuple(options.notebook),
        source=options.source or SOURCE,
        limits=Limits(options.timeout, options.total, options.memory),
        sandbox=options.sandbox,
        seed=options.seed,
        jobs=options.jobs,
        roster=read_roster(options.roster) if options.roster else None,
        due=read_due(options.due) if options.due else None,
        late=options.late,
        only=tuple(options.only),
        resume=options.resume,
        questions=options.questions,
        by_student=options.seed_by_student,
    )
    graded = grade(options.submissions, options.out, order, progress=say)
    tables.write_tables(graded, options.out)
    print(tables.table(graded))
    print(f"\nfeedback pages, class.html and tables: {options.out}")
    if sys.platform == "win32":
        say(NO_EXCHANGE)
    return 0
