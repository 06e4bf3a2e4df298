"""The learner's functions in the place of the library's: a model that runs on them.

    mine = course.install(rel_shift=rel_shift, update_memory=update_memory)

is a copy of the shipped model in which two parts are the learner's. It reads, writes and learns
like any other. Nothing else changes: the copy has parameters of its own, and a backend of its own
whose table of twins (`minitxl/backend/twins.py`) holds the functions, so that every other model in
the kernel computes the same bits as before. To undo it, forget the copy.

Thirteen exercises are parts of the model. What they leave out (linear maps, ReLU, embedding,
LayerNorm forwards) stays the library's plain NumPy; so does what an exercise does not deal with:
dropout of attention weights, documents, ext_len, and the stop where LayerNorm stands in front.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from minitxl.backend import Backend, get_backend
from minitxl.backend.twins import Namespace
from minitxl.config import RELATIVE
from minitxl.course.exercise import Exercise
from minitxl.course.exercises import attention, loss, memory, ops, position, shift
from minitxl.course.running import quiet
from minitxl.errors import MinitxlError
from minitxl.model.attention import (
    AttendCache,
    CoreCache,
    attend_backward,
    attend_forward,
    merge_heads,
)
from minitxl.model.ops import (
    DropoutCache,
    SoftmaxCache,
    layer_norm_forward,
    linear_backward,
    rel_shift_backward,
    rel_shift_forward,
)
from minitxl.model.params import Params
from minitxl.model.transformer_xl import TransformerXL
from minitxl.pretrained import load_pretrained

Array = Any

FORWARD = (
    position.POSITIONS,
    shift.REL_SHIFT,
    position.FOUR_TERMS,
    memory.MASK,
    attention.ATTENTION,
    memory.MEMORY,
)
BACKWARD = (
    loss.CROSS_ENTROPY,
    ops.LAYER_NORM,
    ops.SOFTMAX,
    attention.ATTENTION_BACKWARD,
    shift.REL_SHIFT_BACKWARD,
    position.BIASES,
    memory.STOP,
)
PARTS: dict[str, Exercise] = {e.name: e for e in (*FORWARD, *BACKWARD)}


def install(model: TransformerXL | None = None, /, **functions: Callable) -> TransformerXL:
    """Return a copy of a model that runs on a learner's functions, each by its exercise's name.

    model: the shipped one, unless another is given; it stays as it is. functions: any of `PARTS`,
    right or wrong; what is left out is the library's. A function that stops, or returns what has
    not the shape that its exercise asks for, ends the run in one line that names it.
    Raises MinitxlError for a name that is no part, what is no function, and another encoding.
    """
    unknown = sorted(set(functions) - set(PARTS))
    if unknown:
        raise MinitxlError(f"{unknown[0]} is no part of the model; these are: {', '.join(PARTS)}")
    for name, function in functions.items():
        if not callable(function):
            kind = type(function).__name__
            raise MinitxlError(f"{name} is of type {kind}, must be a function: {PARTS[name].id}")
    if model is None:
        model = load_pretrained("war-and-peace", device="cpu").model
    c = model.config
    if c.attn_type != RELATIVE or not c.is_plain or c.memory.kind != "xl":
        raise MinitxlError(
            f"attn_type={c.attn_type}, memory {c.memory.kind}: the exercises are parts of the "
            f"paper's own model, attn_type={RELATIVE} with one vocabulary and memory xl; give such "
            "a model"
        )
    if model.backend.name != "cpu":
        raise MinitxlError(
            f"the model is on {model.backend.name}, a learner's functions are NumPy: make it with "
            'device="cpu"'
        )
    own = Own(functions)
    backend: Backend = get_backend("cpu", model.backend.dtype_name, fused=False)
    backend.xp = Namespace(np, own.twins())
    old = model.params
    params = Params(old.shapes, old.flat.copy(), xp=backend.xp, constants=old.constants)
    return TransformerXL(model.config, device=backend, params=params)


# --- the functions as the model calls them --------------------------------------------------------


class NormCache(NamedTuple):
    """What LayerNorm's backward needs where it is a learner's."""

    x: Array  # (..., D)
    gamma: Array  # (D,)
    eps: float


class Own:
    """A learner's functions, behind the names and arguments of the model's operations.

    Each method stands for the operation of its name, computes the same, and asks the learner's
    function for what it is there for; NotImplemented leaves a case to the library.
    """

    NEEDED: ClassVar = {
        "sinusoid_table": ("relative_positions",),
        "attention_mask": ("attention_mask",),
        "update_mems": ("update_memory",),
        "core_forward": ("rel_shift", "four_terms", "attend"),
        "core_backward": (
            "softmax_backward",
            "attention_backward",
            "rel_shift_backward",
            "bias_gradients",
        ),
        "layer_norm_forward": ("layer_norm_backward",),  # to keep x
        "layer_norm_backward": ("layer_norm_backward",),
        "cross_entropy_backward": ("cross_entropy_gradient",),
        "heads_backward": ("key_value_backward",),
    }

    def __init__(self, functions: dict[str, Callable]):
        self.functions = functions

    def twins(self) -> dict[str, Callable]:
        """Operation -> what takes its place: those alone in which a function has a part."""
        return {
            operation: getattr(self, operation)
            for operation, names in self.NEEDED.items()
            if any(name in self.functions for name in names)
        }

    def __contains__(self, name: str) -> bool:
        return name in self.functions

    def ask(self, name: str, *args, shapes, dtype) -> list[Array]:
        """Return what the function gives for copies of the arguments, as arrays of these shapes."""
        args = tuple(a.copy() if isinstance(a, np.ndarray) else a for a in args)
        told = f"course.check({PARTS[name].id!r}) tells more"
        try:
            with quiet():
                found = self.functions[name](*args)
                found = [found] if len(shapes) == 1 else list(found)
                found = [np.asarray(x, dtype=dtype) for x in found]
        except Exception as error:
            text = " ".join(str(error).split())[:120]
            raise MinitxlError(
                f"your {name} stops the model, {type(error).__name__}: {text}; {told}"
            ) from error
        got = [x.shape for x in found]
        if len(got) != len(shapes) or not all(map(_fits, got, shapes)):
            got, want = (", ".join(map(str, s)) for s in (got, shapes))
            raise MinitxlError(f"your {name} returns {got} in the model, must be {want}; {told}")
        return found

    # --- forward ---

    def sinusoid_table(self, n_key, inv_freq, *, clamp_len=-1, xp):
        d_model = 2 * inv_freq.shape[0]
        n_row = n_key if clamp_len <= 0 else min(n_key, clamp_len + 1)  # K-1 ... 0, or clamp ... 0
        shape = (n_row, d_model)
        (table,) = self.ask(
            "relative_positions", n_row, d_model, shapes=[shape], dtype=inv_freq.dtype
        )
        far = np.broadcast_to(table[:1], (n_key - n_row, d_model))  # all alike from clamp_len on
        return np.concatenate([far, table])

    def attention_mask(self, *, n_query, n_mem, max_keys, device, xp):
        if not (max_keys is None or isinstance(max_keys, int)):
            return NotImplemented  # a number for each query: documents
        shape = (n_query, n_mem + n_query)
        args = (n_query, n_mem, max_keys)
        return self.ask("attention_mask", *args, shapes=[shape], dtype=np.bool_)[0]

    def update_mems(self, both, *, n_mem, config, xp):
        if config.ext_len:
            return NotImplemented
        b, _, d = both.shape
        args = (both[:, :n_mem], both[:, n_mem:], config.mem_len)
        shape = (b, None, d)  # a wrong number of rows is read as it is
        return self.ask("update_memory", *args, shapes=[shape], dtype=both.dtype)[0]

    def core_forward(self, q, k, v, r, r_w_bias, r_r_bias, mask, *, dropatt, rng, xp):
        scale = 1.0 / math.sqrt(q.shape[-1])
        q_u = (q + r_w_bias[:, None, :]) * scale
        q_v = (q + r_r_bias[:, None, :]) * scale
        shape = (*q.shape[:-1], k.shape[2])  # (B, H, T, K)
        r_t = xp.matrix_transpose(r)
        if "four_terms" in self:
            args = (q, k, r, r_w_bias, r_r_bias)
            a, b, c, d = self.ask("four_terms", *args, shapes=[shape] * 4, dtype=q.dtype)
            if "rel_shift" in self:  # b by the one, the rest by the other: both have their say
                b = self._shifted(scale * q @ r_t)
            scores = a + b + c + d
        else:
            bd = q_v @ r_t
            bd = self._shifted(bd) if "rel_shift" in self else rel_shift_forward(bd, xp=xp)[0]
            scores = q_u @ xp.matrix_transpose(k) + bd
        hidden = mask == -math.inf
        scores = np.where(hidden, 0.0, scores).astype(q.dtype)  # the corner may hold anything
        dropped = rng is not None and dropatt > 0.0
        if "attend" in self and mask.ndim == 2 and not dropped:
            o, p = self._attended(scores, v, hidden)
            attend = AttendCache(SoftmaxCache(p), DropoutCache(None), p, v)
        else:
            o, attend = attend_forward(scores + mask, v, dropatt=dropatt, rng=rng, xp=xp)
        return o, CoreCache(q_u, q_v, k, r, attend)

    def _shifted(self, scores):
        return self.ask("rel_shift", scores, shapes=[scores.shape], dtype=scores.dtype)[0]

    def _attended(self, scores, v, hidden):
        """o (B, H, T, Dh) and p (B, H, T, K) of the learner's attention, for any scores.

        With the scores for queries and one-hot keys q k^T is the scores; with the values [v | 1]
        o is [p v | p]. Queries, keys and values have one width, Dh + K.
        """
        *lead, n_key, dh = v.shape
        width = dh + n_key
        one_hot = np.broadcast_to(np.eye(n_key, dtype=v.dtype), (*lead, n_key, n_key))
        keys = np.concatenate([one_hot, np.zeros_like(v)], axis=-1)
        values = np.concatenate([v, one_hot], axis=-1)
        queries = np.zeros((*scores.shape[:-1], width), dtype=v.dtype)
        queries[..., :n_key] = scores * math.sqrt(width)
        args = (queries, keys, values, hidden)
        (found,) = self.ask("attend", *args, shapes=[queries.shape], dtype=v.dtype)
        return found[..., :dh], found[..., dh:]

    # --- backward ---

    def core_backward(self, do, cache: CoreCache, *, xp):
        q_u, q_v, k, r, attend = cache
        if attend.dropatt.mask is not None:
            return NotImplemented
        p, v, scale = attend.p, attend.v, 1.0 / math.sqrt(q_u.shape[-1])
        if "softmax_backward" in self:
            dp = do @ xp.matrix_transpose(v)
            (ds,) = self.ask("softmax_backward", dp, p, shapes=[p.shape], dtype=p.dtype)
            dv = xp.matrix_transpose(p) @ do
        else:
            ds, dv = attend_backward(do, attend, xp=xp)
        if "attention_backward" in self:  # of contents; positions go by ds
            args = (do, q_u / scale, k, v, p)
            shapes = [q_u.shape, k.shape, v.shape]
            dq_u, dk, dv = self.ask("attention_backward", *args, shapes=shapes, dtype=p.dtype)
        else:
            dq_u, dk = ds @ k * scale, xp.matrix_transpose(ds) @ q_u
        if "rel_shift_backward" in self:
            (dbd,) = self.ask("rel_shift_backward", ds, shapes=[ds.shape], dtype=ds.dtype)
        else:
            dbd = rel_shift_backward(ds, xp=xp)
        dq_v = dbd @ r * scale
        dr = xp.sum(xp.matrix_transpose(dbd) @ q_v, axis=0)  # -> (H, K, Dh)
        if "bias_gradients" in self:
            shapes = [(r.shape[0], r.shape[2])] * 2
            du, dv_bias = self.ask("bias_gradients", ds, k, r, shapes=shapes, dtype=ds.dtype)
        else:
            du, dv_bias = (xp.sum(dq, axis=(0, 2)) for dq in (dq_u, dq_v))
        return dq_u + dq_v, dk, dv, dr, du, dv_bias

    def layer_norm_forward(self, x, gamma, beta, *, eps, xp):
        y, _ = layer_norm_forward.plain(x, gamma, beta, eps=eps, xp=xp)
        return y, NormCache(x, gamma, eps)

    def layer_norm_backward(self, dy, cache: NormCache, *, xp):
        x, gamma, eps = cache
        shapes = [x.shape, gamma.shape, gamma.shape]
        return self.ask("layer_norm_backward", dy, x, gamma, eps, shapes=shapes, dtype=x.dtype)

    def cross_entropy_backward(self, dnll, cache, *, xp):
        log_p, targets = cache  # log p has the softmax of the logits: it may stand for them
        args = (log_p, targets)
        (mean,) = self.ask("cross_entropy_gradient", *args, shapes=[log_p.shape], dtype=log_p.dtype)
        return mean * (len(log_p) * dnll[:, None])

    def heads_backward(self, dq, dk, dv, cache, *, memory_rows, xp):
        if memory_rows:
            return NotImplemented  # LayerNorm in front: there the stop comes after it
        dx, dw_q, _ = linear_backward(merge_heads(dq, xp=xp), cache.q, xp=xp)
        dk, dv = merge_heads(dk, xp=xp), merge_heads(dv, xp=xp)  # -> (B, K, H*Dh)
        b, n_key, _ = dk.shape
        h = cache.k.x.reshape(b, n_key, -1)
        w_k, w_v = cache.k.w, cache.v.w
        shapes = [(b, n_key - cache.n_mem, h.shape[2]), w_k.shape, w_v.shape]
        args = (dk, dv, h, w_k, w_v, cache.n_mem)
        dh, dw_k, dw_v = self.ask("key_value_backward", *args, shapes=shapes, dtype=h.dtype)
        return dx, dh, dw_q, dw_k, dw_v


def _fits(shape: tuple, wanted: tuple) -> bool:
    """Whether a shape is the one that is wanted, in which None stands for any number."""
    pairs = zip(shape, wanted, strict=False)
    return len(shape) == len(wanted) and all(w in (None, n) for n, w in pairs)
