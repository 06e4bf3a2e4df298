"""What notebook 8 says of its own numbers, by those that are stored in it."""

import re
import statistics
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

from helpers.text_page import arm_of, copying, price  # noqa: E402
from minitxl.experiments import memory_budget, stored  # noqa: E402

STORED = Path(__file__).resolve().parents[2] / "notebooks" / "08_beyond.ipynb"


def printed(begins):
    """The rows of numbers below a printed line that begins so."""
    cells = nbformat.read(STORED, as_version=4).cells
    outputs = (output.get("text", "") for cell in cells for output in cell.get("outputs", ()))
    (text,) = (text for text in outputs if text.lstrip().startswith(begins))
    return [re.findall(r"[\d.,]+$|[\d.,]+(?= )", line) for line in text.splitlines()[1:]]


def test_a_longer_span_does_not_pay_and_a_mean_costs_less():
    *rows, (_, alone) = printed("rate c")
    rates, spans, mean, every = zip(*rows, strict=True)
    mean, every = ([float(x) for x in column] for column in (mean, every))
    assert max(mean) < float(alone)
    assert rates == ("1", "2", "4", "8") and spans[-1] == "288"
    assert mean[0] == every[0] < min(mean[1:] + every[1:])
    assert all(a < b for a, b in zip(mean[1:], every[1:], strict=True))


def test_the_matrix_is_the_cheapest_plan():
    kept, work = zip(*(row[-2:] for row in printed("reaches, a layer")), strict=True)
    kept, work = ([float(x.replace(",", "")) for x in column] for column in (kept, work))
    assert 10 * kept[-1] < min(kept[:-1]) and 4 * work[-1] < min(work[:-1])


def test_who_answers():
    """8.6: of 8 and 128 pairs, 300 and 50 tokens back, with M = 65; heads of 32 do as well."""
    found = stored("memory_budget")
    best, edges = memory_budget.winners(found, 64), found["edges"]
    counts = list(found["settings"]["task"]["n_pairs"])

    def winner(n_pair, lag):
        (column,) = (i for i, low in enumerate(edges[:-1]) if low <= lag < edges[i + 1])
        return best[counts.index(n_pair)][column][0]

    assert [winner(8, 300), winner(128, 50), winner(128, 300)] == ["delta+", "xl", "nobody"]
    leads = [
        name for d in (64, 32, 16) for row in memory_budget.winners(found, d) for name, _ in row
    ]
    assert "mean" not in leads

    def recall(d_head, pairs=(1, 128)):
        cell = memory_budget.cell_of(found, "delta+", d_head)
        seeds = memory_budget.recall_of(found, cell, lags=(97, 513), pairs=pairs).values()
        return sum(seeds) / len(seeds)

    assert abs(recall(64) - recall(32)) < 0.02
    assert recall(16, (128, 128)) < recall(32, (128, 128)) - 0.05
    guess = 1 / found["settings"]["task"]["n_value"]
    assert guess == 1 / 64 and recall(32, (128, 128)) > recall(64, (128, 128)) > 10 * guess


def test_names_in_text():
    """8.6: means reach further and blur, the delta rule is rarely learned and reaches furthest."""
    found = stored("memory_text")
    xl, mean, delta = (arm_of(found, name) for name in ("xl", "mean", "delta"))
    assert len(copying(delta)) == 2 and found["settings"]["seeds"] == 5
    assert price(mean, 2) < price(xl, 2) - 1 and price(mean, 1) > price(xl, 1) + 0.5
    assert price(delta, 4) < min(price(xl, 4), price(mean, 4)) - 0.5
    low, high = mean["minus_xl"]["interval"]
    assert low < 0 < high and delta["minus_xl"]["mean"] > 0.1
    words = " ".join(c.source for c in nbformat.read(STORED, as_version=4).cells)
    medians = [statistics.median(arm["bpc"]) for arm in (mean, xl, delta)]
    assert "{:.2f} and {:.2f} bits in the median; the delta rule pays {:.2f}".format(
        *medians
    ) in " ".join(words.split())
