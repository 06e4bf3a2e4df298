"""What is written about a graded class: tables for people and for learning platforms, and a page.

exercises.csv   each exercise of each student, with the reason for every point lost
moodle.csv      for Moodle's "Upload grading worksheet", or its import of grades
canvas.csv      for Canvas's import into the gradebook
class.html      points and commonest mistakes by exercise, answers that are alike
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from html import escape
from pathlib import Path

from minitxl.course import EXERCISES
from minitxl.course.grading.records import Graded, Row
from minitxl.course.grading.similar import alike
from minitxl.files import write_atomically

COLUMNS = ("student", "notebook", "exercise", "points", "of", "remark")
NAME = "minitxl"  # of the assignment, on the platforms
SHOWN = 3  # commonest mistakes of an exercise


def write_tables(graded: Graded, out: Path) -> None:
    """Write all tables and the page of the class."""
    rows = [row for record in graded.records for row in record.rows]
    _csv(out / "exercises.csv", [COLUMNS, *((*row[:-1], _safe(row.remark)) for row in rows)])
    _csv(out / "moodle.csv", _moodle(graded))
    _csv(out / "canvas.csv", _canvas(graded))
    write_atomically(out / "class.html", class_page(graded).encode("utf-8"))


def table(graded: Graded) -> str:
    """Return the table that `course grade` prints: student, points, remarks."""
    width = max(len("student"), *map(len, graded.people or [""]))
    lines = [f"{'student':{width}}  {'points':>9}  remarks"]
    records = {record.student: record for record in graded.records}
    for student in graded.people:
        if (record := records.get(student)) is None:
            lines.append(f"{student:{width}}  {'-':>9}  handed in nothing")
            continue
        notes = [f"{name}: {text}" if name else text for name, text in record.remarks]
        for why in dict.fromkeys(row.remark for row in record.rows if row.remark):
            notes.append(f"{', '.join(r.exercise for r in record.rows if r.remark == why)}: {why}")
        if waiting := record.by_hand[2]:
            notes.append(f"{waiting} answers to questions wait to be graded: nbgrader's formgrader")
        for n, note in enumerate(notes or [""]):
            first = (student, f"{record.points:g} / {record.of:g}") if n == 0 else ("", "")
            lines.append(f"{first[0]:{width}}  {first[1]:>9}  {note}".rstrip())
    return "\n".join([*lines, *graded.notes])


def _csv(path: Path, rows: list) -> None:
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    write_atomically(path, file.getvalue().encode("utf-8"))


def _safe(text: str) -> str:
    """Text that a spreadsheet takes for no formula."""
    return f"'{text}" if text[:1] in "=+-@\t" else text


def _moodle(graded: Graded) -> list[tuple]:
    rows = [("Identifier", "Full name", "Email address", "Grade", "Feedback comments")]
    records = {record.student: record for record in graded.records}
    for name, person in graded.people.items():
        record = records.get(name)
        number = f"Participant {person.moodle}" if person.moodle else person.id
        grade = "" if record is None else f"{record.points:g}"
        lost = [] if record is None else [r for r in record.rows if r.remark]
        text = "; ".join(f"{r.exercise}: {r.remark}" for r in lost)
        text = "handed in nothing" if record is None else text
        rows.append((number, _safe(person.name or name), person.email, grade, _safe(text)))
    return rows


def _canvas(graded: Graded) -> list[tuple]:
    possible = graded.records[0].of if graded.records else 0
    head = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section", NAME)
    rows = [head, ("    Points Possible", "", "", "", "", f"{possible:g}")]
    records = {record.student: record for record in graded.records}
    for name, person in graded.people.items():
        grade = f"{records[name].points:g}" if name in records else ""
        login = "" if person.canvas else person.id
        rows.append((_safe(person.name or name), person.canvas, "", login, "", grade))
    return rows


# --- the page ------------------------------------------------------------------------------------

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
table { border-collapse: collapse; width: 100% } h2 { margin-top: 2.5rem }
td, th { text-align: left; vertical-align: top; padding: .3rem .6rem;
  border-bottom: 1px solid #ddd }
td.n { font-variant-numeric: tabular-nums } td:nth-child(2) { white-space: nowrap }
.bar { display: flex; height: 1rem; width: 12rem; background: #eee }
.bar i { background: #2a7a4b } .bar b { background: #d9a300 } .bar u { background: #b3452c }
ul { margin: 0; padding-left: 1.1rem }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 }
  td, th { border-color: #444 } .bar { background: #333 } }
"""


def class_page(graded: Graded) -> str:
    """Return a page about a class, which needs no network."""
    records = graded.records
    points = sorted(record.points for record in records)
    of = records[0].of if records else 0
    middle = points[len(points) // 2] if points else 0
    parts = [
        f"<p>{len(records)} of {len(graded.people)} students handed in. "
        f"Points: {points[0] if points else 0:g} to {points[-1] if points else 0:g} of {of:g}, "
        f"half of them {middle:g} or more.</p>",
        "<h2>How many points</h2>",
        _table(("points", "students", ""), _spread(points, of)),
        "<h2>By exercise</h2>",
        _legend(),
        _table(("exercise", "mean", "", "commonest remarks"), _by_exercise(records)),
    ]
    if graded.missing:
        text = ", ".join(map(escape, graded.missing))
        parts.append(f"<h2>Handed in nothing</h2><p>{text}</p>")
    if pairs := alike(records):
        rows = [(escape(a), escape(b), len(same), escape(", ".join(same))) for a, b, same in pairs]
        parts.append(
            "<h2>Alike</h2><p>The same but for names, comments and layout; answers that many have "
            "are left out. A reason to ask, no more.</p>"
        )
        parts.append(_table(("student", "student", "answers", ""), rows[:100]))
    noted = [(r.student, f"{n}: {t}" if n else t) for r in records for n, t in r.remarks]
    if noted or graded.notes:
        rows = [(escape(student), escape(text)) for student, text in noted]
        rows += [("", escape(text)) for text in graded.notes]
        parts += ["<h2>Remarks</h2>", _table(("student", ""), rows)]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>The class</title>'
        f"<style>{STYLE}</style><h1>The class</h1>{''.join(parts)}</html>"
    )


def _legend() -> str:
    words = (("i", "right"), ("b", "partly"), ("u", "nothing"))
    bars = "".join(
        f'<span class="bar" style="width:1rem;display:inline-flex;vertical-align:middle">'
        f'<{tag} style="width:100%"></{tag}></span> {word} &nbsp; '
        for tag, word in words
    )
    return f"<p>{bars}</p>"


def _table(head: tuple, rows: list[tuple]) -> str:
    def cell(tag: str, value) -> str:
        number = ' class="n"' if isinstance(value, int | float) else ""
        return f"<{tag}{number}>{value}</{tag}>"

    lines = ["".join(cell("th", name) for name in head)]
    lines += ["".join(cell("td", value) for value in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _spread(points: list[float], of: float) -> list[tuple]:
    """Tenths of all points, and how many students are in each."""
    tenths = Counter(min(9, int(10 * p / of)) if of else 0 for p in points)
    rows = []
    for n in range(9, -1, -1):
        share = 100 * tenths[n] / len(points) if points else 0
        bar = f'<div class="bar"><i style="width:{share:.0f}%"></i></div>'
        rows.append((f"{of * n / 10:g} to {of * (n + 1) / 10:g}", tenths[n], bar))
    return rows


def _by_exercise(records) -> list[tuple]:
    by: dict[str, list[Row]] = {}
    for row in (row for record in records for row in record.rows):
        by.setdefault(row.exercise, []).append(row)
    rows = []
    for exercise, own in by.items():
        full = sum(r.points == r.of for r in own)
        none = sum(r.points == 0 for r in own)
        parts = zip("ibu", (full, len(own) - full - none, none), strict=True)
        bar = "".join(f'<{t} style="width:{100 * n / len(own):.0f}%"></{t}>' for t, n in parts)
        why = Counter(_kind(r.remark) for r in own if r.remark).most_common(SHOWN)
        list_ = "".join(f"<li>{n}&times; {escape(text)}</li>" for text, n in why)
        mean = sum(r.points for r in own) / len(own)
        title = f"{escape(EXERCISES[exercise].title)}<br><small>{exercise}</small>"
        cells = (f"{mean:.1f} of {own[0].of:g}", f'<div class="bar">{bar}</div>')
        rows.append((title, *cells, f"<ul>{list_}</ul>"))
    return rows


def _kind(remark: str) -> str:
    """A remark without what differs from one student to the next."""
    return remark.split("; right: ")[0][:160]
