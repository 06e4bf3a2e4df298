"""`bench`: how fast is minitxl on this machine, and has it become faster?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from minitxl.cli.common import add_command, say


def add(commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "bench",
        run,
        "time training, evaluation and generation on this machine (minutes)",
        "On a quiet machine, please. Where PyTorch is installed it takes its turns as well.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="the smallest shape alone, three repeats: seconds")
    add("--shape", action="append", metavar="NAME", help="d128, d256, enwik8-base; may be repeated")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: all that work")
    add("--json", type=Path, metavar="FILE", help="write all repeats to this file")
    add("--compare", type=Path, metavar="FILE", help="compare with what --json wrote before")


def run(options: argparse.Namespace) -> int:
    """Measure, print, write, compare; after Ctrl-C print what there is, and write nothing."""
    from minitxl.errors import MinitxlError
    from minitxl.storage import checkpoint
    from minitxl.tools import bench, bench_report

    for name in options.shape or ():
        if name not in bench.SHAPES:
            raise MinitxlError(f"--shape {name}: choose one of {', '.join(bench.SHAPES)}")
    if options.json and (not options.json.parent.is_dir() or options.json.is_dir()):
        raise MinitxlError(f"--json {options.json}: give a file in a folder that exists")
    old = None
    if options.compare:  # now, not after minutes of measuring
        values = checkpoint.read_json(options.compare)
        old = bench.Results.from_dict(values, str(options.compare))
    command = " ".join(["python -m minitxl bench", *_given(options)])
    results = bench.Results(bench.machine(), command)
    try:
        shapes = tuple(options.shape or ())
        progress = sys.stderr.isatty()
        bench.measure(results, options.device, shapes, options.quick, progress)
    except KeyboardInterrupt:
        if results.rows:
            print(bench_report.table(results))
            say("interrupted: the table holds what was done until then")
        raise
    print(bench_report.table(results))
    if options.json:
        checkpoint.write_json(options.json, results.to_dict())
        say(f"results: {options.json}")
    if old:
        print(f"\ncompared with {options.compare}:")
        print(bench_report.comparison(old, results))
    return 0


def _given(options: argparse.Namespace) -> list[str]:
    """The options that decide what is measured, as they were given."""
    given = ["--quick"] * options.quick
    for name in options.shape or ():
        given += ["--shape", name]
    return given + (["--device", options.device] if options.device != "auto" else [])
