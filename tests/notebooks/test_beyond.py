"""What notebook 8 says of its own numbers, by those that are stored in it."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

STORED = Path(__file__).resolve().parents[2] / "notebooks" / "08_beyond.ipynb"


def printed(begins):
    """The rows of numbers below a printed line that begins so."""
    cells = nbformat.read(STORED, as_version=4).cells
    outputs = (output.get("text", "") for cell in cells for output in cell.get("outputs", ()))
    (text,) = (text for text in outputs if text.lstrip().startswith(begins))
    return [re.findall(r"[\d.,]+$|[\d.,]+(?= )", line) for line in text.splitlines()[1:]]


def test_a_longer_span_does_not_pay_and_a_mean_costs_less():
    rates, spans, mean, every = zip(*printed("rate c"), strict=True)
    mean, every = ([float(x) for x in column] for column in (mean, every))
    assert rates == ("1", "2", "4", "8") and spans[-1] == "288"
    assert mean[0] == every[0] < min(mean[1:] + every[1:])
    assert all(a < b for a, b in zip(mean[1:], every[1:], strict=True))


def test_the_matrix_is_the_cheapest_plan():
    kept, work = zip(*(row[-2:] for row in printed("reaches, a layer")), strict=True)
    kept, work = ([float(x.replace(",", "")) for x in column] for column in (kept, work))
    assert 10 * kept[-1] < min(kept[:-1]) and 4 * work[-1] < min(work[:-1])
