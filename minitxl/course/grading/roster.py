"""The class: who is in it, by any of the names under which a learning platform knows them."""

from __future__ import annotations

import csv
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from minitxl.errors import MinitxlError

COLUMNS = ("id", "name", "email", "moodle", "canvas")


@dataclass(frozen=True)
class Person:
    """A student: id, and what else a roster may have."""

    id: str
    name: str = ""
    email: str = ""
    moodle: str = ""  # the number in "Participant 12345", which is in the download's names
    canvas: str = ""  # the number of Canvas's column ID, which is in the download's names


@dataclass(frozen=True)
class Roster:
    """All students of a class."""

    people: tuple[Person, ...]

    def find(self, key: str, shown: str) -> Person | None:
        """Return who is meant by a platform's number or a folder's name; None if that is not clear.

        key: "12345" or "ann"; shown: "Ann Lee_12345" or "ann".
        """
        name = re.sub(r"_\d+$", "", shown)
        wanted = {_plain(key), _plain(shown), _plain(name)}
        for names in (_numbers, _names):
            hits = [person for person in self.people if wanted & names(person)]
            if len(hits) == 1:
                return hits[0]
        return None


def _numbers(person: Person) -> set[str]:
    found = {_plain(x) for x in (person.id, person.moodle, person.canvas, person.email)}
    return (found | {_plain(person.email.split("@")[0])}) - {""}


def _names(person: Person) -> set[str]:
    words = re.split(r"[,\s]+", person.name.strip())
    return {_plain(person.name), _plain("".join(words[-1:] + words[:-1]))} - {""}


def _plain(text: str) -> str:
    """Letters and digits alone, without accents: as platforms write names into files' names."""
    text = unicodedata.normalize("NFKD", text).casefold()
    return re.sub(r"[\W_]+", "", "".join(c for c in text if not unicodedata.combining(c)))


def read_roster(path: Path) -> Roster:
    """Read a CSV file with the column id, and any of name, email, moodle, canvas."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MinitxlError(f"{path} is no text in UTF-8: save it as CSV in UTF-8") from error
    try:
        dialect: type[csv.Dialect] | str = csv.Sniffer().sniff(text.split("\n")[0], ",;\t")
    except csv.Error:
        dialect = "excel"
    rows = csv.DictReader(text.splitlines(), dialect=dialect)
    names = {(name or "").strip().lower(): name for name in rows.fieldnames or []}
    if "id" not in names:
        found = ", ".join(filter(None, names)) or "none"
        raise MinitxlError(f"{path} has the columns {found}; it must have id, and may have "
                           f"{', '.join(COLUMNS[1:])}")  # fmt: skip
    people = []
    for row in rows:
        values = {c: (row.get(names[c]) or "").strip() for c in COLUMNS if c in names}
        if values["id"]:
            values["moodle"] = re.sub(r"\D", "", values.get("moodle", ""))
            people.append(Person(**values))
    ids = [person.id for person in people]
    if not ids:
        raise MinitxlError(f"{path} lists nobody")
    if twice := next((i for i in ids if ids.count(i) > 1), None):
        raise MinitxlError(f"{path} has the id {twice!r} twice, must be once")
    if bad := next((i for i in ids if re.search(r"[^\w.@-]", i)), None):
        raise MinitxlError(f"{path}: the id {bad!r} may have letters, digits and . _ - @ alone")
    return Roster(tuple(people))
