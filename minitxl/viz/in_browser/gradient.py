"""Where the gradient of a segment goes, in numbers that a page can draw."""

from __future__ import annotations

import numpy as np

from minitxl.backend.threads import one_blas_thread
from minitxl.errors import MinitxlError
from minitxl.model.through_memory import memory_shares, sequence_gradients
from minitxl.model.transformer_xl import TransformerXL
from minitxl.storage.model_arrays import load_params, params_of
from minitxl.viz.gradient import colour_limits, gradient_norms
from minitxl.viz.theme import percent


def gradient_numbers(model, tokens, segments, mem_len: int) -> dict:
    """The gradient of the last segment's loss, stopped at the memory and let through.

    tokens (n,); segments [[from, to], ...]: consecutive, the last one is learned from; a token
    behind the last segment is its last target, without one the last token has no loss. Computed in
    float64 by a copy of the model, where "exactly 0" is the point. Raises MinitxlError where
    segments do not follow one another.
    """
    tokens = np.asarray(tokens, dtype=np.int32)
    _check(segments, len(tokens), mem_len)
    exact = TransformerXL(model.config, device="cpu", dtype="float64")
    load_params(exact, params_of(model))
    model = exact.with_options(mem_len=mem_len)
    pairs = [(tokens[None, a:b], _targets(tokens, a, b)[None, :]) for a, b in segments]
    from_, to = segments[-1]
    dnll = np.ones((1, to - from_))
    dnll[0, -1] = float(to < len(tokens))
    dnll /= dnll.sum()
    norms, shares = {}, None
    with one_blas_thread():  # one row of text: a second thread costs more than it brings
        for name, through in (("stopped", False), ("through", True)):
            upstream = [None] * (len(pairs) - 1) + [dnll]
            found = sequence_gradients(model, pairs, upstream, through_memory=through)
            norms[name] = gradient_norms(found.hidden)[:-1]  # h_0 ... h_{N-1}: what a memory holds
        shares = memory_part_of_keys(model, pairs, dnll)
    before = from_ - segments[0][0]
    out = {"segments": [list(map(int, s)) for s in segments], "M": mem_len}
    out["tokens"] = tokens[segments[0][0] : to].tolist()
    out["limits"] = list(colour_limits(*norms.values()))
    for name, values in norms.items():
        zeros = int((values[:, :before] == 0).sum()), int(values[:, :before].size)
        out[name] = {
            "norms": [[float(f"{x:.3g}") for x in row] for row in values],
            "zeros": zeros,
            "sentence": _sentence(name, zeros, values, before, shares),
        }
    return out


def memory_part_of_keys(model, pairs, dnll) -> float | None:
    """The part of dW_k that the memory's rows give (`memory_shares`): mean of the layers.

    None without memory.
    """
    mems, cache = None, None
    for tokens, targets in pairs:
        _, mems, cache = model.forward(tokens, targets, mems)
    if cache.hidden.layers[0].n_mem == 0:
        return None
    return float(np.mean(memory_shares(model, cache, dnll)["w_k"]))


def _targets(tokens: np.ndarray, a: int, b: int) -> np.ndarray:
    """The tokens that come next; behind the text a 0 stands in, whose loss does not count."""
    return np.append(tokens[a + 1 : b + 1], np.zeros(max(0, b + 1 - len(tokens)), np.int32))


def _check(segments, n: int, mem_len: int) -> None:
    starts, ends = [a for a, _ in segments], [b for _, b in segments]
    if not segments or starts[1:] != ends[:-1]:
        raise MinitxlError(f"segments {segments} do not follow one another")
    if starts[0] < 0 or ends[-1] > n or ends[-1] - starts[-1] < 2 or mem_len < 0:
        raise MinitxlError(
            f"segments {segments} of {n} tokens, memory {mem_len}: the last one needs two tokens"
        )


def _sentence(name: str, zeros, values, before: int, share) -> str:
    count, size = zeros
    if not size:
        return "There is no memory yet: nothing lies beyond its edge."
    known = f" {percent(share)} of dW_k, the keys' weights', comes from the memory's rows."
    known = known if share is not None else ""
    if name == "stopped":
        return (
            f"Stopped at the edge: {count:,} of {size:,} states before it get a gradient of "
            f"exactly 0.{known} The model learns to read its memory, not to write it."
        )
    ratio = percent(values[:, :before].max() / values[:, before:].max())
    return (
        f"Let through: {size - count:,} of {size:,} states before the edge get a gradient; the "
        f"largest is {ratio} of the largest in the segment. Transformer-XL leaves this out: a step "
        "then costs one segment's work."
    )
