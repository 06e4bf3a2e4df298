"""Sandboxes: what they keep out, that they change nothing else, that nothing is left running."""

import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("nbformat")
pytest.importorskip("psutil")

from helpers.hand_ins import BODY, CHEATS, HARMLESS, HEAD, TESTS, WRONG, judged, make_source
from minitxl import MinitxlError
from minitxl.course.grading import sandbox

ROOT = Path(sandbox.__file__).resolve().parents[3]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def bwrap():
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    try:
        return sandbox.choose("bwrap")[0]
    except MinitxlError as error:
        pytest.skip(str(error))


def test_the_choice():
    kind, text = sandbox.choose("none")
    assert kind == "none" and "WITHOUT a sandbox (as was asked for)" in text
    kind, text = sandbox.choose("auto")
    assert kind in ("bwrap", "none") and "\n" not in text
    with pytest.raises(MinitxlError, match="there is no sandbox 'vm'; there are auto"):
        sandbox.choose("vm")
    if not shutil.which("docker"):
        with pytest.raises(MinitxlError, match="the sandbox docker does not work"):
            sandbox.choose("docker")
    with pytest.raises(MinitxlError, match="Python does not start within the limits"):
        sandbox.choose("none", memory=0.01)


def test_a_container_has_nothing(monkeypatch, tmp_path):
    """The command alone: no daemon runs where this is tested."""
    command, kill = sandbox._command("docker", tmp_path, 2.0)
    text = " ".join(command)
    for words in (
        "--network none",
        "--read-only",
        "--memory 2048m",
        "--pids-limit 64",
        "--rm",
        "--cap-drop ALL",
        f"{tmp_path}/judge:/judge:ro",
        "python -I -B /judge/student.py",
    ):
        assert words in text  # fmt: skip
    assert kill == ["docker", "kill", command[command.index("--name") + 1]]


def test_every_copy_of_the_library_is_closed(tmp_path, monkeypatch):
    """One that is installed beside the checkout which grades, or in the system's Python."""
    found = []
    for name in ("lib/python3.11/site-packages", "lib/python3/dist-packages"):
        (tmp_path / name / "minitxl").mkdir(parents=True)
        found.append(str(tmp_path / name / "minitxl"))
    monkeypatch.setattr(sandbox, "_pythons", lambda: [str(tmp_path)])
    closed, hidden = sandbox.closed_paths(), sandbox._copies()
    assert all(path + os.sep in closed and path in hidden for path in found)


@pytest.mark.parametrize(
    "case", ["as it should be", "prints", "files in the working folder", "threads", "memory"]
)
def test_bubblewrap_changes_nothing(source, bwrap, case):
    why, *cells = WRONG[case] if case in WRONG else ("", *HARMLESS[case])
    one, _ = judged(source, *cells, kind=bwrap, memory=2.0)
    assert one.points == (0 if case in WRONG else 3) and why in one.remark


ESCAPES = [
    "reads the answers",
    "reads the answers by another path",
    "reads the source through /proc",
    "takes the stand-in away",
    "asks another Python",
    "calls the library",
]


@pytest.mark.parametrize("case", ESCAPES)
def test_undeserved_marks_in_bubblewrap(source, bwrap, case):
    one, _ = judged(source, *CHEATS[case], kind=bwrap)
    assert one.points == 0 and one.remark, one


LOOK = """
import ctypes, os, socket
def softmax_backward(dp, p):
    libc = ctypes.CDLL(None)
    seen = {PATHS}
    print([x for x in seen if libc.access(x.encode(), 4) == 0])
    print(sorted(n for n in os.listdir('/proc') if n.isdigit()).__len__())
    for path in ('/usr/x', '/judge/x', '/x'):
        fd = libc.open(path.encode(), 0o101, 0o600)
        if fd >= 0: print('wrote', path)
    s = socket.socket()
    s.settimeout(1)
    print(s.connect_ex(('127.0.0.1', 1)) != 0, os.environ.get('SECRET'))
    return p
"""


def test_what_bubblewrap_keeps_out(source, bwrap, tmp_path, monkeypatch):
    """Past the audit hook, by C: nothing of the lecturer's is there, nothing can be written."""
    _without_guard(tmp_path, monkeypatch)
    monkeypatch.setenv("SECRET", "x")
    (tmp_path / "gradebook.db").write_text("x")
    paths = [
        str(tmp_path / "gradebook.db"),
        str(ROOT / "minitxl/model/ops.py"),
        TESTS,
        "/etc/passwd",
    ]
    one, _ = judged(source, LOOK.replace("{PATHS}", repr(paths)), kind=bwrap)
    lines = one.printed.splitlines()
    assert lines[0] == "[]" and int(lines[1]) <= 3 and lines[2] == "True None", one


def _without_guard(folder, monkeypatch):
    path = folder / "guard.py"
    path.write_text(sandbox.FILES[1].read_text().replace("sys.addaudithook(hook)", "pass"))
    monkeypatch.setattr(sandbox, "FILES", (sandbox.FILES[0], path, sandbox.FILES[2]))


def test_a_daemon_ends(source, bwrap, tmp_path, monkeypatch):
    """What a submission leaves running ends with it, in bubblewrap and, on Linux, without."""
    psutil = pytest.importorskip("psutil")
    _without_guard(tmp_path, monkeypatch)
    daemon = (
        "import os, time\n" + HEAD + "    if os.fork() == 0:\n        os.setsid()\n"
        "        if os.fork() == 0:\n            time.sleep(987)\n        os._exit(0)\n"
        "    time.sleep(0.5)\n" + BODY
    )
    monkeypatch.setattr(sandbox, "_adopting", False)
    sandbox.adopt_orphans()
    for kind in (bwrap, "none"):
        one, _ = judged(source, daemon, kind=kind)
        assert one.points == 3
        left = [p for p in psutil.Process(os.getpid()).children(recursive=True)
                if p.status() != psutil.STATUS_ZOMBIE]  # fmt: skip
        assert not left
