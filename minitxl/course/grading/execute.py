"""How nbgrader runs a submission: its own step `Execute`, with which no cell ends the grading.

A cell that ends the kernel, or that cannot be interrupted when its time is up, gets an error that
says so; then the notebook runs again from the top without it. So the rest is graded.
Needs nbgrader; `grading.py` puts this step into the configuration.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode, v4
from nbgrader.preprocessors import Execute
from traitlets import Float, Integer

from minitxl.course.grading import kernel
from minitxl.course.grading.descendants import end_descendants
from minitxl.course.grading.reasons import KERNEL_LOST, NOT_JUDGED, NOT_RUN
from minitxl.course.notebooks import ROOT, by_sockets, environment

LOST_MOST = 5  # cells of a notebook that may end the kernel before the rest is left
OUTPUT = 2_000_000  # characters of all outputs of a cell that are kept
VERDICT = re.compile(r"^[✓◐✗…] .* points \| ", re.MULTILINE)  # the line of course.check


_kernels: list[tuple[int, int]] = []  # (process, its group or 0) that may still run


def end_kernels() -> None:
    """End all kernels that were started here, and every process that a submission started."""
    while _kernels:
        pid, group = _kernels.pop()
        if group:  # also what has lost its parent
            with contextlib.suppress(OSError):
                os.killpg(group, signal.SIGKILL)
        else:
            end_descendants(pid, itself=True)


class GradingManager(AsyncKernelManager):
    """Starts the kernel of `kernel.py`, whatever the notebook's metadata asks for."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The command that starts a kernel."""
        return KernelSpec(argv=kernel.COMMAND, display_name="Grading", language="python")

    async def start_kernel(self, **settings):
        """Start a kernel, which says nothing in the terminal of the one who grades."""
        by_sockets(self, tempfile.gettempdir())
        await super().start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **settings)
        group = getattr(self.provisioner, "pgid", None) or 0  # Windows has none
        if pid := getattr(self.provisioner, "pid", None):
            _kernels.append((pid, group))


class KernelLostError(Exception):
    """A cell ended the kernel: its index, and how."""

    def __init__(self, index: int, how: str):
        super().__init__(index, how)
        self.index, self.how = index, how


class RunSubmission(Execute):
    """Execute all cells of a submission, in an empty folder, within limits."""

    memory = Float(4.0, help="GiB that the submission's process may use").tag(config=True)
    total = Integer(900, help="seconds that all cells of a notebook may take").tag(config=True)
    aside = contextlib.nullcontext  # in which to run, away from nbgrader's own work

    def preprocess(self, nb, resources, km=None):
        """Run the notebook, as often as it takes; its outputs are then in the cells."""
        reason = nb.metadata.pop(NOT_RUN, None)
        if reason:
            for cell in _code(nb):
                cell.outputs = [_error(NOT_RUN, reason)]
            return nb, resources
        self.lost: dict[int, str] = {}
        self.deadline = time.monotonic() + self.total
        self.kernel_manager_class = GradingManager
        temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        with RunSubmission.aside(), temporary as folder:
            resources.setdefault("metadata", {})["path"] = folder
            while not self._run(nb, resources, folder):
                pass
        nb.metadata.pop("widgets", None)
        return nb, resources

    def _run(self, nb, resources, folder: str) -> bool:
        """Run from the top; return whether the end was reached."""
        self.kept: dict[int, int] = {}
        changes = {
            kernel.MEMORY: str(int(self.memory * 2**30)),
            "PYTHONPATH": str(ROOT),
            "IPYTHONDIR": folder,  # nobody's own start-up files
            "OPENBLAS_NUM_THREADS": "1",  # others run beside it; and threads take memory
        }
        try:
            with environment(changes):
                super().preprocess(nb, resources)
            return True
        except KernelLostError as lost:
            self.lost[lost.index] = lost.how
            return False
        finally:
            end_kernels()

    def preprocess_cell(self, cell, resources, index):
        """Run a cell, or say why it is not run."""
        if cell.cell_type != "code":
            return cell, resources
        if index in self.lost:
            cell.outputs = [_error(KERNEL_LOST, self.lost[index])]
        elif len(self.lost) >= LOST_MOST and index > max(self.lost):
            cell.outputs = [_error(NOT_RUN, f"not run: {LOST_MOST} cells before ended the kernel")]
        elif time.monotonic() > self.deadline:
            cell.outputs = [
                _error(NOT_RUN, f"not run: the cells before took over {self.total} s in all")
            ]
        else:
            try:
                cell, resources = super().preprocess_cell(cell, resources, index)
            except CellTimeoutError:
                how = f"it took over {self.timeout} s and could not be interrupted"
                raise KernelLostError(index, how) from None
            except DeadKernelError:
                raise KernelLostError(
                    index, f"it ended the Python process: {self._how()}"
                ) from None
            if _is_check(cell):
                _tidy(cell)
        return cell, resources

    def output(self, outs, msg, display_id, cell_index):
        """Keep an output, unless the cell has shown too much already."""
        if msg["msg_type"] != "error":
            content = msg["content"]
            parts = [content.get("text", ""), *content.get("data", {}).values()]
            size = self.kept.get(cell_index, 0) + sum(len(str(part)) for part in parts)
            self.kept[cell_index] = size
            if size > OUTPUT:
                return None
        return super().output(outs, msg, display_id, cell_index)

    def _how(self) -> str:
        """Say how the kernel ended."""
        code = run_sync(self.km.provisioner.poll)()
        if code is None or code >= 0:
            return f"exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = ", which is often a lack of memory" if name == "SIGKILL" else ""
        return f"{name}{hint}"


def _code(nb: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def _error(name: str, text: str) -> NotebookNode:
    return v4.new_output("error", ename=name, evalue=text, traceback=[f"{name}: {text}"])


def _is_check(cell: NotebookNode) -> bool:
    return cell.metadata.get("nbgrader", {}).get("grade", False)


def _tidy(cell: NotebookNode) -> None:
    """Keep of a check's error the verdict, without traceback; put one where there is no verdict."""
    errors = [output for output in cell.outputs if output.output_type == "error"]
    for output in errors:
        if VERDICT.search(output.evalue):
            output.traceback = [output.evalue]
    texts = [o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout"]
    if not errors and not VERDICT.search("".join(texts)):
        cell.outputs = [_error(NOT_JUDGED, "course.check was not run: `course` was replaced")]
