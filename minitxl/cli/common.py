"""What the commands share: the parser, options of several commands, and the way to stderr."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

RUN_HELP = "folder that train wrote, or the name of a model that ships with minitxl"


class Parser(argparse.ArgumentParser):
    """argparse, with its errors told in one line like all others, and no abbreviated options."""

    def __init__(self, **settings):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        say(f"minitxl: error: {message} (see {self.prog} --help)")
        sys.exit(2)


def add_command(commands, name: str, run, sentence: str, epilog: str = "") -> Parser:
    """Add a command with its help; `run` takes the parsed options and returns the exit code."""
    parser = commands.add_parser(
        name,
        help=sentence,
        description=sentence[0].upper() + sentence[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_checkpoint(parser: Parser) -> None:
    """Add --checkpoint."""
    parser.add_argument(
        "--checkpoint",
        choices=("best", "last"),
        default="best",
        help="best on the validation text (default), or last",
    )


def add_device(parser: Parser) -> None:
    """Add --device and --dtype."""
    add = parser.add_argument
    add("--device", choices=("auto", "cpu", "cuda"), help="auto (default): a GPU if one works")
    add("--dtype", choices=("float32", "float64"), help="default: float32")


def load(options: argparse.Namespace):
    """Load the run that the options name."""
    from minitxl.pretrained import find_run
    from minitxl.storage.run_folder import load_run

    return load_run(
        find_run(options.folder),
        device=options.device or "auto",
        dtype=options.dtype,
        which=options.checkpoint,
    )


def say(line: str) -> None:
    """Print to stderr, after all that stdout holds."""
    try:
        sys.stdout.flush()
    except OSError:
        silence_stdout()
    print(line, file=sys.stderr, flush=True)


def silence_stdout() -> None:
    """Send what stdout still holds nowhere, or Python complains about the pipe when it ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # not a real file, as in a test
        pass
