"""One query, three keys: a small attention whose numbers can be changed, forward and backward.

Each hidden state is (key, value, query) and each weight picks one of them, so that every number can
be checked by eye. Here all comes from the library's functions; small_attention.js has the same.
"""

from __future__ import annotations

import math

import numpy as np

from minitxl.errors import MinitxlError
from minitxl.model.attention import attend_backward, attend_forward
from minitxl.viz.widgets.in_page import InPage
from minitxl.viz.widgets.scene import LEVELS, NAMES, Scene, segment_pair, shades

KEYS, VALUES = (0.0, math.log(2), math.log(5)), (8.0, 0.0, 0.0)  # then 8 p = (1, 2, 5)
ORANGE, BLUE = segment_pair(0), segment_pair(1)
WIDTH, HEIGHT = 1040, 478
LEFT, WIDE, TOP, LINE = 408, 136, 82, 29  # of the cells
ONE = LEFT + 3 * WIDE + 26  # left end of the numbers that belong to no key
GAP = 22  # between forward and backward
# Row: name, words, cells, the number beside it, and its name
ROWS = (
    ("k", "keys", "keys", "query", "query q"),
    ("s", "scores: query times key", "scores", None, ""),
    ("p", "weights: their softmax", "weights", None, ""),
    ("v", "values", "values", None, ""),
    ("p v", "what each key gives to the output", "given", "output", "output o"),
    ("dv", "gradient of each value", "dvalues", "doutput", "upstream do"),
    ("dp", "of each weight", "dweights", None, ""),
    ("ds", "of each score; their sum is 0", "dscores", None, ""),
    ("dk", "of each key", "dkeys", "dquery", "dq"),
    ("dWₖ", "each row's share, 2nd entry", "dweight", "dweight_all", "sum"),
    ("dh", "into each state, 1st entry", "dstates", None, ""),
)
FORWARD = 5  # rows
# What can be changed: least, most, step
LIMITS = {"keys": (-5, 5, 0.1), "values": (-10, 10, 0.5), "query": (-4, 4, 0.1),
          "doutput": (-4, 4, 0.1)}  # fmt: skip


def play_attention(*, keys=KEYS, values=VALUES, query=1.0, doutput=1.0, n_mem: int = 2) -> InPage:
    """Widget: a query, three keys and values, and the gradient of them all; every number can be
    changed, and so can the memory (the first n_mem keys) and whether its gradient is stopped.

    keys, values: three numbers each. Raises MinitxlError for others, or n_mem not 0, 1 or 2.
    """
    start = {"keys": list(keys), "values": list(values), "query": query, "doutput": doutput}
    start |= {"n_mem": n_mem, "stopped": True}
    scene = attention_scene(**start)
    names = ("paper", "ink", "muted", "hatch", "hidden")
    data = {
        "start": start, "rows": ROWS, "forward": FORWARD, "limits": LIMITS,
        "shades": {"orange": shades(ORANGE, 0.55), "blue": shades(BLUE, 0.55)},
        "colours": {"orange": ORANGE, "blue": BLUE, **{name: NAMES[name] for name in names}},
        "width": WIDTH, "height": HEIGHT, "left": LEFT, "wide": WIDE, "top": TOP, "line": LINE,
        "one": ONE, "gap": GAP,
    }  # fmt: skip
    return InPage("small_attention.js", data, [scene])


def worked(*, keys, values, query: float, doutput: float) -> dict:
    """Every number of the rows, by the library's functions: arrays (3,) and floats."""
    k, v = (np.reshape(np.array(x, dtype=np.float64), (1, 1, 3, 1)) for x in (keys, values))
    q, do = (np.full((1, 1, 1, 1), x, dtype=np.float64) for x in (query, doutput))
    scores = q @ np.swapaxes(k, -1, -2)  # (1, 1, 1, 3); sqrt(Dh) = 1
    o, cache = attend_forward(scores, v, dropatt=0.0, rng=None, xp=np)
    ds, dv = attend_backward(do, cache, xp=np)
    dk = np.swapaxes(ds, -1, -2) @ q
    share = v * dk  # a state is (key, value, query): its value is the 2nd entry
    found = {
        "keys": k, "scores": scores, "weights": cache.p, "values": v,
        "given": np.ravel(cache.p) * np.ravel(v), "dvalues": dv,
        "dweights": do @ np.swapaxes(v, -1, -2), "dscores": ds, "dkeys": dk, "dweight": share,
        "dstates": dk,
    }  # fmt: skip
    one = {"query": q, "output": o, "doutput": do, "dquery": ds @ k, "dweight_all": share.sum()}
    single = {name: float(np.sum(x)) for name, x in one.items()}
    return {name: np.ravel(x) for name, x in found.items()} | single


def attention_scene(*, keys, values, query, doutput, n_mem: int, stopped: bool) -> Scene:
    """The state that small_attention.js draws alike."""
    if len(keys) != 3 or len(values) != 3 or n_mem not in (0, 1, 2):
        raise MinitxlError(
            f"{len(keys)} keys, {len(values)} values and n_mem={n_mem}: give three of each, and a "
            "memory of 0, 1 or 2 of them"
        )
    numbers = worked(keys=keys, values=values, query=query, doutput=doutput)
    scene = Scene(WIDTH, HEIGHT)
    for title, row, colour in (("forward", 0, BLUE), ("backward", FORWARD, ORANGE)):
        scene.text(16, _top(row) - 10, title, size=13, bold=True, colour=colour)
    for j in range(3):
        name = f"cached {j + 1}" if j < n_mem else f"segment {j - n_mem + 1}"
        style = dict(size=13, anchor="middle", bold=True, colour=segment_pair(int(j < n_mem)))
        scene.text(LEFT + (j + 0.5) * WIDE, TOP - 10, name, **style)
    for row, (name, words, cells, beside, label) in enumerate(ROWS):
        y, middle = _top(row), _top(row) + LINE / 2
        scene.text(28, middle, name, size=15, bold=True)
        scene.text(100, middle, words, size=13.5, colour="muted")
        part = ROWS[:FORWARD] if row < FORWARD else ROWS[FORWARD:]
        looks = shades(BLUE if row < FORWARD else ORANGE, 0.55)
        most = max(np.abs(numbers[r[2]]).max() for r in part) or 1.0
        for j, value in enumerate(numbers[cells]):
            box = (LEFT + j * WIDE, y + 1, WIDE, LINE - 2)
            if cells == "dstates" and stopped and j < n_mem:
                scene.boxes([box], fill="hidden", stroke="muted", width=0.7, hatch=True)
                scene.text(box[0] + WIDE / 2, middle, "0", anchor="middle", halo=True)
                continue
            depth = round(math.sqrt(min(abs(value) / most, 1)) * (LEVELS - 1))
            scene.boxes([box], fill=looks[depth][0], stroke="muted", width=0.7)
            _number(scene, box[0] + WIDE / 2, middle, value, looks[depth][1], cells in LIMITS)
        if beside:
            scene.text(ONE, middle, label, size=13.5, bold=beside == "output")
            _number(scene, ONE + 150, middle, numbers[beside], "ink", beside in LIMITS)
    if n_mem:
        edge = LEFT + n_mem * WIDE
        scene.lines([[(edge, TOP - 22), (edge, _top(len(ROWS)))]], stroke="ink", width=3.2)
    largest = int(np.argmax(numbers["weights"]))
    title = f"The output is {_told(numbers['output'])}; "
    if not n_mem:
        title += f"key {largest + 1} has most of the weight"
    else:
        part = numbers["dweight"][:n_mem].sum()
        whole = _told(numbers["dweight_all"])
        title += f"the memory gives {_told(part)} of the {whole} in dWₖ's 2nd entry"
    note = "Dotted numbers can be changed: drag them sideways, or press the arrow keys. "
    note += "Thick line: the memory's edge."
    if stopped and n_mem:
        note += (
            "\nHatched: the gradient is stopped there; all above goes on as if there were no edge."
        )
    return scene.headed(title, note)


def _top(row: int) -> float:
    return TOP + row * LINE + (GAP if row >= FORWARD else 0)


def _told(value: float) -> str:
    return f"{value + 0.0:.3f}".replace("-", "\u2212") if abs(value) >= 5e-4 else "0"


def _number(scene: Scene, x, y, value, colour, open_: bool) -> None:
    scene.text(x, y, _told(value), anchor="middle", size=14.5, colour=colour)
    if open_:
        scene.lines([[(x - 26, y + 10), (x + 26, y + 10)]], stroke="ink", width=1.5, dash=(2, 2))
