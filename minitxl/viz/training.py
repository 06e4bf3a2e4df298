"""Learning curves of a few models side by side, for the notebook on training."""

from __future__ import annotations

import numpy as np

from minitxl.viz.theme import SEGMENT_COLOURS, Picture, level_lines, new_figure, styled

LINES = ("-", "--", "-.", ":")  # never colour alone


def draw_losses(curves: dict[str, np.ndarray], mean_of: int = 1) -> Picture:
    """Draw the loss in bits of every step, thin, and its running mean over `mean_of` steps.

    curves: name -> losses (steps,) in bits per character.
    """
    with styled():
        figure = new_figure(8.2, 3.9)
        ax = figure.add_axes((0.085, 0.14, 0.67, 0.72))
        ends = []
        for n, (name, loss) in enumerate(curves.items()):
            colour, line = SEGMENT_COLOURS[n], LINES[n % len(LINES)]
            steps = np.arange(1, len(loss) + 1)
            ax.plot(steps, loss, color=colour, lw=0.6, alpha=0.35)
            mean = np.convolve(loss, np.ones(mean_of) / mean_of, mode="valid")
            ax.plot(steps[mean_of - 1 :], mean, line, color=colour, lw=2.2)
            ends.append((float(mean[-1]), name, colour))
        high, low = max(c[: mean_of + 1].max() for c in curves.values()), min(e[0] for e in ends)
        ax.set_ylim(low - 0.3, high + 0.1)
        gap, last = 0.07 * (high - low), -np.inf
        for value, name, colour in sorted(ends):
            last = max(value, last + gap)  # labels keep clear of each other
            at = (1.02, last)
            text = f"{name}: {value:.2f}"
            ax.annotate(text, at, xycoords=("axes fraction", "data"), color=colour, weight="bold",
                        va="center", annotation_clip=False)  # fmt: skip
        level_lines(ax)
        ax.set_xlabel("training step")
        ax.set_ylabel("loss, bits per character")
        ax.set_title(f"Loss of every step (thin), and its mean over {mean_of} (thick)", pad=10)
    said = ", ".join(f"{name} {value:.2f}" for value, name, _ in ends)
    return Picture(figure, f"Learning curves; bits per character in the end: {said}.")
