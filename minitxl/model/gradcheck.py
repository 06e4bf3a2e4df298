"""The gradient checker: is a hand-written backward pass the derivative of its forward pass?

For a direction d in the space of an input x, the derivative of the loss along d is
  (loss(x + e d) - loss(x - e d)) / 2e      by two runs of the forward pass, and
  <dx, d>                                   by the backward pass.
In float64 the two agree to about 1e-9. A random d touches every component of dx at once, so one
direction finds a mistake anywhere.

Two things make a checker blind, and are avoided here. An upstream gradient of all ones: softmax
and LayerNorm send back exactly 0 for it, right or wrong. And a comparison relative to the two
numbers themselves, which happen to be small for some directions: the measure is |dx|, the size
that <dx, d> typically has.
"""

from __future__ import annotations

import math

from minitxl.backend import Backend, get_backend
from minitxl.errors import MinitxlError
from minitxl.model.attention import (
    AttentionWeights,
    additive_mask,
    attention_backward,
    attention_forward,
    attention_mask,
)
from minitxl.model.through_memory import segment_rows

STEP = 1e-5  # e: smaller drowns in rounding (1e-16 / e), larger in curvature (e^2)
ROUNDING = 1e-15  # relative, of a loss in float64 that is summed up from many numbers
RTOL = 1e-6  # what the checks of the library ask for


def check_op(
    forward, backward, inputs: dict, backend: Backend | None = None, seed: int = 0
) -> dict[str, float]:
    """Return the relative error of each input's gradient, by the input's name.

    forward(**inputs) -> (y, cache); backward(dy, cache) -> the gradients in the order of `inputs`
    (a tuple, or one array for one input). Inputs must be float64 arrays of `backend`, by default
    NumPy's; MinitxlError for others.
    """
    backend = backend or get_backend("cpu", "float64")
    for name, x in inputs.items():
        _check_float64(name, x)
    y, cache = forward(**inputs)
    rng = backend.rng(seed, 1)
    upstream = _normal(y, rng, backend)
    grads = backward(upstream, cache)
    grads = grads if isinstance(grads, tuple) else (grads,)
    if len(grads) != len(inputs):
        raise ValueError(f"backward returned {len(grads)} gradients for {len(inputs)} inputs")

    errors = {}
    for (name, x), grad in zip(inputs.items(), grads, strict=True):
        if tuple(grad.shape) != tuple(x.shape):
            raise ValueError(f"d{name} has shape {tuple(grad.shape)}, {name} {tuple(x.shape)}")

        def loss(value, name=name):
            return _dot(forward(**{**inputs, name: value})[0], upstream, backend)

        errors[name] = directional_error(loss, x, grad, rng, backend)
    return errors


def check_model(model, tokens, targets, mems=None, key=None, seed: int = 0) -> dict[str, float]:
    """Return the relative error of the gradient of every parameter of a float64 model, by name.

    The memories are constants, as in training. key: numbers for `Backend.rng`, so that dropout
    draws the same masks in every run; None: no dropout. MinitxlError for a model in float32.
    """
    back = model.backend
    _check_float64("the model", model.params.flat)
    rng = back.rng(seed, 2)

    def run():
        dropout = None if key is None else back.rng(*key)
        nll, _, cache = model.forward(tokens, targets, mems, rng=dropout)
        return nll, cache

    nll, cache = run()
    upstream = _normal(nll, rng, back)
    grads = model.backward(cache, upstream)
    errors = {}
    for name, view in model.params.items():
        before = back.xp.asarray(view, copy=True)

        def loss(value, name=name):
            model.params[name] = value
            return _dot(run()[0], upstream, back)

        errors[name] = directional_error(loss, before, grads[name], rng, back)
        model.params[name] = before
    return errors


def sequence_slope(model, segments, direction, *, hold_memory: bool = False) -> float:
    """Return the slope of a sequence's mean loss along a direction of the weights, by two runs.

    segments: consecutive (tokens, targets), which begin without memory; direction: as
    `model.params.flat`. hold_memory: every segment is given the memory that the unmoved weights
    leave, so that it is a constant, as it is to the stopped gradient (sec. 3.2).
    """
    _check_float64("the model", model.params.flat)
    weights = model.params.flat
    before = model.backend.xp.asarray(weights, copy=True)

    def run(given=None):
        met: list = []
        mems, total, count = None, 0.0, 0
        for number, (tokens, targets) in enumerate(segments):
            met.append(mems)
            nll, mems = model.score(tokens, targets, mems if given is None else given[number])
            total += float(model.backend.xp.sum(nll))
            count += targets.size
        return total / count, met

    held = run()[1] if hold_memory else None
    sides = []
    for sign in (1, -1):
        weights[:] = before + sign * STEP * direction
        sides.append(run(held)[0])
    weights[:] = before
    return (sides[0] - sides[1]) / (2 * STEP)


def attention_block(
    *, n_mem: int, seed: int = 0, forget: bool = False, backend: Backend | None = None
) -> tuple:
    """Return forward, backward and inputs of a small `attention_forward` for `check_op`.

    Two heads, 4 queries, n_mem rows of memory, random numbers; backward returns the gradient of the
    memory's rows, too (sec. 3.2, 3.3). forget: a planted mistake, dW_k lacks the memory's rows.
    """
    backend = backend or get_backend("cpu", "float64")
    xp, rng = backend.xp, backend.rng(seed, 3)
    b, t, d, h, dh = 2, 4, 6, 2, 5
    shapes: dict = {"x": (b, t, d), "h": (b, n_mem + t, d)}
    shapes |= dict.fromkeys(("w_q", "w_k", "w_v", "w_r"), (d, h * dh)) | {"w_o": (h * dh, d)}
    shapes |= {"u": (h, dh), "v": (h, dh)}
    inputs = {name: backend.asarray(rng.normal(shape)) for name, shape in shapes.items()}
    pos = backend.asarray(rng.normal((n_mem + t, d)))
    hidden = attention_mask(n_query=t, n_mem=n_mem, max_keys=None, device=backend.device, xp=xp)
    mask = additive_mask(hidden, dtype=backend.dtype, xp=xp)

    def forward(x, h, **weights):
        w = AttentionWeights(*weights.values())
        return attention_forward(x, h, pos, w, mask, dropatt=0.0, rng=None, xp=xp)

    def backward(dy, cache):
        if forget:
            k = segment_rows(cache.heads.k, n_mem, xp=xp)
            cache = cache._replace(heads=cache.heads._replace(k=k))
        dx, dh, dw = attention_backward(dy, cache, memory_rows=True, xp=xp)
        return dx, dh, *dw

    return forward, backward, inputs


def directional_error(loss, x, grad, rng, backend: Backend) -> float:
    """Return |numeric - analytic| / |grad| for one direction, its entries drawn from N(0, 1).

    A gradient that is 0 where the loss does change counts as an error of 1 or more. Where both are
    0 the numeric one is rounding, eps |loss| / STEP, and is taken for 0.
    """
    d = _normal(x, rng, backend)
    up, down = loss(x + STEP * d), loss(x - STEP * d)
    numeric = (up - down) / (2 * STEP)
    analytic = _dot(grad, d, backend)
    size = math.sqrt(_dot(grad, grad, backend))
    rounding = ROUNDING * max(abs(up), abs(down)) / STEP
    return max(0.0, abs(numeric - analytic) - rounding) / max(size, abs(numeric), 1e-8)


def _check_float64(name: str, x) -> None:
    """Raise MinitxlError where rounding would drown the difference of the two runs."""
    if "float64" not in str(x.dtype):
        raise MinitxlError(
            f"{name} is {x.dtype}, gradients are checked in float64: with fewer digits even right "
            'ones fail; make it with dtype="float64"'
        )


def _normal(like, rng, backend: Backend):
    return backend.asarray(rng.normal(tuple(like.shape)), dtype=like.dtype)


def _dot(a, b, backend: Backend) -> float:
    return float(backend.xp.sum(a * b))
