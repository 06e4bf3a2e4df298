"""A folder of projects, assessed: lines for people, and rows for a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from minitxl.course.grading.roster import Roster
from minitxl.course.project.handout import PROJECTS
from minitxl.course.project.memory import FILE, MEMORY, TEMPLATE
from minitxl.course.project.memory_rank import Settings, measure
from minitxl.course.project.milestones import walk
from minitxl.course.variants import COMMON, word_of
from minitxl.errors import MinitxlError
from minitxl.files import write_atomically

COLUMNS = ("folder", "project", "milestone", "points", "of", "found")


def assessed(
    folder: Path, only: Sequence[str] = (), roster: Roster | None = None
) -> tuple[list[str], list[tuple]]:
    """Return lines that tell what is reached in a folder, and rows of `COLUMNS`.

    The folder may be the one that holds corpus/, memory/ and others, or one in which that is
    called project/. only: ids of projects; default those of which there is a folder. roster: the
    folder is named by a student's id in it, whose variant counts. MinitxlError where nothing of it
    is there.
    """
    name, place = folder.resolve().name, folder
    if (folder / "project").is_dir():
        place = folder / "project"
    variant = COMMON
    if roster is not None:
        person = roster.find(name, name)
        if person is None:
            raise MinitxlError(f"{folder} is called {name}, which is nobody in the roster")
        variant = word_of(person.id)
    chosen = [p for p in PROJECTS if p.id in only or (not only and (place / p.id).is_dir())]
    if not chosen:
        folders = ", ".join(f"{p.id}/" for p in PROJECTS)
        raise MinitxlError(f"{folder} holds none of {folders}: give the folder project/")
    lines, rows = [], []
    for project in chosen:
        got = 0
        lines.append(f"{name}: {project.title}")
        for milestone, reached, text in walk(project, place, variant):
            got += milestone.points if reached else 0
            mark, points = ("✓", milestone.points) if reached else ("✗", 0)
            lines.append(f"  {mark} {points} of {milestone.points}  {milestone.title}: {text}")
            rows.append((name, project.id, milestone.id, points, milestone.points, text))
        own = sum(m.points for m in project.milestones)
        by_hand = sum(n for n, _ in project.rubric)
        lines.append(f"  {got} of {own} points; {by_hand} more are given by a person")
        rows += [(name, project.id, f"rubric: {text}", "", n, "") for n, text in project.rubric]
    return lines, rows


def measured(
    folder: Path,
    progress: Callable[[str], None],
    only: Sequence[str] = (),
    settings: Settings | None = None,
) -> str:
    """Check and rank the memory in a folder, write the results, and return a line.

    It runs the memory's code. only: ids of projects, as for `assessed`. A template that nobody has
    changed is not measured. settings: of the training; default the project's. MinitxlError where
    there is no memory.
    """
    place = folder / "project" if (folder / "project").is_dir() else folder
    path = place / MEMORY.id / FILE
    if (only and MEMORY.id not in only) or not (only or path.is_file()):
        raise MinitxlError(f"{folder} holds no memory to measure: give the folder project/")
    if path.is_file() and path.read_bytes() == TEMPLATE.encode("utf-8"):
        return f"{path} is the template: not measured"
    found = json.dumps(measure(path.parent, settings or Settings(), progress), indent=1) + "\n"
    path = path.with_name("results.json")
    write_atomically(path, found.encode("utf-8"))
    return f"results: {path}"


def write_csv(path: Path, rows: list[tuple]) -> None:
    """Write the rows as a table, in which a person fills in the rubric's points."""
    file = io.StringIO(newline="")
    safe = [tuple(f"'{x}" if str(x)[:1] in ("=", "+", "-", "@") else x for x in r) for r in rows]
    csv.writer(file).writerows([COLUMNS, *safe])
    write_atomically(path, file.getvalue().encode("utf-8"))
