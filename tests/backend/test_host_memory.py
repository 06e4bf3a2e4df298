"""Freed memory stays with the process: a second round of the same arrays finds its pages there."""

import os
import platform
import subprocess
import sys

import pytest

# Large arrays, made and freed in turns; prints the pages that the second round had to be given.
ROUNDS = """
import resource, sys
import numpy as np
if sys.argv[1] == "kept":
    from minitxl.backend.host_memory import keep_freed_memory
    print(keep_freed_memory())
def one_round():
    for n in range(1, 9):
        arrays = [np.ones(n << 20, dtype=np.uint8) for _ in range(4)]
        del arrays
one_round()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
one_round()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for the GNU C library")


def rounds(kind, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    command = [sys.executable, "-c", ROUNDS, kind]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@glibc
def test_pages_are_kept():
    obeys, pages = rounds("kept")
    assert obeys == "True" and int(pages) < 50
    assert int(rounds("given back")[0]) > 1000  # what it is good for


@glibc
def test_the_users_own_settings_stay():
    assert rounds("kept", MALLOC_ARENA_MAX="3")[0] == "False"


def test_it_may_be_asked_for_anywhere():
    from minitxl.backend.host_memory import keep_freed_memory

    assert keep_freed_memory() in (True, False)
