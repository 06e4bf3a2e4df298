"""Norms of gradients by layer and position, and the colours they are drawn in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

# Small is pale, large is dark: one hue, whose lightness alone falls, evenly for every kind of eye.
COLOURS = LinearSegmentedColormap.from_list("depth", ["#DDE6EE", "#5B8DBB", "#00204D"])


def gradient_norms(gradients: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Norm over D, summed over the batch, of what `hidden_gradients` returns -> (N+1, S*T).

    `gradients`: over S segments, over n = 0 ... N, arrays (B, T, D). The squares are summed in
    float64, where none of a float32 number underflows: the result is 0 only where every entry is.
    """
    rows = []
    for n in range(len(gradients[0])):
        whole = np.concatenate([np.asarray(s[n], dtype=np.float64) for s in gradients], axis=1)
        rows.append(np.sqrt((whole**2).sum(axis=(0, 2))))  # (B, S*T, D) -> (S*T,)
    return np.stack(rows)


def colour_limits(*norms: np.ndarray) -> tuple[float, float]:
    """Ends of one logarithmic colour scale for several pictures: at most five powers of ten."""
    values = np.concatenate([x[x > 0].ravel() for x in norms])
    high = float(values.max())
    return max(float(values.min()), high * 1e-5), high
