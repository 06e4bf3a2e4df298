"""The rel-shift trick step by step, and its adjoint running backwards (paper app. B).

What stands in a cell is found by sending labels through `ops.rel_shift_forward` and
`ops.rel_shift_backward`. The steps between are those of the released code: a column of zeros in
front, another view of the same numbers, one row less. `ops` puts the zeros behind and so leaves out
T - 1 numbers in place of T: the same result, and the last steps drawn here are `ops`' own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minitxl.errors import MinitxlError
from minitxl.model.attention import attention_mask
from minitxl.model.ops import rel_shift_backward, rel_shift_forward
from minitxl.viz.widgets.explorers import Explorer, buttons, numbers, slider
from minitxl.viz.widgets.scene import Scene, segment_pair

N_STEP = 6
LOW, HIGH = 2, 6  # ends of the sliders of T and M
ZERO = 0  # the label of a padded zero, and of a gradient that is exactly 0
DIRECTIONS = {"forward": False, "adjoint": True}
WIDTH, HEIGHT = 1040, 490


class Step(NamedTuple):
    """One picture of the numbers."""

    labels: np.ndarray  # of the cells: 1 + i K + c for query i and distance K-1-c, or ZERO
    kind: str  # "distance", "padded", "view", "cut" or "key": what rows and columns mean
    hidden: bool  # whether the mask lies over it


def steps(tgt_len: int, mem_len: int, *, backward: bool = False) -> list[Step]:
    """Return the six steps of the shift for T queries and K = M + T keys, as arrays of labels.

    Forward they go from scores by distance (T, K) to masked scores by key (T, K), backward from the
    gradient by key to the gradient by distance. A label is the same in both directions: that of the
    score (i, c) before the shift, which belongs to query i and distance K-1-c.
    """
    t, k = tgt_len, mem_len + tgt_len
    by_distance = 1 + np.arange(t * k).reshape(t, k)
    by_key, _ = rel_shift_forward(by_distance, xp=np)
    if backward:
        by_key = np.where(hidden_keys(t, mem_len), ZERO, by_key)  # there the softmax sends back 0
        by_distance = rel_shift_backward(by_key, xp=np)
    cut = by_key.reshape(k, t)  # (T, K) -> (K, T): the same numbers in the same order
    if backward:
        view = np.concatenate([np.full((1, t), ZERO), cut])  # (K, T) -> (K+1, T)
        padded = view.reshape(t, k + 1)  # (K+1, T) -> (T, K+1)
    else:
        padded = np.concatenate([np.full((t, 1), ZERO), by_distance], axis=1)  # -> (T, K+1)
        view = padded.reshape(k + 1, t)  # (T, K+1) -> (K+1, T)
    forward = [
        Step(by_distance, "distance", False),
        Step(padded, "padded", False),
        Step(view, "view", False),
        Step(cut, "cut", False),
        Step(by_key, "key", False),
        Step(by_key, "key", True),
    ]
    return forward[::-1] if backward else forward


def hidden_keys(tgt_len: int, mem_len: int) -> np.ndarray:
    """Return (T, K) bool: True where the causal mask hides a key."""
    lengths = dict(n_query=tgt_len, n_mem=mem_len, max_keys=None)
    return attention_mask(**lengths, device="cpu", xp=np)


def meaning(label, tgt_len: int, mem_len: int):
    """Return query i, distance d, and whether a key stands that far back (d <= i + M) of labels."""
    k = mem_len + tgt_len
    query, column = np.divmod(np.asarray(label) - 1, k)
    distance = k - 1 - column
    return query, distance, distance <= query + mem_len


def shift_scene(*, tgt_len: int, mem_len: int, step: int, backward: bool) -> Scene:
    """Step 1 ... 6 for T queries and a memory of M: the numbers before it, and after it."""
    if not 1 <= step <= N_STEP:
        raise MinitxlError(f"step={step} must be 1 ... {N_STEP}")
    known = steps(tgt_len, mem_len, backward=backward)
    shape = (tgt_len, mem_len, backward)
    title, note, operation = _words(tgt_len, mem_len, step, backward, known)
    scene = Scene(WIDTH, HEIGHT)
    if step > 1:
        dropped = known[step - 2].kind == ("padded" if backward else "view")
        crossed = dropped and known[step - 1].kind == ("distance" if backward else "cut")
        _matrix(scene, 30, known[step - 2], *shape, crossed=crossed)
        _matrix(scene, 556, known[step - 1], *shape)
        scene.lines([[(482, 245), (554, 245)], [(545, 238), (554, 245), (545, 252)]], stroke="ink",
                    width=2.5)  # fmt: skip
        for n, word in enumerate(operation.split("\n")[::-1]):
            scene.text(518, 225 - 18 * n, word, size=13, bold=True, anchor="middle")
    else:
        _matrix(scene, 290, known[0], *shape)
    return scene.headed(title, note)


def _matrix(scene: Scene, left: float, step: Step, t, m, backward, *, crossed=False) -> None:
    """Cells with their labels; crossed: strike out what the next step leaves out."""
    rows, columns = step.labels.shape
    size = min(437 / (columns + 1.2), 343 / (rows + 2.1), 48)  # cells are squares
    # there is room left for the names outside
    x0 = left + 0.85 * size + (437 - (columns + 1.2) * size) / 2
    y0 = 62 + 1.35 * size + (343 - (rows + 2.1) * size) / 2

    def place(column, row):
        return x0 + column * size, y0 + row * size

    _cells(scene, step, t, m, backward, place, size)
    _outside(scene, step, t, m, backward, place, size)
    if crossed and backward:
        scene.lines([[place(0.5, -0.1), place(0.5, rows + 0.1)]], stroke="ink", width=2)
    elif crossed:
        scene.lines([[place(-0.1, 0.5), place(columns + 0.1, 0.5)]], stroke="ink", width=2)


def _cells(scene: Scene, step: Step, t, m, backward, place, size) -> None:
    """A score shows its distance, as d3, and its query; a padded zero 0: no cell could be both."""
    labels = step.labels
    query, distance, exists = meaning(labels, t, m)
    zero, covered = labels == ZERO, np.zeros(labels.shape, bool)
    if step.hidden:
        covered = hidden_keys(t, m)

    def boxes(where):
        return [(*place(column, row), size, size) for row, column in np.argwhere(where)]

    scene.boxes(boxes(zero & ~covered), fill="paper")
    for i in range(t):
        scene.boxes(boxes(~zero & ~covered & (query == i)), fill=segment_pair(i), alpha=0.3)
    scene.boxes(boxes(covered), fill="hidden")
    scene.boxes(boxes(~exists & ~zero & ~covered), hatch=True)
    scene.boxes(boxes(labels >= 0), stroke="muted", width=0.8)
    big, small = min(17, 0.4 * size), min(10, 0.25 * size)
    filler = "exactly" if backward else "pad"
    for (row, column), label in np.ndenumerate(labels):
        x, y = place(column, row)
        masked = covered[row, column] and not backward
        word = "\u2212∞" if masked else "0" if label == ZERO else f"d{distance[row, column]}"
        below = "" if masked else filler if label == ZERO else f"q{query[row, column]}"
        scene.text(x + size / 2, y + 0.42 * size, word, size=big, anchor="middle")
        if below:
            scene.text(x + 0.94 * size, y + 0.81 * size, below, size=small, anchor="end")


def _outside(scene: Scene, step: Step, t, m, backward, place, size) -> None:
    """Names of rows and columns, the shape, and a line around what the mask hides."""
    rows, columns = step.labels.shape
    names = {"padded": "T, K+1", "view": "K+1, T", "cut": "K, T"}
    shape = f"({names.get(step.kind, 'T, K')}) = ({rows}, {columns})"
    if step.kind == "key":
        for j in range(columns):
            scene.text(*place(j + 0.5, -0.3), j, size=12, anchor="middle")
        scene.lines([[place(m, -0.6), place(m, rows)]], stroke="ink", width=3.2)
        stairs = [(m + i + 1, i + down) for i in range(t - 1) for down in (0, 1)]
        corner = [*stairs, (columns, t - 1), (columns, 0), (m + 1, 0)]
        scene.lines([[place(*at) for at in corner]], stroke="ink", width=2.4, dash=(7, 4))
        name = "exactly 0" if backward else "hidden" if step.hidden else "garbage"
        x, y = place(columns, rows)
        scene.text(x, y + 13, f"dashed: {name}", size=12.5, anchor="end", bold=True)
        scene.text(*place(-0.12, -0.3), "key j", size=12, colour="muted", anchor="end")
    if rows == t and step.kind != "cut":
        for i in range(rows):
            style = dict(size=12.5, anchor="end", bold=True, colour=segment_pair(i))
            scene.text(*place(-0.15, i + 0.5), f"q{i}", **style)
    said = {"distance": "by distance", "key": "by key"}.get(step.kind, "")
    if step.hidden:
        said += ", masked"
    x, y = place(columns / 2, -0.95 if step.kind == "key" else -0.4)
    scene.text(x, y, f"{said}  {shape}".strip(), size=13, colour="muted", anchor="middle")


def _words(t: int, m: int, step: int, backward: bool, known: list[Step]) -> tuple[str, str, str]:
    """Title, note and name of the operation of a step."""
    k = m + t
    hidden = hidden_keys(t, m)
    if backward:
        left = int((known[-1].labels == ZERO).sum())
        x, y = np.random.default_rng(0).normal(size=(2, t, k))
        one = float((rel_shift_forward(x, xp=np)[0] * y).sum())
        other = float((x * rel_shift_backward(y, xp=np)).sum())
        words = [
            (
                "Gradient by key, as the softmax sends it back",
                "A cell stands for d loss / d score of its query and distance. "
                f"{hidden.sum()} are hidden: their probability is 0,\n"
                "so their gradient is exactly 0.",
                "",
            ),
            (
                "Undo the mask: it was added, so the gradient passes unchanged",
                "Nothing but zeros comes back from where the garbage was: it cannot teach anything."
                "\nA number's path from here on is its path forward, walked in reverse.",
                "undo\nmask",
            ),
            (
                f"View as (K, T): the same {t * k} numbers in rows of {t}",
                "The forward pass viewed (K, T) as (T, K); the adjoint of a view is the view back."
                "\nNo number moves in the computer.",
                "view",
            ),
            (
                "Put back the row that was dropped, as zeros",
                f"These {t} numbers were never read, so the loss does not depend on them: their "
                "gradient is\nexactly 0. The adjoint of leaving out is padding with zeros.",
                "add\nrow",
            ),
            (
                f"View as (T, K+1): rows of {k + 1} again",
                "The first column is that of the padded zeros. Each distance stands in one column "
                "again,\nas it did before the shift.",
                "view",
            ),
            (
                "Leave out the padded column: the gradient by distance",
                f"Each column is one distance: summed over queries it trains r_d. {left} cells are "
                f"exactly 0: no key\nstood there. For random x, y: ⟨shift x, y⟩ = {one:.6f} = "
                f"⟨x, adjoint y⟩ = {other:.6f}.",
                "drop\ncolumn",
            ),
        ]
    else:
        zeros = int((known[4].labels[hidden] == ZERO).sum())
        garbage = int(hidden.sum()) - zeros
        words = [
            (
                "Scores by distance: one product with all distances, for every query alike",
                "d3 is the score at distance 3, (q + v) · r_d; a column has one d = K - 1 - c.\n"
                "Hatched: farther back than this query has keys.",
                "",
            ),
            (
                "Pad a column of zeros in front",
                f"(T, K) becomes (T, K+1) = ({t}, {k + 1}): every row begins with one 0.\n"
                "A query's stretch, its 0 and its scores, is now K + 1 numbers long: "
                "that is the trick.",
                "pad",
            ),
            (
                f"View as (K+1, T): the same {t * (k + 1)} numbers in rows of {t}",
                "Read row by row, nothing has moved: only the line breaks are elsewhere. A query's "
                f"stretch goes on\nover several rows, {k + 1} numbers long. Hatched: farther back "
                "than the query has keys.",
                "view",
            ),
            (
                "Drop the first row",
                f"Gone are {t} numbers: one 0 and {_count(t - 1, 'score')} of q0, farther back "
                f"than it has keys.\n{t * k} numbers are left, as many as at the start.",
                "drop\nrow",
            ),
            (
                "View back as (T, K): column j is now key j",
                "Rows are K long, stretches K + 1: row i begins T - 1 - i scores into its own, so "
                "that key j has distance\ni + M - j. Behind its end: garbage, "
                f"{_count(zeros, 'zero')} and {_count(garbage, 'score')} of the next row's query.",
                "view",
            ),
            (
                "Mask: the garbage is exactly what lies in the future",
                f"{hidden.sum()} cells with j > i + M become -∞, their probability exactly 0. "
                "Without the mask scores of the next row's\nquery would leak in. "
                "Black line: the memory's edge.",
                "mask",
            ),
        ]
    title, note, operation = words[step - 1]
    way = "Adjoint, step" if backward else "Step"
    return f"{way} {step} of {N_STEP}. {title}", note, operation


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def rel_shift_explorer(*, tgt_len: int = 3, mem_len: int = 3, step: int = 1) -> Explorer:
    """Widget: the rel-shift of T x K scores step by step, forward and backward.

    tgt_len and mem_len 2 ... 6, step 1 ... 6: where the sliders begin. The static pictures show
    the steps that matter. Raises `MinitxlError` for a value that is no stop of its slider.
    """
    forward, backward = DIRECTIONS
    if not 1 <= step <= N_STEP:
        raise MinitxlError(f"step={step} must be 1 ... {N_STEP}")
    controls = {
        "step": slider("step", [(str(n), n) for n in range(1, N_STEP + 1)], step),
        "direction": buttons("direction", list(DIRECTIONS), forward, "135px"),
        "tgt_len": numbers("segment T", "tgt_len", tgt_len, LOW, HIGH),
        "mem_len": numbers("memory M", "mem_len", mem_len, LOW, HIGH),
    }

    def draw(*, direction: str, **state) -> Scene:
        return shift_scene(**state, backward=DIRECTIONS[direction])

    def begin(_) -> None:  # each way is walked from its own first step
        controls["step"].value = 1

    controls["direction"].observe(begin, names="value")
    states = [{"direction": forward, "step": n} for n in (3, 4, 5, 6)]
    states += [{"direction": backward, "step": 6}]
    return Explorer(controls, draw, states=states)
