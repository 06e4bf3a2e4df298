"""Processes that work through a list: in order, and none is left behind."""

import multiprocessing
import os
import time

import pytest

from minitxl.course.grading.processes import processes
from minitxl.errors import MinitxlError

PLACE = []  # in each process: the folder for temporary files


def start(word, lock):
    import tempfile

    PLACE.append((word, tempfile.gettempdir()))
    return lambda: None


def slow_at_first(item):
    time.sleep(0.5 if item == 0 else 0)
    return item, *PLACE[0]


def die(item):
    os._exit(1)


def test_results_come_in_order():
    with processes(2, start, "ready") as run:
        results = list(run(slow_at_first, range(4)))
    assert [item for item, *_ in results] == [0, 1, 2, 3]
    assert {word for _, word, _ in results} == {"ready"}
    (folder,) = {folder for *_, folder in results}
    assert not os.path.exists(folder)
    assert not multiprocessing.active_children()


def test_a_process_that_is_killed():
    with (
        pytest.raises(MinitxlError, match="one of 2 processes was killed, often"),
        processes(2, start, "ready") as run,
    ):
        list(run(die, range(4)))
    assert not multiprocessing.active_children()


def test_an_error_ends_the_others_at_once():
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), processes(2, start, "ready") as run:
        run(time.sleep, [600, 600])
        time.sleep(1)
        raise KeyboardInterrupt
    assert time.monotonic() - begin < 60
    assert not multiprocessing.active_children()
