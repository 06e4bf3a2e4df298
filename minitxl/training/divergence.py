"""Divergence: training that has become worse than guessing is told, while it runs and at the end.

Who gives every symbol the same probability pays ln V nats for each. A model starts near that, or
somewhat above, and soon lies far below. Where the loss is above both guessing and its own start
once the warm-up is over, the steps are too large; a run of few steps is merely not trained yet.
"""

from __future__ import annotations

import math

from minitxl.config import TrainConfig
from minitxl.errors import MinitxlError
from minitxl.inference.units import Unit, bits

MARGIN = 1.02  # a fresh model guesses a little worse than evenly


class Guard:
    """Watches the training loss of one run."""

    def __init__(self, n_token: int, settings: TrainConfig, unit: Unit):
        self.guess = math.log(n_token)  # nats
        self.settings, self.unit = settings, unit
        self._told = False
        self._start: float | None = None  # the first loss that was seen, in nats

    def is_worse(self, step: int, loss: float) -> bool:
        """Say whether the mean training loss (nats) up to a step is worse than guessing."""
        if self._start is None and math.isfinite(loss):
            self._start = loss
        limit = max(self.guess, self._start or 0.0) * MARGIN
        return step > self.settings.warmup and not loss <= limit

    def remark(self, step: int, loss: float) -> str | None:
        """Return a line where the loss has become worse than guessing; once, until it recovers."""
        was, self._told = self._told, self.is_worse(step, loss)
        if was or not self._told:
            return None
        return (
            f"step {step:>6}: {self.unit.tell(loss)} is worse than guessing "
            f"({self.unit.tell(self.guess)}): training diverges, most often because --lr "
            f"{self.settings.lr:g} is too high"
        )

    def check_end(self, metrics: list[dict], best: float | None) -> None:
        """Raise `MinitxlError` where the last training loss in metrics.jsonl is worse.

        best: the lowest validation loss of the run in nats, None where there was none.
        """
        first = next((line for line in metrics if "loss" in line), None)
        if first is not None and math.isfinite(first["loss"]):
            self._start = first["loss"]  # of the whole run, also where this process resumed it
        last = next((line for line in reversed(metrics) if "loss" in line), None)
        if last is None or not self.is_worse(last["step"], last["loss"]):
            return
        kept = ""
        if best is not None:
            kept = f"; the best, {self.unit.tell(best)}, is kept in best.safetensors"
        raise MinitxlError(
            f"diverged: worse than guessing ({bits(self.guess):.2f} bits); lower --lr, which was "
            f"{self.settings.lr:g}{kept}"
        )
