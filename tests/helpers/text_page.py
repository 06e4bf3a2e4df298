"""What figures/README.md says of the memory-text experiment, made of what is stored."""

import statistics
from itertools import pairwise

from helpers.quoted import spelt
from minitxl.experiments import memory_text, stored

ROWS = {
    "none": "none",
    "xl": "XL: the last M states",
    "every": "every 4th state kept",
    "mean": "compressive, mean",
    "conv": "compressive, convolution",
    "linear": "matrix, sum",
    "delta": "matrix, delta rule",
}


def arm_of(found: dict, name: str) -> dict:
    return next(arm for arm in found["arms"] if arm["arm"] == name)


def copying(arm: dict) -> list[list]:
    """The prices of second letters in the runs that have learned to copy."""
    return [names for names in arm["names"] if memory_text.learned(names)]


def price(arm: dict, stretch: int) -> float:
    return statistics.fmean(names[stretch] for names in copying(arm))


def table(found: dict) -> list[str]:
    rows = []
    for name, label in ROWS.items():
        arm = arm_of(found, name)
        learned = copying(arm)
        paid = [f"{price(arm, i):.2f}" if learned else "-" for i in range(1, 5)]
        more = arm["minus_xl"]
        low, high = more["interval"]
        apart = "-" if name == "xl" else f"{more['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"
        rows.append(
            f"| {label} | {arm['lr']:g} | {len(learned)} of {len(arm['bpc'])} | "
            f"{statistics.median(arm['bpc']):.3f} | {apart} | {' | '.join(paid)} |"
        )
    return rows


def paired(found: dict, name: str) -> list[float]:
    """An arm's bits per character minus XL's, of the seeds with which both have learned."""
    arm, xl = arm_of(found, name), arm_of(found, "xl")
    both = zip(arm["names"], xl["names"], arm["minus_xl"]["by_seed"], strict=True)
    return [x for a, b, x in both if memory_text.learned(a) and memory_text.learned(b)]


def text() -> list[str]:
    """The rows of the table, then phrases."""
    found, before = stored("memory_text"), stored("memory_text_one_rate")
    s, arm = found["settings"], {name: arm_of(found, name) for name in ROWS}
    spans = [f"{low}-{high - 1}" for low, high in list(pairwise(found["edges"]))[1:5]]
    p = {name: arm[name]["minus_xl"].get("p_holm") for name in ROWS}
    n = {name: len(copying(arm[name])) for name in ROWS}
    more = {
        name: "{:+.3f} [{:+.3f}, {:+.3f}]".format(x["mean"], *x["interval"])
        for name, x in ((name, arm[name]["minus_xl"]) for name in ROWS)
    }
    assert all(p[name] > 0.5 for name in ("every", "mean", "conv"))  # "none differs surely"
    assert n["linear"] == 0 and f"{p['linear']:.3f}" == f"{p['delta']:.3f}" == f"{p['none']:.3f}"
    far = {name: price(arm[name], 4) for name in ROWS if n[name]}
    assert min(far, key=lambda name: far[name]) == "delta" and sorted(far.values())[1] > 4.7
    first = {name: len(copying(arm_of(before, name))) for name in ("xl", "mean")}
    assert max(arm_of(before, "mean")["minus_xl"]["by_seed"]) < 0  # "with every seed"
    both = paired(before, "mean")
    return [
        *table(found),
        f"| {' | '.join(spans)} |",
        f"({s['d_model'] // s['n_head'] + 1} states a layer)",
        f"the best of {spelt(len(s['lrs']))} rates on another seed; {spelt(s['seeds'])} seeds",
        f"less than {memory_text.COPIES:g} bit under {found['edges'][1]} characters",
        f"means cost {more['mean']} bits, p = {p['mean']:.2f}",
        f"{price(arm['mean'], 2):.2f} bits instead of {price(arm['xl'], 2):.2f} at {spans[1]} "
        f"characters, {price(arm['mean'], 3):.2f} instead of {price(arm['xl'], 3):.2f} at "
        f"{spans[2]}; {price(arm['mean'], 1):.2f} instead of {price(arm['xl'], 1):.2f} at "
        f"{spans[0]}",
        f"the delta rule by {n['delta']} of {s['seeds']} starts, the sum by none",
        f"{more['delta']} and {more['linear']} bits, p = {p['delta']:.3f} each",
        f"{price(arm['delta'], 4):.2f} bits at {spans[3]}",
        f"{price(arm['delta'], 1):.2f} bits at {spans[0]}",
        f"with XL only {n['xl']} of {s['seeds']} starts learned to copy",
        f"With a rate of {before['settings']['lr']:g} for all, in a run before, {first['xl']} did, "
        f"and {first['mean']} with means, which then paid less than XL with every seed, "
        f"{-max(both):.3f} to {-min(both):.3f} bits where both had learned",
        f"{sum(found['seconds'].values()) / 60:.0f} minutes of processes",
    ]
