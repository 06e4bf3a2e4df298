"""Intervals and tests over seeds."""

from __future__ import annotations

import math
import statistics

import numpy as np


def spread(values: list) -> dict:
    """Mean, standard deviation over seeds, and the 95 % interval of the mean by Student's t.

    For one value sd and interval are None: nothing is known of its spread.
    """
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return {"mean": mean, "sd": None, "interval": None}
    sd = statistics.stdev(values)
    half = t_quantile(0.975, n - 1) * sd / math.sqrt(n)
    return {"mean": mean, "sd": sd, "interval": [mean - half, mean + half]}


def t_cdf(t: float, df: int) -> float:
    """Return the chance that Student's t with df degrees of freedom is below t.

    With t = sqrt(df) tan(angle) its density is the cosine's power df - 1.
    """
    end = math.atan(t / math.sqrt(df))
    angles = np.linspace(0.0, end, 4001)
    whole = math.sqrt(math.pi) * math.gamma(df / 2) / math.gamma((df + 1) / 2)
    return 0.5 + float(np.trapezoid(np.cos(angles) ** (df - 1), angles)) / whole


def t_quantile(share: float, df: int) -> float:
    """Return the t below which Student's t with df degrees of freedom lies with this chance."""
    low, high = 0.0, 1e3
    while high - low > 1e-9 * max(1.0, low):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, df) < share else (low, middle)
    return (low + high) / 2


def p_value(values: list) -> float | None:
    """Return the two-sided p of Student's t for a mean of 0; None for a single value."""
    n = len(values)
    if n == 1:
        return None
    sd = statistics.stdev(values)
    if sd == 0:
        return 0.0 if statistics.fmean(values) else 1.0
    return 2.0 * (1.0 - t_cdf(abs(statistics.fmean(values)) / (sd / math.sqrt(n)), n - 1))


def holm(p_values: list) -> list:
    """Return the p-values corrected for their number (Holm 1979); None stays None."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        corrected[i] = highest
    return corrected


def share_interval(k: int, n: int, z: float = 1.96) -> list[float]:
    """Return the 95 % interval of a share, k of n, by Wilson."""
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return [max(0.0, centre - half), min(1.0, centre + half)]
