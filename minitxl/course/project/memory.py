"""Project: a memory of one's own, a class behind the model's interface, with its way back by hand.

So what is kept may be any state, and the model can learn what to write into it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable

from minitxl.course.project.memory_checks import CHECKS
from minitxl.course.project.memory_rank import ARMS, TASKS, Settings, digest
from minitxl.course.project.milestones import Milestone, NotReachedError, Project, Work
from minitxl.course.project.milestones import written as _written

FILE = "own_memory.py"
TEMPLATE = '''\
"""A memory of your own: what is kept when a segment ends, and how the gradient comes back.

    python -m minitxl course project . --only memory --measure
"""

from minitxl.model.family.memories.kinds import Memory


class OwnMemory(Memory):
    """The last mem_len inputs of each layer are kept, as in the paper (sec. 3.2): eviction by age.

    What would you rather keep, in as many rows? What is kept by one layer is its *state*: here an
    array (B, m, D), m = 0 at a text's start. For several arrays make it a NamedTuple, and write
    `start` and `shapes` as well (`minitxl/model/family/memories/compressive.py` shows how). Rows of
    the batch are texts of their own. Change no argument, keep nothing in self: texts take turns.
    """

    def rows(self, state, *, xp):
        """Return the rows that stand before the segment (B, m, D), m <= mem_len, oldest first."""
        return state

    def update(self, state, h, w, layer, params, n, *, xp):
        """Return the state that a segment leaves, and whatever `update_backward` needs.

        state: that was found; h (B, T, D): the inputs of layer n. (w, layer: its weights and the
        cache of its forward pass; params: of the model, for a memory with weights.)
        """
        both = xp.concat([state, h], axis=1)  # (B, m + T, D)
        first = max(0, both.shape[1] - self.config.mem_len)
        return both[:, first:, :], (state.shape[1], first)

    def update_backward(self, dleft, cache, dmem, dw, grads, n, *, xp):
        """Return dLoss/dstate, of the state that was found, and dLoss/dh (B, T, D).

        dleft: dLoss/d(the state that was left), in its form; None where nothing comes from later
        segments: then dLoss/dh is None, too. dmem: dLoss/d(rows), which the layer has read; None
        where the gradient stops at the memory.
        """
        if dleft is None:
            return dmem, None
        n_found, first = cache
        b, _, d = dleft.shape
        gone = xp.zeros((b, first, d), dtype=dleft.dtype, device=dleft.device)
        both = xp.concat([gone, dleft], axis=1)  # undo: both[:, first:]
        return both[:, :n_found, :] + dmem, both[:, n_found:, :]
'''


def _results(work: Work) -> dict:
    """Return what was measured of the file as it is."""
    source = work.text(FILE)
    if not (work.folder / "results.json").exists():
        raise NotReachedError("results.json is not there: `course project . --measure` writes it")
    results = json.loads(work.text("results.json"))
    if results["source"] != digest(source):
        raise NotReachedError(f"results.json was measured with another {FILE}: --measure again")
    return results


def _passes(title: str) -> Callable[[Work], str]:
    """Return the milestone that asks for a check."""

    def check(work: Work) -> str:
        found = {f["title"]: f for f in _results(work)["checks"]}[title]
        if not found["passed"]:
            raise NotReachedError(f"{FILE}: {found['text']}"[:300])
        return str(found["text"])

    return check


def _ranked(work: Work) -> str:
    results = _results(work)
    if "paid" not in results:
        raise NotReachedError("it is ranked when it passes all checks")
    said = []
    for name, task in TASKS.items():
        paid = {arm: [float(x) for x in results["paid"][name][arm]] for arm in ARMS}
        n = {len(values) for values in paid.values()}
        if min(n) < Settings().seeds or len(n) > 1:
            raise NotReachedError(
                f"results.json must have {Settings().seeds} seeds or more of each"
            )
        means = {arm: statistics.fmean(values) for arm, values in paid.items()}
        order = sorted(means, key=means.__getitem__)
        said.append(f"{task.unit}: " + ", ".join(f"{arm} {means[arm]:.3f}" for arm in order))
    work.measured["ranked"] = True
    return "; ".join(said)


def _report(work: Work) -> str:
    work.need("ranked")
    return _written(work, MEMORY.sections)


MEMORY = Project(
    id="memory",
    title="A memory of your own",
    task="""
Write a class in `memory/own_memory.py` that keeps what you want of a text, in as many bytes as the
paper's memory, and send the gradient back through it by hand. It begins as the paper's; its parts
are `rows`, `update`, `update_backward`, and it may have weights of its own (`layer_shapes`).
`TransformerXL(config, memory=OwnMemory)` is a model with it. Then

    python -m minitxl course project . --only memory --measure

says which checks it passes (seconds) and, if all, trains small models with it and with others of as
many bytes, the gradient stopped and through four segments (\"+\"): to recall pairs of a key and a
value from earlier segments, and to read a novel (some minutes). It writes `memory/results.json`. It
need not win: a sound reason why it does not is worth as much.
""",
    sections=(
        ("The idea", "What is kept, in a formula; for which text that should be better, and why."),
        ("The way back", "Your gradient, derived: of the state that was found, and of h."),
        ("What came", "Its place among the others, with the spread over seeds, stopped and "
         "through; what of it is more than that spread."),
    ),
    lines=(),
    milestones=(
        *(
            Milestone(f"memory-{name}", title, points, _passes(title))
            for (name, points), (title, _) in zip(
                {"fits": 1, "causal": 1, "resumes": 1, "gradient": 3, "own": 1}.items(),
                CHECKS,
                strict=True,
            )
        ),
        Milestone("memory-ranked", "it is ranked beside others of as many bytes", 2, _ranked),
        Milestone("memory-report", "the report is written", 1, _report),
    ),
    rubric=(
        (3, "the idea is a testable guess: which text, which length, by how much"),
        (3, "the gradient is derived, not tried out"),
        (2, "the verdict follows from the spread over seeds, for or against"),
    ),
)  # fmt: skip
