"""Learning curves of a few models side by side, drawn while they train: for notebook 6."""

from __future__ import annotations

import base64
import sys
import time
from contextlib import ExitStack

import numpy as np
from matplotlib.ticker import FuncFormatter

from minitxl.backend.threads import one_blas_thread
from minitxl.errors import MinitxlError
from minitxl.viz.theme import (
    DPI,
    MUTED,
    Picture,
    encode,
    level_lines,
    new_figure,
    segment_colour,
    shown_as,
    styled,
    titled,
)

ALL, FIRST = ("-", 2.2), ("--", 1.5)  # line and width: all characters, the first of a segment
SHOWN = 2.3  # bits above the lowest point: what is higher, at the start, is cut off
PAUSE = 1.0  # seconds between two redraws, at least; and
PATIENCE = 4.0  # times what one takes: redraws may cost a fifth of the time


def draw_learning(curves: dict[str, np.ndarray], *, steps: int, mean_of: int = 100) -> Picture:
    """Draw the loss of every model against steps, and against the place in the segment.

    curves: name -> losses (n, T) in bits, of n <= steps steps, by place in the segment. Lines are
    means of the last `mean_of` steps, or, near the start, of the last quarter of all. Raises
    `MinitxlError` for curves without a step, and for more than two: colours tell two apart.
    """
    if not 1 <= len(curves) <= 2 or not all(len(c) for c in curves.values()):
        have = ", ".join(f"{name!r}: {len(c)} steps" for name, c in curves.items()) or "none"
        raise MinitxlError(
            f"one or two curves with steps can be drawn, not {have}; add steps, or leave models out"
        )
    done = min(len(c) for c in curves.values())
    last = int(_window(done, mean_of))
    recent = {name: c[-last:].mean(axis=0) for name, c in curves.items()}  # (T,)
    with styled():
        figure = new_figure(10.4, 4.6)
        left = figure.add_axes((0.065, 0.22, 0.42, 0.58))
        right = figure.add_axes((0.725, 0.22, 0.26, 0.58))
        ends = []
        for n, (name, curve) in enumerate(curves.items()):
            colour = segment_colour(1 - n)  # as wherever a memory is compared with none
            for what, (line, width), losses in (
                ("all", ALL, curve.mean(axis=1)),
                ("first", FIRST, curve[:, 0]),
            ):
                mean = trailing_mean(losses, mean_of)
                at = np.arange(1, len(mean) + 1)
                left.plot(at, mean, line, color=colour, lw=width)
                ends.append((float(mean[-1]), f"{name}, {what} {mean[-1]:.2f}", colour))
            place = np.arange(1, len(recent[name]) + 1)
            right.plot(place, recent[name], "-", color=colour, lw=2.2, marker="so"[n], ms=4.5)
        low = min(value for value, _, _ in ends) - 0.15
        left.set_xlim(0, steps)
        left.set_ylim(low, max(low + SHOWN, max(value for value, _, _ in ends) + 0.1))
        _name_ends(left, ends, done)
        left.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        left.set_xlabel("training step")
        left.set_ylabel("bits per character")
        left.set_title("While they learn", pad=8)
        left.plot([], [], FIRST[0], color=MUTED, lw=FIRST[1], label="first character of a segment")
        left.plot([], [], ALL[0], color=MUTED, lw=ALL[1], label="all characters")
        left.legend(loc="upper right", handlelength=2.6)
        low, high = right.get_ylim()
        right.set_ylim(low - 0.05, max(high, low + 1.0))  # at first all is noise: keep it small
        right.set_xticks(2 ** np.arange(int(np.log2(len(place))) + 1))
        right.set_xlabel("characters of its own segment that it sees")
        right.set_title("By place in the segment", pad=8)
        for ax in (left, right):
            level_lines(ax)
        title, note = _words(recent, done, steps, last)
        return titled(figure, title, note, top=0.925, bottom=0.028, size=9, color=MUTED)


def trailing_mean(losses: np.ndarray, mean_of: int) -> np.ndarray:
    """Mean of the last `mean_of` values at every place; at the start of the last quarter of all."""
    total = np.concatenate([[0.0], np.cumsum(losses)])
    end = np.arange(1, len(losses) + 1)
    begin = end - _window(end, mean_of)
    return (total[end] - total[begin]) / (end - begin)


def _window(done, mean_of: int):
    """How many of the last steps are averaged after so many steps (a number or an array)."""
    return np.minimum(mean_of, 1 + done // 4)


def _name_ends(ax, ends: list, done: int) -> None:
    """Write each line's name beside its end, wherever that is by now, clear of the others."""
    low, high = ax.get_ylim()
    gap, step = 0.075 * (high - low), 0.012 * ax.get_xlim()[1]
    last = -np.inf
    for value, text, colour in sorted(ends):
        last = max(value, last + gap)
        link = dict(color=colour, lw=0.7, alpha=0.6, clip_on=False)
        ax.plot([done + step, done + 3 * step], [value, last], **link)
        said = dict(color=colour, weight="bold", size=9, va="center")
        ax.text(done + 3.5 * step, last, text, **said)


def _words(recent: dict, done: int, steps: int, last: int) -> tuple[str, str]:
    """Title and note, with their numbers from the curves."""
    first, every = (
        ", ".join(f"{loss[part].mean():.2f} {name}" for name, loss in recent.items())
        for part in (slice(1), slice(None))
    )
    title = f"Step {done:,} of {steps:,}: a segment's first character costs {first}"
    note = (
        f"Bits, mean of the last {last} {'step' if last == 1 else 'steps'}. All characters: "
        f"{every}. Every batch is measured before it is learned from."
    )
    return title, note


class LiveCurves:
    """The picture of `draw_learning`, growing in a notebook while models train.

    `with live:` shows it and keeps it up to date; at the end, and when the cell is interrupted, it
    stands as it is: nothing recorded is lost, and the loop can go on. The picture is the cell's
    output like any other, so it is stored with the notebook; no widget, no kernel is needed to see
    it. Outside a notebook nothing is drawn before `picture()` is asked for. Meanwhile BLAS works on
    one thread: for models so small, several wait for each other longest.

    >>> live = LiveCurves(["with memory", "without memory"], steps=1000)
    >>> with live:
    ...     while live.done < live.steps:
    ...         live.add("with memory", bits)  # (B, T), for each model
    """

    def __init__(self, names, *, steps: int, mean_of: int = 100) -> None:
        self.steps, self.mean_of = steps, mean_of
        self._curves: dict[str, list] = {name: [] for name in names}
        self._handle, self._due = None, 0.0
        self._one_thread = ExitStack()

    @property
    def done(self) -> int:
        """Steps that all models have made."""
        return min(len(curve) for curve in self._curves.values())

    def add(self, name: str, bits) -> None:
        """Record one step of a model, losses (B, T) in bits; redraw when it is time."""
        self._curves[name].append(np.asarray(bits).mean(axis=0))  # (B, T) -> (T,)
        if self._handle and self.done and time.perf_counter() > self._due:
            began = time.perf_counter()
            self._redraw()
            now = time.perf_counter()
            self._due = now + max(PAUSE, PATIENCE * (now - began))

    def picture(self) -> Picture:
        """The curves as they stand."""
        curves = {name: np.array(curve) for name, curve in self._curves.items()}
        return draw_learning(curves, steps=self.steps, mean_of=self.mean_of)

    def __enter__(self) -> LiveCurves:
        self._one_thread.enter_context(one_blas_thread())
        shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
        if hasattr(shell, "kernel"):  # in a notebook
            from IPython.display import display

            waiting = {"text/plain": "The curves appear with the first step."}
            self._handle, self._due = display(waiting, raw=True, display_id=True), 0.0
        return self

    def __exit__(self, kind, error, trace) -> bool:
        self._one_thread.close()
        if self._handle and self.done:
            self._handle.update(self.picture())
        self._handle = None
        if kind is KeyboardInterrupt:
            print(f"Interrupted after {self.done:,} of {self.steps:,} steps; run again to go on.")
        return kind is KeyboardInterrupt

    def _redraw(self) -> None:
        """Put the curves as they stand in the place of the last picture, quickly encoded."""
        picture = self.picture()
        with styled():
            picture.figure.canvas.draw()
        png = base64.b64encode(encode(picture.figure)).decode("ascii")
        shown = shown_as(picture.figure.get_figwidth() * DPI, repr(picture))
        data = {"image/png": png, "text/plain": repr(picture)}
        self._handle.update(data, metadata=shown, raw=True)
