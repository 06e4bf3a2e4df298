"""What figures/README.md says of the memory-budget experiment, made of what is stored."""

import statistics
from itertools import pairwise

from helpers.quoted import spelt
from minitxl.experiments import memory_budget, stored

ROWS = {
    "none": "none",
    "xl": "XL: the last M states",
    "every": "every 4th state kept",
    "random": "random states kept",
    "mean": "compressive, mean",
    "mean+": "the same, gradient through",
    "conv": "compressive, convolution",
    "sum": "matrix, sum",
    "sum+": "the same, gradient through",
    "delta": "matrix, delta rule",
    "delta+": "the same, gradient through",
    "xl-all": "XL, everything kept",
}
QUESTIONS = (
    "up to 8 pairs, lags 97-160: mean, not every 4th",
    "64 pairs and more, lags 97-160: mean, not every 4th",
    "lags 97-160: convolution, not mean",
    "up to 16 pairs: delta+ at lags from 257, not at 97-160",
    "32 pairs and more, lags from 33: delta+ with d_head 64, not 16",
    "64 pairs and more, lags 33-64: XL, not delta+",
)
FEW, UP_TO_16, MANY = (1, 8), (1, 16), (64, 128)  # pairs
PAST, LATE, BEYOND, FAR = (33, 513), (97, 161), (97, 513), (257, 513)  # lags


def share(found, arm, lags, pairs=(1, 128), d_head=64) -> str:
    cell = memory_budget.cell_of(found, arm, d_head)
    values = memory_budget.recall_of(found, cell, lags, pairs).values()
    return f"{100 * statistics.fmean(values):.0f}"


def difference(found, question) -> str:
    x = memory_budget.difference(found, question)
    low, high = (100 * y for y in x["interval"])
    return f"{100 * x['mean']:+.0f} [{low:+.0f}, {high:+.0f}]"


def check_winners(found) -> None:
    """Up to M nothing beats XL; beyond M + T nothing beats the matrix, where anything answers."""
    for d_head in found["settings"]["d_heads"]:
        for row in memory_budget.winners(found, d_head):
            for (low, high), (name, _) in zip(pairwise(found["edges"]), row, strict=True):
                assert high > d_head + 2 or name in ("xl", "level")
                assert low < d_head + 33 or name in ("delta+", "level", "nobody")


def table(found) -> list[str]:
    rows = []
    for arm, name in ROWS.items():
        cell = memory_budget.cell_of(found, arm)
        where = [((33, 65), (1, 128)), *((x, y) for x in (LATE, FAR) for y in (FEW, MANY))]
        shares = " | ".join(share(found, arm, *x) for x in where)
        rows.append(
            f"| {name} | {cell['bytes'] / 1024:.0f} | {cell['flops'] / 1000:.0f} | {shares} |"
        )
    return rows


def budget() -> list[str]:
    """The rows of the table, then phrases."""
    found = stored("memory_budget")
    check_winners(found)
    s = found["settings"]
    d = [difference(found, question) for question in QUESTIONS]
    p_values = [memory_budget.difference(found, q)["p_holm"] for q in QUESTIONS]
    p = ["p < 0.001" if x < 0.0005 else f"p = {x:.3f}" for x in p_values]
    few, many = (
        [share(found, arm, BEYOND, pairs) for arm in ("delta+", "mean")]
        for pairs in (UP_TO_16, MANY)
    )
    xl_late = [int(share(found, "xl", LATE, (n, n))) for n in s["task"]["n_pairs"]]
    wide = [share(found, "delta+", PAST, (32, 128), d_head) for d_head in (64, 32, 16)]
    equal = [share(found, "delta+", BEYOND, (n, n), n) for n in (64, 32, 16)]  # pairs = d_head
    through = [
        difference(found, f"lags from 33: gradient through, {arm}")
        for arm in ("sum", "delta", "xl", "mean")
    ]
    xl, kept = (memory_budget.cell_of(found, arm) for arm in ("xl", "xl-all"))
    own = [x for c in found["cells"] if c["arm"] != "none" for x in c["own_segment"]]
    slow = sum(x < memory_budget.LEARNED for x in own)
    minutes = sum(found["seconds"].values()) / 60
    (tokens,) = stored("memory_budget_tokens")["cells"]
    far = memory_budget.recall_of(stored("memory_budget_tokens"), tokens, PAST).values()
    return [
        *table(found),
        f"a matrix answers {few[0]}% of up to 16 pairs, whatever their lag, and {many[0]}% of 64 "
        f"and more; a compressive memory {few[1]}% and {many[1]}%",
        f"{s['episodes'] * 2} updates each, the best of {spelt(len(s['lrs']))} rates on another "
        f"seed; {spelt(s['seeds'])} seeds",
        f"{min(xl_late)} to {max(xl_late)}% at lags of 97 to 160, from 4 pairs to 128",
        f"{d[0]} points with up to 8 pairs, {p[0]}; with 64 and more {d[1]}, {p[1]}",
        f"A trained convolution adds {d[2]}",
        f"Of up to 16 pairs they answer {d[3]} points more at lags from 257 than at 97 to 160",
        f"{wide[0]}, {wide[1]} and {wide[2]}% of 32 pairs and more with heads of 64, 32 and 16, "
        f"the last in a quarter of the bytes ({d[4]} for 64 against 16, {p[4]})",
        f"with as many pairs as d_head {equal[0]}, {equal[1]} and {equal[2]}%",
        f"the sum {through[0]} points, the delta rule {through[1]}, XL {through[2]}, but the "
        f"compressive memory {through[3]}",
        f"by {d[5]} points with 64 pairs and more",
        f"{share(found, 'xl-all', BEYOND)}% of everything, for {kept['bytes'] / xl['bytes']:.0f} "
        f"times the bytes and {kept['flops'] / xl['flops']:.0f} times the work",
        f"In {slow} of {len(own)} runs less than 95% is answered of what the own segment holds",
        f"{minutes:.0f} minutes of one process",
        f"Memory tokens, {2 * tokens['states']} of them (as many bytes as with d_head = "
        f"{tokens['d_head']}), answer {100 * statistics.fmean(far):.0f}% from lag 33 on, after as "
        f"many updates with the better of two rates, {spelt(len(far))} seeds: what crosses a "
        "segment's end they did not learn",
    ]
