"""One writer at a time: the lock ends with its process and says who holds it."""

import os
import subprocess
import sys

import pytest

from minitxl.errors import MinitxlError
from minitxl.lock import NAME, locked

HOLD = """
import sys
from minitxl.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder):
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdin=pipe, stdout=pipe, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_it_says_who_holds_it(tmp_path):
    process = holder(tmp_path)
    try:
        with pytest.raises(MinitxlError, match=rf"in use by process {process.pid} on .* since"):
            with locked(tmp_path):
                pass
    finally:
        process.communicate("", timeout=30)
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_it_dies_with_its_process(tmp_path):
    for _ in range(5):
        process = holder(tmp_path)
        process.kill()
        process.communicate(timeout=30)
        assert (tmp_path / NAME).exists()  # what is left of it is no obstacle
        with locked(tmp_path):
            pass


def test_also_in_one_process(tmp_path):
    with locked(tmp_path), pytest.raises(MinitxlError, match=f"process {os.getpid()}"):
        with locked(tmp_path):
            pass


def test_a_holder_whose_file_was_removed_is_none(tmp_path):
    """Between opening and locking the file may go: then the lock on it would be worth nothing."""
    with locked(tmp_path):
        if os.name != "nt":
            (tmp_path / NAME).unlink()
            with locked(tmp_path):
                assert (tmp_path / NAME).exists()


def test_many_processes_take_turns(tmp_path):
    """A counter that is read and written under the lock misses no one."""
    count = (
        "import sys, time\nfrom pathlib import Path\nfrom minitxl.lock import locked\n"
        "from minitxl.errors import MinitxlError\nfolder, done = Path(sys.argv[1]), 0\n"
        "while done < 50:\n"
        "    try:\n"
        "        with locked(folder):\n"
        "            n = int((folder / 'n').read_text())\n"
        "            (folder / 'n').write_text(str(n + 1))\n"
        "            done += 1\n"
        "    except MinitxlError:\n"
        "        time.sleep(0.001)\n"
    )
    (tmp_path / "n").write_text("0")
    processes = [
        subprocess.Popen([sys.executable, "-c", count, tmp_path], stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    assert all(p.communicate(timeout=120)[1] == b"" for p in processes)
    assert (tmp_path / "n").read_text() == "200"


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(MinitxlError, match="cannot lock"), locked(tmp_path / "nowhere"):
        pass
