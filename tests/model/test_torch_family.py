"""The second opinion on the whole family: encodings, vocabularies and options, crossed.

As a program it prints how far minitxl and the reference are apart:

PYTHONPATH=tests python tests/model/test_torch_family.py
"""

import dataclasses
import itertools

import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason='PyTorch is not installed; pip install -e ".[torch]" brings it'
)

from test_torch import (  # noqa: E402  (needs torch)
    BATCH,
    LENGTHS,
    SHAPE,
    RecordingRng,
    assert_hidden_gradients,
    assert_same,
    assert_same_gradients,
    dropout_masks,
    random_model,
)

from helpers.torch_reference import reference, reference_step  # noqa: E402
from minitxl.config import Released  # noqa: E402

ENCODINGS = {0: "relative", 1: "Shaw", 2: "sinusoid", 3: "learned", 4: "RoPE", 5: "ALiBi"}


# --- every combination of the words' options, in a model with one layer -------------------------


def words_product():
    """Yield every combination of the options that has a meaning."""
    widths = itertools.product((0, 6), (1, 2))  # d_embed, div_val
    for cutoffs, (d_embed, div_val) in itertools.product(((), (5,), (3, 8)), widths):
        ties = [()]
        if d_embed or div_val > 1:  # only then there are projections
            ties += itertools.product((False, True), repeat=len(cutoffs) + 1)
        orders = ("natural", "reversed") if cutoffs else ("natural",)
        for tie_projs, tie_weight, order in itertools.product(ties, (False, True), orders):
            yield dict(
                cutoffs=cutoffs,
                d_embed=d_embed,
                div_val=div_val,
                tie_weight=tie_weight,
                tie_projs=tie_projs,
                cluster_order=order,
            )


WORDS = list(words_product())

# --- all options, every pair of values at least once --------------------------------------------

FACTORS = {
    "attn_type": list(ENCODINGS),
    "lengths": list(LENGTHS),
    "heads": [dict(n_head=3, d_head=4), dict(n_head=2, d_head=5)],  # 12 and 10; d_model is 10
    "norm": [dict(), dict(pre_lnorm=True), dict(pre_lnorm=True, raw_queries=True)],
    "clamp_len": [-1, 1, 3],
    "max_klen": [0, 4],
    "untie_r": [False, True],
    "same_length": [dict(), dict(same_length=True), dict(same_length=True, same_length_extra=1)],
    "start_mems": ["empty", "zeros"],
    # 6 exceeds most segments, and 2 the memory at the start: there the swap shows
    "ext_len": [
        dict(),
        *(dict(ext_len=e, ext_len_swapped=s) for e in (2, 6) for s in (False, True)),
    ],
    "words": [
        dict(),
        dict(cutoffs=(5,)),
        dict(d_embed=6, tie_weight=False),
        dict(d_embed=6, cutoffs=(3, 8), tie_projs=(True, False, True)),
        dict(div_val=2, cutoffs=(3, 8), cluster_order="reversed"),
        dict(d_embed=6, div_val=2, cutoffs=(3, 8), tie_weight=False, tie_projs=(True,) * 3),
    ],
    "dropout": [dict(), dict(dropout=0.3, dropatt=0.2)],
    "partial": [False, True],
}


def options_of(case):
    """Fields of a Config, the lengths of the segments, and whether targets are partial."""
    options = {}
    for name, value in case.items():
        if name not in ("lengths", "partial"):
            options |= value if isinstance(value, dict) else {name: value}
    mem_len, lengths = LENGTHS[case["lengths"]]
    return dict(n_layer=2) | options, mem_len, lengths, case["partial"]


def is_a_model(case):
    """same_length without memory hides every key; RoPE turns pairs, by every distance."""
    options, mem_len, *_ = options_of(case)
    if options["attn_type"] == 4 and (options["clamp_len"] > 0 or options["d_head"] % 2):
        return False
    return not options.get("same_length") or mem_len + options.get("same_length_extra", 0) > 0


def pairs_of(picks):
    return set(itertools.combinations(sorted(picks.items()), 2))


def pairwise_cases(seed, n_try=40):
    """Cases in which every two values of two factors meet; greedy, the same each time."""
    rng = np.random.default_rng(seed)
    sizes = {name: range(len(values)) for name, values in FACTORS.items()}
    missing = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(sorted(FACTORS), 2)
        for i, j in itertools.product(sizes[a], sizes[b])
    }
    cases = []
    while missing:
        wanted = min(missing)  # this pair, and as many others as luck brings
        best_gain, best = 0, None
        for _ in range(n_try):
            picks = {name: int(rng.choice(sizes[name])) for name in FACTORS} | dict(wanted)
            case = {name: FACTORS[name][i] for name, i in picks.items()}
            gain = len(pairs_of(picks) & missing)
            if gain > best_gain and is_a_model(case):
                best_gain, best = gain, (picks, case)
        missing.discard(wanted)  # no model has it, if none was found
        if best is not None:
            missing -= pairs_of(best[0])
            cases.append(best[1])
    return cases


CASES = [case for seed in range(3) for case in pairwise_cases(seed)]


# --- a stream, read by both ---------------------------------------------------------------------


def overlapping_segments(lengths, ext_len, partial, seed=2):
    """Yield (tokens, targets), each segment from ext_len tokens before the end of the last.

    partial: targets of the last half (rounded up) of each segment alone.
    """
    rng = np.random.default_rng(seed)
    text = rng.integers(0, SHAPE["n_token"], (BATCH, sum(lengths) + 1))
    start = 0
    for length in lengths:
        tokens, targets = text[:, start : start + length], text[:, start + 1 : start + length + 1]
        yield tokens, targets[:, length // 2 :] if partial else targets
        start += max(0, length - ext_len)


def read_by_both(options, mem_len, lengths, partial):
    """Yield for every segment: what it is, minitxl's, and the reference's nll, mems, gradients."""
    model = random_model(mem_len, lengths, **options)
    config, ours, theirs = model.config, None, None
    weights = np.random.default_rng(3)
    segments = overlapping_segments(lengths, config.ext_len, partial)
    for n, (tokens, targets) in enumerate(segments):
        rng = RecordingRng(model.backend.rng(n))
        given = (config, model.params, tokens, targets, theirs)
        nll, ours, cache = model.forward(tokens, targets, mems=ours, rng=rng)
        # The mean first, then a weighted sum: a weight that is everywhere alike hides mistakes.
        dnll = None if n == 0 else weights.normal(size=nll.shape)
        grads = model.backward(cache, dnll)
        masks = dropout_masks(config, rng.draws) if rng.draws else None
        expected_nll, theirs, expected = reference_step(*given, dnll=dnll, masks=masks)
        yield f"segment {n}", (nll, ours, grads), (expected_nll, theirs, expected)


def assert_agreement(options, mem_len, lengths, partial=False):
    """Compare all that there is; return the largest gradient of each parameter."""
    largest = {}
    for what, (nll, mems, grads), (nll2, mems2, grads2) in read_by_both(
        options, mem_len, lengths, partial
    ):
        assert_same(nll, nll2, f"{what}: nll")
        assert len(mems) == len(mems2)
        for layer, (a, b) in enumerate(zip(mems, mems2, strict=True)):
            assert_same(a, b, f"{what}: memory of layer {layer}")
        assert_same_gradients(grads, grads2, what)
        for name, grad in grads2.items():
            largest[name] = max(largest.get(name, 0.0), np.max(np.abs(grad)))
    return largest


@pytest.mark.parametrize(
    "n, words", list(enumerate(WORDS)), ids=[str(n) for n in range(len(WORDS))]
)
def test_every_kind_of_vocabulary(n, words):
    attn_type, partial = n % 7 % 6, n % 3 == 0
    largest = assert_agreement(
        words | dict(n_layer=1, attn_type=attn_type), 4, (6, 5), partial=partial
    )
    assert min(largest.values()) > 1e-5  # no parameter is left out by both


@pytest.mark.parametrize("case", CASES, ids=[str(n) for n in range(len(CASES))])
def test_options_crossed(case):
    assert_agreement(*options_of(case))


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("attn_type", (1, 2, 3, 4, 5))
def test_lengths_of_every_encoding(attn_type, name):
    """Three layers, the default options, all parameters in use."""
    largest = assert_agreement(dict(attn_type=attn_type, n_layer=3), *LENGTHS[name])
    assert min(largest.values()) > 1e-5


@pytest.mark.parametrize(
    "options, change",
    [
        *((dict(attn_type=a), dict(clamp_len=3)) for a in (1, 2, 3, 5)),
        *((dict(attn_type=a), dict(same_length=True)) for a in range(1, 6)),
        (dict(same_length=True), dict(same_length_extra=1)),
        *((dict(pre_lnorm=True, attn_type=a), dict(raw_queries=True)) for a in range(6)),
        *((dict(attn_type=a), dict(start_mems="zeros")) for a in range(6)),
        (dict(), dict(ext_len=2)),
        (dict(ext_len=2), dict(ext_len_swapped=True)),
        (dict(cutoffs=(3, 8)), dict(cluster_order="reversed")),
    ],
    ids=str,
)
def test_every_option_matters(options, change):
    """An option that both ignored would pass unseen; so the reference's loss must move."""
    lengths = (5, 5, 5)
    model = random_model(7, lengths, **options)
    losses = []
    names = {f.name for f in dataclasses.fields(Released)} & set(change)
    released = {"released": Released(**{n: change[n] for n in names})} if names else {}
    rest = {n: value for n, value in change.items() if n not in names}
    for config in (model.config, model.config.replace(**rest, **released)):
        mems = None
        for tokens, targets in overlapping_segments(lengths, 0, False):
            nll, mems = reference(config, model.params, tokens, targets, mems)
        losses.append(nll)
    assert np.max(np.abs(losses[0] - losses[1])) > 1e-3


def test_cases_cross_well():
    """Every two values meet (but for the four that are no model), and every option is met."""
    met = set()
    for case in CASES:
        met |= pairs_of({name: FACTORS[name].index(value) for name, value in case.items()})
    sizes = [len(values) for values in FACTORS.values()]
    every = (sum(sizes) ** 2 - sum(n * n for n in sizes)) // 2
    assert len(met) == every - 4


# --- gradients of hidden states -----------------------------------------------------------------


@pytest.mark.parametrize("through_memory", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        dict(attn_type=1, clamp_len=3),
        dict(attn_type=1, pre_lnorm=True, same_length=True),
        dict(attn_type=2),
        dict(attn_type=2, pre_lnorm=True, raw_queries=True, same_length=True, same_length_extra=1),
        dict(attn_type=3, max_klen=4),
        dict(attn_type=3, pre_lnorm=True, clamp_len=3, div_val=2, cutoffs=(3, 8)),
        dict(attn_type=4, pre_lnorm=True),
        dict(attn_type=4, same_length=True, raw_queries=True),
        dict(attn_type=5, clamp_len=3),
        dict(attn_type=0, untie_r=True, d_embed=6, tie_weight=False),
    ],
    ids=str,
)
def test_gradients_of_hidden_states_agree(options, through_memory):
    lengths = (4, 4, 4)
    model = random_model(6, lengths, **options)
    assert_hidden_gradients(model, list(overlapping_segments(lengths, 0, False)), through_memory)


@pytest.mark.parametrize(
    "options, ext_len, partial",
    [
        (dict(start_mems="zeros"), 0, False),
        (dict(start_mems="zeros", attn_type=3), 0, False),
        (dict(), 1, False),
        (dict(attn_type=2), 2, False),
        (dict(ext_len_swapped=True), 3, False),
        (dict(attn_type=1), 0, True),
    ],
    ids=str,
)
def test_gradients_through_other_memories(options, ext_len, partial):
    """Memory that begins before the stream, or ends before the segment; S < T targets."""
    lengths = (4, 4, 4)
    model = random_model(6, lengths, ext_len=ext_len, **options)
    segments = list(overlapping_segments(lengths, ext_len, partial))
    assert_hidden_gradients(model, segments, through_memory=True)


# --- the table ----------------------------------------------------------------------------------


def table_cases():
    """Yield the name of a variant and its cases (see `options_of`)."""
    normal, short = (
        LENGTHS["memory longer than the segment"],
        LENGTHS["memory shorter than the segment"],
    )
    for attn_type, name in ENCODINGS.items():
        kind = dict(attn_type=attn_type, n_layer=3)
        yield f"{name}, every length", [(kind, *where, False) for where in LENGTHS.values()]
        more = [dict(clamp_len=3)] if attn_type != 4 else []
        more += [
            dict(same_length=True),
            dict(same_length=True, same_length_extra=1),
        ]
        more += [dict(max_klen=4)] if attn_type in (1, 3) else []
        more += [dict(untie_r=True)] if attn_type == 0 else []
        yield f"{name}, options of attention", [(kind | x, *normal, False) for x in more]
        norms = [dict(pre_lnorm=True), dict(pre_lnorm=True, raw_queries=True)]
        yield f"{name}, LayerNorm before", [(kind | x, *normal, False) for x in norms]
        rates = kind | dict(dropout=0.3, dropatt=0.2)
        yield f"{name}, the same dropout masks", [(rates, *normal, False)]
        yield f"{name}, memory of zeros", [(kind | dict(start_mems="zeros"), *normal, False)]
        ext = [dict(ext_len=e, ext_len_swapped=s) for e in (2, 6) for s in (False, True)]
        yield f"{name}, segments that overlap", [(kind | x, *normal, False) for x in ext]
        yield f"{name}, loss on the last positions", [(kind, *normal, True), (kind, *short, True)]
    for div_val, cutoffs in itertools.product((1, 2), ((), (5,), (3, 8))):
        words = [x for x in WORDS if (x["div_val"], x["cutoffs"]) == (div_val, cutoffs)]
        name = f"div_val {div_val}, {len(cutoffs) or 'no'} cutoffs, {len(words)} combinations"
        yield name, [(x | dict(n_layer=1), 4, (6, 5), False) for x in words]
    yield f"all options crossed, {len(CASES)} cases", [options_of(case) for case in CASES]


def print_table():
    """Print the largest absolute differences as a table in Markdown."""
    print("| variant | loss | memories | gradients | largest gradient |")
    print("|---|---|---|---|---|")
    for name, cases in table_cases():
        apart, size = np.zeros(3), 0.0
        for case in cases:
            for _, (nll, mems, grads), (nll2, mems2, grads2) in read_by_both(*case):
                found = [
                    difference(nll, nll2),
                    max(difference(a, b) for a, b in zip(mems, mems2, strict=True)),
                    max(difference(grads[x], grads2[x]) for x in grads2),
                ]
                apart = np.maximum(apart, found)
                size = max(size, *(np.max(np.abs(g)) for g in grads2.values()))
        print(f"| {name} | " + " | ".join(f"{x:.1e}" for x in apart) + f" | {size:.1e} |")


def difference(a, b):
    return np.max(np.abs(np.asarray(a) - b), initial=0.0)


if __name__ == "__main__":
    print_table()
