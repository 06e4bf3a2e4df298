"""How a loss is told: bits per character or byte, and perplexity for words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple


class Unit(NamedTuple):
    """A measure of the loss in nats per token."""

    key: str  # in metrics.jsonl, and as a short name after the number
    name: str
    token: str  # what a token is called
    of: Callable[[float], float]  # nats per token -> the measure
    digits: int

    def tell(self, nats: float) -> str:
        """Return for instance "1.918 bpc"."""
        return f"{self.of(nats):,.{self.digits}f} {self.key}"


def perplexity(nats: float) -> float:
    """Return exp(nats); nats above 700 count as 700, for exp would overflow."""
    return math.exp(min(nats, 700.0))


def bits(nats: float) -> float:
    """Return nats / ln 2."""
    return nats / math.log(2)


UNITS = {
    "char": Unit("bpc", "bits per character", "character", bits, 3),
    "byte": Unit("bpc", "bits per byte", "byte", bits, 3),
    "word": Unit("perplexity", "perplexity per word", "word", perplexity, 1),
    "token": Unit("bits", "bits per token", "token", bits, 3),
}
