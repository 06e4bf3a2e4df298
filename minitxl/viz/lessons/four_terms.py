"""The four terms of one head's scores, and what the mask keeps from leaking."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm

from minitxl.errors import MinitxlError
from minitxl.model.attention import (
    Inspection,
    additive_mask,
    attention_forward,
    attention_mask,
)
from minitxl.model.ops import layer_norm_forward, sinusoid_table
from minitxl.model.params import layer_weights
from minitxl.viz.theme import (
    HIDDEN,
    INK,
    MUTED,
    PAPER,
    SEGMENT_COLOURS,
    Picture,
    new_figure,
    strength,
    styled,
    titled,
)

ORANGE, BLUE, *_ = SEGMENT_COLOURS
SIGNED = LinearSegmentedColormap.from_list("signed", [ORANGE, PAPER, BLUE])
DEPTH = LinearSegmentedColormap.from_list("depth", [PAPER, BLUE])
NAMES = {
    "a": r"a: $q_i \cdot k_j$, content to content",
    "b": r"b: $q_i \cdot r_{i-j}$, content to position",
    "c": r"c: $u \cdot k_j$, content bias",
    "d": r"d: $v \cdot r_{i-j}$, position bias",
}
LITTLE = 1e-4  # of the largest change: the bottom of the colour scale


def draw_four_terms(seen: Inspection, *, layer: int, head: int) -> Picture:
    """Draw one head's four terms, their sum, and the probabilities, each (T, K).

    seen: of a forward pass, whose first row is drawn; layer, head: 1 ... . Raises MinitxlError for
    a layer or head that it has not.
    """
    if not (1 <= layer <= len(seen.probs) and 1 <= head <= seen.probs[0].shape[1]):
        raise MinitxlError(
            f"layer={layer}, head={head}: seen are layers 1 ... {len(seen.probs)} and heads 1 ... "
            f"{seen.probs[0].shape[1] if seen.probs else 0}"
        )
    terms = {x: np.asarray(seen.terms[layer - 1][x])[0, head - 1] for x in "abcd"}
    p, hidden = np.asarray(seen.probs[layer - 1])[0, head - 1], np.asarray(seen.mask[layer - 1])
    t, k = p.shape
    total = _centred(sum(np.asarray(terms[x], dtype=np.float64) for x in "abcd"), hidden)
    shown = [(NAMES[x], _centred(terms[x], hidden) if x in "ab" else terms[x]) for x in "abcd"]
    shown.append(("a + b + c + d", total))
    top = float(np.percentile(np.abs(total[~hidden]), 99))
    edge = k - t
    with styled():
        figure = new_figure(10.4, 7.1)
        places = [(x, y) for y in (0.70, 0.42, 0.14) for x in (0.06, 0.55)]
        for n, (name, x) in enumerate(shown):
            ax = figure.add_axes((*places[n], 0.42, 0.2))
            image = np.ma.array(x, mask=hidden)
            norm = dict(vmin=-top, vmax=top)
            drawn = ax.imshow(image, cmap=SIGNED, aspect="auto", interpolation="none", **norm)
            _frame(ax, name, t, edge)
        ax = figure.add_axes((*places[5], 0.42, 0.2))
        image = np.ma.array(strength(p), mask=hidden)
        ax.imshow(image, cmap=DEPTH, aspect="auto", interpolation="none", vmin=0, vmax=1)
        _frame(ax, "softmax of the sum: the weights", t, edge)
        for ax in figure.axes[-2:]:
            ax.set_xlabel("key (0: first of the segment)")
        for ax in figure.axes[::2]:
            ax.set_ylabel("query")
        bar = figure.add_axes((0.75, 0.947, 0.15, 0.016))
        figure.colorbar(drawn, cax=bar, orientation="horizontal", ticks=[-top, 0, top])
        bar.set_xticklabels([f"{-top:.0f}", "0", f"+{top:.0f}"])
        bar.tick_params(length=0)
        figure.text(0.74, 0.948, "score", ha="right", size=9)
        size = {x: float(np.std(_centred(terms[x], hidden)[~hidden])) for x in "abcd"}
        title = f"Layer {layer}, head {head}: four terms and what becomes of them"
        note = (
            "In a, b and the sum each row's mean is taken out: the softmax does not see it. "
            "Standard deviation along the rows: "
            + ", ".join(f"{x} {s:.2f}" for x, s in size.items())
            + ".\nLine: the memory's edge; grey: hidden by the mask."
        )
        return titled(figure, title, note, top=0.952, bottom=0.018, size=9.5)


def _centred(x, hidden: np.ndarray) -> np.ndarray:
    """Scores (T, K) less the mean of their row over the keys that are seen."""
    x = np.asarray(x, dtype=np.float64)
    return x - np.mean(x, axis=1, keepdims=True, where=~hidden)


def _frame(ax, name: str, t: int, edge: int) -> None:
    ax.set_facecolor(HIDDEN)
    ax.axvline(edge - 0.5, color=INK, lw=1.8)
    ax.set_title(name, pad=4, size=9.5)
    step = max(4, t // 4)
    ticks = np.arange(-(edge // step) * step, t, step)
    ax.set_xticks(ticks + edge, [f"{x}".replace("-", "\u2212") for x in ticks])
    ax.set_yticks(range(0, t, step))
    ax.tick_params(length=2)
    for side in ax.spines.values():
        side.set_visible(False)


def changes(model, tokens, *, masked: bool, queries_alone: bool = False) -> np.ndarray:
    """How far output i of the first layer's attention moves where character c is replaced.

    tokens (2 T,): the memory's segment and the present one, whose characters are replaced one at a
    time by the next of the vocabulary; masked: with the causal mask; queries_alone: keys and values
    stay as they were, so that a later character acts by rel-shift's garbage or not at all
    -> (T, T), i by c.
    """
    t, c, xp = len(tokens) // 2, model.config, model.backend.xp
    reader = model.with_options(tgt_len=t, mem_len=t)
    batch = np.repeat(tokens[None, t:], t + 1, axis=0)  # row 0 as it is, row 1 + c: c replaced
    batch[1 + np.arange(t), np.arange(t)] = (tokens[t:] + 1) % c.n_token
    _, mems = reader.predict(np.repeat(tokens[None, :t], t + 1, axis=0))
    seen = Inspection()
    reader.predict(batch, mems, inspect=seen)
    w, device = layer_weights(model.params, 0), model.backend.device
    h = xp.concat([mems[0], seen.hidden[0]], axis=1)  # (B, K, D)
    if c.pre_lnorm:
        h, _ = layer_norm_forward(h, w.attn_gamma, w.attn_beta, eps=c.layer_norm_epsilon, xp=xp)
    pos = sinusoid_table(2 * t, model.params.constants["inv_freq"], xp=xp)
    hidden = attention_mask(n_query=t, n_mem=t, max_keys=None, device=device, xp=xp)
    mask = additive_mask(hidden & masked, dtype=h.dtype, xp=xp)
    x = h[:, t:, :]
    if queries_alone:
        h = xp.concat([h[:1]] * (t + 1), axis=0)
    y, _ = attention_forward(x, h, pos, w.attn, mask, dropatt=0.0, rng=None, xp=xp)
    y = model.backend.to_numpy(y)
    return np.linalg.norm(y[1:] - y[:1], axis=-1).T  # (c, i) -> (i, c)


def draw_leak(model, tokens) -> Picture:
    """Draw how much each output of the first layer changes with each character, masked or not.

    tokens (2 T,): see `changes`. Without the mask twice: through the garbage that rel-shift leaves,
    and through all that it hid. Exact zeros are left blank.
    """
    masked = changes(model, tokens, masked=True)
    garbage = changes(model, tokens, masked=False, queries_alone=True)
    unmasked = changes(model, tokens, masked=False)
    t = len(masked)
    top = float(max(masked.max(), unmasked.max()))
    future = np.triu(np.ones((t, t), bool), k=1)
    panels = (
        ("masked", masked),
        ("not masked: rel-shift's garbage", garbage),
        ("not masked: all of it", unmasked),
    )
    with styled():
        figure = new_figure(10.4, 4.4)
        for n, (name, x) in enumerate(panels):
            ax = figure.add_axes((0.055 + 0.285 * n, 0.235, 0.265, 0.585))
            image = np.ma.masked_equal(x, 0.0)
            norm = LogNorm(vmin=LITTLE * top, vmax=top)
            drawn = ax.imshow(image, cmap=DEPTH, norm=norm, aspect="auto", interpolation="none")
            ax.set_facecolor(HIDDEN)
            ax.set_xticks(range(0, t, 4))
            ax.set_yticks(range(0, t, 4))
            ax.tick_params(labelleft=n == 0)
            ax.set_title(name, pad=6, size=10)
            ax.set_xlabel(
                "query that is replaced" if x is garbage else "character that is replaced"
            )
            stairs = np.repeat(np.arange(t + 1) - 0.5, 2)
            ax.plot(stairs[1:], stairs[:-1], color=INK, lw=1.4)
            for side in ax.spines.values():
                side.set_visible(False)
        figure.axes[0].set_ylabel("output that changes")
        bar = figure.add_axes((0.905, 0.235, 0.012, 0.585))
        figure.colorbar(drawn, cax=bar)
        bar.set_ylabel("length of the change (log scale)")
        bar.minorticks_off()
        links = [int(np.count_nonzero(x[future])) for _, x in panels]
        title = (
            f"Links to later characters: masked {links[0]} of {future.sum()}, through rel-shift's "
            f"garbage {links[1]}, through all {links[2]}"
        )
        note = (
            "First layer of the trained model. Above the stairs lies the future; grey is exactly "
            "0. In the middle keys and values stay as they\nwere: output i learns of a later "
            "character only by the next query's scores. White: changed by less than a thousandth."
        )
        return titled(figure, title, note, top=0.93, bottom=0.03, size=10, color=MUTED)
