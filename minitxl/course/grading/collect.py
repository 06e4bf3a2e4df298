"""What was handed in: notebooks in folders, zips and flat downloads, sorted by student.

Read are a folder for each student, with whatever folders and zips in it; a download of Moodle, with
or without folders; one of Canvas; and each of these as one zip. Nothing is unpacked onto the disk:
a member of a zip is read into memory, so that no path leaves a folder and no zip fills it. Which
notebook a file is, its exercises say, not its name. (nbgrader's own `zip_collect` goes by names.)
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from minitxl.course import EXERCISES
from minitxl.course.grading.roster import Person, Roster
from minitxl.course.grading.submissions import LONGEST
from minitxl.course.notebooks import check_id
from minitxl.errors import MinitxlError

LARGEST = 50_000_000  # bytes of a notebook file
DEEPEST = 3  # zips in zips
MEMBERS = 20_000  # files of a zip that are looked at
IGNORED = ("__MACOSX", ".ipynb_checkpoints")
SAFE = re.compile(r"[^\w.@-]+")  # what a student's id must not have: nbgrader writes it into CSV
MOODLE = re.compile(r"(?P<name>[^_]+)_(?P<id>\d+)_assignsubmission_\w+?_(?P<file>.*)")
CANVAS = re.compile(r"(?P<name>[^_\W]+)_(?P<late>LATE_)?(?P<id>\d+)_\d+_(?P<file>.+)")
AGAIN = re.compile(r"-(\d+)(?=\.\w+$)")  # Canvas's mark of a file that was handed in again


class Found(NamedTuple):
    """A file: where it lies, in which zips, and when it was handed in, in seconds since 1970."""

    path: Path
    members: tuple[str, ...]
    parts: tuple[str, ...]  # folders, zips and name, from the folder of all on
    time: float  # of the outermost file: what a zip says of its members, its maker decides
    member: float  # of the outermost member of a zip: right if the platform made the zip
    made: float  # of the file itself, as its zip says

    @property
    def name(self) -> str:
        """Where it was found, to be shown."""
        return "/".join(self.parts)

    def read(self) -> bytes:
        """Return what is in the file; MinitxlError for a file that is too large or unreadable."""
        if not self.members:
            size = self.path.stat().st_size
            if size > LARGEST:
                raise MinitxlError(f"{self.path.name} has {size / 1e6:.0f} MB, at most 50")
            return self.path.read_bytes()
        data: bytes | Path = self.path
        for member in self.members:
            with _zip(data) as archive, archive.open(member) as file:
                data = file.read(LARGEST + 1)
            if len(data) > LARGEST:
                raise MinitxlError(f"{member} has over {LARGEST / 1e6:.0f} MB")
        return data


@dataclass
class HandIn:
    """What a student handed in: the latest file of each notebook."""

    student: str
    files: dict[str, Found] = field(default_factory=dict)  # by notebook
    remarks: list[tuple[str, str]] = field(default_factory=list)  # (notebook or "", text)
    time: float | None = None  # of the latest
    late: bool = False  # says Canvas
    person: Person | None = None  # as a platform names the student

    def fingerprint(self) -> str:
        """Return a text that differs where a file does."""
        digest = hashlib.sha256()
        for name, file in sorted(self.files.items()):
            digest.update(name.encode())
            try:
                digest.update(hashlib.sha256(file.read()).digest())
            except (MinitxlError, OSError):
                digest.update(b"unreadable")
        return digest.hexdigest()


def collect(
    place: Path, notebooks: dict[str, list[str]], roster: Roster | None = None
) -> tuple[dict[str, HandIn], list[str]]:
    """Return what each student handed in, by id in order, and remarks on what belongs to nobody.

    place: a folder or a zip. notebooks: the ids of the exercises of each notebook that is graded.
    roster: who is in the class; others are graded, too, and told. MinitxlError if there is nothing.
    """
    if not place.is_dir() and not zipfile.is_zipfile(place):
        raise MinitxlError(
            f"{place} is no folder and no zip; give one that holds a folder for each student, or a "
            "download of Moodle or Canvas"
        )
    bad: list[tuple[tuple[str, ...], str]] = []
    files = sorted(_walk(place, bad), key=lambda f: f.parts)
    folders = [p.name for p in place.iterdir() if p.is_dir()] if place.is_dir() else []
    tops = {f.parts[0] for f in files} | {n for n in folders if not _ignored((n,))}
    if place.is_dir() and len(tops) == 1 and _is_download(files):
        files = [f._replace(parts=f.parts[1:], time=f.member) for f in files]
        tops = {f.parts[0] for f in files}
    if not tops:
        raise MinitxlError(f"{place} holds no folders; it must hold one for each student")
    hand_ins: dict[str, HandIn] = {}
    owners: dict[str, str] = {}
    notes: list[str] = []
    members: dict[str, list[Found]] = {}
    first = {f.parts[0]: f for f in files}
    for top in sorted(tops):
        key, shown, late = _student(top, first.get(top), notebooks)
        if key is None:
            continue
        person = roster.find(key, shown) if roster else None
        student = person.id if person else SAFE.sub("_", shown).strip("_.@-") or "student"
        if roster and person is None and student not in owners:
            notes.append(f"{student} is not in the roster")
        if owners.setdefault(student, shown) != shown and person is None:
            raise MinitxlError(f"{owners[student]!r} and {shown!r} look alike: rename one")
        hand_in = hand_ins.setdefault(student, HandIn(student))
        hand_in.late |= late
        hand_in.person = person or _person(student, top)
        members.setdefault(student, []).extend(f for f in files if f.parts[0] == top)
        hand_in.remarks += [("", text) for parts, text in bad if parts[0] == top]
    for student, found in members.items():
        _choose(hand_ins[student], found, notebooks)
    if not hand_ins:
        raise MinitxlError(f"{place} holds no notebooks and no folders of students")
    return dict(sorted(hand_ins.items())), notes


def files_in(place: Path) -> list[Found]:
    """Return the notebooks of one student in a folder, in whatever folders and zips."""
    return sorted(_walk(place, []), key=lambda f: f.parts)


def choose(student: str, files: list[Found], notebooks: dict[str, list[str]]) -> HandIn:
    """Return what one student's files are."""
    hand_in = HandIn(student)
    _choose(hand_in, files, notebooks)
    return hand_in


def people_of(hand_ins: dict[str, HandIn], roster: Roster | None) -> dict[str, Person]:
    """Return everyone: those who handed in, and those of the roster."""
    known = {person.id: person for person in roster.people} if roster else {}
    everyone = [*hand_ins, *(name for name in known if name not in hand_ins)]
    named = {name: h.person for name, h in hand_ins.items() if h.person is not None}
    return {name: known.get(name) or named.get(name, Person(name)) for name in sorted(everyone)}


# --- files ---------------------------------------------------------------------------------------


def _ignored(parts: tuple[str, ...]) -> bool:
    return any(part in IGNORED or part.startswith(".") for part in parts)


def _wanted(name: str) -> bool:
    return name.lower().endswith((".ipynb", ".zip")) or name == "timestamp.txt"


def _walk(place: Path, bad: list) -> Iterator[Found]:
    """Yield notebooks and timestamps below a folder or in a zip, those in zips in it, too."""
    if not place.is_dir():
        for found in _inside(place, place, (), (), bad, 0.0):
            yield found._replace(time=found.member)
        return
    for path in sorted(place.rglob("*")):
        parts = path.relative_to(place).parts
        if path.is_symlink() or not path.is_file() or _ignored(parts) or not _wanted(path.name):
            continue
        if any(p.is_symlink() for p in path.parents if p != place and place in p.parents):
            continue
        if path.suffix.lower() == ".zip":
            yield from _inside(path, path, (), parts, bad, path.stat().st_mtime)
        else:
            yield Found(path, (), parts, *3 * (path.stat().st_mtime,))


def _is_download(files: list[Found]) -> bool:
    """Whether all lie in one zip that holds several students, not one student's work."""
    if not files or not files[0].parts[0].lower().endswith(".zip"):
        return False
    inner = {f.parts[1] for f in files}
    folders = {f.parts[1] for f in files if len(f.parts) > 2}
    return len(folders) > 1 or any(MOODLE.match(n) or CANVAS.match(n) for n in inner)


def _zip(data: bytes | Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(data if isinstance(data, Path) else io.BytesIO(data))


def _inside(
    path: Path, data, members: tuple, parts: tuple, bad: list, time: float, member: float = 0.0
) -> Iterator[Found]:
    try:
        with _zip(data) as archive:
            for info in archive.infolist()[:MEMBERS]:
                inner = tuple(
                    p for p in re.split(r"[\\/]", info.filename) if p not in ("", "..", ".")
                )
                if info.is_dir() or not inner or _ignored(inner) or not _wanted(inner[-1]):
                    continue
                here = (*parts, *inner)
                chain = (*members, info.filename)
                made = datetime.datetime(*info.date_time).timestamp()
                first = member or made
                if not inner[-1].lower().endswith(".zip"):
                    yield Found(path, chain, here, time, first, made)
                elif len(chain) >= DEEPEST or info.file_size > LARGEST:
                    bad.append((here, f"{'/'.join(here)}: too deep or too large, it is left out"))
                else:
                    with archive.open(info) as file:
                        text = file.read(LARGEST + 1)
                    yield from _inside(path, text, chain, here, bad, time, first)
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError, NotImplementedError) as error:
        name = "/".join(parts) or path.name
        bad.append(
            ((*parts, path.name), f"{name} is no readable zip: {' '.join(str(error).split())}")
        )


# --- whose, and which notebook -------------------------------------------------------------------


def _student(top: str, file: Found | None, notebooks) -> tuple[str | None, str, bool]:
    """Return what names a student in the name of a folder or file, how to show it, and if late."""
    if match := MOODLE.match(top):
        return match["id"], f"{match['name']}_{match['id']}", False
    single = file is not None and len(file.parts) == 1
    zipped = top.lower().endswith(".zip")
    if (single or zipped) and (match := CANVAS.match(top)):
        return match["id"], f"{match['name']}_{match['id']}", bool(match["late"])
    if top == "timestamp.txt":
        return None, "", False
    name = re.sub(r"\.(ipynb|zip)$", "", top, flags=re.IGNORECASE) if single or zipped else top
    if single:
        for notebook in notebooks:  # ann_02_attention_by_hand.ipynb
            name = name.replace(notebook, "").strip(" _-") or name
    return name, name, False


def _person(student: str, top: str) -> Person:
    """Return a student by what a platform's file or folder name says."""
    if match := MOODLE.match(top):
        return Person(student, name=match["name"], moodle=match["id"])
    if (match := CANVAS.match(top)) and top.lower().endswith((".zip", ".ipynb")):
        return Person(student, name=match["name"], canvas=match["id"])
    return Person(student)


def _ids(data: bytes) -> set[str]:
    """Return the exercises that a notebook's file speaks of, be it readable or not."""
    try:
        cells = json.loads(data.decode("utf-8-sig"))["cells"]
        marks = {c.get("metadata", {}).get("nbgrader", {}).get("grade_id") for c in cells}
        marks |= {c.get("id") for c in cells}
        text = "\n".join("".join(c["source"]) for c in cells)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        marks, text = set(), data[:LONGEST].decode("utf-8", "replace").replace('\\"', '"')
    found = set()
    for one in EXERCISES.values():
        own = {one.id, check_id(one.id), f"exercise-{one.id}", f"check-{one.id}"}
        says = rf'check\(["\']{one.id}["\']|\bdef {one.name}\('
        if own & marks or re.search(says, text):
            found.add(one.id)
    return found


def _choose(hand_in: HandIn, files: list[Found], notebooks: dict[str, list[str]]) -> None:
    """Find each notebook's latest file among those of a student, and say so."""
    stamp = None
    candidates: dict[str, list[tuple]] = {}
    for file in files:
        if file.parts[-1] == "timestamp.txt":  # nbgrader's: when all of it was handed in
            if len(file.parts) == 2 and not file.members and not MOODLE.match(file.parts[0]):
                stamp = _timestamp(file)  # elsewhere it is the student's
            continue
        try:
            text = file.read()
        except (MinitxlError, OSError, zipfile.BadZipFile, RuntimeError) as error:
            text = b""
            hand_in.remarks.append(("", f"{file.name} could not be read: {error}"))
        ids = _ids(text)
        scores = {name: len(ids.intersection(wanted)) for name, wanted in notebooks.items()}
        best = max(scores.values(), default=0)
        named = [name for name in notebooks if name in file.parts[-1]]
        hits = [name for name, score in scores.items() if score and score == best] or named
        name = next((n for n in named if n in hits), hits[0] if hits else None)
        if name is None:
            if not ids:
                hand_in.remarks.append(("", f"{file.name} is none of the notebooks: left out"))
            continue
        again = AGAIN.search(file.parts[-1])
        rank = (best > 0, file.time, int(again[1]) if again else 0, file.made, file.name)
        candidates.setdefault(name, []).append((rank, file))
    for name, found in candidates.items():
        found.sort(key=lambda pair: pair[0])
        file = hand_in.files[name] = found[-1][1]
        if len(found) > 1:
            when = datetime.datetime.fromtimestamp(file.time).strftime("%Y-%m-%d %H:%M")
            text = f"handed in {len(found)} times; the latest counts, {file.name} of {when}"
            hand_in.remarks.append((name, text))
    times = [file.time for file in hand_in.files.values()]
    hand_in.time = stamp if stamp is not None else max(times, default=None)
    if stamp is not None and times and not -60 < stamp - max(times) < 3600:
        told, own = (
            f"{datetime.datetime.fromtimestamp(t):%Y-%m-%d %H:%M}" for t in (stamp, max(times))
        )
        hand_in.remarks.append(("", f"timestamp.txt says {told}, the latest file is of {own}"))


def _timestamp(file: Found) -> float | None:
    text = file.read()[:100].decode("utf-8", "replace").strip()
    text = re.sub(r"\s*(UTC|Z)$", "+00:00", text)
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return when.replace(tzinfo=when.tzinfo or datetime.UTC).timestamp()
