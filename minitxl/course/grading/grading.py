"""Grade what a class handed in: collected, judged, entered into nbgrader's gradebook.

`collect.py` finds the files, `submissions.py` puts each in order, `judge.py` judges it; nbgrader
keeps the gradebook and writes the pages for students (`course_folder.py`, `execute.py`). What came
of each student is kept in OUT/judged, from which all tables are made anew (`tables.py`): so grading
can be resumed, and one student graded again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import secrets
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from minitxl.backend.threads import core_count
from minitxl.course.grading import course_folder, sandbox
from minitxl.course.grading.collect import HandIn, collect, people_of
from minitxl.course.grading.course_folder import ASSIGNMENT
from minitxl.course.grading.feedback import SAME, improve_all
from minitxl.course.grading.judge import Limits, unusual
from minitxl.course.grading.late import read_penalty, utc
from minitxl.course.grading.processes import processes
from minitxl.course.grading.records import JUDGED, SETTINGS, Graded, Record, Row, keep, recall
from minitxl.course.grading.roster import Person, Roster
from minitxl.course.grading.similar import is_copy, shape
from minitxl.course.grading.submissions import NAMED, received
from minitxl.course.notebooks import SOURCE, check_id, exercises_of, known, notebook_from, write
from minitxl.course.variants import COMMON, value_of, word_of, words_in
from minitxl.errors import MinitxlError

MOST_JOBS = 60  # Windows waits for no more


@dataclass(frozen=True)
class Order:
    """How a class is graded."""

    names: tuple[str, ...] = ()  # of the notebooks; none: all that have exercises
    source: Path = SOURCE
    limits: Limits = field(default_factory=Limits)
    sandbox: str = "auto"
    seed: int | None = None  # of shapes and numbers; None: random
    jobs: int | None = None  # students at once; None: by cores and memory
    roster: Roster | None = None
    due: float | None = None  # seconds since 1970
    late: str = "none"  # what it costs, see `late.read_penalty`
    only: tuple[str, ...] = ()  # students
    resume: bool = False
    questions: bool = False  # with cells for them, which a person grades
    by_student: bool = False  # each has a variant, by the id in the roster


def grade(
    submissions: Path,
    out: Path,
    order: Order = Order(),
    progress: Callable[[str], None] = lambda line: None,
) -> Graded:
    """Grade what students handed in, into a folder, which becomes nbgrader's course folder.

    submissions: see `collect.py`. out: a new folder, unless order.resume (those are graded whose
    files are new or others than before) or order.only (these students are graded again) is given.
    Raises MinitxlError where nbgrader is missing or something that was asked for is not there.
    """
    if importlib.util.find_spec("nbgrader") is None:
        raise MinitxlError('grading needs nbgrader, which is missing: pip install -e ".[lecturer]"')
    read_penalty(order.late)
    again = order.resume or bool(order.only)
    settings = _settings(out, order, again)
    if settings["by_student"] and order.roster is None:
        raise MinitxlError("each student has a variant by the id in the roster: give --roster")
    names = settings["names"]
    wanted = {name: [e.id for e in exercises_of(name, order.source)] for name in names}
    hand_ins, notes = collect(submissions, wanted, order.roster)
    people = people_of(hand_ins, order.roster)
    if unknown := [name for name in order.only if name not in hand_ins]:
        raise MinitxlError(
            f"{', '.join(unknown)} handed in nothing; there are {', '.join(hand_ins)}"
        )
    limits = Limits(**settings["limits"])
    jobs = _jobs(limits, order.jobs, len(hand_ins))
    out = out.resolve()
    with course_folder.quiet():
        kind, text = sandbox.choose(order.sandbox, limits.memory)
        progress(text)
        closed = [str(submissions.resolve()), str(out)]
        filled = {"seed": settings["seed"], "late": settings["late"], "limits": limits}
        filled |= {"questions": settings["questions"], "kind": kind}
        filled |= {"by_student": settings["by_student"]}
        filled |= {"closed": sandbox.closed_paths(closed)}
        if not again:
            api = course_folder.make(out, names, order.source, filled)
            keep(out / JUDGED / SETTINGS, settings)
        else:
            course_folder.configure(out, filled)
            api = course_folder.interface(out)
        _enter_class(api, people, settings["due"])
        todo = _todo(out, hand_ins, order)
        progress(f"students: {len(todo)}, {jobs} at once; notebooks: {', '.join(names)}")
        with processes(jobs, _start_worker, out) as run:
            words = {word_of(name): name for name in people} if settings["by_student"] else {}
            work = partial(_grade_student, names, order.source, out, settings, words)
            for hand_in, record in zip(todo, run(work, todo), strict=True):
                progress(f"{hand_in.student}: {record.points:g} points")
            students = [hand_in.student for hand_in in todo]
            pages = run(partial(_write_feedback, names, order.source, out), students)
            for student, result in zip(students, pages, strict=True):
                if not result["success"]:
                    notes.append(f"{student}: no pages, as {course_folder.why(result)}")
        records = [r for r in map(partial(recall, out), hand_ins) if r is not None]
        notes += _agree(api, records)
        for record in records if settings["questions"] else ():
            record.by_hand = course_folder.asked_by_hand(api, record.student)
        course_folder.export(api, out)
    return Graded(records, people, notes)


def _settings(out: Path, order: Order, again: bool) -> dict:
    """Return what grading is done by: as it was asked for, or as it was the first time."""
    path = out / JUDGED / SETTINGS
    if again:
        if not path.is_file():
            raise MinitxlError(f"{out} holds nothing that was graded before: leave --resume and "
                               "--only away")  # fmt: skip
        old = json.loads(path.read_text(encoding="utf-8"))
        asked = {"names": list(order.names) or None, "seed": order.seed, "due": order.due}
        asked["late"] = None if order.late == "none" else order.late
        asked["by_student"] = order.by_student or None
        for name, value in asked.items():
            if value is not None and value != old[name]:
                raise MinitxlError(
                    f"{name} = {value} contradicts what {out} was graded by, {old[name]}: leave it "
                    "away, or grade into a new folder"
                )
        return old
    if out.exists() and any(out.iterdir()):
        raise MinitxlError(
            f"{out} is not empty: give a new folder, to keep what was graded before, or --resume"
        )
    names = list(order.names) or [n for n in known(order.source) if exercises_of(n, order.source)]
    for name in names:
        if not exercises_of(name, order.source):
            raise MinitxlError(f"notebook {name} has no exercises: there is nothing to grade")
    seed = secrets.randbits(32) if order.seed is None else order.seed
    if seed < 0:
        raise MinitxlError(f"seed = {seed} must be 0 or more")
    limits = asdict(order.limits)
    settings = {"names": names, "seed": seed, "due": order.due, "late": order.late}
    own = {"questions": order.questions, "by_student": order.by_student}
    return settings | {"limits": limits} | own


def _todo(out: Path, hand_ins: dict[str, HandIn], order: Order) -> list[HandIn]:
    """Return the hand-ins that are to be graded now."""
    if order.only:
        return [hand_ins[name] for name in order.only]
    if not order.resume:
        return list(hand_ins.values())
    old = {name: recall(out, name) for name in hand_ins}
    return [
        hand_in
        for name, hand_in in hand_ins.items()
        if old[name] is None or old[name].fingerprint != hand_in.fingerprint()
    ]


def _jobs(limits: Limits, asked: int | None, students: int) -> int:
    """Return how many submissions run at once: as many as could use all they may."""
    if asked is None:
        import psutil  # comes with Jupyter's kernel

        free = psutil.virtual_memory().available / 2**30
        asked = max(1, min(core_count(), int(free / limits.memory), MOST_JOBS))
    if not 1 <= asked <= MOST_JOBS:
        raise MinitxlError(f"jobs = {asked} must be 1 ... {MOST_JOBS}")
    return min(asked, max(1, students))


# --- the gradebook -------------------------------------------------------------------------------


def _enter_class(api, people: dict[str, Person], due: float | None) -> None:
    """Enter students and the time into the gradebook, in order, whoever is graded first."""
    with api.gradebook as gradebook:
        for person in people.values():
            first, _, last = person.name.rpartition(" ")
            names = {"first_name": first, "last_name": last, "email": person.email}
            gradebook.update_or_create_student(person.id, **{k: v for k, v in names.items() if v})
        if due is not None:
            gradebook.update_or_create_assignment(ASSIGNMENT, duedate=utc(due))


def _agree(api, records: list[Record]) -> list[str]:
    """Enter the judge's points where the gradebook has others, and say so."""
    notes = []
    with api.gradebook as gradebook:
        for record in records:
            for row in record.rows:
                key = check_id(row.exercise), row.notebook, ASSIGNMENT, record.student
                found = gradebook.find_grade(*key)
                if found.auto_score != row.points:
                    notes.append(
                        f"{record.student}, {row.exercise}: the gradebook had {found.auto_score} "
                        f"points, the judge gave {row.points:g}: who wrote into it?"
                    )
                    found.auto_score = row.points
        gradebook.db.commit()
    return notes


# --- in a process of its own ---------------------------------------------------------------------


class _Worker(NamedTuple):
    api: Any
    gradebook: Any  # the lock: nbgrader's steps write into one SQLite file


_worker: _Worker | None = None


def _start_worker(out: Path, lock) -> Callable:
    """Be ready to grade for the course folder `out`; return what ends the submissions that run."""
    global _worker
    from minitxl.course.grading.execute import JudgeSubmission

    @contextlib.contextmanager
    def aside():
        lock.release()
        try:
            yield
        finally:
            lock.acquire()

    course_folder.be_quiet()
    sandbox.adopt_orphans()
    JudgeSubmission.aside = aside  # a submission is judged while others use the gradebook
    _worker = _Worker(course_folder.interface(out), lock)
    return sandbox.end_all


def _grade_student(
    names: list[str], source: Path, out: Path, settings: dict, words: dict, hand_in: HandIn
) -> Record:
    """Judge a student's notebooks, enter the points, and keep what came of it.

    words: whose each variant is; none, where all have the common version.
    """
    from minitxl.course.grading.execute import NOT_RUN, JudgeSubmission

    student = hand_in.student
    folder = out / "submitted" / student / ASSIGNMENT
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    variant = word_of(student) if words else COMMON
    record = Record(student, hand_in.fingerprint(), hand_in.time, remarks=list(hand_in.remarks))
    books = {}
    for name in names:
        file = hand_in.files.get(name)
        released = notebook_from(name, source, questions=settings["questions"], variant=variant)
        try:
            data = None if file is None else file.read()
            book, remarks = received(data, file.parts[-1] if file else "", released)
        except (MinitxlError, OSError) as error:
            book, remarks = None, [str(error)]
        if book is None:
            released.metadata[NOT_RUN] = remarks.pop()
            for cell in released.cells:
                cell.metadata[SAME] = "nbgrader" not in cell.metadata
        books[name] = released if book is None else book
        record.remarks += [(name, text) for text in remarks]
        if book is not None and (found := unusual(book, released)):
            record.remarks.append((name, f"have a look, its cells have {', '.join(found)}"))
        if book is not None and (text := _handed_to_another(book, released, student, words)):
            record.remarks.append((name, text))
        copied = [e.id for e in exercises_of(name, source) if book and is_copy(book, e)]
        if copied:
            text = f"{', '.join(copied)}: the library's code, but for names and comments"
            record.remarks.append((name, text))
        write(books[name], folder / f"{name}.ipynb")
    if hand_in.time is not None:
        (folder / "timestamp.txt").write_text(f"{utc(hand_in.time)} UTC", encoding="utf-8")
    JudgeSubmission.results = {}
    _enter(student, books, folder, partial(notebook_from, source=source))
    for name in names:
        reason = books[name].metadata.get(NOT_RUN)
        judged = {j.exercise.id: j for j in JudgeSubmission.results.get(name, [])}
        for exercise in exercises_of(name, source):
            one = judged.get(exercise.id)
            points, why = (one.points, one.remark) if one else (0.0, reason or "it was not judged")
            record.rows.append(Row(student, name, exercise.id, points, exercise.points, why))
            if mark := shape(books[name], exercise, value_of(exercise.id, variant)):
                record.shapes[exercise.id] = mark
    _reckon_late(record, hand_in, settings)
    keep(out / JUDGED / f"{student}.json", asdict(record))
    return record


def _handed_to_another(book, released, student: str, words: dict) -> str:
    """Say whose hand-out a notebook is, where it is not the student's; nothing where it is."""
    own = word_of(student) if words else COMMON
    theirs = set(book.metadata.pop(NAMED))
    if theirs - {own}:
        who = sorted(words.get(word, f"nobody here ({word})") for word in theirs - {own})
        return f"cells of the hand-out of {', '.join(who)}"
    if own and not theirs and words_in(cell.source for cell in released.cells):
        return "not the student's own hand-out: nothing in it names the variant"
    return ""


def _enter(student: str, books: dict, folder: Path, released: Callable) -> None:
    """Have nbgrader judge notebooks and enter the points.

    One that it cannot take gets a reason in its place: nothing that is handed in ends the grading.
    """
    from minitxl.course.grading.execute import NOT_RUN

    api, lock = _worker
    with lock:
        result = api.autograde(ASSIGNMENT, student)
    if result["success"]:
        return
    for name in books:
        api.coursedir.notebook_id = name
        try:
            with lock:
                result = api.autograde(ASSIGNMENT, student)
            if result["success"]:
                continue
            books[name] = released(name)
            books[name].metadata[NOT_RUN] = (
                f"nbgrader could not take it: {course_folder.why(result)}"
            )
            write(books[name], folder / f"{name}.ipynb")
            with lock:
                result = api.autograde(ASSIGNMENT, student)
            course_folder.done(result, f"the grades of {student}, {name}")
        finally:
            api.coursedir.notebook_id = "*"


def _reckon_late(record: Record, hand_in: HandIn, settings: dict) -> None:
    due = settings["due"]
    if due is not None and hand_in.time is not None:
        record.late = max(0.0, round(hand_in.time - due, 3))
    rule = read_penalty(settings["late"])
    for name in settings["names"]:
        points = sum(row.points for row in record.rows if row.notebook == name)
        record.penalty = round(record.penalty + rule.of(points, record.late), 2)
    if record.late:
        hours = record.late / 3600
        text = f"late by {hours / 24:.1f} days" if hours >= 48 else f"late by {hours:.1f} hours"
        text = f"late by {60 * hours:.1f} minutes" if hours < 1 else text
        cost = f", which costs {record.penalty:g} points" if record.penalty else ""
        record.remarks.append(("", text + cost))
    elif hand_in.late:
        record.remarks.append(("", "Canvas calls it late"))


def _write_feedback(names: list[str], source: Path, out: Path, student: str) -> dict:
    """Write a student's feedback pages. It only reads the gradebook: all may do it at once."""
    result = _worker.api.generate_feedback(ASSIGNMENT, student)
    folder = out / "feedback" / student / ASSIGNMENT
    improve_all(folder, {name: exercises_of(name, source) for name in names})
    return result
