"""Trainings that are killed at random, in the middle of writing too, and go on to the same bits."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from helpers.failing_disk import FailingDisk
from minitxl import cli
from minitxl.storage import checkpoint

SMALL = "n_layer=1 d_model=8 n_head=2 d_head=4 d_inner=8 tgt_len=8 mem_len=8".split()
SETTINGS = ["--steps=12", "--batch-size=2", "--eval-every=4", "--save-every=2", "--threads=1"]
MOST = 9  # kills of one training before it may end


class KillingDisk(FailingDisk):
    """At the n-th change the process is killed; a write has written half of its bytes by then."""

    def change(self, what, file=None, data=b""):
        self.count += 1
        if self.count == self.n:
            if file is not None:
                file.write(data[: len(data) // 2])
                file.flush()
            os.kill(os.getpid(), signal.SIGKILL)


def arguments(text, out):
    """What a user would call: go on where there is something to go on with, else begin."""
    if (out / "run.json").exists():
        return ["train", f"--resume={out}", "--device=cpu", "--quiet"]
    sizes = [f"--set={setting}" for setting in SMALL]
    return ["train", f"--data={text}", f"--out={out}", "--device=cpu", "--quiet", *SETTINGS, *sizes]


def forked(argv, root, n=0, delay=None):
    """Run a command in a fork; return (exit code or -9, seconds until it ended).

    It is killed at the n-th change below root, or after so many seconds, or not at all.
    """
    began, child = time.monotonic(), os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            null = os.open(os.devnull, os.O_RDWR)
            for number in (1, 2):
                os.dup2(null, number)
            with KillingDisk(pytest.MonkeyPatch(), root, n) if n else contextlib.nullcontext():
                code = cli.main(argv)
            os._exit(code)
        os._exit(99)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)  # it is ours until it is waited for
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - began


def started(argv, delay):
    """The same in a process of its own, killed after `delay` seconds from Python's start."""
    began = time.monotonic()
    command = [sys.executable, "-m", "minitxl", *argv]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(delay)
        child.kill()
    return child.returncode, time.monotonic() - began


def contents(out):
    """The bits of the last checkpoint, and the log without its times."""
    arrays, state = checkpoint.load(out / "last.safetensors")
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    log = [{k: v for k, v in json.loads(line).items() if not _is_time(k)} for line in lines]
    return {k: a.tobytes() for k, a in sorted(arrays.items())}, state.get("n_step"), log


def _is_time(name):
    return "second" in name or "tokens_per" in name or name in ("time", "speed")


def measure(folder: Path, n_kill: int, n_start: int, seed: int, seconds: float) -> dict:
    """Kill trainings n_kill times, n_start of them as whole processes; return the counts.

    No more begins after so many seconds.
    """
    text, rng, began = folder / "text.txt", random.Random(seed), time.monotonic()
    words = np.random.default_rng(0).choice(["sun ", "moon ", "star\n"], 400)
    text.write_text("".join(words), encoding="utf-8", newline="\n")
    whole = folder / "whole"
    with FailingDisk(pytest.MonkeyPatch(), whole, 0) as disk:  # it counts, and nothing fails
        assert cli.main(arguments(text, whole)) == 0  # here: the forks find all imported
    expected = contents(whole)
    code, lasts = forked(arguments(text, folder / "again"), folder)
    assert code == 0 and contents(folder / "again") == expected
    found = dict(kills=0, in_the_first_second=0, in_a_write=0, whole_processes=0, trainings=0)
    found |= dict(stuck=0, other_bits=0, seconds_of_a_training=round(lasts, 2), faults=[])
    found["changes_of_a_training"] = disk.count

    def run(out, may_die):
        argv = arguments(text, out)
        way = rng.choice(("write", "time")) if may_die else ""
        if may_die and found["whole_processes"] < n_start and rng.random() < 0.2:
            way = "start"
        n, delay = rng.randint(1, disk.count), rng.uniform(0, lasts)
        if way == "start":
            code, took = started(argv, rng.uniform(0, 2.5))
        else:
            code, took = forked(argv, out, n * (way == "write"), delay if way == "time" else None)
        if code == -signal.SIGKILL:
            found["kills"] += 1
            found["in_the_first_second"] += took < 1
            found["in_a_write"] += way == "write"
            found["whole_processes"] += way == "start"
        elif code:
            found["stuck"] += 1
            found["faults"].append(
                f"{argv} after {way} {n} {delay:.3f}: exit {code}, in {out.name}"
            )
        return code

    while found["kills"] < n_kill and time.monotonic() - began < seconds:
        out = folder / str(found["trainings"])
        code = next((c for _ in range(MOST) if (c := run(out, True)) != -signal.SIGKILL), -1)
        if code < 0:
            code = run(out, False)
        found["trainings"] += 1
        same = code == 0 and contents(out) == expected
        if code == 0 and not same:
            found["other_bits"] += 1
            found["faults"].append(f"{out.name}: not the bits of the whole training")
        if same:  # the others stay to be looked at
            shutil.rmtree(out)
    return found
