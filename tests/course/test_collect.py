"""What is found of hand-ins: layouts, the latest, rosters; and each file put in order."""

import csv
import json
import os
import zipfile
from datetime import UTC, datetime

import pytest

nbformat = pytest.importorskip("nbformat")

from helpers.hand_ins import NAME, RIGHT, make_source  # noqa: E402
from minitxl.course.grading import submissions  # noqa: E402
from minitxl.course.grading.collect import collect, people_of  # noqa: E402
from minitxl.course.grading.late import Penalty, read_due, read_penalty  # noqa: E402
from minitxl.course.grading.roster import read_roster  # noqa: E402
from minitxl.course.notebooks import notebook_from, write  # noqa: E402
from minitxl.errors import MinitxlError  # noqa: E402

NOTEBOOKS = {NAME: ["softmax-backward"], "05_reach": ["reach", "influence"]}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source"))


def answered(source, answer=RIGHT):
    book = notebook_from(NAME, source)
    book.cells[1].source = answer
    return book


def put(path, source, answer=RIGHT, time=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    write(answered(source, answer), path)
    if time is not None:
        os.utime(path, (time, time))
    return path


def text_of(source, answer=RIGHT):
    return nbformat.writes(answered(source, answer))


# --- layouts -------------------------------------------------------------------------------------


def test_a_folder_for_each_student(tmp_path, source):
    put(tmp_path / "ann" / f"{NAME}.ipynb", source)
    put(tmp_path / "bob" / "deep" / "down" / "my homework (1).ipynb", source)
    put(tmp_path / "bob" / ".ipynb_checkpoints" / f"{NAME}.ipynb", source)
    (tmp_path / "eve").mkdir()
    (tmp_path / ".git").mkdir()
    found, notes = collect(tmp_path, NOTEBOOKS)
    assert list(found) == ["ann", "bob", "eve"] and not notes
    assert found["bob"].files[NAME].name == "bob/deep/down/my homework (1).ipynb"
    assert not found["eve"].files and not any(h.remarks for h in found.values())


def test_zips_in_all_places(tmp_path, source):
    with zipfile.ZipFile(tmp_path / "ann.zip", "w") as archive:
        archive.writestr(f"handed/{NAME}.ipynb", text_of(source))
        archive.writestr(f"__MACOSX/handed/._{NAME}.ipynb", "x")
    put(tmp_path / "bob" / "x.ipynb", source)
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as archive:
        archive.writestr("a.ipynb", text_of(source))
    with zipfile.ZipFile(tmp_path / "bob" / "outer.zip", "w") as archive:
        archive.write(tmp_path / "inner.zip", "week/inner.zip")
    (tmp_path / "inner.zip").unlink()
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "x.zip").write_bytes(b"PK no zip")
    found, _ = collect(tmp_path, NOTEBOOKS)
    assert list(found) == ["ann", "bob", "cat"]
    assert found["ann"].files[NAME].name == f"ann.zip/handed/{NAME}.ipynb"
    assert nbformat.reads(found["ann"].files[NAME].read(), 4).cells[1].source == RIGHT
    assert "handed in 2 times" in found["bob"].remarks[0][1]
    assert "cat/x.zip is no readable zip" in found["cat"].remarks[0][1]


def test_no_path_leaves_the_folder_and_nothing_is_unpacked(tmp_path, source):
    place = tmp_path / "in"
    place.mkdir()
    with zipfile.ZipFile(place / "ann.zip", "w") as archive:
        archive.writestr(f"../../{NAME}.ipynb", text_of(source))
        archive.writestr("/etc/evil.ipynb", "x")
    (place / "bob").mkdir()
    if hasattr(os, "symlink"):
        secret = put(tmp_path / "secret" / f"{NAME}.ipynb", source)
        os.symlink(secret, place / "bob" / f"{NAME}.ipynb")
        os.symlink(secret.parent, place / "bob" / "folder")
    before = sorted(tmp_path.rglob("*"))
    found, _ = collect(place, NOTEBOOKS)
    assert sorted(tmp_path.rglob("*")) == before
    assert found["ann"].files[NAME].name == f"ann.zip/{NAME}.ipynb"
    assert not found["bob"].files


def test_a_zip_that_would_fill_the_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "ann.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{NAME}.ipynb", b"\0" * 60_000_000)
    found, _ = collect(tmp_path, NOTEBOOKS)
    assert "has over 50 MB" in found["ann"].remarks[0][1]
    with pytest.raises(MinitxlError, match="has over 50 MB"):
        found["ann"].files[NAME].read()


MOODLE = ["Ann Lee_101_assignsubmission_file_", "Bob Ray_102_assignsubmission_file_"]
CANVAS = [
    f"leeann_101_5001_{NAME}.ipynb",
    f"leeann_101_5002_{NAME}-1.ipynb",
    f"raybob_LATE_102_5003_{NAME}.ipynb",
]


@pytest.mark.parametrize("whole", ["folder", "zip", "folder with a zip"])
@pytest.mark.parametrize("kind", ["moodle", "moodle flat", "canvas"])
def test_downloads(tmp_path, source, kind, whole):
    folder = tmp_path / "download"
    if kind == "canvas":
        for number, name in enumerate(CANVAS):
            put(folder / name, source, f"{RIGHT}  # {number}", 1_700_000_000)
    else:
        for name in MOODLE:
            end = f"{NAME}.ipynb" if kind == "moodle flat" else f"/{NAME}.ipynb"
            put(folder / f"{name}{end}", source)
    place = folder
    if whole != "folder":
        path = tmp_path / "all" / "week1.zip"
        path.parent.mkdir()
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*.ipynb")):
                archive.write(file, file.relative_to(folder))
        place = path if whole == "zip" else path.parent
    found, notes = collect(place, NOTEBOOKS)
    people = people_of(found, None)
    assert not notes and all(h.files[NAME] for h in found.values())
    if kind == "canvas":
        assert list(found) == ["leeann_101", "raybob_102"]
        assert [found[n].late for n in found] == [False, True]
        assert found["leeann_101"].files[NAME].parts[-1] == CANVAS[1]  # -1: handed in again
        assert people["leeann_101"].canvas == "101"
    else:
        assert list(found) == ["Ann_Lee_101", "Bob_Ray_102"]
        assert people["Ann_Lee_101"].moodle == "101" and people["Ann_Lee_101"].name == "Ann Lee"


def test_a_file_for_each_student(tmp_path, source):
    put(tmp_path / f"ann_{NAME}.ipynb", source)
    put(tmp_path / "bob.ipynb", source)
    assert list(collect(tmp_path, NOTEBOOKS)[0]) == ["ann", "bob"]


def test_the_latest_counts_and_is_told(tmp_path, source):
    put(tmp_path / "ann" / "old.ipynb", source, RIGHT + "  # old", 1_700_000_000)
    put(tmp_path / "ann" / "new.ipynb", source, RIGHT + "  # new", 1_700_900_000)
    put(tmp_path / "ann" / "a.ipynb", source, RIGHT, 1_600_000_000)
    hand_in = collect(tmp_path, NOTEBOOKS)[0]["ann"]
    assert hand_in.files[NAME].parts[-1] == "new.ipynb" and hand_in.time == 1_700_900_000
    ((name, text),) = hand_in.remarks
    assert name == NAME and text.startswith("handed in 3 times; the latest counts, ann/new.ipynb")
    (tmp_path / "ann" / "timestamp.txt").write_text("2026-11-01 12:00:00 UTC")
    hand_in = collect(tmp_path, NOTEBOOKS)[0]["ann"]
    assert hand_in.time == 1_793_534_400
    assert hand_in.remarks[-1][1].startswith("timestamp.txt says 2026-11-01 ")
    for seconds, told in ((-1, 0), (1800, 0), (-1800, 1)):  # an earlier one is told
        when = datetime.fromtimestamp(1_700_900_000 + seconds, UTC)
        (tmp_path / "ann" / "timestamp.txt").write_text(f"{when:%Y-%m-%d %H:%M:%S} UTC")
        remarks = collect(tmp_path, NOTEBOOKS)[0]["ann"].remarks
        assert sum("timestamp.txt says" in text for _, text in remarks) == told
    moodle = put(tmp_path / MOODLE[0] / "x.ipynb", source, time=1_700_000_000)
    (moodle.parent / "timestamp.txt").write_text("2001-01-01 12:00:00 UTC")  # an upload
    assert collect(tmp_path, NOTEBOOKS)[0]["Ann_Lee_101"].time == 1_700_000_000


def test_a_zip_is_as_old_as_it_is_whatever_it_says(tmp_path, source):
    """Dates in a zip are its maker's: the student's, or the platform's of a whole download."""
    path = tmp_path / "in" / "ann" / "x.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for year in (2001, 2002):
            text = text_of(source, f"{RIGHT}  # {year}")
            archive.writestr(zipfile.ZipInfo(f"{year}.ipynb", (year, 1, 1, 0, 0, 0)), text)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    hand_in = collect(tmp_path / "in", NOTEBOOKS)[0]["ann"]
    assert hand_in.time == 1_700_000_000 and hand_in.files[NAME].parts[-1] == "2002.ipynb"
    whole = tmp_path / "all.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        for who, year in (("ann", 2010), ("bob", 2011)):
            name = zipfile.ZipInfo(f"{who}/x.zip", (year, 1, 1, 0, 0, 0))
            archive.writestr(name, path.read_bytes())
    for place in (whole, tmp_path / "folder"):
        if place != whole:
            place.mkdir()
            whole.rename(place / "all.zip")
        found = collect(place, NOTEBOOKS)[0]
        years = {n: datetime.fromtimestamp(h.time).year for n, h in found.items()}
        assert years == {"ann": 2010, "bob": 2011}


def test_a_notebook_is_known_by_its_exercises(tmp_path, source):
    put(tmp_path / "ann" / "05_reach.ipynb", source)  # it is not
    (tmp_path / "ann" / f"{NAME} broken.ipynb").write_text('{"cells": [')
    (tmp_path / "ann" / "diary.ipynb").write_text('{"cells": [], "reach": "reach"}')
    (tmp_path / "bob").mkdir()
    (tmp_path / "bob" / f"{NAME}.ipynb").touch()  # its name is all there is
    found, _ = collect(tmp_path, NOTEBOOKS)
    assert found["ann"].files[NAME].parts[-1] == "05_reach.ipynb"
    assert ("", "ann/diary.ipynb is none of the notebooks: left out") in found["ann"].remarks
    assert list(found["bob"].files) == [NAME]


def test_nothing_to_find(tmp_path):
    with pytest.raises(MinitxlError, match="holds no folders"):
        collect(tmp_path, NOTEBOOKS)
    with pytest.raises(MinitxlError, match="is no folder and no zip"):
        collect(tmp_path / "nowhere", NOTEBOOKS)
    for name in ("Meyer, Ännchen_17", "Meyer Ännchen 17"):
        (tmp_path / name).mkdir()
        if name.startswith("Meyer,"):  # no comma: nbgrader writes plain CSV
            assert list(collect(tmp_path, NOTEBOOKS)[0]) == ["Meyer_Ännchen_17"]
    with pytest.raises(MinitxlError, match="look alike"):
        collect(tmp_path, NOTEBOOKS)


# --- the class -----------------------------------------------------------------------------------


def roster(path, text):
    path.write_text(text, encoding="utf-8")
    return read_roster(path)


def test_a_roster(tmp_path, source):
    people = roster(
        tmp_path / "roster.csv",
        "\ufeffID;Name;Email;Moodle;Canvas\nal1;Ann Lee;ann@x.org;Participant 101;9\n"
        "br2;Bob Ray;bob@x.org;;102\ncd3;Zoë Cid;;;\nem4;Eve Mu;;;\n",
    )
    place = tmp_path / "in"
    put(place / (MOODLE[0] + f"{NAME}.ipynb"), source)
    put(place / f"raybob_102_5003_{NAME}.ipynb", source)
    put(place / "Cid, Zoe" / "x.ipynb", source)
    put(place / "stranger" / "x.ipynb", source)
    found, notes = collect(place, NOTEBOOKS, people)
    assert list(found) == ["al1", "br2", "cd3", "stranger"]
    assert notes == ["stranger is not in the roster"]
    everyone = people_of(found, people)
    assert list(everyone) == ["al1", "br2", "cd3", "em4", "stranger"]
    assert everyone["al1"].email == "ann@x.org"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,email\nx,y\n", "has the columns name, email; it must have id"),
        ("id\na\na\n", "has the id 'a' twice"),
        ("id\n", "lists nobody"),
        ("id,name\na b,x\n", "the id 'a b' may have letters"),
    ],
)
def test_rosters_that_are_none(tmp_path, text, message):
    with pytest.raises(MinitxlError, match=message):
        roster(tmp_path / "roster.csv", text)


def test_what_being_late_costs():
    day = 86400
    assert read_penalty("10%/day") == Penalty(10.0, "day")
    assert read_penalty("10%/day").of(50, 1) == 5 and read_penalty("10%/day").of(50, day + 1) == 10
    assert read_penalty("10%/day").of(50, 20 * day) == 50 and read_penalty("10%/day").of(50, 0) == 0
    assert read_penalty("100%").of(7, 1) == 7 and read_penalty("none").of(7, day) == 0
    assert read_penalty("2.5%/hour").of(40, 7200) == 2
    for text in ("10", "10%/year", "-3%/day", "110%"):
        with pytest.raises(MinitxlError, match="give for instance 10%/day"):
            read_penalty(text)
    assert read_due("2026-11-01T12:00+00:00") == 1_793_534_400
    with pytest.raises(MinitxlError, match="give a time such as"):
        read_due("tomorrow")


# --- each file -----------------------------------------------------------------------------------


def received(source, book, released=None):
    data = book if isinstance(book, bytes) else json.dumps(book).encode()  # with \\ud800
    return submissions.received(data, f"{NAME}.ipynb", released or notebook_from(NAME, source))


def marks(book):
    return [c.metadata.get("nbgrader") for c in book.cells]


def test_a_submission_as_it_should_be(source):
    book, remarks = received(source, answered(source))
    nbformat.validate(book)
    assert not remarks
    assert [c.source for c in book.cells] == [c.source for c in answered(source).cells]
    assert marks(book) == marks(answered(source))
    assert [c.get("minitxl_same", False) for c in (c.metadata for c in book.cells)] == [
        "nbgrader" not in c.metadata for c in answered(source).cells
    ]


def test_edited_check_is_put_back(source):
    book = answered(source)
    book.cells[2].update(source="print('right')")
    book.cells[2].metadata.nbgrader.points = 100
    book.cells[2].metadata.tags = ["skip-execution"]
    got, remarks = received(source, book)
    assert remarks == ["softmax-backward-check: the check was edited; the original counts"]
    assert got.cells[2].source == answered(source).cells[2].source
    assert got.cells[2].metadata == answered(source).cells[2].metadata


def test_checks_of_earlier_notebooks_are_no_edited_ones(source):
    book = answered(source)
    book.cells[2].source = 'course.check("softmax-backward", softmax_backward)'
    for metadata in (book.cells[2].metadata, {}):
        book.cells[2].metadata = metadata
        got, remarks = received(source, book)
        assert not remarks
        assert got.cells[2].source == answered(source).cells[2].source


def test_deleted_check_is_put_back(source):
    book = answered(source)
    check = book.cells.pop(2)
    got, remarks = received(source, book)
    assert "deleted" in remarks[0]
    assert got.cells[-1] == check


def test_lost_metadata_and_copies(source):
    book = answered(source)
    for number, cell in enumerate(book.cells):
        cell.update(metadata={}, id=f"other-{number}")
    got, remarks = received(source, book)
    assert not remarks
    assert marks(got) == marks(answered(source))
    book = answered(source)
    book.cells.append(nbformat.v4.new_code_cell(RIGHT, metadata=book.cells[1].metadata))
    got, _ = received(source, book)
    assert "nbgrader" not in got.cells[1].metadata and "nbgrader" in got.cells[-1].metadata


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (lambda text: b"\xef\xbb\xbf" + text.encode(), []),
        (lambda text: text.replace("\n", "\r\n").encode(), []),
        (lambda text: text.replace("\\n", "\\r\\n").encode(), []),
        (lambda text: text.encode("utf-16"), [f"{NAME}.ipynb was saved as UTF-16, is read all"]),
    ],
)
def test_files_of_other_editors(source, change, remark):
    got, remarks = received(source, change(nbformat.writes(answered(source))))
    assert got.cells[1].source == RIGHT
    assert [text[:50] for text in remarks] == [text[:50] for text in remark]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is an empty file"),
        (b"  \n", "is an empty file"),
        (b'{"cells": [{"x', "is no readable notebook"),
        (b"[1, 2]", "it is no notebook, which begins with {"),
        (b"<!doctype html><html>", "it is a web page"),
        (b"\xff\x00\x81", "is no text in UTF-8"),
        (b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": 3}', "no readable"),
        (None, "no notebook was handed in"),
    ],
)
def test_unreadable_notebooks(source, data, message):
    book, (remark,) = submissions.received(data, f"{NAME}.ipynb", notebook_from(NAME, source))
    assert book is None and message in remark and "\n" not in remark


def test_every_row_of_a_roster_is_plain(tmp_path):
    """A roster that a spreadsheet wrote, with quotes and empty lines."""
    people = roster(tmp_path / "r.csv", 'id,name\n"a","Lee, Ann"\n\n,\n"b","Ray, Bob"\n').people
    assert [(p.id, p.name) for p in people] == [("a", "Lee, Ann"), ("b", "Ray, Bob")]
    assert csv.Sniffer  # it may fail on one column: read all the same
    assert roster(tmp_path / "r.csv", "id\na\n").people[0].id == "a"


def test_characters_that_no_file_takes(source):
    got, _ = received(source, answered(source, RIGHT + "  # \ud800\x00\x1b[2J"))
    assert got.cells[1].source == RIGHT + "  # ?\ufffd\ufffd[2J"
    nbformat.writes(got).encode("utf-8")
