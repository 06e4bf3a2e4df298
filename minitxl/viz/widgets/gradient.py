"""Where the gradient of a segment's loss goes: d loss / d hidden by layer and position.

An exact zero is no small number: it gets a hatch of its own instead of the lowest colour, and the
caption counts it. Nothing is said about the stop that is not read from the data.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.colors import to_hex

from minitxl.errors import MinitxlError
from minitxl.viz.gradient import COLOURS, colour_limits
from minitxl.viz.reading import LOSSES, Reading
from minitxl.viz.theme import percent, segment_name
from minitxl.viz.widgets.explorers import Explorer, buttons, slider
from minitxl.viz.widgets.scene import Scene, segment_pair

WIDTH, HEIGHT = 1040, 450
LEFT, RIGHT, TOP, BOTTOM = 109, 905, 120, 348  # of the map
LEVELS = 48  # colours of the scale, from the smallest up; on a dark page large is bright
SCALE = [
    (to_hex(COLOURS(n / (LEVELS - 1))), to_hex(COLOURS(1 - n / (LEVELS - 1))))
    for n in range(LEVELS)
]


def gradient_scene(
    norms: np.ndarray, title: str, *, tgt_len: int, mem_len: int, limits, loss_at=None
) -> Scene:
    """Heat map of `norms` (N+1, S*T), layers upwards, positions to the right, by segment.

    limits: ends of the colour scale, see `colour_limits`, fixed, so that pictures compare; loss_at:
    positions 0 ... T-1 on which the loss is taken.
    """
    if norms.ndim != 2 or norms.shape[1] % tgt_len:
        raise MinitxlError(
            f"norms has shape {norms.shape}, not (N+1, S * {tgt_len}): one row per hidden state "
            "h_0 ... h_N, one column per character"
        )
    scene = Scene(WIDTH, HEIGHT)
    _Map(scene, norms, tgt_len).draw(limits, mem_len, loss_at)
    _scale(scene, limits)
    before = norms[:, : norms.shape[1] - tgt_len]
    return scene.headed(title, _sentence(before != 0, norms))


class _Map:
    """The cells and what stands around them."""

    def __init__(self, scene: Scene, norms: np.ndarray, tgt_len: int) -> None:
        self.scene, self.norms, self.t = scene, norms, tgt_len
        self.rows, self.columns = norms.shape
        self.before = self.columns - tgt_len
        self.wide, self.high = (RIGHT - LEFT) / self.columns, (BOTTOM - TOP) / self.rows

    def x(self, position) -> float:
        """Left end of a cell; positions count from this segment's first character."""
        return LEFT + (position + self.before) * self.wide

    def draw(self, limits, mem_len: int, loss_at) -> None:
        scene, nonzero = self.scene, self.norms != 0
        scene.boxes([(LEFT, TOP, RIGHT - LEFT, BOTTOM - TOP)], fill="hidden", hatch=True)
        level = _level(np.where(nonzero, self.norms, limits[1]), limits)
        for n in np.unique(level[nonzero]):
            at = np.argwhere(nonzero & (level == n))
            size = (self.wide + 0.15, self.high - 2)  # no seams between neighbours
            places = [(LEFT + c * self.wide, BOTTOM - (r + 1) * self.high + 1) for r, c in at]
            scene.boxes([(*place, *size) for place in places], fill=SCALE[n])
        for row in range(self.rows):
            name = {0: "embedding h0", self.rows - 1: f"top h{row}"}.get(row, f"h{row}")
            style = dict(size=12.5, anchor="end")
            scene.text(LEFT - 8, BOTTOM - (row + 0.5) * self.high, name, **style)
        self._segments(nonzero)
        self._edges(nonzero, mem_len)
        if loss_at is not None and len(loss_at) < self.t:
            marks = [(self.x(p + 0.5), TOP - 3) for p in loss_at]
            scene.lines(
                [[(x - 5, y - 9), (x + 5, y - 9), (x, y), (x - 5, y - 9)] for x, y in marks],
                fill="ink",
            )

    def _segments(self, nonzero) -> None:
        scene, t = self.scene, self.t
        for age in range(self.before // t, -1, -1):
            first, last = self.x(-age * t), self.x((1 - age) * t)
            middle = (first + last) / 2
            bar = [[(first + 2, TOP - 30), (last - 2, TOP - 30)]]
            scene.lines(bar, stroke=segment_pair(age), width=5)
            style = dict(anchor="middle", bold=True, size=13)
            scene.text(middle, TOP - 46, segment_name(age), **style)
            start = self.before - age * t
            mine = nonzero[:, start : start + t]
            counted = f"{mine.sum():,} of {mine.size:,} non-zero"
            scene.text(middle, TOP - 15, counted, size=12, colour="muted", anchor="middle")
            if not mine.any():
                place = (middle, (TOP + BOTTOM) / 2)
                scene.text(*place, "exactly 0", size=13, anchor="middle", halo=True)
        for position in (*range(-self.before, t, t), t - 1):
            x = self.x(position + 0.5)
            text = f"{position}".replace("-", "\u2212")
            scene.text(x, BOTTOM + 13, text, size=12.5, anchor="middle")
        words = "position relative to this segment's first character"
        scene.text((LEFT + RIGHT) / 2, BOTTOM + 36, words, size=13, anchor="middle")

    def _edges(self, nonzero, mem_len: int) -> None:
        scene, edge = self.scene, self.x(0)
        before = nonzero[:, : self.before]
        if before.any() and not before[-1].any():
            words = "exactly 0: no layer reads the cached top state"
            place = ((LEFT + edge) / 2, TOP + self.high / 2)
            scene.text(*place, words, size=12, anchor="middle", halo=True)
        scene.lines([[(edge, BOTTOM), (edge, TOP - 70)]], stroke="ink", width=3.2)
        scene.text(edge - 8, TOP - 65, "memory's edge", bold=True, size=13, anchor="end")
        if 0 < mem_len < self.before:
            end = self.x(-mem_len)
            scene.lines([[(end, BOTTOM), (end, TOP)]], stroke="ink", width=2, dash=(4, 4))
            words = "dotted: oldest state in memory"
            scene.text(LEFT, BOTTOM + 36, words, size=12.5, colour="muted")


def _level(values, limits) -> np.ndarray:
    """Number of the colour of each value, on a logarithmic scale."""
    low, high = np.log(limits[0]), np.log(limits[1])
    share = (np.log(values) - low) / max(high - low, 1e-12)
    return np.rint(np.clip(share, 0, 1) * (LEVELS - 1)).astype(int)


def _scale(scene: Scene, limits) -> None:
    left, top, wide, high = 931, TOP, 19, 150
    step = high / LEVELS
    for n, colour in enumerate(SCALE):
        scene.boxes([(left, top + high - (n + 1) * step, wide, step + 0.3)], fill=colour)
    scene.text(left, top - 18, "‖∂loss / ∂hₙ‖", size=13)
    low, top_power = (math.log10(x) for x in limits)
    for power in range(math.ceil(low - 1e-9), math.floor(top_power + 1e-9) + 1):
        y = top + high * (1 - (power - low) / max(top_power - low, 1e-12))
        scene.lines([[(left + wide, y), (left + wide + 5, y)]], stroke="muted", width=1)
        scene.text(left + wide + 9, y, f"1e{power}".replace("-", "\u2212"), size=12)
    scene.boxes([(left, BOTTOM - 30, wide, 26)], fill="hidden", hatch=True)
    scene.text(left + wide + 9, BOTTOM - 17, "exactly 0", size=12.5)


def _sentence(before: np.ndarray, norms: np.ndarray) -> str:
    count = f"{before.sum():,} of {before.size:,} hidden states left of the memory's edge"
    if not before.any():
        return f"{count} get a gradient: every entry there is exactly 0, it is stopped."
    edge = before.shape[1]
    ratio = percent(norms[:, :edge].max() / norms[:, edge:].max())
    return f"{count} get a gradient; the largest is {ratio} of the largest in this segment."


def gradient_explorer(model, tokens, *, tgt_len: int = 64, mem_len: int | None = None) -> Explorer:
    """Widget: d loss / d hidden by layer and position, with the gradient stopped or not.

    `tokens` (S * tgt_len + 1,) are read as S segments with a memory of `mem_len` (None: one
    segment); the loss is taken on the last one. Computed in float64: what is exactly 0 is no
    number too small. The static picture shows both settings.
    """
    reading = Reading(model, tokens, tgt_len=tgt_len)
    lengths = [m for m in reading.mem_lens() if m > 0]
    wanted = tgt_len if mem_len is None else mem_len
    start = min(lengths, key=lambda m: abs(m - wanted))
    ways = [("stopped", False), ("let through", True)]
    controls = {
        "through": buttons("gradient", ways, False, "130px"),
        "mem_len": slider("memory (characters)", [(str(m), m) for m in lengths], start),
        "loss": slider("loss on", list(LOSSES), LOSSES[0]),
    }

    def draw(*, through: bool, mem_len: int, loss: str) -> Scene:
        # one scale per kind of loss, from the full gradient: stopping it then changes no colour
        limits = colour_limits(reading.gradient(start, through_memory=True, loss=loss))
        way = "let through the memory" if through else "stopped at the memory"
        return gradient_scene(
            reading.gradient(mem_len, through_memory=through, loss=loss),
            f"Gradient of the loss on {loss}, {way}",
            tgt_len=tgt_len,
            mem_len=mem_len,
            limits=limits,
            loss_at=reading.loss_positions(loss),
        )

    # All that the sliders can ask for, now: a kernel answers its widgets in threads, where the same
    # arithmetic took several times as long.
    for m in lengths:
        for _, through in ways:
            reading.gradient(m, through_memory=through)
    return Explorer(controls, draw, states=[{"through": False}, {"through": True}])
