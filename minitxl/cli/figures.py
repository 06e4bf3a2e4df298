"""`figures`: draw every picture anew, from stored results and the shipped models."""

from __future__ import annotations

import argparse
from pathlib import Path

from minitxl.cli.common import add_command


def add(commands) -> None:
    """Add the command and its options."""
    parser = add_command(commands, "figures", run, "draw all figures anew from stored results")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="results (default: those that ship)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder (default: figures, made if missing)"
    )


def run(options: argparse.Namespace) -> int:
    """Write the pictures and print their paths."""
    from minitxl.errors import MinitxlError
    from minitxl.experiments import RESULTS
    from minitxl.experiments.figures import FIGURES, write

    unknown = [name for name in options.names if name not in FIGURES]
    if unknown:
        raise MinitxlError(f"figure {unknown[0]!r} is unknown; choose from {', '.join(FIGURES)}")
    out = options.out or Path("figures")
    if options.out is None:
        out.mkdir(exist_ok=True)
    if not out.is_dir():
        raise MinitxlError(f"--out {out}: give a folder that exists")
    for name in options.names or FIGURES:
        for path in write(name, options.data or RESULTS, out):
            print(path)
    return 0
