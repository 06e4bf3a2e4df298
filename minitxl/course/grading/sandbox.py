"""Where the student's process runs: in bubblewrap, in a container, or, failing these, beside us.

In bubblewrap and in a container it sees the Python that runs it, without minitxl, and an empty
folder: no network, no other process, no file of the lecturer's or of another student. Beside us
(`none`) it has the same user's rights, and only an audit hook in it (`guard.py`) refuses that.
Limits of memory, file size and time hold everywhere but on Windows, which has time alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

import minitxl
from minitxl.course import running
from minitxl.course.grading import guard, student
from minitxl.course.grading.descendants import end_descendants
from minitxl.errors import MinitxlError

KINDS = ("auto", "bwrap", "docker", "none")
IMAGE = os.environ.get("MINITXL_GRADING_IMAGE", "minitxl-grading")
DISK = 2**28  # bytes that a submission may write, in a sandbox
PROCESSES = 64  # and threads
REPLY = 20_000_000  # bytes of a reply that are read
REPLIES = 100  # replies that are read
FILES = tuple(Path(module.__file__) for module in (student, guard, running))
PACKAGE = Path(minitxl.__file__).resolve().parent
ROOT = PACKAGE.parent
BESIDE = ("tests", "notebooks", "build", ".git")  # of a checkout: answers may be there


@dataclass(frozen=True)
class Ended:
    """How a process ended: what it replied, line by line, and its exit code or None: time's up."""

    replies: list[str]
    code: int | None


_running: dict[int, tuple[subprocess.Popen, list[str]]] = {}  # by pid: and what ends it


def end_all() -> None:
    """End all processes that were started here, and what these have started."""
    for process, kill in list(_running.values()):
        _end(process, kill)


def choose(kind: str, memory: float = 4.0) -> tuple[str, str]:
    """Return the kind of sandbox that is to be had, and a line that says what it is.

    auto: bubblewrap where it works, else none. MinitxlError for one that was asked for and does not
    work.
    """
    if kind not in KINDS:
        raise MinitxlError(f"there is no sandbox {kind!r}; there are {', '.join(KINDS)}")
    apart = "no network, no files but Python's own"
    if kind == "docker":
        problem = _trial("docker", memory)
        if problem:
            raise MinitxlError(f"the sandbox docker does not work ({problem}): see README.md")
        return "docker", f"submissions run in containers of the image {IMAGE}: {apart}"
    if kind != "none":
        problem = (
            _trial("bwrap", memory) if shutil.which("bwrap") else "bubblewrap is not installed"
        )
        if not problem:
            return "bwrap", f"submissions run in bubblewrap: {apart}"
        if kind == "bwrap":
            raise MinitxlError(f"the sandbox bwrap does not work: {problem}")
    else:
        problem = "as was asked for"
    if failed := _trial("none", memory):
        raise MinitxlError(f"Python does not start within the limits; allow more memory: {failed}")
    return "none", (
        f"submissions run WITHOUT a sandbox ({problem}): with this user's rights, which only an "
        "audit hook holds; use an account that may be lost, or install bubblewrap"
    )


def run(kind: str, request: dict, *, memory: float, timeout: float, closed=()) -> Ended:
    """Run one request in a process of its own; return its replies.

    memory: GiB; timeout: seconds; closed: more paths that are not to be had, where there is no
    sandbox to keep them out.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True, prefix="student-") as folder:
        place = Path(folder).resolve()
        for name in ("work", "judge"):
            (place / name).mkdir()
        for file in FILES:
            shutil.copy(file, place / "judge" / file.name)
        inside = kind != "none"
        work = "/tmp/" if inside else f"{place / 'work'}{os.sep}"
        settings = {
            "memory": int(memory * 2**30),
            "processes": 0 if kind == "none" else PROCESSES,
            "work": work,
            "closed": [] if inside else closed_paths(closed),
            "readable": [] if inside or os.name == "nt" else _readable(),
        }
        (place / "request.json").write_text(json.dumps(settings | request), encoding="utf-8")
        command, kill = _command(kind, place, memory)
        with (
            open(place / "request.json", "rb") as given,
            open(place / "replies.jsonl", "wb") as replies,
        ):
            process = subprocess.Popen(
                command,
                stdin=given,
                stdout=replies,
                stderr=subprocess.DEVNULL,
                cwd=place / "work",
                env=_environment(work),
                start_new_session=os.name == "posix",
            )
            _running[process.pid] = process, kill
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(process, kill)
        with open(place / "replies.jsonl", "rb") as file:
            lines = [file.readline(REPLY).decode("utf-8", "replace") for _ in range(REPLIES)]
        return Ended([line.strip() for line in lines if line], code)


def closed_paths(more=()) -> list[str]:
    """Return the folders that a submission has no business in, each with a separator at its end."""
    places = [PACKAGE, *_installed(), *more]
    places += [ROOT / name for name in BESIDE if (ROOT / name).is_dir()]
    both = {str(p) for place in places for p in (Path(place).absolute(), Path(place).resolve())}
    return sorted(place + os.sep for place in both)


def _trial(kind: str, memory: float) -> str:
    """Return why a kind of sandbox does not work here, or nothing."""
    try:
        ended = run(kind, {"trial": True}, memory=memory, timeout=60)
    except OSError as error:
        return str(error)
    if ended.replies != ['{"trial": "done"}']:
        return f"a trial in it ended with exit code {ended.code}"
    return ""


def _environment(work: str) -> dict[str, str]:
    """Return the variables that a submission's process has: none of the lecturer's."""
    kept = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    ours = {name: os.environ[name] for name in kept if name in os.environ}
    one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return ours | one | {"HOME": work, "TMPDIR": work, "MPLBACKEND": "agg", "MPLCONFIGDIR": work}


def _command(kind: str, place: Path, memory: float) -> tuple[list[str], list[str]]:
    """Return the command that starts the process, and one that ends it, if a signal does not."""
    options = ["-I", "-B"]
    if kind == "none":
        return [sys.executable, *options, str(place / "judge" / FILES[0].name)], []
    script = f"/judge/{FILES[0].name}"
    if kind == "docker":
        name = f"minitxl-{secrets.token_hex(8)}"
        command = ["docker", "run", "--rm", "--interactive", "--name", name, "--network", "none"]
        command += ["--read-only", "--tmpfs", f"/tmp:size={DISK}", "--workdir", "/tmp"]
        command += ["--memory", f"{int(memory * 1024)}m", "--pids-limit", str(PROCESSES)]
        command += ["--user", "65534:65534", "--cap-drop", "ALL"]
        command += ["--security-opt", "no-new-privileges", "--env", "OPENBLAS_NUM_THREADS=1"]
        command += ["--volume", f"{place / 'judge'}:/judge:ro", IMAGE, "python", *options, script]
        return command, ["docker", "kill", name]
    command = ["bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
    command += ["--cap-drop", "ALL", "--uid", "65534", "--gid", "65534", "--hostname", "grading"]
    for path in _system():
        kinds = "--symlink" if os.path.islink(path) else "--ro-bind"
        command += [kinds, os.readlink(path) if os.path.islink(path) else path, path]
    command += ["--proc", "/proc", "--dev", "/dev", "--size", str(DISK), "--tmpfs", "/tmp"]
    for path in _pythons():
        command += ["--ro-bind", path, path]
    for path in _copies():
        command += ["--tmpfs", path]
    command += ["--ro-bind", str(place / "judge"), "/judge", "--chdir", "/tmp", "--remount-ro", "/"]
    return [*command, sys.executable, *options, script], []


def _system() -> list[str]:
    """Return what of the system Python needs: its libraries, and where to find them."""
    wanted = ["/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", "/etc/localtime"]
    return [path for path in wanted if os.path.lexists(path)]


def _pythons() -> list[str]:
    """Return the folders of this Python that are not part of the system's own."""
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix}
    prefixes |= {str(Path(sys.executable).resolve().parents[1])}
    return sorted(p for p in prefixes if not f"{p}/".startswith("/usr/") and p not in ("/", "/usr"))


def _readable() -> list[str]:
    """Return where a submission may read, if only the audit hook holds it: as in bubblewrap."""
    system = ("/usr", "/lib", "/lib64", "/etc", "/sys", "/System", "/Library", os.devnull)
    system += ("/dev/random", "/dev/urandom", "/dev/shm")
    return [path + os.sep for path in (*system, *_pythons())]


def _installed() -> list[Path]:
    """Return where minitxl is installed, in this Python's libraries and in the system's."""
    libraries = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    for place in {*_pythons(), "/usr", "/usr/local"}:
        libraries |= set(Path(place).glob("lib*/python3*/*-packages"))
    return [path for path in (x / "minitxl" for x in libraries) if path.is_dir()]


def _copies() -> list[str]:
    """Return the folders in which minitxl or its checkout lies, as far as they would be seen."""
    seen = (*_pythons(), "/usr")
    found = {str(PACKAGE), *map(str, _installed()), *(str(ROOT / name) for name in BESIDE)}
    inside = (
        p for p in found if os.path.isdir(p) and any(f"{p}/".startswith(f"{s}/") for s in seen)
    )
    return sorted(inside)


# --- ending --------------------------------------------------------------------------------------


def _end(process: subprocess.Popen, kill: list[str]) -> None:
    """End a process, its group, its descendants, and what has run away from them."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    end_descendants(process.pid, itself=True)
    if kill:
        subprocess.run(kill, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    _running.pop(process.pid, None)
    if _adopting and not _running:
        end_descendants(os.getpid())


_adopting = False


def adopt_orphans() -> None:
    """Become the parent of what daemonises, so that it can be ended; only Linux has this.

    For a process that has no other children than submissions.
    """
    global _adopting
    if sys.platform == "linux":
        set_child_subreaper = 36  # of prctl(2)
        _adopting = ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0) == 0
