"""A matrix memory that is filled with more pairs than its keys are wide: what comes back."""

from __future__ import annotations

from functools import cache

import numpy as np

from minitxl.config import Memory
from minitxl.model.family.memories.matrix import memory_forward
from minitxl.viz.widgets.explorers import Explorer, slider
from minitxl.viz.widgets.scene import Scene, segment_pair

PAIRS = (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
WIDTHS = (8, 16, 32)
RULES = ("sum", "delta rule", "least squares", "trained")
RIGHT, WRONG, SHADE = segment_pair(2), segment_pair(0), segment_pair(1)
LEVELS = 8  # of colour


def random_pairs(n: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return keys and values (n, width) at random, of length 1."""
    rng = np.random.default_rng([seed, n, width])
    pairs = rng.normal(size=(2, n, width))
    keys, values = pairs / np.linalg.norm(pairs, axis=-1, keepdims=True)
    return keys, values


def written(keys, values, rule: str) -> np.ndarray:
    """Return the matrix (d, d) that a rule of writing leaves after n pairs.

    "sum" and "delta rule" see each pair once, in order, and are the library's own. The others see
    all of them at once: "least squares" has the smallest error of the values, "trained" is led by
    gradients to answer every key with something nearer to its value than to any other.
    """
    if rule == "least squares":
        return np.linalg.lstsq(keys, values, rcond=None)[0]
    if rule == "trained":
        return trained(keys, values)
    n, d = keys.shape
    how = Memory(kind="matrix", rule="sum" if rule == "sum" else "delta", feature="unit")
    k, v = keys[None, None], values[None, None]  # (B, H, n, d)
    _, s, _ = memory_forward(k, k, v, np.ones((1, 1, n, 1)), np.zeros((1, 1, d, d)), how, xp=np)
    return s[0, 0]


def trained(keys, values, steps: int = 400, rate: float = 0.05, sharp: float = 16.0) -> np.ndarray:
    """Lower the cross entropy of softmax(sharp k S v_j^T) over the stored values, by Adam."""
    n, d = keys.shape
    s, m, v = np.zeros((3, d, d))
    for t in range(1, steps + 1):
        logits = sharp * keys @ s @ values.T  # (n, n)
        if t % 20 == 0 and (logits.argmax(axis=1) == np.arange(n)).all():
            break
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        g = keys.T @ ((p - np.eye(n)) @ values) / n
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        s = s - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
    return s


@cache
def answers(n: int, width: int, rule: str) -> tuple[np.ndarray, float]:
    """Return how near each key's answer is to every value (n, n), and the error of the answers.

    Nearness is the cosine; the error is |answer - value|^2, of values of length 1, in the mean.
    """
    keys, values = random_pairs(n, width)
    given = keys @ written(keys, values, rule)
    near = given @ values.T / np.linalg.norm(given, axis=1, keepdims=True)
    return near, float(((given - values) ** 2).sum(axis=1).mean())


def overfull_scene(*, pairs: int, width: int, rule: str) -> Scene:
    """The answers to all keys, and how many of them are the right value."""
    near, error = answers(pairs, width, rule)
    best, wide = near.argmax(axis=1), 400.0
    right = best == np.arange(pairs)
    scene, left, top, size = Scene(1040, 560), 96, 70, wide / pairs
    levels = np.clip(np.ceil(near * LEVELS), 0, LEVELS).astype(int)
    for level in range(1, LEVELS + 1):
        at = np.argwhere(levels == level)
        boxes = [(left + j * size, top + i * size, size, size) for i, j in at]
        scene.boxes(boxes, fill=SHADE, alpha=round(level / LEVELS, 2) ** 1.5)
    scene.boxes([(left, top, wide, wide)], stroke="muted", width=1)
    radius = max(1.6, min(6.0, 0.3 * size))
    for where, colour in ((right, RIGHT), (~right, WRONG)):
        at = [(left + (j + 0.5) * size, top + (i + 0.5) * size) for i, j in enumerate(best)]
        dots = [place for place, is_so in zip(at, where, strict=True) if is_so]
        scene.dots(dots, radius, fill=colour, stroke="paper", width=0.8)
    scene.text(left + wide / 2, top + wide + 18, "stored values, first to last", anchor="middle")
    scene.text(left - 20, top + wide / 2, "key that is asked, first to last", turn=90,
               anchor="middle")  # fmt: skip

    x = 560
    scene.text(x, 84, f"{int(right.sum())} of {pairs} recalled", size=26, bold=True)
    scene.text(x, 116, "the answer is nearest to the key's own value", colour="muted")
    scene.text(x, 158, f"error {error:.2f}", size=26, bold=True)
    scene.text(x, 190, "|answer - value|², in the mean; values have length 1", colour="muted")
    scene.dots([(x + 6, 232)], 6, fill=RIGHT, stroke="paper", width=0.8)
    scene.text(x + 22, 232, "nearest value, the right one (on the diagonal)")
    scene.dots([(x + 6, 260)], 6, fill=WRONG, stroke="paper", width=0.8)
    scene.text(x + 22, 260, "nearest value, a wrong one")
    for level in range(1, LEVELS + 1):
        box = [(x + 22 * (level - 1), 284, 22, 14)]
        scene.boxes(box, fill=SHADE, alpha=round(level / LEVELS, 2) ** 1.5)
    scene.text(x + 22 * LEVELS + 10, 291, "how near the answer is to a value (cosine)", size=13)
    _filling(scene, x, 330, pairs, width)
    title = {
        "sum": "Added up, the pairs blur one another",
        "delta rule": "Writing only what is new keeps the last pairs and overwrites the first",
        "least squares": "The best answers there are: exact up to the width, blurred past it",
        "trained": "Trained to be nearest, it names more values than it can give exactly",
    }[rule]
    note = (
        f"{pairs} random pairs in a {width} x {width} matrix. Sum and delta rule see each pair "
        "once, as the library's\nmemory does; least squares and training see all of them at once."
    )
    return scene.headed(title, note)


def _filling(scene: Scene, x: float, top: float, pairs: int, width: int) -> None:
    """How full the matrix is: pairs against the width of the keys."""
    scene.text(x, top, f"{pairs} pairs, {width} independent keys at most", bold=True)
    unit = min(420 / max(pairs, width), 14.0)
    full = min(pairs, width)
    scene.boxes([(x, top + 16, full * unit, 18)], fill=SHADE)
    if pairs > width:
        scene.boxes([(x + width * unit, top + 16, (pairs - width) * unit, 18)], fill=WRONG)
    scene.lines([[(x + width * unit, top + 13), (x + width * unit, top + 42)]], stroke="ink",
                width=2.5)  # fmt: skip
    scene.text(x + width * unit, top + 56, f"d = {width}", size=13, anchor="middle")


def overfull_explorer(*, pairs: int = 24, width: int = 16, rule: str = "delta rule") -> Explorer:
    """Widget: n pairs in a d x d matrix by four rules of writing, and what every key brings back.

    pairs, width, rule: where the controls begin; one of PAIRS, WIDTHS and RULES.
    """
    controls = {
        "pairs": slider("pairs n", [(str(n), n) for n in PAIRS], pairs),
        "width": slider("key width d", [(str(d), d) for d in WIDTHS], width),
        "rule": slider("written by", [(name, name) for name in RULES], rule),
    }
    states = [{"rule": name} for name in ("sum", "delta rule", "trained")]
    return Explorer(controls, overfull_scene, states=states)
