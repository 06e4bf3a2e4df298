"""What the length of the memory is worth to a trained model: bits, and the next character.

The model's parameters are what training made them; only how much it keeps differs. A passage is
read in short segments, so that a character's context is the memory and little more, and begins
after a stretch that fills the longest memory. Whatever was read once is kept.
"""

from __future__ import annotations

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb

from minitxl.backend.threads import one_blas_thread
from minitxl.errors import MinitxlError
from minitxl.inference.cached import reader_of
from minitxl.inference.units import bits
from minitxl.viz.passage import Passage
from minitxl.viz.theme import (
    FAINT,
    HIDDEN,
    INK,
    MUTED,
    PAPER,
    SEGMENT_COLOURS,
    LiveFigure,
    level_lines,
    new_figure,
    percent,
    printable,
    segment_colour,
    shade,
    spoken,
    styled,
)
from minitxl.viz.widgets.explorers import Explorer, _ipywidgets, _looks, _slider

TOP = 8  # probabilities shown
FULL = 8.0  # bits of the deepest colour
MOST = 12.0  # bits of the upper end of an axis
TRUE, OTHER = SEGMENT_COLOURS[0], SEGMENT_COLOURS[1]


class LengthReading:
    """A model's predictions for one passage, for any length of its memory.

    tokens (n,): the passage's `passage_len` = P tokens and, before them, what fills the longest
    memory: one token more than `mem_lens[-1]`, or than whole segments of `tgt_len` need for that.
    """

    def __init__(self, model, tokens, *, passage_len: int, tgt_len: int = 16) -> None:
        tokens = np.asarray(tokens)
        trained = model.config.mem_len or model.config.tgt_len
        self.trained = trained
        self.mem_lens = sorted({0, *(trained * 2**n // 8 for n in range(7))})
        lead = -(-self.mem_lens[-1] // tgt_len) * tgt_len  # whole segments that fill the memory
        need = lead + passage_len + 1
        if tokens.ndim != 1 or len(tokens) < need:
            raise MinitxlError(
                f"the text has shape {tokens.shape}, a passage of {passage_len} after a memory of "
                f"up to {self.mem_lens[-1]} needs one row of {need} tokens: give more text before "
                "the passage, or a shorter passage_len"
            )
        self._tokens = tokens[len(tokens) - need :].astype(np.int32)
        self._model, self._lead = model, lead
        self.tgt_len, self.passage_len = tgt_len, passage_len
        self.passage = self._tokens[lead + 1 :]  # (P,)
        self._log_probs: dict[int, np.ndarray] = {}

    def log_probs(self, mem_len: int) -> np.ndarray:
        """Return (P, V): log-probabilities of the character at each place of the passage, nats."""
        if mem_len not in self._log_probs:
            model = self._model.with_options(mem_len=mem_len, tgt_len=self.tgt_len)
            reader, found = reader_of(model), []
            tokens = self._tokens[:-1]  # nothing follows the last
            with one_blas_thread():  # one row of text: a second thread costs more than it brings
                for start in range(0, len(tokens), self.tgt_len):
                    inside = start >= self._lead
                    part = tokens[start : start + self.tgt_len][None, :]
                    log_p = reader.read(part, last=None if inside else 1)
                    if inside:
                        found.append(model.backend.to_numpy(log_p)[0])
            self._log_probs[mem_len] = np.concatenate(found)
        return self._log_probs[mem_len]

    def bits(self, mem_len: int) -> np.ndarray:
        """Return (P,): what each character costs, in bits."""
        log_p = self.log_probs(mem_len)
        return bits(-log_p[np.arange(self.passage_len), self.passage])

    def seen(self, mem_len: int, position: int) -> int:
        """Return how many characters before `position` its prediction reads in one layer."""
        return mem_len + position % self.tgt_len + 1

    def most_helped(self) -> int:
        """Return the place that gains most from the longest memory, over none and the shortest."""
        none, shortest, longest = (self.bits(self.mem_lens[i]) for i in (0, 1, -1))
        return int(np.argmax(np.minimum(none, shortest) - longest))


class MemoryLengthFigure(LiveFigure):
    """The passage by its cost, bits against the memory's length, and the next character."""

    def __init__(self, reading: LengthReading, symbols, alphabet) -> None:
        super().__init__()
        self.reading, self.symbols, self.alphabet = reading, list(symbols), list(alphabet)
        self.all_bits = np.stack([reading.bits(m) for m in reading.mem_lens])  # (stops, P)
        with styled():
            self.figure = new_figure(10.4, 7.0)
            self._draw_passage()
            self._draw_curves()
            self._draw_bars()
            self.title = self.figure.text(0.016, 0.955, "", size=13, weight="bold")
            self.note = self.figure.text(0.016, 0.02, "", size=10, linespacing=1.45)
        self.moving = [
            *self.passage.artists,
            self.window,
            *self.here,
            self.one,
            *self.values,
            *self.bars,
            *self.names,
            *self.shares,
            self.title,
            self.note,
        ]

    def _draw_passage(self) -> None:
        ax = self.figure.add_axes((0.016, 0.60, 0.968, 0.285))
        n = len(self.symbols)
        self.passage = Passage(ax, self.symbols, tgt_len=n, columns=72, size=12)
        self.window = LineCollection([], colors=INK, linewidths=1.6, zorder=3.5)
        ax.add_collection(self.window, autolim=False)
        words = "colour: bits that a character costs"
        ax.text(self.passage.columns - 13.2, -0.3, words, size=9, color=MUTED, ha="right")
        hue = np.array(to_rgb(segment_colour(0)))
        for step, cost in enumerate((0.5, 2, 4, 8)):
            ax.text(
                self.passage.columns - 11.0 + 3.2 * step,
                -0.3,
                f"{cost:g}{'+' if cost == FULL else ''}".center(6),
                size=8,
                ha="center",
                color=INK,
                bbox={"facecolor": shade(hue, cost / FULL), "edgecolor": "none", "pad": 2.0},
            )
        ax.text(0, -0.3, "underlined: read directly", size=9, color=MUTED)

    def _draw_curves(self) -> None:
        lengths = self.reading.mem_lens
        at = range(len(lengths))
        where = lengths.index(self.reading.trained)
        mean = self.all_bits.mean(axis=1)
        room = 0.35 * (mean.max() - mean.min())
        ends = {0.365: (mean.min() - room, mean.max() + room), 0.155: (0.0, MOST * 1.25)}
        self.here, self.values = [], []
        for bottom, limits in ends.items():
            upper = bottom > 0.3
            ax = self.figure.add_axes((0.082, bottom, 0.46, 0.15))
            ax.axvspan(where, len(lengths) - 0.6, color=HIDDEN, lw=0, zorder=0)
            ax.axvline(where, color=INK, lw=1, zorder=1)
            level_lines(ax)
            ax.set_xlim(-0.4, len(lengths) - 0.6)
            ax.set_xticks(at, [""] * len(lengths) if upper else [str(m) for m in lengths])
            ax.set_ylim(*limits)
            (ring,) = ax.plot(
                [], [], "o", ms=10, mfc="none", mec=INK, mew=1.8, zorder=4, clip_on=False
            )
            self.here.append(ring)
            self.values.append(ax.text(0, 0, "", size=9.5, weight="bold", ha="center"))
            curve = dict(lw=1.8, marker="o", ms=4.5, zorder=3)
            if upper:
                ax.plot(at, mean, color=TRUE, **curve)
                ax.set_ylabel("bits\nper character")
                ax.set_title(f"mean of the passage's {len(self.symbols)} characters", pad=5)
            else:
                (self.one,) = ax.plot([], [], color=OTHER, ls="--", **curve)
                ax.set_yticks([0, 4, 8, MOST], ["0", "4", "8", f"{MOST:g}+"])
                ax.set_ylabel("bits")
                ax.set_title("the boxed character alone", pad=5)
                trained = f"line: {lengths[where]}, as trained; grey: longer"
                ax.set_xlabel(f"memory, in characters ({trained})")

    def _draw_bars(self) -> None:
        ax = self.figure.add_axes((0.665, 0.155, 0.245, 0.36))
        self.bars = ax.barh(range(TOP + 1), [0.0] * (TOP + 1), height=0.7, lw=1.4, zorder=2)
        ax.set_xlim(0, 1)
        ax.set_ylim(TOP + 0.6, -0.6)
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        ax.set_yticks([])
        ax.grid(True, axis="x", color=FAINT, lw=0.6)
        ax.set_axisbelow(True)
        ax.set_xlabel("probability of the boxed place's character")
        ax.set_title(f"the {TOP} likeliest characters", pad=5)
        self.names, self.shares = [], []
        for row in range(TOP + 1):
            name = dict(size=10, ha="right", va="center")
            self.names.append(ax.text(-0.02, row, "", **name))
            self.shares.append(ax.text(0, row, "", size=9, va="center", zorder=3))

    def update(self, *, mem_len: int, position: int) -> None:
        """Show the passage read with a memory of mem_len, and the prediction at a position."""
        n = len(self.symbols)
        if not 0 <= position < n:
            raise MinitxlError(f"position={position} must be 0 ... {n - 1}, a place in the passage")
        if mem_len not in self.reading.mem_lens:
            known = ", ".join(map(str, self.reading.mem_lens))
            raise MinitxlError(f"mem_len={mem_len} was not read; the figure has {known}")
        stop = self.reading.mem_lens.index(mem_len)
        costs = self.all_bits[stop]
        self.passage.update(np.clip(costs / FULL, 0, 1), query=position)
        self._underline(max(0, position - self.reading.seen(mem_len, position)), position)
        for ring, value, y in zip(
            self.here, self.values, (costs.mean(), costs[position]), strict=True
        ):
            low, high = ring.axes.get_ylim()
            shown = min(y, MOST)
            ring.set_data([stop], [shown])
            value.set_position((stop, shown + 0.11 * (high - low)))
            value.set_text(f"{y:.3f}" if ring is self.here[0] else f"{y:.2f}")
        mine = np.minimum(self.all_bits[:, position], MOST)
        self.one.set_data(range(len(mine)), mine)
        rank = self._update_bars(mem_len, position)
        self._say(mem_len, position, costs, rank)

    def _underline(self, first: int, stop: int) -> None:
        """Underline the passage's characters from first up to stop, row by row."""
        lines, columns = [], self.passage.columns
        for row in range(first // columns, (stop - 1) // columns + 1 if stop > first else 0):
            left, right = max(first, row * columns), min(stop, (row + 1) * columns)
            y = self.passage.centre[left, 1] + 0.46
            lines.append([(left - row * columns, y), (right - row * columns, y)])
        self.window.set_segments(lines)

    def _update_bars(self, mem_len: int, position: int) -> int:
        """Fill the bars; return the true character's rank, 1 for the likeliest."""
        p = np.exp(self.reading.log_probs(mem_len)[position].astype(np.float64))
        true = int(self.reading.passage[position])
        order = np.argsort(-p, kind="stable")
        rank = int(np.nonzero(order == true)[0][0]) + 1
        rows = [*order[:TOP]]
        rows.append(true if rank > TOP else None)
        for bar, name, share, token in zip(self.bars, self.names, self.shares, rows, strict=True):
            if token is None:
                bar.set(width=0, edgecolor="none")
                name.set_text("")
                share.set_text("")
                continue
            right = token == true
            bar.set_width(p[token])
            bar.set(facecolor=TRUE if right else OTHER, edgecolor=INK if right else "none")
            place = f"{rank}. " if right and rank > TOP else ""
            name.set(text=place + _name(self.alphabet[token]), weight="bold" if right else "normal")
            inside = p[token] > 0.6
            share.set(
                text=percent(p[token]) + (", the true one" if right else ""),
                x=p[token] + (-0.02 if inside else 0.02),
                ha="right" if inside else "left",
                color=PAPER if inside else INK,
                weight="bold" if right else "normal",
            )
        return rank

    def _say(self, mem_len: int, position: int, costs, rank: int) -> None:
        kind = ""
        if mem_len == self.reading.trained:
            kind = ", as trained"
        elif mem_len > self.reading.trained:
            kind = f", {mem_len / self.reading.trained:g} times the trained"
        memory = f"With a memory of {mem_len}{kind}" if mem_len else "Without memory"
        title = f"{memory}: {costs.mean():.3f} bits per character"
        name, own = spoken(self.symbols[position]), position % self.reading.tgt_len + 1
        p = float(np.exp2(-costs[position]))
        which = "the likeliest" if rank == 1 else f"number {rank} of {len(self.alphabet)}"
        note = (
            f"Character {position}, {name}, has probability {percent(p)} ({costs[position]:.2f} "
            f"bits), {which}. It is predicted from {self.reading.seen(mem_len, position):,} "
            f"characters:\n{mem_len:,} in memory and {own} in its segment of "
            f"{self.reading.tgt_len}; higher layers reach farther back through the memory's states."
        )
        if not mem_len:
            note = note.split("\n")[0] + f"\nall in its own segment of {self.reading.tgt_len}."
        self.title.set_text(title)
        self.note.set_text(note)
        self.caption = f"{title}. {note}".replace("\n", " ")


def _name(symbol: str) -> str:
    """A symbol as the label of a bar."""
    names = {" ": "space", "\n": "new line", "\r": "return", "\t": "tab"}
    return names.get(symbol, printable(symbol))


def memory_length_explorer(
    model,
    vocab,
    tokens,
    *,
    passage_len: int = 360,
    mem_len: int | None = None,
    position: int | None = None,
    tgt_len: int = 16,
) -> Explorer:
    """Widget: bits and next-character probabilities of a passage, by the memory's length.

    tokens: the passage's `passage_len` tokens, and before them at least 8 times the trained memory
    and a segment (more is not read). It is read once for each of the slider's lengths, in segments
    of `tgt_len`, which takes seconds; after that a slider costs no computing. mem_len: where it
    begins (None: as trained); position 0 ... passage_len - 1 (None: the place that a long memory
    helps most). The static pictures show no memory, the trained one and the longest.
    """
    widgets = _ipywidgets()
    reading = LengthReading(model, tokens, passage_len=passage_len, tgt_len=tgt_len)
    symbols = [vocab.decode([token]) for token in reading.passage]
    alphabet = [vocab.decode([token]) for token in range(vocab.n_token)]
    start = reading.trained if mem_len is None else mem_len
    place = reading.most_helped() if position is None else position
    figure = MemoryLengthFigure(reading, symbols, alphabet)
    figure.update(mem_len=start, position=place)  # raises where one of them is not known
    options = [(f"{m} (trained)" if m == reading.trained else str(m), m) for m in reading.mem_lens]
    controls = {
        "mem_len": _slider(widgets, "memory (characters)", options, start),
        "position": widgets.IntSlider(
            min=0, max=passage_len - 1, value=place, description="character", **_looks(widgets)
        ),
    }
    states = [{"mem_len": m} for m in (0, reading.trained, reading.mem_lens[-1])]
    return Explorer(figure, controls, figure.update, states=states)
