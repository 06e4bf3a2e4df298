"""Processes that work through a list: in order, and none is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from minitxl.course.grading.descendants import end_descendants
from minitxl.course.grading.processes import processes
from minitxl.errors import MinitxlError

PLACE = []  # in each process: the folder for temporary files


def start(word, lock):
    import tempfile

    PLACE.append((word, tempfile.gettempdir()))
    return lambda: None


def start_that_is_told_twice(place, lock):
    """As the pool does: its own SIGTERM comes while ours is being answered."""

    def clean_up():
        os.kill(os.getpid(), signal.SIGTERM)
        (place / str(os.getpid())).touch()
        raise RuntimeError("what fails here must not keep the process alive")

    return clean_up


def slow_at_first(item):
    time.sleep(0.5 if item == 0 else 0)
    return item, *(PLACE[0] if PLACE else ())


def die(item):
    os._exit(1)


def assert_all_end():
    """A process that was told to end needs its moment, on a busy machine seconds."""
    until = time.monotonic() + 30
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


def test_results_come_in_order():
    with processes(2, start, "ready") as run:
        results = list(run(slow_at_first, range(4)))
    assert [item for item, *_ in results] == [0, 1, 2, 3]
    assert {word for _, word, _ in results} == {"ready"}
    (folder,) = {folder for *_, folder in results}
    assert not os.path.exists(folder)
    assert_all_end()


def test_a_process_that_is_killed():
    with (
        pytest.raises(MinitxlError, match="one of 2 processes was killed, often"),
        processes(2, start, "ready") as run,
    ):
        list(run(die, range(4)))
    assert_all_end()


def test_an_error_ends_the_others_at_once():
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), processes(2, start, "ready") as run:
        run(time.sleep, [600, 600])
        time.sleep(1)
        raise KeyboardInterrupt
    assert time.monotonic() - begin < 60
    assert_all_end()


@pytest.mark.skipif(os.name == "nt", reason="Windows' processes are not asked")
def test_an_end_that_is_told_twice(tmp_path):
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), processes(2, start_that_is_told_twice, tmp_path) as run:
        assert len(set(run(slow_at_first, range(2)))) == 2
        run(time.sleep, [600, 600])
        time.sleep(1)
        raise KeyboardInterrupt
    assert time.monotonic() - begin < 60 and len(list(tmp_path.iterdir())) == 2
    assert_all_end()


def test_descendants_end_without_a_group():
    """As on Windows, where there are no groups: a child's child ends with them."""
    psutil = pytest.importorskip("psutil")
    child = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'input()'], "
    child += "stdin=subprocess.PIPE); print(p.pid, flush=True); p.wait()"
    process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
    grandchild = psutil.Process(int(process.stdout.readline()))
    end_descendants(process.pid, itself=True)
    process.communicate(timeout=30)
    _gone, alive = psutil.wait_procs([grandchild], timeout=30)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    end_descendants(process.pid, itself=True)  # nothing is left: no error
