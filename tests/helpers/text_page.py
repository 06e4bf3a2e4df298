"""What figures/README.md says of the memory-text experiment, made of what is stored."""

import statistics

from minitxl.experiments import memory_text

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
