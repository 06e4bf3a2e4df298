"""What a late hand-in costs: nbgrader's own steps ask this plugin."""

from __future__ import annotations

import datetime
import math
import re
from typing import NamedTuple

from minitxl.errors import MinitxlError

SECONDS = {"hour": 3600, "day": 86400, "week": 7 * 86400}


class Penalty(NamedTuple):
    """So many percent of what was reached, for every hour, day or week that has begun."""

    percent: float
    per: str  # "hour", "day", "week"; "" for once and for all

    def of(self, points: float, seconds: float) -> float:
        """Return the points that so many seconds cost."""
        if seconds <= 0:
            return 0.0
        times = math.ceil(seconds / SECONDS[self.per]) if self.per else 1
        return round(min(points, points * self.percent / 100 * times), 2)


def read_penalty(text: str) -> Penalty:
    """Read "10%/day", "5%/hour", "100%" (nothing counts when late), "none"."""
    if text == "none":
        return Penalty(0.0, "")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%(?:/(hour|day|week))?", text)
    if not match or float(match[1]) > 100:
        raise MinitxlError(f"--late {text}: give for instance 10%/day, 5%/hour, 100% or none")
    return Penalty(float(match[1]), match[2] or "")


def read_due(text: str) -> float:
    """Read "2026-12-01 18:00", in this machine's time, or with a zone; seconds since 1970."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise MinitxlError(f"--due {text}: give a time such as 2026-12-01T18:00") from error


def utc(seconds: float) -> datetime.datetime:
    """Return a time as nbgrader's gradebook has it: UTC, without saying so."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(tzinfo=None)
