"""Kills, full disks and hostile files: what is tried, and what held.

    python tests/bench/bench_faults.py --seed 1 --json faults.json

Trainings are killed at random, half of the time in the middle of a write, and go on to the bits of
the one that nobody killed; each change that a command makes on the disk fails in turn
(`tests/cli/test_failing_disk.py` without its long test of `train`, and one test of `data get`);
files of every kind that is read are damaged or made up. Takes about a quarter of an hour, prints a
table, and keeps in its folder what did not hold. Ends with 1 if anything did not. Needs `fork`.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from helpers import hostile, kills  # noqa: E402
from helpers.faults import table  # noqa: E402


def full_disks() -> dict:
    """Command -> how many of its changes failed in turn; the tests fail where one is not held."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-s"]
    command += ["tests/cli/test_failing_disk.py", "tests/data/test_datasets.py"]
    command += ["-k", "test_failing_disk or full_disk_at_any_change"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent)
    found = re.findall(r"^([\w ]+): each of (\d+) changes failed", done.stdout, re.MULTILINE)
    counts: dict = {}
    for name, n in found:
        counts[name] = max(counts.get(name, 0), int(n))
    return {"commands": counts, "faults": [] if done.returncode == 0 else [done.stdout[-2000:]]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--seed", type=int, default=1)
    add("--kills", type=int, default=500)
    add("--starts", type=int, default=60, help="of them: whole processes, Python's start included")
    add("--inputs", type=int, default=2000, help="of each kind of file")
    add("--seconds", type=float, default=300, help="at most for the kills, and for the files")
    add("--json", type=Path)
    add("--parts", nargs="+", default=["files", "kills", "disks"])
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    found: dict = {}
    if options.json and options.json.exists():  # parts that are not asked for stay
        found = json.loads(options.json.read_text(encoding="utf-8"))
    names = ("seed", "kills", "starts", "inputs", "seconds")
    settings = {name: getattr(options, name) for name in names}
    found["settings"] = found.get("settings", {}) | dict.fromkeys(options.parts, settings)
    with pytest.MonkeyPatch.context() as patch:
        if "files" in options.parts:
            (folder / "files").mkdir()
            all_kinds = hostile.kinds(folder / "files", patch)
            each = options.seconds / len(all_kinds)
            found["files"] = {}
            for kind in all_kinds:
                found["files"][kind.name] = kind.measure(options.inputs, options.seed, each)
                print(kind.name, found["files"][kind.name], file=sys.stderr)
    if "kills" in options.parts:
        (folder / "kills").mkdir()
        how = (options.kills, options.starts, options.seed, options.seconds)
        found["kills"] = kills.measure(folder / "kills", *how)
    if "disks" in options.parts:
        found["disks"] = full_disks()
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))
    faults = [fault for part in _parts(found) for fault in part["faults"]]
    print("\n".join([f"what did not hold is in {folder}:", *faults] if faults else ["all held"]))
    return 1 if faults else 0


def _parts(found: dict) -> list[dict]:
    return [*found.get("files", {}).values(), *(found[p] for p in ("kills", "disks") if p in found)]


if __name__ == "__main__":
    sys.exit(main())
