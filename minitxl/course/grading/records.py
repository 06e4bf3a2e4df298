"""What came of a class and of each student, and the files in which it is kept, OUT/judged."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from minitxl.course.grading.roster import Person
from minitxl.files import write_atomically

JUDGED, SETTINGS = "judged", ".settings.json"  # no student's id begins with a dot


class Row(NamedTuple):
    """Points of a student for one exercise, and why they are not all."""

    student: str
    notebook: str
    exercise: str
    points: float
    of: float
    remark: str


@dataclass
class Record:
    """What came of one student."""

    student: str
    fingerprint: str = ""  # of the files
    when: float | None = None  # of the latest file, in seconds since 1970
    late: float = 0.0  # seconds
    penalty: float = 0.0  # points that this costs
    rows: list[Row] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)  # (notebook or "", text)
    shapes: dict[str, str] = field(default_factory=dict)  # of the answers, by exercise
    by_hand: tuple[float, float, int] = (0.0, 0.0, 0)  # questions: points, of, still to be graded

    @property
    def points(self) -> float:
        """Points of exercises and questions, less what being late costs."""
        return round(sum(row.points for row in self.rows) + self.by_hand[0] - self.penalty, 2)

    @property
    def of(self) -> float:
        """Points that there are."""
        return sum(row.of for row in self.rows) + self.by_hand[1]


@dataclass
class Graded:
    """What came of a class."""

    records: list[Record]
    people: dict[str, Person]  # everyone, those of the roster who handed in nothing, too
    notes: list[str]  # on the class

    @property
    def missing(self) -> list[str]:
        """Ids of those who handed in nothing."""
        there = {record.student for record in self.records}
        return [name for name in self.people if name not in there]


def keep(path: Path, value: dict) -> None:
    """Write a record, or settings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8"))


def recall(out: Path, student: str) -> Record | None:
    """Return what came of a student, or None if nothing has yet."""
    path = out / JUDGED / f"{student}.json"
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    values["rows"] = [Row(*row) for row in values["rows"]]
    values["by_hand"] = tuple(values["by_hand"])
    values["remarks"] = [tuple(remark) for remark in values["remarks"]]
    return Record(**values)
