"""Whole files and downloads as they come in, and what they are worth: beside `hand_ins.py`.

FILES: name -> share of the points, part of what is told ("": nothing may be), the bytes of a file.
LAYOUTS: name -> share, part of what is told, how the folder of all is filled. `graded` grades ann.
"""

import io
import json
import os
import zipfile

import nbformat

from helpers.hand_ins import HEAD, ID, NAME, RIGHT, code
from minitxl.course import EXERCISES
from minitxl.course.grading.collect import collect
from minitxl.course.grading.grading import _reckon_late
from minitxl.course.grading.judge import Limits, judge, unusual
from minitxl.course.grading.records import Record, Row
from minitxl.course.grading.roster import Person, Roster
from minitxl.course.grading.submissions import received
from minitxl.course.notebooks import notebook_from
from minitxl.errors import MinitxlError

POINTS = EXERCISES[ID].points
DUE, DAY = 1_700_000_000.0, 86_400
WRONG = HEAD + "    return p * dp"


def book(source, answer=RIGHT):
    made = notebook_from(NAME, source)
    made.cells[1].source = answer
    return made


def text(source, answer=RIGHT, change=lambda made: None):
    made = book(source, answer)
    change(made)
    return json.dumps(made)


def data(change=lambda made: None, answer=RIGHT, after=lambda text: text.encode()):
    return lambda source: after(text(source, answer, change))


def _no_marks(made):
    for number, cell in enumerate(made.cells):
        cell.update(metadata={}, id=f"x{number}")


def _version_3(made):
    cells = [{"cell_type": "code", "input": c.source, "outputs": [], "language": "python",
              "metadata": c.metadata} for c in made.cells]  # fmt: skip
    made.clear()
    made.update(nbformat=3, nbformat_minor=0, metadata={}, worksheets=[{"cells": cells}])


def _lines(made):
    for cell in made.cells:
        cell.source = cell.source.splitlines(keepends=True)


def _claims_points(made):
    made.cells[2].metadata.nbgrader.points = 1000
    made.cells[2].outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "6.0"})]


def _large_outputs(made):
    made.cells[0].outputs = [nbformat.v4.new_output("stream", text="x" * 5_000_000)]


def _set(number, **fields):
    return lambda made: made.cells[number].update(fields)


CONFLICT = "<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> other\n"
FILES = {
    "a byte-order mark": (1, "", data(after=lambda t: b"\xef\xbb\xbf" + t.encode())),
    "UTF-16": (1, "saved as UTF-16", data(after=lambda t: t.encode("utf-16"))),
    "CRLF": (1, "", data(after=lambda t: t.replace("\n", "\r\n").encode())),
    "notebook format 3": (1, "", data(_version_3)),
    "sources as lists of lines": (1, "", data(_lines)),
    "metadata lost": (1, "", data(_no_marks)),
    "outputs of 5 MB": (1, "", data(_large_outputs)),
    "the check deleted": (1, "the check was deleted", data(lambda m: m.cells.pop(2))),
    "the check edited": (1, "the check was edited", data(_set(2, source="print(1)"))),
    "cells in reverse order": (1, "", data(lambda m: m.cells.reverse())),
    "the answer's cell twice, the last is right": (
        1, "", data(lambda m: m.cells.insert(1, code(WRONG))),
    ),
    "the answer's cell twice, the last is wrong": (
        0, "the sum is missing", data(lambda m: m.cells.insert(2, code(WRONG))),
    ),
    "the answer's cell made a text": (1, "", data(_set(1, cell_type="markdown"))),
    "all other cells deleted": (
        0, "'np' is not defined", data(lambda m: m.cells.__delitem__(slice(0, 1)),
                                       RIGHT.replace("(dp * p).sum(", "np.sum(dp * p, ")),
    ),
    "outputs that claim points": (0, "the sum is missing", data(_claims_points, WRONG)),
    "metadata that claims points": (1, "", data(_claims_points)),
    "an empty file": (0, "is an empty file", lambda s: b""),
    "a web page": (0, "it is a web page", lambda s: b"<!doctype html><title>Sign in</title>"),
    "half a file": (0, "is no readable notebook", data(after=lambda t: t.encode()[:900])),
    "no cells": (0, "is no readable notebook", lambda s: b'{"nbformat": 4, "metadata": {}}'),
    "cells that are none": (0, "is no readable notebook",
                            lambda s: b'{"nbformat": 4, "nbformat_minor": 5, "cells": "x"}'),
    "a merge left half done": (
        0, "it is an unfinished merge",
        data(after=lambda t: CONFLICT.format(t, t).encode()),
    ),
    "Latin-1": (0, "is no text in UTF-8", lambda s: b'{"cells": "\xe4"}'),
    "a picture": (0, "is no text in UTF-8", lambda s: b"\x89PNG\r\n\x1a\n\xff\xfe"),
    "braces without end": (0, "is no readable notebook", lambda s: b'{"a":' * 50_000),
    "two million characters": (
        0, "at most 1,000,000", data(lambda m: m.cells.insert(0, code("#" * 2_000_000))),
    ),
}  # fmt: skip


# --- folders of all ------------------------------------------------------------------------------


def put(place, name, content, when=DUE - DAY):
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    os.utime(path, (when, when))


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2023, 11, 1, 0, 0, 0)), content)
    return file.getvalue()


def one(name, when=DUE - DAY, members=None, answer=RIGHT):
    """A folder with one file: a notebook, or a zip of members, in which None is the notebook."""

    def fill(place, source):
        made = text(source, answer)
        content = made
        if members is not None:
            content = zipped({k: made if v is None else v for k, v in members.items()})
        put(place, name, content, when)

    return fill


def many(*files):
    def fill(place, source):
        for name, answer, when in files:
            put(place, name, text(source, answer), when)

    return fill


def _encrypted(place, source):
    content = bytearray(zipped({f"{NAME}.ipynb": text(source)}))
    for at in (6, content.rindex(b"PK\x01\x02") + 8):
        content[at] |= 1  # the flag
    put(place, "ann/x.zip", bytes(content))


def _link(place, source):
    put(place, f"bob/{NAME}.ipynb", text(source))
    (place / "ann").mkdir()
    (place / "ann" / f"{NAME}.ipynb").symlink_to(place / "bob" / f"{NAME}.ipynb")


def _stamped(place, source):
    put(place, f"Ann Lee_101_assignsubmission_file_/{NAME}.ipynb", text(source), DUE + 2 * DAY)
    put(place, "Ann Lee_101_assignsubmission_file_/timestamp.txt", "2001-01-01 00:00:00 UTC")


def _whole_class(place, source):
    inner = {f"{who}/{NAME}.ipynb": text(source, answer)
             for who, answer in (("ann", RIGHT), ("bob", WRONG))}  # fmt: skip
    put(place, "download.zip", zipped(inner))


N, MOODLE = f"{NAME}.ipynb", "Ann Lee_101_assignsubmission_file_"
DEEP = zipped({"week/a.ipynb": "{}"})
LAYOUTS = {
    "an hour late": (0.9, "late by 1.0 hours, which costs", one(f"ann/{N}", DUE + 3600)),
    "three days late": (0.7, "late by 3.0 days, which costs", one(f"ann/{N}", DUE + 3 * DAY)),
    "a year late": (0, "which costs", one(f"ann/{N}", DUE + 365 * DAY)),
    "in the last second": (1, "", one(f"ann/{N}", DUE)),
    "twice, the second is right": (
        1, "handed in 2 times",
        many((f"ann/a-{N}", WRONG, DUE - 9 * DAY), (f"ann/{N}", RIGHT, DUE - DAY)),
    ),
    "twice, the second is wrong": (
        0, "handed in 2 times",
        many((f"ann/a-{N}", RIGHT, DUE - 9 * DAY), (f"ann/{N}", WRONG, DUE - DAY)),
    ),
    "twice, the second is late": (
        0.9, "late by 1.0 minutes",
        many((f"ann/a-{N}", RIGHT, DUE - DAY), (f"ann/{N}", RIGHT, DUE + 60)),
    ),
    "another name": (1, "", one("ann/my homework (final) 2.ipynb")),
    "another notebook's name": (1, "", one("ann/05_reach.ipynb")),
    "folders in folders": (1, "", one(f"ann/course/week 1/{N}")),
    "Moodle, folders": (1, "", one(f"{MOODLE}/{N}")),
    "Moodle, flat": (1, "", one(f"{MOODLE}{N}")),
    "Moodle, one zip": (1, "", one("all.zip", members={f"{MOODLE}/{N}": None})),
    "Canvas": (1, "", one(f"leeann_101_5001_{N}")),
    "Canvas, late": (1, "Canvas calls it late", one(f"leeann_LATE_101_5001_{N}")),
    "Canvas, again": (
        1, "handed in 2 times",
        many((f"leeann_101_5001_{N}", WRONG, DUE - DAY),
             (f"leeann_101_5002_{NAME}-1.ipynb", RIGHT, DUE - DAY)),
    ),
    "a folder by the name": (1, "", one(f"Lee, Ann/{N}")),
    "a folder by the mail": (1, "", one(f"ann.lee@x.org/{N}")),
    "a zip": (1, "", one("ann/x.zip", members={f"week 1/{N}": None})),
    "a zip of a Mac": (1, "", one("ann.zip", members={N: None, f"__MACOSX/._{N}": "x"})),
    "a zip with paths of Windows": (1, "", one("ann/x.zip", members={f"week\\{N}": None})),
    "a zip in a zip": (
        1, "",
        lambda place, source: put(
            place, "ann/x.zip", zipped({"in/y.zip": zipped({N: text(source)})})),
    ),
    "zips in zips without end": (
        0, "too deep",
        lambda place, source: put(place, "ann/x.zip", zipped(
            {"a.zip": zipped({"b.zip": zipped({"c.zip": zipped({N: text(source)})})})})),
    ),
    "a zip whose path leaves": (1, "", one("ann/x.zip", members={f"../../bob/{N}": None})),
    "a zip that says it is old": (
        0.9, "late by 1.0 minutes", one("ann/x.zip", DUE + 60, members={N: None}),
    ),
    "a zip that fills the memory": (
        0, "has over 50 MB", one("ann/x.zip", members={N: b"\0" * 60_000_000}),
    ),
    "a zip with a password": (0, "encrypted", _encrypted),
    "no zip": (0, "is no readable zip", lambda p, s: put(p, "ann/x.zip", b"Rar!\x1a\x07\x01")),
    "all in one zip": (1, "", _whole_class),
    "a script": (0, "no notebook was handed in", lambda p, s: put(p, "ann/a.py", RIGHT)),
    "an empty folder": (0, "no notebook was handed in", lambda p, s: (p / "ann").mkdir()),
    "a link to a neighbour's": (0, "no notebook was handed in", _link),
    "a timestamp of one's own": (0.8, "late by 2.0 days", _stamped),
    "a timestamp half an hour before": (
        1, "timestamp.txt says",
        lambda p, s: (put(p, f"ann/{N}", text(s), DUE + 1000),
                      put(p, "ann/timestamp.txt", "2023-11-14 22:00:00 UTC")),
    ),
    "another notebook alone": (
        0, "is none of the notebooks",
        lambda p, s: put(p, "ann/x.ipynb", '{"cells": [], "nbformat": 4}'),
    ),
}  # fmt: skip
ROSTER = Roster((Person("ann", "Ann Lee", "ann.lee@x.org", "101", "101"), Person("bob")))


def graded(source, place, *, kind="none", late="10%/day"):
    """Return ann's points, less what being late costs, and all that is told, from a folder."""
    hand_ins, notes = collect(place, {NAME: [ID]}, ROSTER)
    hand_in, released = hand_ins["ann"], notebook_from(NAME, source)
    file, told = hand_in.files.get(NAME), [*notes, *(text for _, text in hand_in.remarks)]
    try:
        found = file and file.read()
        made, remarks = received(found, file.parts[-1] if file else "", released)
    except (MinitxlError, OSError, RuntimeError) as error:
        made, remarks = None, [str(error)]
    points = 0.0
    if made is not None:
        (got,) = judge(made, kind=kind, seed=5, limits=Limits(timeout=20, memory=2.0))
        points, told = got.points, [*told, got.remark, *unusual(made, released)]
    record = Record("ann", rows=[Row("ann", NAME, ID, points, float(POINTS), "")])
    _reckon_late(record, hand_in, {"due": DUE, "late": late, "names": [NAME]})
    told += [*remarks, *(text for _, text in record.remarks)]
    return record.points, "; ".join(filter(None, told))


def fill(place, source, case):
    """Put a case of FILES or LAYOUTS into a new folder."""
    place.mkdir()
    if case in FILES:
        put(place, f"ann/{N}", FILES[case][2](source))
    else:
        LAYOUTS[case][2](place, source)
