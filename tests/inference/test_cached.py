"""Reading with kept keys and values: the same numbers as the plain path, and no waste."""

from itertools import pairwise

import numpy as np
import pytest

from helpers.models import B, M, T, V, make_model, make_tokens, read
from minitxl import MinitxlError, TransformerXL
from minitxl.backend import get_backend
from minitxl.inference import cached
from minitxl.inference.cached import CachedReader, reader_of
from minitxl.inference.evaluate import evaluate
from minitxl.inference.generate import generate, sample_token
from minitxl.inference.plain import PlainReader

CPU = get_backend("cpu", "float64")
OPTIONS = [
    {},
    {"mem_len": 0},
    {"mem_len": 2},  # M < T
    {"mem_len": 17},
    {"pre_lnorm": True},
    {"pre_lnorm": True, "raw_queries": True},
    {"untie_r": True},
    {"clamp_len": 3},
    {"same_length": True},
    {"same_length": True, "mem_len": 2},
    {"same_length": True, "mem_len": 0, "same_length_extra": 1},
    {"same_length": True, "same_length_extra": 1, "clamp_len": 4, "pre_lnorm": True},
    {"start_mems": "zeros"},
    {"start_mems": "zeros", "pre_lnorm": True, "same_length": True},
    {"ext_len": 2},
    {"ext_len": 9},
    {"ext_len": 9, "ext_len_swapped": True},
    {"cutoffs": (3, 7), "div_val": 2, "d_embed": 8},
    {"attn_type": 1},
    {"attn_type": 1, "clamp_len": 4, "same_length": True, "start_mems": "zeros"},
    {"attn_type": 1, "max_klen": 7, "pre_lnorm": True, "mem_len": 17},
    {"attn_type": 1, "ext_len": 2, "cutoffs": (3, 7), "untie_r": True},
    {"attn_type": 4},
    {"attn_type": 4, "pre_lnorm": True, "mem_len": 17, "same_length": True},
    {"attn_type": 4, "ext_len": 2, "start_mems": "zeros"},
    {"attn_type": 5, "mem_len": 17},
    {"attn_type": 5, "clamp_len": 4, "same_length": True, "pre_lnorm": True},
]
LENGTHS = (T, 1, 1, 12, T, T, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, T, 30, T, 1, 4)


def name(options):
    return "-".join(f"{k}={v}" for k, v in options.items()) or "default"


def text(lengths=LENGTHS, rows=B):
    """Segments (tokens, targets) of one stream, of these lengths."""
    stream = make_tokens(rows, sum(lengths) + 1)
    edges = np.cumsum((0, *lengths))
    return [(stream[:, a:b], stream[:, a + 1 : b + 1]) for a, b in pairwise(edges)]


def assert_same(model, reader, segments, **tolerance):
    """Both ways read the segments: log-probabilities, losses and memories agree."""
    to_numpy, mems = model.backend.to_numpy, reader.mems
    for n, (x, y) in enumerate(segments):
        x, y = model.backend.asarray(x), model.backend.asarray(y)
        log_p, new_mems = model.predict(x, mems)
        if n % 2:
            got, want = reader.read(x), log_p
        else:
            got, want = reader.score(x, y[:, x.shape[1] // 2 :]), model.score(x, y, mems)[0]
            want = want[:, x.shape[1] // 2 :]
        assert got.shape == want.shape and got.dtype == want.dtype
        np.testing.assert_allclose(to_numpy(got), to_numpy(want), **tolerance)
        mems = new_mems
        for a, b in zip(reader.mems, mems, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            np.testing.assert_allclose(to_numpy(a), to_numpy(b), **tolerance)


@pytest.mark.parametrize("options", OPTIONS, ids=name)
def test_same_numbers(options):
    model = make_model(CPU, **options)
    assert_same(model, CachedReader(model, B), text(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS[:1] + OPTIONS[11::4], ids=name)
def test_same_numbers_wherever_the_model_runs(backend, options):
    model = make_model(backend, **options)
    assert_same(model, CachedReader(model, B), text(LENGTHS[:8]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=name)
def test_same_numbers_in_float32(options):
    model = TransformerXL(make_model(CPU, **options).config, "cpu", seed=1)
    assert_same(model, CachedReader(model, B), text(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS, ids=name)
@pytest.mark.parametrize("block", [1, 40, 200])
def test_cut_into_pieces_on_threads(monkeypatch, options, block):
    """Blocks of queries and heads, as long segments have them, at a size for tests."""
    monkeypatch.setattr(cached, "BLOCK", block)
    monkeypatch.setattr(cached, "MIN_QUERIES", 3)
    model = make_model(CPU, **options)
    reader = CachedReader(model, B, threads=2)
    assert_same(model, reader, text((T, 12, 1, 30, 4)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("b,n_head,t,k,block", [(2, 3, 5, 11, 40), (3, 4, 100, 120, 9000)])
def test_pieces_cover_everything_once(b, n_head, t, k, block):
    for size in (block, None, 10**9):
        count = np.zeros((b, n_head, t), dtype=int)
        for piece in cached._pieces(b, n_head, t, k, size):
            count[piece] += 1
        assert (count == 1).all()
    assert len(list(cached._pieces(b, n_head, t, k, None))) == 1


# --- what is kept ---


@pytest.mark.parametrize("options", [{}, {"attn_type": 1}], ids=name)
def test_only_new_tokens_are_projected(monkeypatch, options):
    """However long the memory, a token costs projections of one row; the positions cost none."""
    model = make_model(CPU, mem_len=50, **options)
    reader = CachedReader(model)
    for x, _ in text((60, 1), rows=1):
        reader.read(x)
    rows, tables = [], []
    real = cached.heads_forward

    def watched(x, h, *weights, **settings):
        rows.append((x.shape[1], h.shape[1]))
        return real(x, h, *weights, **settings)

    monkeypatch.setattr(cached, "heads_forward", watched)
    monkeypatch.setattr(cached, "_positions", lambda *_: tables.append(1))
    for x, _ in text((1,) * 120, rows=1):
        reader.read(x)
    assert set(rows) == {(1, 1)} and not tables


def test_buffers_move_seldom_and_stay_bounded(monkeypatch):
    model = make_model(CPU, mem_len=50)
    reader, moves = CachedReader(model), []
    real = cached._Layer.move
    monkeypatch.setattr(
        cached._Layer,
        "move",
        lambda *a: moves.append(a[3]) or real(*a),  # of a: the new length
    )
    for x, _ in text((1,) * 600, rows=1):
        reader.read(x)
    assert len(moves) / model.config.n_layer <= 600 / 25
    assert max(moves) <= 1.5 * 50 + 1


@pytest.mark.parametrize("options", [{}, {"attn_type": 1}, {"clamp_len": 3}], ids=name)
def test_positions_are_made_once_while_the_memory_fills(monkeypatch, options):
    model, made = make_model(CPU, mem_len=50, **options), []
    real = cached._positions
    monkeypatch.setattr(cached, "_positions", lambda *a: made.append(1) or real(*a))
    reader = CachedReader(model)
    for x, _ in text((3, *(1,) * 60, 3), rows=1):
        reader.read(x)
    assert len(made) == model.config.n_layer


@pytest.mark.parametrize("options", [{}, {"attn_type": 4}], ids=name)
def test_there_and_back(options):
    """mems go from the model to a reader and back, and what is done to them shows in neither."""
    model = make_model(CPU, **options)
    segments = text((T, T, 3, T, T))
    mems = None
    for x, _ in segments[:2]:
        _, mems = model.predict(x, mems)
    reader = CachedReader.from_mems(model, mems)
    assert_same(model, reader, segments[2:4], rtol=0, atol=1e-12)
    kept = reader.mems
    before = [m.copy() for m in kept]
    plain, _ = model.predict(segments[4][0], kept)
    np.testing.assert_allclose(reader.read(segments[4][0]), plain, rtol=0, atol=1e-12)
    for a, b in zip(kept, before, strict=True):
        np.testing.assert_array_equal(a, b)
    for a in reader.mems:
        a[...] = np.nan
    assert all(np.isfinite(a).all() for a in reader.mems)
    reader.mems = mems  # back to an earlier place
    assert_same(model, reader, segments[2:], rtol=0, atol=1e-12)


def test_reset_begins_anew():
    model = make_model(CPU)
    segments = text((T, 2 * T, 3))
    reader = CachedReader(model, B)
    first = [reader.read(x) for x, _ in segments]
    reader.reset()
    assert reader.mems[0].shape == (B, 0, model.config.d_model)
    for (x, _), want in zip(segments, first, strict=True):
        np.testing.assert_array_equal(reader.read(x), want)


def test_lengths_of_its_own():
    model = make_model(CPU)
    lengths = dict(mem_len=11, clamp_len=5, same_length=True)
    assert_same(
        model.with_options(**lengths), CachedReader(model, B, **lengths), text(), rtol=0, atol=1e-12
    )


def test_last_positions():
    model = make_model(CPU)
    (x, _), (more, _) = text((T, 7))
    a, b = CachedReader(model, B), CachedReader(model, B)
    np.testing.assert_array_equal(a.read(x, last=1), b.read(x)[:, -1:])
    np.testing.assert_array_equal(a.read(more, last=99), b.read(more))


@pytest.mark.parametrize(
    "options", [{}, *({"attn_type": a} for a in (1, 2, 4, 5)), {"ext_len": 2}], ids=name
)
@pytest.mark.parametrize(("batch_size", "threads"), [(1, None), (1, 1), (4, None), (4, 2), (3, 1)])
def test_evaluate(options, batch_size, threads):
    """The same loss with kept keys and without, on any number of threads."""
    model = make_model(CPU, **options)
    tokens = make_tokens(4 * 23 + 1)
    lengths = dict(batch_size=batch_size, threads=threads, mem_len=13)
    kept = evaluate(model, tokens, **lengths)
    plain = evaluate(model, tokens, cached=False, **lengths)
    assert kept.n_tokens == plain.n_tokens
    assert kept.nats == pytest.approx(plain.nats, rel=1e-12)


@pytest.mark.parametrize("cached", [True, False])
def test_evaluate_keeps_or_not_as_told(monkeypatch, cached):
    used = []
    for reader in (CachedReader, PlainReader):
        real = reader.score
        monkeypatch.setattr(
            reader,
            "score",
            lambda self, x, y, real=real: used.append(type(self)) or real(self, x, y),
        )
    evaluate(make_model(CPU), make_tokens(30), cached=cached)
    assert set(used) == {CachedReader if cached else PlainReader}


@pytest.mark.parametrize("options", [{}, *({"attn_type": a} for a in (1, 2, 4, 5))], ids=name)
def test_generate_draws_what_the_plain_path_draws(options):
    """The prompt in segments, then token after token, past the end of the memory."""

    class Numbers:
        n_token = V

        def encode(self, prompt):
            return np.array([int(x) for x in prompt], dtype=np.int32)

    model = make_model(CPU, mem_len=9, **options)
    drawn = list(generate(model, Numbers(), "314159265", length=30, seed=3))
    mems, read, rng = None, [int(x) for x in "314159265"], np.random.default_rng(3)
    for part in np.split(np.array(read), range(len(read) % T, len(read), T)):  # the ends are one
        log_p, mems = model.predict(part[None, :], mems)
    for token in drawn:
        assert token == sample_token(log_p[0, -1], rng)
        log_p, mems = model.predict(np.array([[token]]), mems)
    assert len(set(drawn)) > 2  # not one over and over, which would prove little


# --- what cannot be kept, and mistakes ---


@pytest.mark.parametrize("attn_type", [2, 3])
def test_absolute_positions_are_read_plainly(attn_type):
    model = make_model(CPU, attn_type=attn_type)
    with pytest.raises(MinitxlError, match=f"attn_type={attn_type} adds positions"):
        CachedReader(model)
    reader = reader_of(model, B)
    assert isinstance(reader, PlainReader)
    assert_same(model, reader, text(LENGTHS[:5]), rtol=0, atol=0)
    reader.reset()
    assert reader.mems[0].shape[1] == 0
    assert isinstance(reader_of(make_model(CPU)), CachedReader)


def test_mistakes_are_told_and_change_nothing():
    model = make_model(CPU)
    reader = CachedReader(model, B)
    reader.read(make_tokens(B, T))
    before = reader.mems
    for act, words in [
        (lambda: reader.read(make_tokens(B + 1, T)), "tokens has 3 rows, the reader 2"),
        (lambda: reader.read(make_tokens(T)), "must be (B, T)"),
        (lambda: reader.read(np.full((B, 1), V)), "holds ids from"),
        (lambda: reader.score(make_tokens(B, T), make_tokens(B, T + 1)), "targets has shape"),
        (lambda: CachedReader(model, 0), "batch_size=0"),
        (lambda: setattr(reader, "mems", before[:1]), "mems holds 1 arrays"),
        (lambda: CachedReader.from_mems(model, before, mem_len=M - 2), "mems hold 5 tokens"),
    ]:
        with pytest.raises(MinitxlError) as caught:
            act()
        assert words in str(caught.value) and "\n" not in str(caught.value)
    for a, b in zip(reader.mems, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_room_that_grows_with_the_text(monkeypatch):
    """A memory much longer than the text takes its room little by little: the same numbers."""
    monkeypatch.setattr(cached, "ROOM", 4)
    model = make_model(CPU, mem_len=50)
    tokens = make_tokens(2, 90)
    reader, found = CachedReader(model, 2), []
    for at in range(0, 90, 5):
        found.append(reader.read(tokens[:, at : at + 5]))
    np.testing.assert_allclose(np.concatenate(found, axis=1), read(model, tokens, [5] * 18))
