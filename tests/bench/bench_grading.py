"""What is handed in, and what it gets: `python tests/bench/bench_grading.py [SANDBOX ...]`.

Prints a table, case -> points, remark, for each sandbox (default: none, and bwrap where it works).
tests/course/test_judge.py holds the same cases to their points.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.hand_ins import CHEATS, HARMLESS, WRONG, judged, make_source
from minitxl.course.grading.sandbox import choose
from minitxl.errors import MinitxlError


def main() -> None:
    cases = {f"right: {name}": cells for name, cells in HARMLESS.items()}
    cases |= {f"wrong: {name}": cells for name, (_, *cells) in WRONG.items()}
    cases |= {f"cheat: {name}": cells for name, cells in CHEATS.items()}
    undeserved = 0
    with tempfile.TemporaryDirectory() as folder:
        source = make_source(Path(folder))
        for asked in sys.argv[1:] or ("none", "bwrap"):
            try:
                kind = choose(asked)[0]
            except MinitxlError as error:
                print(f"{asked}: {error}")
                continue
            for name, cells in cases.items():
                one, notes = judged(source, *cells, kind=kind, memory=2.0)
                remark = "; ".join(filter(None, [one.remark, *notes]))
                print(f"{kind:5} {name} -> {one.points:g}, {remark}")
                undeserved += bool(one.points and name.startswith("cheat") and not remark)
    print(f"{len(cases)} cases; undeserved points without a remark: {undeserved}")


if __name__ == "__main__":
    main()
