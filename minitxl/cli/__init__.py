"""The commands of `python -m minitxl`, one module each (`convert` has import and export).

Only options, messages and exit codes live here; the work is in the library. A command imports what
it needs when it runs: `--help` and mistyped options answer at once, and `doctor` can speak even
where NumPy is broken.

Exit codes: 0 done; 1 doctor found something broken, or minitxl has a bug; 2 a mistake of use, told
in one line on stderr; 130 interrupted by Ctrl-C or SIGTERM. MINITXL_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from minitxl.cli import (
    bench,
    convert,
    course,
    data,
    doctor,
    eval,
    experiment,
    explore,
    figures,
    generate,
    train,
)
from minitxl.cli.common import Parser, say, silence_stdout
from minitxl.errors import MinitxlError, MinitxlWarning

COMMANDS = (
    train,
    eval,
    generate,
    explore,
    data,
    convert,
    experiment,
    figures,
    bench,
    course,
    doctor,
)
"""Modules with `add(commands)`, which declares the options, and `run(options)` -> exit code."""


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code; argv as sys.argv[1:], which None stands for.

    As argparse does, --help, --version and mistyped options leave with SystemExit.
    """
    _prepare_streams()
    told: list[int] = []
    try:
        with _signals(told), warnings.catch_warnings():
            warnings.simplefilter("always", MinitxlWarning)
            warnings.showwarning = _tell_warning
            return _main(argv)
    except (KeyboardInterrupt, Exception) as error:
        # While a compiled module is loaded, an interrupt comes out as an ImportError of its.
        if told or isinstance(error, KeyboardInterrupt):
            say("\nminitxl: interrupted")
            return 130
        if _is_closed_pipe(error):  # `| head` has seen enough: no mistake
            silence_stdout()
            return 0
        if os.environ.get("MINITXL_DEBUG") == "1":
            raise
        message, code = _explain(error)
        say(f"minitxl: error: {' '.join(message.split())}")
        return code


def _main(argv: list[str] | None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command is None:
        parser.print_help()
        return 2
    code = options.run(options)
    sys.stdout.flush()  # here, where a closed pipe is no surprise
    return code


@contextmanager
def _signals(told: list[int]) -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, so that it tidies up; put all back at the end.

    told: takes the numbers of the signals that came.
    """

    def interrupt(number, frame):
        told.append(number)
        signal.default_int_handler(number, frame)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _tell_warning(message, category, *where) -> None:
    """Show a warning in one line, without the place in the code, which tells a user nothing."""
    ours = issubclass(category, MinitxlWarning)
    name = "" if ours else f"{category.__name__}: "
    say(f"minitxl: warning: {name}{' '.join(str(message).split())}")


def _parser() -> Parser:
    from minitxl import __version__

    parser = Parser(
        prog="python -m minitxl",
        description="Transformer-XL in NumPy: train a model on a text, measure it, let it write.",
    )
    parser.add_argument("--version", action="version", version=f"minitxl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        command.add(commands)
    return parser


def _explain(error: Exception) -> tuple[str, int]:
    """Return one line for an exception, and the exit code."""
    if isinstance(error, MinitxlError):
        return str(error), 2
    if isinstance(error, MemoryError):
        less = "--batch-size, tgt_len, mem_len, d_model or n_layer"
        return f"out of memory; a smaller {less} needs less", 2
    if isinstance(error, ModuleNotFoundError):
        from minitxl.tools.doctor import install_command

        return f"the package {error.name} is not installed: {install_command()}", 2
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return (f"{error.filename}: {reason}" if error.filename else reason), 2
    bug = "this is a bug of minitxl; MINITXL_DEBUG=1 shows where"
    return f"{type(error).__name__}: {error} ({bug})", 1


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # started without one, by pythonw or `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        stream = getattr(sys, name)
        # A console of Windows may not know every symbol of a text: a "?" is better than a crash.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _is_closed_pipe(error: Exception) -> bool:
    # Windows says EINVAL; with a file name it is something else.
    known = (errno.EPIPE, errno.EINVAL) if sys.platform == "win32" else (errno.EPIPE,)
    return isinstance(error, OSError) and error.errno in known and error.filename is None
