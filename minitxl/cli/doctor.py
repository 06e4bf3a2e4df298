"""`doctor`: is all here that minitxl needs?"""

from __future__ import annotations

import argparse

from minitxl.cli.common import add_command


def add(commands) -> None:
    """Add the command."""
    add_command(commands, "doctor", run, "look whether all is here that minitxl needs")


def run(options: argparse.Namespace) -> int:
    from minitxl.tools import doctor

    found = doctor.checks()
    print(doctor.report(found))
    return 0 if doctor.healthy(found) else 1
