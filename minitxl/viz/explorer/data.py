"""What the token explorer shows, packed into JSON: queries, keys and positions, not probabilities.

All probabilities of a passage of n tokens would be N H n n numbers, and fixed. Queries, keys and
position keys are 3 N H n Dh, and from them a browser computes any row of attention at once: for
every token, every memory length and every choice of the four terms.
"""

from __future__ import annotations

import base64
import math
import zlib
from typing import NamedTuple

import numpy as np

from minitxl.backend.threads import one_blas_thread
from minitxl.errors import MinitxlError
from minitxl.model.attention import Inspection, heads_forward
from minitxl.model.family.encodings import encoding_of
from minitxl.model.ops import layer_norm_forward
from minitxl.model.params import layer_weights
from minitxl.viz.reading import Reading
from minitxl.viz.theme import HIDDEN, INK, MUTED, PAPER, SEGMENT_COLOURS, printable, spoken

# The theme's colours for a dark page: the same hues, lightened until they read on dark paper.
DARK_PAPER, DARK_INK, DARK_MUTED, DARK_HIDDEN = "#16191D", "#ECEAE4", "#A9AFB7", "#22262B"
DARK_SEGMENT_COLOURS = ("#FF8A3C", "#4F97FA", "#3ED9A8", "#D57FC0", "#E3CB55", "#AAB4C0")
STEPS = 32767  # of a 16-bit number, for the largest entry of a head


class LayerInputs(NamedTuple):
    """What one layer's scores are made of, for n tokens; score_ij = q_i.(k_j + r_d) + c_j + d_d.

    The four summands are the terms a, b, c, d of model/attention.py over sqrt(Dh); d = i - j.
    """

    q: np.ndarray  # (H, n, Dh), divided by sqrt(Dh)
    k: np.ndarray  # (H, n, Dh)
    r: np.ndarray  # (H, n, Dh) by distance 0 ... n-1
    c: np.ndarray  # (H, n) by key, divided by sqrt(Dh)
    d: np.ndarray  # (H, n) by distance, divided by sqrt(Dh)


def layer_inputs(model, reading: Reading, mem_len: int) -> list[LayerInputs]:
    """Read the passage with a memory of `mem_len` and return every layer's inputs, all segments'.

    A state is computed once, in its own segment, and cached from then on; so a token has one query
    and one key per layer, whichever segment asks. Raises `MinitxlError` for absolute positions,
    which are added to the cached states anew in every segment.
    """
    c = model.config
    encoding = encoding_of(c)
    if encoding.position_terms is None:
        raise MinitxlError(
            f"attn_type={c.attn_type} has absolute positions, this explorer needs relative ones "
            "(0 or 1): its scores are not a sum of four terms; use viz.attention_explorer"
        )
    model = model.with_options(mem_len=mem_len, tgt_len=reading.tgt_len, ext_len=0)
    backend, c = model.backend, model.config
    xp, hidden, mems = backend.xp, [], None
    empty = [xp.zeros((1, 0, c.d_model), dtype=backend.dtype, device=backend.device)] * c.n_layer
    with one_blas_thread():  # one row of text: a second thread costs more than it brings
        for tokens, _ in reading.segments:
            seen = Inspection()
            _, mems = model.predict(tokens, mems or empty, inspect=seen)
            hidden.append(seen.hidden)
        layers = []
        for n in range(c.n_layer):
            h = xp.concat([segment[n] for segment in hidden], axis=1)  # S of (1, T, D) -> (1, n, D)
            w = layer_weights(model.params, n, encoding.weights)
            terms = encoding.position_terms(w.attn, h.shape[1], model.params, c, xp=xp)
            found = _inputs(h, w, *terms, c, xp=xp)
            layers.append(LayerInputs(*(backend.to_numpy(x) for x in found)))
    return layers


def _inputs(h, w, r, e, c, *, xp):
    """One layer's arrays for its inputs h (1, n, D); those by distance start with distance 0."""
    asking = h
    if c.pre_lnorm:
        h, _ = layer_norm_forward(h, w.attn_gamma, w.attn_beta, eps=c.layer_norm_epsilon, xp=xp)
        asking = asking if c.released.raw_queries else h
    w, scale = w.attn, 1.0 / math.sqrt(c.d_head)
    q, k, _, _ = heads_forward(asking, h, w.w_q, w.w_k, w.w_v, n_head=c.n_head, xp=xp)
    q, k = q[0, ...] * scale, k[0, ...]  # (1, H, n, Dh) -> (H, n, Dh)
    key_bias = xp.sum(k * w.r_w_bias[:, None, :], axis=-1)  # (H, n, Dh) -> (H, n)
    return q, k, xp.flip(r, axis=1), key_bias * scale, xp.flip(e, axis=1) * scale


def memory_lengths(tgt_len: int, mem_len: int, config) -> list[int]:
    """Memories to choose from: none, whole segments, and all that the passage was read with."""
    lengths = sorted({*range(0, mem_len + 1, tgt_len), mem_len})
    # under same_length a query without memory would see not even itself
    extra = config.released.same_length_extra
    return [m for m in lengths if not config.same_length or m + extra > 0]


def pack(layers: list[LayerInputs], reading: Reading, symbols, config, mem_len: int, start) -> dict:
    """What `explorer.js` needs, as JSON holds it. `start`: layer, head, query to begin with."""
    characters = all(len(s) == 1 for s in symbols)
    return {
        "shown": [printable(s) if len(s) == 1 else s for s in symbols],
        "spoken": [spoken(s) if len(s) == 1 else f"“{s}”" for s in symbols],
        "unit": "character" if characters else "token",
        "tgt_len": reading.tgt_len,
        "n_head": config.n_head,
        "d_head": config.d_head,
        "memories": memory_lengths(reading.tgt_len, mem_len, config),
        # `same_length`: a query sees at most memory + extra keys; null: all in memory and segment
        "extra_keys": config.released.same_length_extra if config.same_length else None,
        "start": start,
        "layers": [_packed(layer) for layer in layers],
        "colours": [
            _theme(PAPER, INK, HIDDEN, SEGMENT_COLOURS),
            _theme(DARK_PAPER, DARK_INK, DARK_HIDDEN, DARK_SEGMENT_COLOURS),
        ],
    }


def _theme(paper: str, ink: str, hidden: str, segments: tuple) -> dict:
    return {"paper": paper, "ink": ink, "hidden": hidden, "segments": segments}


def _packed(layer: LayerInputs) -> dict:
    """Vectors in 16 bits with one scale per head, the few numbers c and d in float32."""
    out = {}
    for name in ("q", "k", "r"):
        x = getattr(layer, name)  # (H, n, Dh)
        scale = np.maximum(np.abs(x).max(axis=(1, 2)), 1e-30) / STEPS  # (H,)
        out[name] = _text(np.rint(x / scale[:, None, None]).astype("<i2"))
        out[f"{name}_scale"] = scale.tolist()
    for name in ("c", "d"):
        out[name] = _text(getattr(layer, name).astype("<f4"))
    return out


def _text(array: np.ndarray) -> str:
    """Bytes as text: deflate saves a sixth, and browsers have its inverse."""
    return base64.b64encode(zlib.compress(array.tobytes(), 9)).decode("ascii")


def colour_variables() -> str:
    """The theme's plain colours as CSS variables, each for a light and for a dark page."""
    pairs = {
        "paper": (PAPER, DARK_PAPER),
        "ink": (INK, DARK_INK),
        "muted": (MUTED, DARK_MUTED),
        "hidden": (HIDDEN, DARK_HIDDEN),
    }
    rows = (f"--{name}: light-dark({light}, {dark});" for name, (light, dark) in pairs.items())
    return ".txl, .txl-page { " + " ".join(rows) + " }\n"
