"""An autograder for Gradescope: the zip that it takes, and what runs there.

Gradescope builds a container with setup.sh, puts one student's files into /autograder/submission,
calls run_autograder, and reads /autograder/results/results.json. nbgrader has no part in this: the
judge is the same, the gradebook is Gradescope's.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from minitxl.course.grading import sandbox
from minitxl.course.grading.collect import choose, files_in
from minitxl.course.grading.judge import Limits, judge, unusual
from minitxl.course.grading.roster import Person, Roster
from minitxl.course.grading.submissions import received
from minitxl.course.notebooks import SOURCE, check_id, exercises_of, known, notebook_from
from minitxl.course.variants import COMMON, word_of
from minitxl.errors import MinitxlError

SETTINGS, METADATA = "settings.json", "submission_metadata.json"
SETUP = """\
#!/usr/bin/env bash
set -euo pipefail
apt-get update
apt-get install -y --no-install-recommends python3 python3-venv bubblewrap
python3 -m venv /autograder/venv
/autograder/venv/bin/pip install -r /autograder/source/requirements.txt
"""
RUN = """\
#!/usr/bin/env bash
export PYTHONPATH=/autograder/source
exec /autograder/venv/bin/python -m minitxl.course.grading.gradescope \\
  /autograder/submission /autograder/results/results.json
"""


def write_zip(
    out: Path, names=(), source: Path = SOURCE, seed: int = 0, roster: Roster | None = None
) -> Path:
    """Write the autograder's zip; names: notebooks, default all that have exercises.

    seed: of shapes and numbers, the same for everyone. roster: each in it has a variant, and is
    known by the mail address that Gradescope gives. MinitxlError where the file exists.
    """
    if out.exists():
        raise MinitxlError(f"{out} exists: give a new file")
    names = list(names) or [name for name in known(source) if exercises_of(name, source)]
    for name in names:
        exercises_of(name, source)  # an error for one that is not there
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (("setup.sh", SETUP), ("run_autograder", RUN)):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o755 << 16
            archive.writestr(info, text)
        archive.writestr("requirements.txt", "\n".join(_requirements()) + "\n")
        people = None if roster is None else [asdict(person) for person in roster.people]
        settings = {"names": names, "seed": seed, "people": people}
        archive.writestr(SETTINGS, json.dumps(settings))
        scripts = sandbox.PACKAGE / "course" / "source"  # in an installed minitxl
        for path in sorted(sandbox.PACKAGE.rglob("*.py")):  # models and texts are not needed
            if scripts not in path.parents:
                archive.write(path, f"minitxl/{path.relative_to(sandbox.PACKAGE).as_posix()}")
        for name in known(source):
            archive.write(source / f"{name}.py", f"minitxl/course/source/{name}.py")
    return out


def _requirements() -> list[str]:
    """Return what minitxl needs without its extras, and what grading needs."""
    listed = metadata.requires("minitxl") or []
    return [*(line for line in listed if "extra ==" not in line), "nbformat", "psutil"]


def variant_of(metadata: Path, roster: Roster) -> str:
    """Return the variant of whoever Gradescope says has handed in; a name there is one's own."""
    users = json.loads(metadata.read_text(encoding="utf-8"))["users"]
    for user in users:
        for mark in (user.get("email"), user.get("sid")):
            if mark and (person := roster.find(str(mark), str(mark))):
                return word_of(person.id)
    who = ", ".join(str(user.get("email")) for user in users)
    raise MinitxlError(f"nobody in the roster has the mail address {who}: tell your lecturer")


def results(
    submission: Path, names: list[str], seed: int, source: Path = SOURCE, variant: str = COMMON
) -> dict:
    """Return what Gradescope is told of one student's files."""
    wanted = {name: [e.id for e in exercises_of(name, source)] for name in names}
    hand_in = choose("student", files_in(submission), wanted)
    kind, text = sandbox.choose("auto")
    print(text, file=sys.stderr)
    notes = [f"{name}: {text}" if name else text for name, text in hand_in.remarks]
    tests = []
    for name in names:
        file, released = hand_in.files.get(name), notebook_from(name, source, variant=variant)
        data = None if file is None else file.read()
        book, remarks = received(data, file.parts[-1] if file else "", released)
        found = {}
        if book is not None:
            how = {"kind": kind, "seed": seed, "limits": Limits(), "closed": [submission]}
            judged = judge(book, **how, variant=variant)
            found = {one.exercise.id: one for one in judged}
            remarks += [f"have a look, its cells have {word}" for word in unusual(book, released)]
        notes += [f"{name}: {remark}" for remark in remarks]
        for exercise in exercises_of(name, source):
            one = found.get(exercise.id)
            tests.append(
                {
                    "name": exercise.title,
                    "number": check_id(exercise.id),
                    "score": one.points if one else 0.0,
                    "max_score": exercise.points,
                    "output": re.sub(r"^.*? \| ", "", one.line) if one else remarks[-1],
                }
            )
    return {"tests": tests, "output": "\n".join(notes), "visibility": "visible"}


def main() -> None:
    """Grade /autograder/submission as run_autograder asks."""
    submission, out = map(Path, sys.argv[1:3])
    settings = json.loads((sandbox.ROOT / SETTINGS).read_text(encoding="utf-8"))
    variant = COMMON
    try:
        if settings["people"] is not None:
            roster = Roster(tuple(Person(**person) for person in settings["people"]))
            variant = variant_of(submission.parent / METADATA, roster)
        found = results(submission, settings["names"], settings["seed"], variant=variant)
    except MinitxlError as error:
        found = {"score": 0.0, "output": str(error), "visibility": "visible"}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
