"""The parts of an experiment, each kept in a file once it is done: a run can stop and go on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from minitxl.backend.threads import one_blas_thread
from minitxl.errors import MinitxlError
from minitxl.experiments.side_by_side import results_of
from minitxl.files import write_atomically
from minitxl.storage.checkpoint import read_json
from minitxl.training.machine import machine_facts


class Parts:
    """Results by name, for instance one for each trained model.

    >>> parts = Parts(settings)
    >>> accuracy = parts.get("xl, seed 0", lambda: train_and_measure(...))

    settings: what the results depend on, as JSON holds it. file: where to keep them after every
    part; None: nowhere. With resume=True the parts that the file holds are not computed again: it
    must be of the same settings. models: the folder for models that are trained on the way, which
    other experiments may use as well; None: a temporary one. device, n_process: where `fill`
    computes, and in how many processes.
    """

    def __init__(
        self,
        settings: dict,
        file: Path | None = None,
        resume: bool = False,
        models: Path | None = None,
        device: str = "cpu",
        n_process: int = 1,
    ):
        self.settings = json.loads(json.dumps(settings))
        self.file = file
        self._temporary = TemporaryDirectory() if models is None else None  # gone with this object
        self.models = Path(self._temporary.name) if models is None else models
        self.device, self.n_process = device, n_process
        self.seconds: dict[str, float] = {}  # that each part took
        self._done: dict[str, object] = {}
        if resume and file is not None and file.exists():
            self._load(file)

    def __contains__(self, name: str) -> bool:
        return name in self._done

    def get(self, name: str, compute: Callable[[], object]):
        """Return the part's result, computed unless it is there; as JSON holds it, either way."""
        if name not in self._done:
            began = time.perf_counter()
            result = compute()
            self._keep(name, result, round(time.perf_counter() - began, 2))
        return self._done[name]

    def fill(self, jobs: dict, progress: bool = False) -> dict:
        """Return name -> result of jobs, name -> (function, *args); those that lack are computed.

        They are independent of each other, and computed in `n_process` processes at once: function
        must be one of a module's own. It is called with the device as its last argument.
        """
        missing = {
            name: (timed, function, *args, self.device)
            for name, (function, *args) in jobs.items()
            if name not in self._done
        }
        found = results_of(missing, self.n_process)
        for name, (result, seconds) in tqdm(
            found, total=len(missing), unit="part", disable=not progress
        ):
            self._keep(name, result, seconds)
        return {name: self._done[name] for name in jobs}

    def head(self, experiment: str, done: dict | None = None) -> dict:
        """Return what all results begin with: which experiment, how, on what machine, how long.

        done: name -> part, of those that say on which "device" they were computed.
        """
        devices = done and {"devices": sorted({part["device"] for part in done.values()})}
        about = {"experiment": experiment, "settings": self.settings, "machine": machine_facts()}
        return about | (devices or {}) | {"seconds": self.seconds}

    def _keep(self, name: str, result, seconds: float) -> None:
        self.seconds[name] = seconds
        self._done[name] = json.loads(json.dumps(result))
        if self.file is not None:
            kept = {"settings": self.settings, "seconds": self.seconds, "parts": self._done}
            write_atomically(self.file, (json.dumps(kept) + "\n").encode())

    def _load(self, file: Path) -> None:
        kept = read_json(file)
        names = ("settings", "seconds", "parts")
        if sorted(kept) != sorted(names) or not all(isinstance(kept[n], dict) for n in names):
            raise MinitxlError(f"{file} holds no parts of an experiment; delete it and start anew")
        if kept["settings"] != self.settings:
            mine, theirs = self.settings, kept["settings"]
            apart = sorted(n for n in {*mine, *theirs} if mine.get(n) != theirs.get(n))
            name = apart[0]
            raise MinitxlError(
                f"{file} was begun with {name}={theirs.get(name)!r}, this run has "
                f"{mine.get(name)!r}; use the same settings, or start anew without --resume"
            )
        self.seconds, self._done = kept["seconds"], kept["parts"]


def each_seed(function: Callable, names, s) -> dict:
    """Return jobs for `Parts.fill`: "NAME, seed N" -> (function, NAME, N, s) for all of s.seeds."""
    return {
        f"{name}, seed {seed}": (function, name, seed, s)
        for seed in range(s.seeds)
        for name in names
    }


def timed(function: Callable, *args) -> tuple:
    """Return function(*args), done on one BLAS thread, and the seconds that it took."""
    began = time.perf_counter()
    with one_blas_thread():
        result = function(*args)
    return result, round(time.perf_counter() - began, 2)
