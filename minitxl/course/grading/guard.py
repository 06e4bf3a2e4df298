"""What the student's process may not do: limits of the system, and an audit hook.

Beside `student.py`, by which it is imported; nothing of minitxl is to be had here.
"""

from __future__ import annotations

import os
import sys

FILE_SIZE = 2**28  # bytes that one file may have


def limit(memory: int, processes: int) -> None:
    """Set the system's limits: bytes of memory, and processes (0: none)."""
    if sys.platform == "win32":
        return
    import resource

    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: FILE_SIZE,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_NOFILE: 256,
    }
    if processes:
        limits[resource.RLIMIT_NPROC] = processes
    for which, most in limits.items():
        hard = resource.getrlimit(which)[1]
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        try:
            resource.setrlimit(which, (most, most))
        except (ValueError, OSError):
            pass  # macOS has no limit of memory


HOOK = """
def hook(event, args, *, error=PermissionError, kind=type):
    if event == 'open':
        path, mode, flags = args
        if kind(path) is {int}:
            return
        if kind(path) is {bytes}:
            path = path.decode('utf-8', 'replace')
        if kind(path) is not {str}:
            raise error('only a plain path can be opened in grading')
        if not path.startswith('/') and {posix}:
            path = {work} + path
        slashed = path if path.endswith('/') else path + '/'
        if {posix} and (
            '/../' in slashed or '/./' in slashed or '//' in path or path.startswith('/proc/')
        ):
            raise error('in grading a file is named by its plain path: ' + path)
        if path.startswith({work}):
            return
        for place in {closed}:  # in it, or a folder around it, from which a path may lead on
            if slashed.startswith(place) or place.startswith(slashed):
                raise error('in grading this is not to be had: ' + path)
        if {readable} and not slashed.startswith({readable}):
            raise error('in grading this is not to be had: ' + path)
        if mode and ('w' in mode or 'a' in mode or 'x' in mode or '+' in mode) and path != {null}:
            raise error('in grading files are written in the working folder alone: ' + path)
        if mode is None and flags & 3 and path != {null}:
            raise error('in grading files are written in the working folder alone: ' + path)
    elif event in ('os.remove', 'os.rmdir', 'os.rename'):
        for path in args[:2]:
            inside = kind(path) is {str} and path.startswith({work}) and '..' not in path
            if not inside and kind(path) is not {int}:
                raise error('in grading this is not to be had: ' + event)
    elif event in {events} or event.startswith({begin}):
        raise error('in grading this is not to be had: ' + event)
    elif event == 'import' and args[0] in {modules}:
        raise error('in grading this is not to be had: ' + args[0])
    elif event == 'object.__setattr__' and args[1] == '__code__':
        raise error('in grading a function keeps its code')
"""
EVENTS = (
    "os.system os.fork os.forkpty os.posix_spawn os.exec os.spawn os.startfile os.chdir os.fchdir "
    "os.symlink os.link os.chmod os.chown os.truncate os.kill os.killpg "
    "os.mkfifo os.mknod subprocess.Popen pty.spawn signal.pthread_kill "
    "gc.get_objects gc.get_referrers gc.get_referents sys.settrace sys.setprofile "
    "sqlite3.connect sqlite3.connect/handle sqlite3.load_extension"
).split()
BEGIN = ("ctypes.", "socket.", "shutil.", "winreg.", "syslog.", "ftplib.", "urllib.", "http.")


# They start processes, or run code or read files that no hook hears of.
MODULES = (
    "_posixsubprocess", "_winapi", "_ctypes", "_testcapi", "_testinternalcapi", "_interpreters",
    "_xxsubinterpreters", "readline", "_gdbm",
)  # fmt: skip


def refuse(closed: list[str], work: str, readable: list[str]) -> None:
    """Refuse, from here on, files under `closed`, writing elsewhere than in `work`, and the rest.

    readable: folders outside of which nothing is read (none: no such limit).

    The hook's code holds all it needs as constants, so that nothing of it can be changed. It is a
    second wall: what is written in C, or finds another way, gets past it.
    """
    code = HOOK.format(
        int="(0).__class__", bytes="b''.__class__", str="''.__class__", posix=os.name == "posix",
        work=repr(work), closed=repr(tuple(closed)), null=repr(os.devnull),
        readable=repr(tuple(readable)),
        events=repr(tuple(EVENTS)), begin=repr(BEGIN), modules=repr(MODULES),
    )  # fmt: skip
    names: dict = {}
    exec(code, names)
    hook = names.pop("hook")
    hook.__globals__.clear()
    for name in MODULES:
        if module := sys.modules.pop(name, None):
            vars(module).clear()
    sys.addaudithook(hook)
