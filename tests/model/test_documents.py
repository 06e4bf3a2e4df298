"""Documents in rows: each gets the numbers and the gradients that it would have alone."""

import numpy as np
import pytest

from helpers import host_cuda
from helpers.models import V, make_model, make_tokens
from minitxl import MinitxlError, TrainConfig
from minitxl.backend import get_backend
from minitxl.data.documents import checked_starts, right_aligned
from minitxl.data.stream import Stream, segments
from minitxl.inference import cached
from minitxl.inference.cached import reader_of
from minitxl.inference.evaluate import evaluate
from minitxl.inference.plain import PlainReader
from minitxl.inference.sliding import evaluate_sliding
from minitxl.training.trainer import Trainer

CPU = get_backend("cpu", "float64")
OPTIONS = [
    {},
    {"mem_len": 2},
    {"pre_lnorm": True},
    {"clamp_len": 3, "untie_r": True},
    {"same_length": True},
    {"attn_type": 1},
    {"attn_type": 2},
    {"attn_type": 3},
    {"attn_type": 4},
    {"attn_type": 5},
    {"cutoffs": (3, 7), "div_val": 2, "d_embed": 8},
]
ROWS = [make_tokens(n, seed=n) for n in (9, 4, 7, 1)]


def name(options):
    return "-".join(f"{k}={v}" for k, v in options.items()) or "default"


def cut(array, widths):
    return np.split(array, np.cumsum(widths)[:-1], axis=1)


def read_all(model, tokens, places, widths):
    """Log-probabilities (B, n, V), and nll (B, n - 1) by `score`, in segments of these widths."""
    back, found, mems = model.backend, [], None
    for x, p in zip(cut(tokens, widths), cut(places, widths), strict=True):
        log_p, mems = model.predict(back.asarray(x), mems, position_ids=back.asarray(p))
        found.append(back.to_numpy(log_p))
    return np.concatenate(found, axis=1)


def alone(model, row, widths):
    """The same of one row without a batch, memory from its own segments only."""
    found, mems, end = [], None, sum(widths)
    for width in widths:
        end -= width
        part = row[max(0, len(row) - end - width) : max(0, len(row) - end)]
        if len(part):
            log_p, mems = model.predict(model.backend.asarray(part[None, :]), mems)
            found.append(model.backend.to_numpy(log_p))
    return np.concatenate(found, axis=1)[0]


@pytest.mark.parametrize("options", OPTIONS, ids=name)
@pytest.mark.parametrize("widths", [(9,), (5, 1, 3)])
def test_rows_of_different_length_are_read_as_if_alone(options, widths):
    model = make_model(CPU, **options)
    tokens, places = right_aligned(ROWS)
    together = read_all(model, tokens, places, widths)
    for b, row in enumerate(ROWS):
        want = alone(model, row, widths)
        np.testing.assert_allclose(together[b, -len(row) :], want, rtol=0, atol=1e-12)


def test_wherever_the_model_runs(backend):
    model, (tokens, places) = make_model(backend, same_length=True), right_aligned(ROWS)
    want = read_all(make_model(CPU, same_length=True), tokens, places, (5, 4))
    np.testing.assert_allclose(read_all(model, tokens, places, (5, 4)), want, rtol=0, atol=1e-12)


# Row 0 begins anew within the second segment, row 1 with it, row 2 goes on; row 3 twice.
STARTS = [[0, 7], [0, 5], [0], [0, 2, 8]]


def documents():
    tokens = make_tokens(4, 11, seed=5)
    places = np.zeros((4, 10), dtype=np.int32)
    for row, starts in zip(places, STARTS, strict=True):
        for start in starts:
            row[start:] = np.arange(10 - start)
    return tokens[:, :-1], tokens[:, 1:], places


def second(model, tokens, targets, places, dnll=None):
    """nll (B, 5) of the second segment, and the gradients of their sum, weighted."""
    (x, more), (y, after), (p, q) = (cut(a, (5, 5)) for a in (tokens, targets, places))
    _, mems, _ = model.forward(x, y, position_ids=p)
    nll, _, cache = model.forward(more, after, mems, position_ids=q)
    return nll, model.backward(cache, dnll)


@pytest.mark.parametrize("options", OPTIONS, ids=name)
def test_a_new_document_sees_nothing_of_the_old(options):
    """Perturbed, the old one shows in its own losses and nowhere else; the gradients tell too."""
    model = make_model(CPU, **options)
    tokens, targets, places = documents()
    before, _ = second(model, tokens, targets, places)
    changed = tokens.copy()
    for row, starts in zip(changed, STARTS, strict=True):
        last = starts[-1]
        row[:last] = (row[:last] + 3) % V
    after, _ = second(model, changed, targets, places)
    for b, starts in enumerate(STARTS):
        last = max(0, starts[-1] - 5)
        np.testing.assert_array_equal(after[b, last:], before[b, last:])
        assert (after[b, :last] != before[b, :last]).all()
    changed = tokens.copy()
    changed[2, 4] = (changed[2, 4] + 3) % V  # the same document: it is still remembered
    assert (second(model, changed, targets, places)[0][2] != before[2]).all()


@pytest.mark.parametrize("options", OPTIONS, ids=name)
def test_loss_and_gradient_are_those_of_the_document_alone(options):
    """Of row 1, which begins anew with the segment, and of row 0, which does within it."""
    model = make_model(CPU, **options)
    tokens, targets, places = documents()
    for b, first in ((1, 5), (0, 7)):
        dnll = np.zeros((4, 5))
        dnll[b, first - 5 :] = np.random.default_rng(b).normal(size=10 - first)
        nll, grads = second(model, tokens, targets, places, dnll)
        x, y = tokens[b : b + 1, first:], targets[b : b + 1, first:]
        own, _, cache = model.forward(x, y)
        np.testing.assert_allclose(nll[b, first - 5 :], own[0], rtol=0, atol=1e-12)
        want = model.backward(cache, dnll[b : b + 1, first - 5 :])
        np.testing.assert_allclose(grads.flat, want.flat, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"same_length": True, "pre_lnorm": True}], ids=name)
def test_twins_read_documents_as_the_plain_operations_do(options):
    config = make_model(CPU, **options)
    plain = make_model(get_backend("cpu", "float64", fused=False), **options)
    for (a, da), (b, db) in [(second(config, *documents()), second(plain, *documents()))]:
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
        np.testing.assert_allclose(da.flat, db.flat, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=name)
def test_readers_read_documents_as_the_model_does(options, monkeypatch):
    """With kept keys, cut into pieces on threads, and token by token behind prompts."""
    monkeypatch.setattr(cached, "BLOCK", 40)
    monkeypatch.setattr(cached, "MIN_QUERIES", 2)
    model = make_model(CPU, **options)
    tokens, places = right_aligned(ROWS)
    tokens = np.concatenate([tokens, make_tokens(4, 3)], axis=1)
    places = np.concatenate([places, places[:, -1:] + [[1, 2, 3]]], axis=1)
    widths = (5, 4, 1, 1, 1)
    want = read_all(model, tokens, places, widths)
    for reader in (reader_of(model, 4, threads=2), PlainReader(model, 4)):
        parts = zip(cut(tokens, widths), cut(places, widths), strict=True)
        found = np.concatenate([reader.read(x, position_ids=p) for x, p in parts], axis=1)
        for b, row in enumerate(ROWS):
            n = len(row) + 3
            np.testing.assert_allclose(found[b, -n:], want[b, -n:], rtol=0, atol=1e-12)


# --- streams ------------------------------------------------------------------------------------

STARTED = np.array([0, 4, 5, 17, 30])  # of 42 tokens
TEXT = make_tokens(42, seed=8)


def test_places_of_a_stream():
    stream = Stream(TEXT, batch_size=2, tgt_len=5, ext_len=2, document_starts=STARTED)
    whole = np.concatenate([np.arange(n) for n in np.diff([*STARTED, 42])])
    for _ in range(2):
        for n in range(4):
            tokens, _, fresh, places = stream.next()
            first = max(0, 5 * n - 2)
            assert fresh == (n == 0) and places.dtype == np.int32
            for b in (0, 20):
                np.testing.assert_array_equal(places[b // 20], whole[b + first : b + 5 * n + 5])
                np.testing.assert_array_equal(tokens[b // 20], TEXT[b + first : b + 5 * n + 5])
    other = Stream(TEXT, batch_size=2, tgt_len=5, ext_len=2, document_starts=[4])
    with pytest.raises(MinitxlError, match="documents that began elsewhere"):
        other.set_state(stream.state())
    with pytest.raises(MinitxlError, match="needs the keys"):
        Stream(TEXT, batch_size=2, tgt_len=5).set_state(stream.state())


@pytest.mark.parametrize("ext_len", [0, 2])
@pytest.mark.parametrize("reads", [True, False])
def test_evaluation_of_documents_is_that_of_each_alone(ext_len, reads):
    """A memory as long as any document: each token's loss is that of its document read at once.

    The first token of a document follows the old one's last, which it does not know the old by.
    """
    model = make_model(CPU, mem_len=42, ext_len=ext_len)
    nats = 0.0
    for a, b in zip(STARTED, [*STARTED[1:], 41], strict=True):
        nats += model.score(TEXT[None, a:b], TEXT[None, a + 1 : b + 1])[0].sum()
    found = evaluate(model, TEXT, cached=reads, document_starts=STARTED[1:])
    assert found.nats == pytest.approx(nats / 41, rel=1e-12)
    assert found.nats != pytest.approx(evaluate(model, TEXT).nats, rel=1e-3)
    rows = [evaluate(model, TEXT, batch_size=4, threads=n, document_starts=STARTED) for n in (1, 2)]
    assert rows[0].nats == pytest.approx(rows[1].nats, rel=1e-12)


def trained(backend, tokens, **settings):
    """The parameters after a few steps on documents, and the losses."""
    model = make_model(backend, tgt_len=5)
    settings = TrainConfig(**dict(batch_size=4, threads=1, lr=0.01, warmup=0) | settings)
    trainer = Trainer(model, settings)
    stream = Stream(tokens, batch_size=4, tgt_len=5, document_starts=[7, 11, 30, 33, 50, 52, 75])
    losses = [trainer.step(*stream.next()) for _ in range(9)]
    return [backend.to_numpy(a) for a in (*losses, model.params.flat)]


def test_training_on_documents_replayed_and_in_pieces(monkeypatch):
    """On an emulated GPU, recorded and replayed, in pieces or whole: the numbers of the CPU."""
    tokens = make_tokens(101, seed=2)
    for pieces in (1, 2):
        want = trained(get_backend("cpu", "float64", fused=False), tokens, accumulate=pieces)
        for fused in (True, False):
            gpu = host_cuda.Gpu()
            found = trained(
                host_cuda.backend(monkeypatch, gpu, fused=fused), tokens, accumulate=pieces
            )
            assert gpu.replays >= 3 or not fused
            gpu.check_guards()
            for a, b in zip(found, want, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda m, x: m.predict(x, position_ids=x[:, 1:]), r"position_ids has shape \(2, 4\)"),
        (lambda m, x: m.predict(x, position_ids=x - 50), "position_ids holds ids from -"),
        (lambda m, x: m.predict(x, position_ids=x * 1.0), "type float64"),
        (lambda m, x: right_aligned([[1], []]), "row 1 is no sequence"),
        (lambda m, x: right_aligned([]), "row 0"),
        (lambda m, x: right_aligned(["ab"]), "row 0 .* vocab.encode"),
        (lambda m, x: right_aligned(3), "rows must be"),
        (lambda m, x: checked_starts([3, 3], 9), "must be rising integers"),
        (lambda m, x: checked_starts([[1], [2, 3]], 9), "must be rising integers"),
        (lambda m, x: checked_starts([0.5], 9), "must be rising integers"),
        (lambda m, x: checked_starts([-1, 3], 9), "from -1 to 3, the text has 9"),
        (lambda m, x: checked_starts([3, 10], 9), "from 3 to 10, the text has 9"),
        (lambda m, x: m[1].predict(x, position_ids=x), 'start_mems="zeros"'),
        (lambda m, x: m[2].predict(x, position_ids=x), "ext_len_swapped"),
    ],
)
def test_mistakes_are_told(act, words):
    model, x = make_model(CPU), make_tokens(2, 5)
    if "m[" in words or "zeros" in words or "swapped" in words:
        others = ({"start_mems": "zeros"}, {"ext_len": 9, "ext_len_swapped": True})
        model = [model, *(make_model(CPU, **o) for o in others)]
    with pytest.raises(MinitxlError, match=words) as caught:
        act(model, x)
    assert "\n" not in str(caught.value)


RAGGED = "rows of different length.*right_aligned"
INPUTS = {
    "ragged": ([[1, 2, 3], [4, 5]], RAGGED),
    "ragged objects": (np.array([[1, 2, 3], [4, 5]], dtype=object), RAGGED),
    "prompts": (["to be", "or not"], "integers.*vocab.encode"),
    "a prompt": ("to be", "integers.*vocab.encode"),
    "rows of prompts": ([["a", "b"]], "integers.*vocab.encode"),
    "floats": ([[1.0, 2.0]], "float64; token ids must be integers"),
    "float array": (np.ones((1, 2), np.float32), "float32; token ids must be integers"),
    "nan": ([[float("nan")]], "token ids must be integers"),
    "bool": ([[True, False]], "bool; token ids must be integers"),
    "none": (None, "what is no number"),
    "nones": ([[None, 1]], "what is no number"),
    "objects": ([[object()]], "what is no number"),
    "dictionary": ({1: 2}, "what is no number"),
    "one row": ([1, 2], r"shape \(2,\); it must be \(B, T\).*\[ids\]"),
    "one id": (3, r"shape \(\)"),
    "three axes": ([[[1]]], r"shape \(1, 1, 1\)"),
    "empty": ([], r"shape \(0,\)"),
    "empty rows": ([[], []], r"shape \(2, 0\)"),
    "negative": ([[1, -1]], "from -1 to 1, the model knows 0 to 10"),
    "too large": ([[1, V]], "from 1 to 11, the model knows 0 to 10"),
    "unsigned": (np.array([[2**64 - 1]], dtype=np.uint64), "to 18446744073709551615"),
    "beyond all integers": ([[10**30]], "what is no number"),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_what_is_no_batch_of_ids_is_told(kind):
    """One line with the way out, from every way into the model, and from readers."""
    ids, words = INPUTS[kind]
    model, right = make_model(CPU), [[1, 2]]
    calls = [
        lambda: model.predict(ids),
        lambda: model.forward(ids, right),
        lambda: model.score(right, ids),
        lambda: model.predict(right, position_ids=ids),
        lambda: reader_of(model).read(ids),
        lambda: PlainReader(model).score(ids, right),
    ]
    for n, call in enumerate(calls):
        if ids is None and n == 3:  # none are given
            continue
        if kind in ("too large",) and n == 3:
            continue
        with pytest.raises(MinitxlError, match=words.split(", the model")[0]) as caught:
            call()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", sorted(set(INPUTS) - {"one row"}))  # which is a text
def test_what_is_no_text_of_ids_is_told(kind):
    """By evaluation, streams and training, which take rows of their own."""
    ids, model = INPUTS[kind][0], make_model(CPU)
    trainer = Trainer(model, TrainConfig(batch_size=2, threads=1))
    one = [lambda: evaluate(model, ids), lambda: evaluate_sliding(model, ids, window=4)]
    one += [
        lambda: Stream(ids, batch_size=1, tgt_len=5),
        lambda: segments(ids, batch_size=9, tgt_len=1),
    ]
    one += [lambda: trainer.step(ids, ids), lambda: trainer.step([[1, 2], [3, 4]], ids)]
    for call in one:
        with pytest.raises(MinitxlError, match=r"^[^\n]{10,300}$"):
            call()


@pytest.mark.parametrize("kind", ["ragged", "prompts", "none", "bool", "negative", "one row"])
def test_it_is_told_wherever_the_model_runs(backend, kind):
    with pytest.raises(MinitxlError, match=r"^tokens [^\n]*$"):
        make_model(backend).predict(INPUTS[kind][0])
