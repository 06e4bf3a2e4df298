"""What is handed in, and what it gets: `python tests/bench/bench_grading.py [SANDBOX ...]`.

Prints a table, case -> points, remark, for each sandbox (default: none, and bwrap where it works);
`--out FILE` writes it, too: tests/bench/grading.txt. tests/course/test_judge.py and
test_hand_ins.py hold the same cases to their points.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.hand_ins import CHEATS, HARMLESS, WRONG, judged, make_source
from helpers.whole_files import FILES, LAYOUTS, fill, graded
from minitxl.course.grading.sandbox import choose
from minitxl.errors import MinitxlError


def names() -> list[str]:
    """Every case, as the table names it."""
    kinds = {"right": HARMLESS, "wrong": WRONG, "cheat": CHEATS, "file": FILES, "way": LAYOUTS}
    return [f"{kind}: {name}" for kind, cases in kinds.items() for name in cases]


def outcome(case: str, source: Path, kind: str) -> tuple[float, str]:
    """Return the points of a case, and all that is told."""
    sort, _, name = case.partition(": ")
    if sort in ("file", "way"):
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder, "in"), source, name)
            return graded(source, Path(folder, "in"), kind=kind)
    cells = WRONG[name][1:] if sort == "wrong" else (HARMLESS | CHEATS)[name]
    one, notes = judged(source, *cells, kind=kind, memory=2.0)
    return one.points, "; ".join(filter(None, [one.remark, *notes]))


def main(arguments: list[str]) -> None:
    out = Path(arguments.pop(arguments.index("--out") + 1)) if "--out" in arguments else None
    lines = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    undeserved, run = 0, []
    with tempfile.TemporaryDirectory() as folder:
        source = make_source(Path(folder))
        for asked in [x for x in arguments if x != "--out"] or ("none", "bwrap"):
            try:
                kind = choose(asked)[0]
            except MinitxlError as error:
                print(f"{asked}: {error}")
                continue
            run.append(kind)
            for case in names():
                points, remark = outcome(case, source, kind)
                places = (str(Path(__file__).resolve().parents[2]), folder)
                for place in places:  # of this machine
                    remark = remark.replace(place, "...")
                say(f"{kind:5} {case} -> {points:g}{', ' if remark else ''}{remark}")
                undeserved += bool(points and case.startswith("cheat") and not remark)
    say(
        f"{len(names())} cases, each in {' and '.join(run)}; undeserved points without a remark: "
        f"{undeserved}"
    )
    if out is not None:
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
