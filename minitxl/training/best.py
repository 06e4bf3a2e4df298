"""The lowest validation loss of a run: where it was, and when waiting for a lower one ends."""

from __future__ import annotations

from typing import NamedTuple

from minitxl.config import TrainConfig
from minitxl.inference.units import Unit

_SHOWN = 8  # evaluations that a report names


class Best(NamedTuple):
    """What best.safetensors holds; nats is None where nothing was evaluated yet."""

    nats: float | None = None
    step: int = 0

    def waited(self, step: int, settings: TrainConfig, since: int = 0) -> int:
        """Return the evaluations up to `step` that came after the best one, and after `since`.

        A function of numbers that a checkpoint and run.json hold, so a resumed run counts alike.
        """
        if self.nats is None or not settings.eval_every:
            return 0
        return step // settings.eval_every - max(self.step, since) // settings.eval_every

    def is_over(self, step: int, settings: TrainConfig, since: int = 0) -> bool:
        """Say whether training ends before its last step: no evaluation of so many was better."""
        return 0 < settings.patience <= self.waited(step, settings, since)


def early_end(best: Best, step: int, settings: TrainConfig, unit: Unit) -> str:
    """Return the line that tells of an early end."""
    assert best.nats is not None
    n = settings.patience
    return (
        f"step {step:>6}: stopped early, of {settings.steps:,} steps: {n} "
        f"evaluation{'s' * (n > 1)} without a better validation loss than {unit.tell(best.nats)} "
        f"at step {best.step:,}, which is kept as best.safetensors"
    )


def curve(metrics: list[dict], best: Best, unit: Unit) -> str:
    """Return the best step and some evaluations of metrics.jsonl in two lines, "" without any."""
    seen = [(line["step"], line["valid_loss"]) for line in metrics if "valid_loss" in line]
    if best.nats is None or not seen:
        return ""
    last = seen[-1][0]
    every = max(1, (len(seen) - 1) // (_SHOWN - 1))
    shown = {seen[i] for i in range(0, len(seen), every)} | {seen[-1], (best.step, best.nats)}
    points = (f"{unit.of(nats):,.{unit.digits}f} at {step:,}" for step, nats in sorted(shown))
    return (
        f"best on the validation text: {unit.tell(best.nats)} at step {best.step:,} of {last:,}, "
        f"kept as best.safetensors\n  its curve (loss_curve.png): {', '.join(points)}"
    )
