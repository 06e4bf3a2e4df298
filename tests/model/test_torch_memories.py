"""The second opinion on the other memories: losses, states and all gradients, in float64.

As a program it prints how far minitxl and the reference are apart:

PYTHONPATH=tests python tests/model/test_torch_memories.py
"""

import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason='PyTorch is not installed; pip install -e ".[torch]" brings it'
)

from test_torch import (  # noqa: E402  (needs torch)
    RecordingRng,
    assert_same,
    dropout_masks,
    random_model,
)

from helpers.memories import KINDS, every_kind, text_of  # noqa: E402
from helpers.torch_memories import reference_sequence  # noqa: E402

LENGTHS = (5, 1, 4, 6)
SETTINGS = [
    dict(),
    dict(dropout=0.3, dropatt=0.2, untie_r=True),
    dict(pre_lnorm=True, clamp_len=3),
    dict(pre_lnorm=True, dropout=0.3, cutoffs=(3, 8), d_embed=6),
]


def gradients(model, segments, upstream, through):
    """nll and states of every segment, the gradients of parameters and hidden states, the masks."""
    passes, masks, mems = [], [], None
    for n, (tokens, targets) in enumerate(segments):
        rng = RecordingRng(model.backend.rng(n))
        nll, mems, cache = model.forward(tokens, targets, mems, rng=rng)
        masks.append(dropout_masks(model.config, rng.draws) if rng.draws else None)
        passes.append((nll, mems, cache))
    total, hidden, dleft = model.params.zeros_like(), [], None
    for (nll, _, cache), dnll in zip(reversed(passes), reversed(upstream), strict=True):
        if dnll is None and dleft is None:
            hidden.append(None)
            continue
        dnll = np.zeros(nll.shape) if dnll is None else dnll
        found = model.backward_all(cache, dnll, dleft=dleft, through=through)
        total.flat += found.params.flat
        hidden.append(found.hidden)
        dleft = found.mems if through else None
    nlls, states, _ = zip(*passes, strict=True)
    return nlls, states, total, hidden[::-1], masks


def arrays_of(state):
    """A layer's, as the reference has them: the sum z is a column of minitxl's matrix."""
    if not isinstance(state, tuple):
        return [state]
    if hasattr(state, "s") and state.s.shape[-1] > state.s.shape[-2]:
        return [state.rows, state.s[..., :-1], state.s[..., -1]]
    return list(state)


def compare(kind, setting, through):
    """Yield what is compared, minitxl's and the reference's."""
    # Through four segments of memory tokens these gradients grow to 1,000: 1e-10 is rounding then.
    lengths = LENGTHS[1:] if kind == "tokens" else LENGTHS
    segments, upstream = text_of(lengths)
    # No text begins with one token twice: their states would be equal, and which of them is the
    # maximum a matter of rounding.
    segments = [tuple((x + np.arange(x.shape[1])) % 13 for x in pair) for pair in segments]
    options = {**KINDS[kind], **setting}
    model = random_model(options.pop("mem_len"), lengths, **options)
    nlls, states, grads, hidden, masks = gradients(model, segments, upstream, through)
    nlls2, states2, grads2, hidden2 = reference_sequence(
        model.config, model.params, segments, upstream, through, masks
    )
    for n in range(len(lengths)):
        yield f"segment {n}: nll", nlls[n], nlls2[n]
        for layer, (ours, theirs) in enumerate(zip(states[n], states2[n], strict=True)):
            for i, (a, b) in enumerate(zip(arrays_of(ours), theirs, strict=False)):
                yield f"segment {n}, layer {layer}: state {i}", a, b
        for layer in range(model.config.n_layer + 1):
            theirs = hidden2[n][layer]
            ours = np.zeros(theirs.shape) if hidden[n] is None else hidden[n][layer]
            yield f"segment {n}: d loss / d h_{layer}", ours, theirs
    for name in grads2:
        yield f"d loss / d {name}", grads[name], grads2[name]
    assert set(grads) == set(grads2)


@pytest.mark.parametrize("through", [False, True])
@every_kind
def test_losses_states_and_every_gradient_agree(kind, through):
    turn = 2 * list(KINDS).index(kind) + through
    for what, ours, theirs in compare(kind, SETTINGS[(turn // 2 + turn) % 4], through):
        assert_same(ours, theirs, what)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", ["conv-attention", "delta-rows", "sum-elu-rows", "tokens"])
def test_settings_agree(kind, setting):
    for what, ours, theirs in compare(kind, setting, through=True):
        assert_same(ours, theirs, what)


@pytest.mark.parametrize(
    "field, value",
    [
        ("compress", "max"),
        ("compress", "every"),
        ("compress", "random"),
        ("rate", 3),
        ("n_coarse", 2),
        ("rule", "sum"),
        ("feature", "elu"),
        ("reads", "past"),
        ("n_slot", 2),
    ],
)
def test_every_option_matters(field, value):
    """One that both ignored would pass unseen; so the reference's loss must move."""
    of = {"rule": "delta-rows", "feature": "delta-rows", "reads": "delta-rows", "n_slot": "tokens"}
    options, losses = dict(KINDS[of.get(field, "mean")]), []
    segments, upstream = text_of(LENGTHS)
    model = random_model(options.pop("mem_len"), LENGTHS, **options)
    params = {name: np.asarray(model.params[name]) for name in model.params}
    for memory in (model.config.memory, model.config.memory.replace(**{field: value})):
        if field == "n_slot":
            params["memory.start"] = params["memory.start"][: memory.n_slot]
        config = model.config.replace(memory=memory)
        nlls, *_ = reference_sequence(config, params, segments, upstream, False, [None] * 4)
        losses.append(nlls[-1])
    assert np.max(np.abs(losses[0] - losses[1])) > 1e-3


def print_table():
    """Print the largest absolute differences as a table in Markdown."""
    print("| memory | losses and states | gradients | largest gradient |")
    print("|---|---|---|---|")
    for kind in KINDS:
        apart, size = np.zeros(2), 0.0
        for setting in SETTINGS:
            for what, ours, theirs in (x for t in (False, True) for x in compare(kind, setting, t)):
                is_gradient = "d loss" in what
                d = np.max(np.abs(np.asarray(ours) - theirs), initial=0.0)
                apart[int(is_gradient)] = max(apart[int(is_gradient)], d)
                if is_gradient:
                    size = max(size, np.max(np.abs(theirs), initial=0.0))
        print(f"| {kind} | {apart[0]:.1e} | {apart[1]:.1e} | {size:.1e} |")


if __name__ == "__main__":
    print_table()
