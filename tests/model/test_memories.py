"""Every gradient of the other memories, stopped and through, on any array library."""

import numpy as np
import pytest

from helpers.memories import KINDS, built, compressive, every_kind, text_of
from helpers.models import assert_right, make_model
from helpers.strict_backend import StrictBackend
from minitxl import TransformerXL
from minitxl.backend import get_backend
from minitxl.model.family.memories.walk import memory_losses
from minitxl.model.gradcheck import directional_error
from minitxl.model.through_memory import sequence_gradients

CPU = get_backend("cpu", "float64")


def keys(n_segment, config):
    """Of the random numbers of each segment, the same in every run."""
    return [(7, n) if config.dropout else None for n in range(n_segment)]


def walk(model, segments, mems=None):
    """nll, cache and the memories that were found, of every segment."""
    passes = []
    for (tokens, targets), key in zip(segments, keys(len(segments), model.config), strict=True):
        rng = None if key is None else model.backend.rng(*key)
        nll, left, cache = model.forward(tokens, targets, mems, rng=rng)
        passes.append((nll, cache, mems))
        mems = left
    return passes, mems


def gradients_through(model, segments, upstream):
    """As `sequence_gradients(through_memory=True)`, with dropout."""
    passes, _ = walk(model, segments)
    total, dleft = model.params.zeros_like(), None
    for (nll, cache, _), dnll in zip(reversed(passes), reversed(upstream), strict=True):
        dnll = np.zeros(nll.shape) if dnll is None else dnll
        found = model.backward_all(cache, dnll, dleft=dleft, through=True)
        total.flat += found.params.flat
        dleft = found.mems
    return total


def errors_of(model, grads, loss, only=""):
    """Name -> error of its gradient, as `gradcheck.check_model` has it.

    What a memory cannot reach by another way than any layer's is taken together: one direction in
    the space of a layer's feed-forward block and LayerNorms, one in that of the two ends.
    """
    groups = {}
    for name, (start, shape) in model.params.layout.items():
        group = name
        if ".ff" in name or "_norm." in name:
            group = name.split(".")[1] + ": the rest"
        elif not name.startswith(("layers.", "memory.", "r_")):
            group = "ends"
        groups.setdefault(group, []).extend(range(start, start + int(np.prod(shape))))
    flat, errors, rng = model.params.flat, {}, model.backend.rng(3)
    for group, index in groups.items():
        if only not in group:
            continue
        before = flat[index]

        def of(value, index=index):
            flat[index] = value
            return float(loss())

        errors[group] = directional_error(of, before, grads.flat[index], rng, model.backend)
        flat[index] = before
    return errors


# --- gradients ----------------------------------------------------------------------------------


@every_kind
def test_gradients_through_the_memory(kind):
    """Over three segments of different lengths; a compression's own loss is another test's."""
    model = built(kind, 0, CPU, memory=KINDS[kind]["memory"].replace(loss="none"))
    segments, upstream = text_of()

    def loss():
        parts = zip(walk(model, segments)[0], upstream, strict=True)
        return sum(np.sum(nll * dnll) for (nll, *_), dnll in parts if dnll is not None)

    grads = gradients_through(model, segments, upstream)
    assert_right(errors_of(model, grads, loss))
    if not model.config.dropout:
        found = sequence_gradients(model, segments, upstream, through_memory=True)
        np.testing.assert_allclose(found.params.flat, grads.flat, rtol=0, atol=1e-12)


@every_kind
def test_gradients_with_the_memory_held_fixed(kind):
    """Of the last segment, after a memory that several segments have left."""
    model = built(kind, 1, CPU)
    segments, _ = text_of()
    _, mems = walk(model, segments[:-1])
    key = (1, 2) if model.config.dropout else None

    def run():
        rng = None if key is None else CPU.rng(*key)
        nll, _, cache = model.forward(*segments[-1], mems, rng=rng)
        return nll, cache

    nll, cache = run()
    upstream = np.random.default_rng(5).normal(size=nll.shape)
    found = model.backward_all(cache, upstream)
    assert found.mems == [None, None]
    errors = errors_of(model, found.params, lambda: np.sum(run()[0] * upstream))
    # what trains a compression is not in nll: see below
    own = model.config.memory.loss != "none"
    assert_right({name: e for name, e in errors.items() if not (own and ".memory." in name)})


@pytest.mark.parametrize("pre_lnorm", [False, True])
@pytest.mark.parametrize("loss", ["attention", "autoencode"])
def test_losses_train_the_compression_alone(loss, pre_lnorm):
    """They add their gradient to w_c and w_a, and to nothing else, stopped and through."""
    options = compressive("conv", loss, rate=3)
    model = make_model(CPU, pre_lnorm=pre_lnorm, **options)
    plain = TransformerXL(
        model.config.replace(memory=model.config.memory.replace(loss="none")), device=CPU
    )
    for name in plain.params:
        plain.params[name] = model.params[name]
    segments, upstream = text_of()
    total = model.params.zeros_like()
    for (tokens, targets), dnll, (_, _, mems) in zip(
        segments, upstream, walk(model, segments)[0], strict=True
    ):
        nll, _, cache = model.forward(tokens, targets, mems)
        dnll = np.zeros(nll.shape) if dnll is None else dnll
        grads = model.backward(cache, dnll)
        nll, _, other = plain.forward(tokens, targets, mems)
        without = plain.backward(other, dnll)
        for name in grads:
            own = ".memory." in name
            grads[name][...] = grads[name] - (without[name] if name in without else 0.0)
            assert own or (grads[name] == 0).all(), name

        def summed(tokens=tokens, targets=targets, mems=mems):
            return sum(memory_losses(model.forward(tokens, targets, mems)[2]))

        found = memory_losses(cache)
        assert len(found) in (0, 2) and all(value.shape == () for value in found)
        assert_right(errors_of(model, grads, summed, only=".memory."))
        total.flat += grads.flat
    assert all((total[name] != 0).any() for name in total if ".memory." in name)
    through, without = (
        sequence_gradients(m, segments, upstream, through_memory=True).params
        for m in (model, plain)
    )
    for name in through:
        main = without[name] if name in without else 0.0
        np.testing.assert_allclose(through[name], main + total[name], rtol=0, atol=1e-12)


@every_kind
def test_any_array_library(kind):
    """On the strict library's second device the same numbers, to rounding."""
    results = []
    for backend in (CPU, StrictBackend()):
        model = built(kind, 0, backend)
        segments, upstream = text_of()
        upstream = [u if u is None else backend.asarray(u) for u in upstream]
        through = sequence_gradients(model, segments, upstream, through_memory=True)
        stopped = sequence_gradients(model, segments, upstream)
        log_p, _ = model.predict(segments[0][0], through.mems)
        arrays = [*through.nll, through.params.flat, *through.hidden[0], stopped.params.flat, log_p]
        for state in through.mems:
            arrays += list(state) if isinstance(state, tuple) else [state]
        results.append([backend.to_numpy(a) for a in arrays])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)
