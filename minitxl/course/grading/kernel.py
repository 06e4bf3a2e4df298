"""The process in which a submission runs when it is graded: a Python kernel with limits.

It loads `minitxl.course` before any cell of the submission runs, so that the judge has already read
what a submission might change. Memory and file sizes are limited by the operating system, where it
can (not on Windows; macOS ignores the limit of memory); printing by the kernel itself.
"""

from __future__ import annotations

import os
import sys

from ipykernel.iostream import OutStream
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQInteractiveShell

MEMORY = "MINITXL_GRADING_MEMORY"  # environment variable: bytes
FILE_SIZE = 2**28  # bytes that one file may have
PRINTED = 100_000  # characters that one cell may print

COMMAND = [
    sys.executable,
    "-c",
    "from minitxl.course.grading.kernel import main; main()",
    "-f",
    "{connection_file}",
]


class LimitedStream(OutStream):
    """stdout or stderr of which a cell may fill so much; then printing raises RuntimeError."""

    left = PRINTED  # of both together

    def write(self, string: str) -> int | None:
        """Print, unless the cell has printed too much."""
        LimitedStream.left -= len(string)
        if LimitedStream.left < 0:
            raise RuntimeError(f"the cell printed more than {PRINTED:,} characters")
        return super().write(string)


class Shell(ZMQInteractiveShell):
    """A shell that starts to count anew with every cell, and that `exit()` does not end."""

    def run_cell(self, *args, **kwargs):
        """Run a cell."""
        LimitedStream.left = PRINTED
        return super().run_cell(*args, **kwargs)

    async def run_cell_async(self, *args, **kwargs):
        """Run a cell."""
        LimitedStream.left = PRINTED
        return await super().run_cell_async(*args, **kwargs)

    def ask_exit(self):
        """Raise in place of the end that `exit()` asks for."""
        raise RuntimeError("leave exit() and quit() out: they end the notebook")


class Kernel(IPythonKernel):
    """A kernel with this shell."""

    shell_class = Shell


def main() -> None:
    """Run the kernel; started with COMMAND."""
    _limit(os.environ.pop(MEMORY, ""))
    import minitxl.course  # noqa: F401  (first of all)

    IPKernelApp.launch_instance(
        kernel_class=Kernel, outstream_class=f"{LimitedStream.__module__}.LimitedStream"
    )


def _limit(memory: str) -> None:
    if sys.platform == "win32":
        return
    import resource

    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: FILE_SIZE}
    if memory:
        limits[resource.RLIMIT_AS] = int(memory)
    for which, most in limits.items():
        hard = resource.getrlimit(which)[1]
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(which, (most, most))
