"""Several processes train one model: as one process would, and a failure of one ends all.

The seam is tested with threads that play the processes; the rest with two real ones, where mpi4py
and mpiexec are installed.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.models import make_model, make_tokens
from minitxl import MinitxlError, TrainConfig
from minitxl.backend import threads
from minitxl.data import Stream
from minitxl.storage import checkpoint
from minitxl.storage.run_folder import read_metrics
from minitxl.training import parallel
from minitxl.training.parallel import Group, joined, launched
from minitxl.training.trainer import Trainer

# --- processes played by threads ---


class Threads(Group):
    """One of `size` threads that play the processes of a run."""

    def __init__(self, rank, size, meeting, slots, n_local=1):
        self.rank, self.size, self.n_local = rank, size, n_local
        self._meeting, self._slots = meeting, slots

    def _exchange(self, value):
        self._slots[self.rank] = value
        self._meeting.wait(timeout=10)
        values = list(self._slots)
        self._meeting.wait(timeout=10)  # before anybody changes a slot again
        return values

    def sum_in_place(self, array):
        array[...] = sum(self._exchange(array.copy()))

    def broadcast(self, value):
        return self._exchange(value)[0]

    def gather(self, value):
        values = self._exchange(value)
        return values if self.rank == 0 else []

    def any(self, flag):
        return any(self._exchange(flag))

    def wait(self):
        self._exchange(None)


def together(work, size=2, **options):
    """Run work(group) in `size` threads; return the results, or the exceptions, by rank."""
    meeting, slots, results = threading.Barrier(size), [None] * size, [None] * size

    def run(rank):
        try:
            results[rank] = work(Threads(rank, size, meeting, slots, **options))
        except BaseException as error:
            results[rank] = error

    crew = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    return results


SETTINGS = TrainConfig(steps=9, batch_size=8, lr=0.01, warmup=3, clip=0.1, seed=5, threads=2)


def train(backend, settings, group=None, steps=6, state=None):
    """Train a small model with dropout and memory; return the trainer and the losses."""
    model = make_model(backend, dropout=0.3, dropatt=0.2)
    trainer = Trainer(model, settings, group)
    stream = Stream(make_tokens(170, seed=9), batch_size=8, tgt_len=5)  # four batches, then fresh
    if state is not None:
        trainer.load_state(*state)
    losses = []
    for step in range(steps):
        batch = stream.next()
        if step >= trainer.n_step:
            losses.append(float(trainer.step(*batch)))
            assert float(trainer.grad_norm) > settings.clip  # it does clip
    return trainer, losses


@pytest.mark.parametrize("size", [2, 4])
def test_a_group_trains_as_one_process(backend, size):
    """Losses, weights, Adam and memories: equal to the rounding of sums in another order."""
    settings = SETTINGS.replace(threads=4, accumulate=2)
    one, expected = train(backend, settings)
    results = together(lambda group: (*(ran := train(backend, settings, group)), ran[0].state()))
    arrays, values = one.state()
    for rank, (_, losses, (ours, ours_values)) in enumerate(results):
        np.testing.assert_allclose(losses, expected, rtol=1e-12)
        assert ours_values == values
        names = {n for n in arrays if rank == 0 or not n.startswith("mems.")}
        assert set(ours) == names
        for name in names:
            np.testing.assert_allclose(ours[name], arrays[name], rtol=1e-9, atol=1e-12)
        for name in names & {"adam.m", "params.word_emb"}:  # of all ranks the same bits
            np.testing.assert_array_equal(ours[name], results[0][2][0][name])


def test_two_pieces_in_two_processes_are_the_same_bits(backend):
    one, expected = train(backend, SETTINGS)
    for trainer, losses in together(lambda group: train(backend, SETTINGS, group)):
        assert losses == expected
        flats = (t.model.backend.to_numpy(t.model.params.flat) for t in (one, trainer))
        np.testing.assert_array_equal(*flats)


def test_each_process_runs_its_own_rows(backend, monkeypatch):
    seen, piece = {}, Trainer._piece

    def watched(self, job):
        (_, _, i), _, tokens, *_ = job  # seed, step and piece; memory
        seen.setdefault(self.group.rank, []).append((i, tokens.tolist()))
        return piece(self, job)

    monkeypatch.setattr(Trainer, "_piece", watched)
    settings = SETTINGS.replace(threads=4)
    together(lambda group: train(backend, settings, group, steps=1))
    rows = Stream(make_tokens(170, seed=9), batch_size=8, tgt_len=5).next()[0].tolist()
    for rank in range(2):
        own = sorted(seen[rank])
        assert [i for i, _ in own] == [2 * rank, 2 * rank + 1]
        assert [row for _, part in own for row in part] == rows[4 * rank : 4 * rank + 4]


def test_resumed_in_another_number_of_processes(backend):
    """A checkpoint belongs to the run, not to the number of processes that wrote it."""
    settings = SETTINGS.replace(threads=4)
    _, expected = train(backend, settings)
    alone = train(backend, settings, steps=3)[0].state()
    shared = together(lambda group: train(backend, settings, group, steps=3)[0].state())[0]
    _, losses = train(backend, settings, state=shared)
    np.testing.assert_allclose(losses, expected[3:], rtol=1e-12)
    for size in (2, 4):
        results = together(lambda group: train(backend, settings, group, state=alone)[1], size)
        np.testing.assert_allclose(results, [expected[3:]] * size, rtol=1e-12)


def test_number_of_threads(backend, monkeypatch):
    """The cores of a machine are shared by the processes on it."""
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: range(6), raising=False)
    assert [threads.threads_for(12, n) for n in (1, 2, 3, 4, 12)] == [6, 3, 2, 1, 1]
    settings = TrainConfig(batch_size=12)
    cpu = backend.name == "cpu"
    for n_local, expected in ((1, 12), (2, 6)):
        results = together(
            lambda group: Trainer(make_model(backend), settings, group).settings.threads,
            n_local=n_local,
        )
        assert results == [expected if cpu else 2] * 2


def test_what_cannot_be_shared(backend):
    for settings, words in (
        (TrainConfig(batch_size=6, threads=3), "threads=3"),
        (TrainConfig(batch_size=5), "5 rows"),
        (TrainConfig(batch_size=6, accumulate=2), "3 rows"),
    ):
        model = make_model(backend)
        for error in together(lambda group, s=settings, m=model: Trainer(m, s, group)):
            assert isinstance(error, MinitxlError) and words in str(error)
            assert "multiple of 2" in str(error)


def test_on_first():
    called = []

    def work(group, fails=False):
        def function(a, b):
            called.append(group.rank)
            if fails:
                raise MinitxlError("the disk is full")
            return a + b

        return group.on_first(function, 1, 2)

    assert together(work) == [3, 3] and called == [0]
    for error in together(lambda group: work(group, fails=True)):
        assert isinstance(error, MinitxlError) and str(error) == "the disk is full"
    assert work(Group()) == 3


def test_check_same():
    assert together(lambda group: group.check_same("text", 7)) == [None, None]
    for error in together(lambda group: group.check_same("text", group.rank)):
        assert isinstance(error, MinitxlError) and "differ in their text" in str(error)


# --- being started by mpiexec, or not ---

LAUNCHER = {"PMI_SIZE": "2", "PMI_RANK": "0"}


@pytest.fixture
def environment(monkeypatch):
    """No launcher around, and no mpi4py: importing it raises."""
    for name in (*parallel.SIZES, *parallel.RANKS, "MINITXL_MPI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        (LAUNCHER, True),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}, True),
        ({"PMI_SIZE": "1"}, False),
        ({"PMI_SIZE": "many"}, False),
        ({**LAUNCHER, "MINITXL_MPI": "0"}, False),
        ({"MINITXL_MPI": "1"}, True),
    ],
)
def test_launched(environment, variables, expected):
    for name, value in variables.items():
        environment.setenv(name, value)
    assert launched() is expected
    if not expected:  # the fixture's mpi4py would raise
        with joined() as group:
            assert type(group) is Group and group.size == 1


def test_without_mpi4py_rank_0_tells(environment):
    for name, value in LAUNCHER.items():
        environment.setenv(name, value)
    with pytest.raises(MinitxlError, match=r"one of 2 .* not installed; pip install") as raised:
        with joined():
            pass
    assert "\n" not in str(raised.value)
    environment.setenv("PMI_RANK", "1")
    with pytest.raises(SystemExit), joined():
        pass


def test_mpiexec_of_another_mpi(environment):
    environment.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(MinitxlError, match="started 2 processes, mpi4py sees 1"):
        parallel._check_size(1)
    parallel._check_size(2)


def test_an_abort_leaves_the_launcher_time_to_pass_on_why(monkeypatch, capsys):
    """Aborted at once, mpiexec can drop the line that says why."""
    group, did = object.__new__(parallel.MpiGroup), []
    group.rank, group.size = 1, 2
    group._world = SimpleNamespace(Abort=lambda code: did.append(("abort", code)))
    monkeypatch.setattr(parallel.time, "sleep", lambda s: did.append((capsys.readouterr().err, s)))
    group.abort(RuntimeError("a bug"))
    ((said, seconds), end) = did
    assert "process 1 of 2 failed" in said and "RuntimeError: a bug" in said
    assert seconds == parallel.FORWARDING >= 0.5 and end == ("abort", 2)


# --- two real processes ---

# Beside this Python first: another mpiexec would belong to another MPI library.
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
real = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason='needs mpi4py and mpiexec: pip install -e ".[mpi]"',
)
TINY = dict(n_layer=2, d_model=16, n_head=2, d_head=8, d_inner=16, tgt_len=16, mem_len=16)
TINY |= dict(dropout=0.2, dropatt=0.1, steps=16, batch_size=8, threads=2, accumulate=2, clip=0.05)
TINY |= dict(eval_every=8, save_every=4, log_every=1, seed=3)
# `python -c STARTER how step ...`: the command line, in which something befalls rank 1 at a step.
STARTER = """
import os, signal, sys
from minitxl.cli import main
from minitxl.training.trainer import Trainer

how, at, step = sys.argv[1], int(sys.argv[2]), Trainer.step

def befalls(self, *batch):
    if self.n_step == at and self.group.rank == 1:
        if how == "dies":
            os._exit(9)
        if how == "raises":
            raise RuntimeError("a bug")
        os.kill(os.getpid(), signal.SIGINT)
    return step(self, *batch)

Trainer.step = befalls
sys.exit(main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    words = ["war ", "and ", "peace ", "Natasha ", "Pierre ", "\n"]
    text = "".join(words[i] for i in np.random.default_rng(0).integers(0, 6, 3000))
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(text, encoding="utf-8")
    return path


def start(options, n=2, befalls=()):
    """Run `minitxl train` in n processes; return it with its output."""
    python = [sys.executable, "-c", STARTER, *befalls] if befalls else [sys.executable, "-m"]
    python += ["train"] if befalls else ["minitxl", "train"]
    known = (*parallel.SIZES, *parallel.RANKS, "MINITXL_MPI")
    environment = {k: v for k, v in os.environ.items() if k not in known}
    return subprocess.run(
        ([MPIEXEC, "-n", str(n)] if n > 1 else []) + [*python, "--device=cpu", *options],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )


def new(book, out):
    return [f"--data={book}", f"--out={out}", *(f"--set={k}={v}" for k, v in TINY.items())]


@pytest.fixture(scope="module")
def alone(book, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "alone"
    ran = start(new(book, out), n=1)
    assert ran.returncode == 0, ran.stderr
    return out


def assert_same_run(out, expected):
    """All that was written, equal to what float32 sums in another order may differ by."""
    for name in ("last", "best"):
        arrays, state = checkpoint.load(out / f"{name}.safetensors")
        want, want_state = checkpoint.load(expected / f"{name}.safetensors")
        assert set(arrays) == set(want)
        for key in arrays:
            np.testing.assert_allclose(arrays[key], want[key], rtol=1e-3, atol=1e-5)
        assert state.get("stream") == want_state.get("stream")
    lines, want = read_metrics(out), read_metrics(expected)
    assert [line.keys() for line in lines] == [line.keys() for line in want]
    for line, other in zip(lines, want, strict=True):
        line.pop("seconds", None), other.pop("seconds", None)
        assert line == pytest.approx(other, rel=1e-5)
    assert all(line["grad_norm"] > 0.05 for line in lines if "grad_norm" in line)


@real
def test_two_processes_train_as_one(book, tmp_path, alone):
    ran = start(new(book, tmp_path / "run"))
    assert ran.returncode == 0, ran.stderr
    assert_same_run(tmp_path / "run", alone)
    infos = [json.loads((out / "run.json").read_text()) for out in (tmp_path / "run", alone)]
    assert infos[0] == infos[1]
    assert ran.stdout.count("in 2 processes") == 1 and ran.stdout.count("trained in") == 1
    assert ran.stderr.count("validation") == 2  # rank 0 alone speaks


@real
def test_one_dies(book, tmp_path, alone):
    """The run ends at once, its checkpoint is whole, and one process alone can go on with it."""
    out = tmp_path / "run"
    began = time.monotonic()
    ran = start(new(book, out), befalls=("dies", "10"))
    assert ran.returncode != 0 and time.monotonic() - began < 30
    assert checkpoint.load(out / "last.safetensors")[1]["n_step"] == 8
    assert start([f"--resume={out}"], n=1).returncode == 0
    assert_same_run(out, alone)


@real
def test_one_raises(book, tmp_path):
    out = tmp_path / "run"
    began = time.monotonic()
    ran = start(new(book, out), befalls=("raises", "10"))
    assert ran.returncode == 2 and time.monotonic() - began < 30
    assert "process 1 of 2 failed" in ran.stderr and "RuntimeError: a bug" in ran.stderr
    assert checkpoint.load(out / "last.safetensors")[1]["n_step"] == 8


@real
@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to whole consoles only")
def test_ctrl_c_and_resume(book, tmp_path, alone):
    """The signal reaches one process only; all stop after the same step and it is saved."""
    out = tmp_path / "run"
    ran = start(new(book, out), befalls=("interrupted", "9"))
    assert ran.returncode == 130
    assert ran.stderr.count("stopped after step 10 of 16") == 1
    assert checkpoint.load(out / "last.safetensors")[1]["n_step"] == 10
    assert start([f"--resume={out}"]).returncode == 0
    assert_same_run(out, alone)


@real
def test_a_mistake_is_told_once(book, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    for options, words in (
        (new(book, tmp_path / "there"), "is not empty"),  # rank 0 alone has looked
        (["--preset=tini"], "did you mean tiny"),  # each for itself
    ):
        ran = start(options)
        assert ran.returncode == 2 and ran.stdout == ""
        assert ran.stderr.count("minitxl: error:") == 1 and words in ran.stderr
        assert len(ran.stderr.splitlines()) == 1
