"""What a milestone is, and how a folder of a project is walked through."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from minitxl.course.variants import COMMON
from minitxl.errors import MinitxlError

LARGEST = 100_000_000  # bytes of a file that is read
LEAST_WORDS = 40  # of a report's section, beside what the template says
BLANK = "*Write here"


class NotReachedError(MinitxlError):
    """Why a milestone is not reached, in one line."""


@dataclass
class Work:
    """A project's folder as it was handed in; what was measured is kept for later milestones."""

    folder: Path
    variant: str = COMMON
    measured: dict[str, Any] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Return a file or folder of it that is there, and of a size that can be read."""
        path = self.folder / name
        if path.is_symlink() or not path.exists():
            raise NotReachedError(f"{self.folder.name}/{name} is not there")
        size = sum(p.stat().st_size for p in path.rglob("*")) if path.is_dir() else 0
        if max(size, path.stat().st_size) > LARGEST:
            raise NotReachedError(f"{self.folder.name}/{name} has over {LARGEST / 1e6:.0f} MB")
        return path

    def text(self, name: str) -> str:
        """Return a text file of it."""
        try:
            return self.path(name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError) as error:
            raise NotReachedError(f"{self.folder.name}/{name} is no text in UTF-8") from error

    def need(self, name: str):
        """Return what an earlier milestone has measured."""
        if name not in self.measured:
            raise NotReachedError("it waits for a milestone before it")
        return self.measured[name]

    @cached_property
    def report(self) -> dict[str, str]:
        """The sections of REPORT.md: heading -> text."""
        parts = re.split(r"^## +(.+?) *$", self.text("REPORT.md"), flags=re.MULTILINE)
        return {title: text.strip() for title, text in zip(parts[1::2], parts[2::2], strict=True)}

    def said(self, name: str) -> str:
        """Return what the report says in a line "name: ..."."""
        found = re.search(rf"^[-*> ]*{name}: *(.+?) *$", self.text("REPORT.md"), re.M | re.I)
        if found is None or BLANK in found[1]:
            raise NotReachedError(f"REPORT.md has no line `{name}: ...`")
        return found[1]


class Milestone(NamedTuple):
    """A step of a project; check says what it has found, or raises NotReachedError."""

    id: str
    title: str
    points: int
    check: Callable[[Work], str]


class Project(NamedTuple):
    """One of them: what to do, milestones, and what a person gives points for."""

    id: str  # the name of its folder, too
    title: str
    task: str  # in Markdown
    sections: tuple[tuple[str, str], ...]  # of the report: heading, what belongs there
    lines: tuple[tuple[str, str], ...]  # of the report: name, what to put there
    milestones: tuple[Milestone, ...]
    rubric: tuple[tuple[int, str], ...]  # points, for what

    @property
    def points(self) -> int:
        """Of milestones and rubric."""
        return sum(m.points for m in self.milestones) + sum(n for n, _ in self.rubric)


class Found(NamedTuple):
    """A milestone, whether it is reached, and what was found."""

    milestone: Milestone
    reached: bool
    text: str


def walk(project: Project, folder: Path, variant: str = COMMON) -> Iterator[Found]:
    """Yield what came of each milestone, in order; whatever a file holds is no error here."""
    work = Work(folder / project.id, variant)
    for milestone in project.milestones:
        try:
            yield Found(milestone, True, milestone.check(work))
        except MinitxlError as error:
            yield Found(milestone, False, str(error))
        except (OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError,
                RecursionError, MemoryError) as error:  # fmt: skip
            text = " ".join(str(error).split())[:120]
            yield Found(milestone, False, f"it cannot be read: {type(error).__name__}: {text}")


def written(work: Work, sections: tuple[tuple[str, str], ...]) -> str:
    """Say that a report has all its sections; raise for one that is missing or not written."""
    for title, _ in sections:
        words = [w for w in work.report.get(title, "").split() if any(c.isalpha() for c in w)]
        if title not in work.report:
            raise NotReachedError(f"REPORT.md has no section `## {title}`")
        if BLANK in work.report[title] or len(set(words)) < LEAST_WORDS // 2:
            raise NotReachedError(f"REPORT.md, {title}: it is not written yet")
        if len(words) < LEAST_WORDS:
            raise NotReachedError(
                f"REPORT.md, {title}: {len(words)} words, must be {LEAST_WORDS} at least"
            )
    return f"{len(sections)} sections"


def number(text: str) -> float:
    """Return the first number in a text."""
    found = re.search(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
    if found is None:
        raise NotReachedError(f"{text[:60]!r} holds no number")
    return float(found[0])
