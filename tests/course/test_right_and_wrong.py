"""Right answers pass in every style; wrong ones, made by mutation, do not: for every exercise."""

import inspect
import math
from collections import Counter
from dataclasses import replace
from fnmatch import fnmatch

import numpy as np
import pytest

from helpers.course_answers import ANSWERS
from helpers.mutants import changed_arguments as changed
from helpers.mutants import mutants
from helpers.other_answers import OTHERS
from minitxl.course import EXERCISES, generator
from minitxl.course.hints import close
from minitxl.course.running import Failed, call

IDS = sorted(EXERCISES)
QUICK = {e: replace(EXERCISES[e], mistakes=()) for e in IDS}  # what is wrong is not named
STYLES = [(e, f) for e in IDS for f in (ANSWERS[e], *OTHERS[e])]

# Mutants that are as right as what they were made of: what is printed, shapes (-2 for -1 in a
# reshape), orders of a sum or of an inner product, transposes of what is symmetric, conditions that
# never decide, a base of 10001, which nobody can see.
_WIDE = "column[None, None] + np.zeros((*q.shape[:2], 1, 1), dtype=int)"
_MORE = "[x[..., i + 1, c] for c in range(k - len(line))]"
_ROOT = "np.sqrt(v / (1 - 0.999 ** (s + 1)))"  # epsilon's sign: its size is not seen
# fmt: off
EQUIVALENT = {
    "lengths_by_tile": ["1 -> 2"],
    "culprits_by_table": ["0 -> -1", "0 -> 1"],
    "softmax_backward_by_jacobian": [
        "0 -> -1",
        "'btk,kj->btkj' -> 'btk,jk->btkj'",
        "'btk,kj->btkj' -> 'btk,kj->btjk'",
    ],
    "softmax_backward_aloud": [
        "(..., :, None) -> (:, ..., None)", "0 -> -1", ":3 -> :", "3 -> 4", "3 -> 2"
    ],
    "layer_norm_backward": ["(0, 1) -> (1, 0)", "(0, 1) -> (1, 0)"],
    "layer_norm_backward_by_jacobian": [
        "1 -> 2",
        "'btj,btjk->btk' -> 'btj,btkj->btk'",
        "(..., :, None) -> (:, ..., None)",
    ],
    "attend_by_loop": ["q[b, h, i] @ k[b, h, j] -> k[b, h, j] @ q[b, h, i]"],
    "attention_backward_by_heads": [
        "(np.zeros_like(q), np.zeros_like(k), np.zeros_like(v))"
        " -> (np.zeros_like(q), np.zeros_like(v), np.zeros_like(k))"
    ],
    "layer_norm_backward_by_steps": ["0 -> 1"],
    "attend_by_masked_array": ["0 -> 1", "0 -> -1"],
    "relative_positions": ["10000 -> 10001", "10000 -> 9999"],
    "positions_by_outer": ["10000 -> 10001", "10000 -> 9999"],
    "positions_by_complex": ["d_model // 2 -> d_model / 2"],
    "shift_by_index": ["1 -> 2"],
    "shift_by_loop": [
        "i + 1 < t -> i + 1 <= t",
        "i + 1 -> i - 1",
        "i + 1 -> i",
        "1 -> 2",
        "1 -> 0",
        "2 -> 3",
        f"{_MORE} if i + 1 < t else [] -> {_MORE}",
    ],
    "unshift_by_matrix": ["1 -> 2"],
    "unshift_by_scatter": ["t:t + t * k -> t:"],
    "four_terms": ["-1 -> 1"],
    "terms_by_index": [
        "0 -> -1",
        f"{_WIDE} -> {_WIDE.replace(' + ', ' - ')}",
        f"{_WIDE} -> column[None, None]",
        "c + 0 * a -> c - 0 * a",
        "d[None] + 0 * a -> d[None] - 0 * a",
        "0 * a -> 0 / a",
        "0 * a -> 0 / a",
    ],
    "terms_by_shift": ["-2 -> 2"],
    "biases_by_sums": ["1 -> 0", "0 -> -1"],
    "biases_by_table": ["(:, :, i, j, None) -> (:, :, i, None, j)"],
    "contiguous_batch": ["1 -> 2", "1 -> 2"],
    "batch_by_split": ["b * per_row:(b + 1) * per_row + 1 -> b * per_row:", "1 -> 2", "1 -> 2"],
    "mask_by_lists": ["0 -> -1"],
    "stop_by_loop": [
        "(np.zeros_like(w_k), np.zeros_like(w_v)) -> (np.zeros_like(w_v), np.zeros_like(w_k))"
    ],
    "stop_by_reshape": ["1 -> 2", "1 -> 2"],
    "layer_by_loop": ["qi @ kj -> kj @ qi", "0 -> -1", "f > 0 -> f >= 0"],
    "layer_by_einsum": ["a @ w[4] > 0 -> a @ w[4] >= 0", "0 -> 1"],
    "layer_backward": ["0 -> 1"],
    "layer_back_by_tape": [
        "(add(a, grads[out] @ y.swapaxes(-1, -2)), add(b, x.swapaxes(-1, -2) @ grads[out]))"
        " -> (add(b, x.swapaxes(-1, -2) @ grads[out]), add(a, grads[out] @ y.swapaxes(-1, -2)))",
        "f > 0 -> f >= 0",
    ],
    "nll_by_table": ["0 -> -1"],
    "train": [
        f"{_ROOT} + 1e-08 -> {_ROOT} - 1e-08",
    ],
    "train_by_accumulation": [
        "norm > clip -> norm >= clip",
        "np.sqrt(means[1]) + 1e-08 -> np.sqrt(means[1]) - 1e-08",
    ],
    "train_by_object": ["0 -> 1"],
    "loss_gradient_by_logsumexp": ["-1 -> 1", "-1 -> 1", "0 -> -1"],
    "bits_by_loop": ["(0.0, 0) -> (0, 0.0)"],
    "speed_by_parts": ["2 -> 3", "2 -> 1"],
    "affordable_memory": ["flops // n_layer -> flops / n_layer"],
    "delta_backward": ["du @ new -> new @ du", "(q, k, v, b) -> (k, q, v, b)"],
    "delta_by_maps": [
        "k[t] @ g @ v[t] -> v[t] @ (k[t] @ g)",
        "k[t] @ da @ k[t] -> k[t] @ (k[t] @ da)",
        "a[t].T -> a[t]",
        "both @ k[t] -> k[t] @ both",
        "k[t] @ da -> da @ k[t]",
    ],
    "update_by_matrix": ["out // rate -> out / rate"],
    "affordable_by_search": ["30 -> 31", "30 -> 29", "10 -> 11", "10 -> 9", "7 -> 8", "7 -> 6"],
}
# fmt: on


def score(exercise_id, answer, seed=0):
    return QUICK[exercise_id].judge(answer, generator(exercise_id, seed))


@pytest.mark.parametrize(("exercise_id", "answer"), STYLES, ids=lambda x: getattr(x, "__name__", x))
def test_right_answers_in_other_styles(exercise_id, answer):
    for seed in range(6):
        verdict = score(exercise_id, answer, seed)
        assert verdict.passed, f"seed {seed}: {verdict.message}"


def low(x):
    """What is of float64, in float32."""
    if isinstance(x, list | tuple):
        return type(x)(map(low, x))
    return np.float32(x) if isinstance(x, np.ndarray) and x.dtype == float else x


def in_float32(answer):
    return lambda *args: low(answer(*map(low, args)))


def aloud(answer):
    def f(*args):
        print("called with", *args)
        result = answer(*args)
        print(result)
        return result

    return f


def as_list(answer):
    def f(*args):
        result = answer(*args)
        if isinstance(result, tuple):
            return list(result)
        return np.asarray(result).tolist() if np.size(result) else result

    return f


def by_torch(answer):
    """Tensors out, which is what PyTorch returns."""
    torch = pytest.importorskip("torch")

    def tensors(x):
        if isinstance(x, list | tuple):
            return type(x)(map(tensors, x))
        return torch.tensor(x, requires_grad=np.asarray(x).dtype.kind == "f")

    return lambda *args: tensors(answer(*args))


@pytest.mark.parametrize("style", [in_float32, aloud, as_list, by_torch])
@pytest.mark.parametrize("exercise_id", IDS)
def test_harmless_things_cost_nothing(exercise_id, style, capsys):
    for seed in range(2):
        verdict = score(exercise_id, style(ANSWERS[exercise_id]), seed)
        assert verdict.passed, f"seed {seed}: {verdict.message}"


def outputs_of(e, case, answer):
    """What an answer gives in a case, as it is compared; None where it fails."""
    got = call(answer, case.args, e.arguments, e.outputs)
    return (
        None if isinstance(got, Failed) else e._seen(tuple(np.asarray(x, float) for x in got), case)
    )


def same(e, case, answer, wanted):
    """As the judge has it, without its words: they take time."""
    got = outputs_of(e, case, answer)
    return got is not None and all(
        close(*pair, case.rtol) for pair in zip(got, wanted, strict=True)
    )


def drawn(exercise_id):
    """An exercise, its cases, and what is right in each."""
    e = QUICK[exercise_id]
    cases = e.cases(generator(exercise_id, 0))
    return e, [(case, outputs_of(e, case, e.model_solution)) for case in cases]


@pytest.mark.parametrize("exercise_id", IDS)
def test_wrong_answers_are_found(exercise_id, capsys):
    wrong, passed = 0, Counter()
    e, cases = drawn(exercise_id)
    for answer in (ANSWERS[exercise_id], *OTHERS[exercise_id]):
        for what, source in mutants(inspect.getsource(answer)):
            names = dict(answer.__globals__)
            exec(source, names)
            if all(same(e, case, names[answer.__name__], wanted) for case, wanted in cases):
                assert score(exercise_id, names[answer.__name__]).passed  # by the judge as well
                passed[answer.__name__, what] += 1
            else:
                wrong += 1
    known = Counter((name, what) for name, all in EQUIVALENT.items() for what in all)
    names = {f.__name__ for f in (ANSWERS[exercise_id], *OTHERS[exercise_id])}
    assert passed == Counter({k: n for k, n in known.items() if k[0] in names})
    assert wrong >= 20


# What an exercise does not depend on, so that nobody can be asked to.
INVARIANT = {
    "softmax-backward": ["p without signs"],
    "attention-backward": ["p without signs"],
    "training-loop": ["rate without signs"],
    "bits-per-character": ["nll [ra]*", "nll without signs*"],  # a mean
    "recl-gain": ["near r* along 0", "* without signs"],  # the best of all models
    "affordable-memory": ["flops + 1"],  # it is rounded down
    "compression-gradient": ["q r* along 0", "old r* along 0", "w_v r* along 1", "w_v negated"],
    "delta-backward": ["b without signs"],
    "memory-tokens-gradient": ["p1 with* first along 0", "p2 with zeros first along 0"],
}


@pytest.mark.parametrize("exercise_id", IDS)
def test_every_argument_has_its_say(exercise_id):
    """An answer that takes one of them for something else is right in some case at the most."""
    e, cases = drawn(exercise_id)
    survivors, dead = set(), set()  # what was changed
    with np.errstate(all="ignore"):
        for case, wanted in cases:
            for n, x in enumerate(case.args):
                for what, new in changed(e.arguments[n], x):
                    other = case._replace(args=(*case.args[:n], new, *case.args[n + 1 :]))
                    if what not in dead:
                        alike = same(e, other, e.model_solution, wanted)
                        (survivors if alike else dead).add(what)
    survivors -= dead
    known = INVARIANT.get(exercise_id, [])
    assert {s for s in survivors if not any(fnmatch(s, k) for k in known)} == set()
    assert all(any(fnmatch(s, k) for s in survivors) for k in known)


def with_half(x):
    return round(x)


WRONG = [  # that passed once, or that mutation does not make
    ("reach", lambda n, t, m: (n - 1) * t * with_half(m / t) + m),
    ("reach", lambda n, t, m: (n - 1) * t * ((m + t // 2) // t) + m),
    ("influence", lambda n, t, m, o: (n - 1) * t * with_half(m / t) + m + o + 1),
    ("context-lengths", lambda n, t: np.tile(np.arange(1, t + 1), n // t)),
    ("contiguous-batch", lambda text, b, t, n: _batch(text, b, t, n, len(text) // (b * t))),
    ("recl-gain", lambda near, far, r: _gain(near, far, int(r * near.shape[1]))),
    ("recl-gain", lambda near, far, r: _gain(near, far, max(1, int(r * near.shape[1])))),
    ("recl-gain", lambda near, far, r: _gain(near, far, math.ceil(r * near.shape[1]))),
]


def _batch(text, b, t, n, steps):
    at = np.arange(b)[:, None] * steps * t + n * t + np.arange(t)
    return text[at], text[at + 1]


def _gain(near, far, n):
    best = near.min(0)
    hard = np.argsort(best)[::-1][:n]
    return 1 - np.exp(np.minimum(best, far)[:, hard].mean(1) - best[hard].mean())


@pytest.mark.parametrize(("exercise_id", "answer"), WRONG)
def test_wrong_answers_that_once_passed(exercise_id, answer):
    assert all(not score(exercise_id, answer, seed).passed for seed in range(20))
