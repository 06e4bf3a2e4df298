"""Sampling: the cuts of one distribution, and the loop that carries the memory along."""

import itertools
import math
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from helpers.models import make_model
from minitxl.backend import get_backend
from minitxl.config import SINUSOID, Memory
from minitxl.errors import MinitxlError
from minitxl.inference.generate import generate, generate_batch, sample_token, until


def log_of(*probabilities):
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(probabilities, dtype=np.float64))


def draws(log_probs, n=4000, seed=0, **options):
    rng = np.random.default_rng(seed)
    tokens = [sample_token(log_probs, rng, **options) for _ in range(n)]
    return np.bincount(tokens, minlength=len(log_probs)) / n


def rng():
    return np.random.default_rng(0)


# ---- one token


def test_draws_follow_the_distribution():
    p = (0.1, 0.6, 0.05, 0.25)
    np.testing.assert_allclose(draws(log_of(*p), n=20000), p, atol=0.015)


def test_unnormalised_and_float32_rows_draw_the_same_tokens():
    row = log_of(0.1, 0.6, 0.05, 0.25)
    assert (draws(row, n=300) == draws(row + 7.0, n=300)).all()
    assert (draws(row, n=300) == draws(row.astype(np.float32), n=300)).all()


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_sharpens_and_flattens(temperature):
    p = np.array([0.1, 0.6, 0.05, 0.25])
    want = p ** (1 / temperature)
    np.testing.assert_allclose(
        draws(np.log(p), n=20000, temperature=temperature), want / want.sum(), atol=0.015
    )


def test_temperature_zero_takes_the_first_of_the_likeliest_and_draws_nothing():
    generator = rng()
    before = generator.bit_generator.state
    assert sample_token(log_of(0.2, 0.4, 0.4), generator, temperature=0) == 1
    assert generator.bit_generator.state == before


def test_a_tiny_temperature_is_nearly_zero():
    assert draws(log_of(0.2, 0.41, 0.39), n=50, temperature=5e-324)[1] == 1


def test_top_k_keeps_k_tokens_even_among_equals():
    assert (draws(log_of(0.25, 0.25, 0.25, 0.25), top_k=2)[2:] == 0).all()
    kept = draws(log_of(0.1, 0.6, 0.05, 0.25), n=20000, top_k=2)
    np.testing.assert_allclose(kept, [0, 0.6 / 0.85, 0, 0.25 / 0.85], atol=0.015)
    assert (draws(log_of(0.1, 0.6, 0.05, 0.25), top_k=99) > 0).all()
    assert draws(log_of(0.1, 0.6, 0.05, 0.25), top_k=1)[1] == 1


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.5, 1), (0.500001, 2), (0.8, 2), (0.81, 3), (1.0, 3), (1e-300, 1)]
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, kept):
    assert (draws(log_of(0.5, 0.3, 0.2), n=2000, top_p=top_p) > 0).sum() == kept


def test_top_k_comes_before_top_p():
    # Of the two that top_k leaves, 0.5 is 5/8 of the mass: top_p = 0.6 needs no second.
    assert draws(log_of(0.5, 0.3, 0.2), top_k=2, top_p=0.6)[0] == 1
    assert (draws(log_of(0.5, 0.3, 0.2), top_p=0.6) > 0).sum() == 2


def test_temperature_comes_before_top_p():
    # At temperature 0.5 the squares count: 0.25 of 0.38 = 0.66.
    assert draws(log_of(0.5, 0.3, 0.2), temperature=0.5, top_p=0.65)[0] == 1


def test_tokens_of_probability_zero_are_never_drawn():
    class Edge:  # the draws at the very ends
        def __init__(self, value):
            self.value = value

        def random(self):
            return self.value

    row = log_of(0.0, 0.5, 0.0, 0.5, 0.0)
    assert sample_token(row, Edge(0.0)) == 1
    assert sample_token(row, Edge(np.nextafter(1.0, 0.0))) == 3
    assert sample_token(log_of(0, 0, 1), Edge(np.nextafter(1.0, 0.0))) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 1.5}, "top_k is 1.5"),
        ({"top_k": True}, "top_k is True"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"top_p": math.nan}, "top_p is nan"),
    ],
)
def test_bad_options_are_named_in_one_line(options, words):
    with pytest.raises(MinitxlError, match=words) as caught:
        sample_token(log_of(0.5, 0.5), rng(), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "row", [np.zeros((1, 3)), np.zeros(0), [0.0, math.nan], [-math.inf] * 2, [0.0, math.inf]]
)
def test_rows_that_are_no_distribution_are_refused(row):
    with pytest.raises(MinitxlError, match=r"log_probs has shape|log-probability is"):
        sample_token(row, rng())


# ---- many tokens: a model whose memory can be looked at


class Letters:
    """A vocabulary of a few letters."""

    def __init__(self, symbols):
        self.symbols = symbols
        self.n_token = len(symbols)

    def encode(self, text):
        for at, symbol in enumerate(text):
            if symbol not in self.symbols:
                raise MinitxlError(f"the vocabulary lacks {symbol!r}, at position {at}")
        return np.array([self.symbols.index(s) for s in text], dtype=np.int32)


class Recorder:
    """Predicts a fixed distribution; notes what it reads and how long its memory was."""

    backend = SimpleNamespace(name="cpu", to_numpy=np.asarray, replayed=lambda function: function)

    def __init__(self, n_token, tgt_len=4, mem_len=6, probs=None):
        # Absolute positions: so it is asked for every token as it is, and nothing is kept.
        lengths = dict(tgt_len=tgt_len, mem_len=mem_len)
        kind = dict(attn_type=SINUSOID, memory=Memory())
        self.config = SimpleNamespace(n_token=n_token, **kind, **lengths)
        self.probs = np.full(n_token, 1 / n_token) if probs is None else np.asarray(probs)
        self.read, self.memory = [], []

    def with_options(self, mem_len, ext_len):
        other = Recorder(self.config.n_token, self.config.tgt_len, mem_len, self.probs)
        other.read, other.memory = self.read, self.memory
        return other

    def checked_on_host(self, ids, name):
        return ids

    def checked_places(self, position_ids, tokens):
        return position_ids

    def score(self, tokens, targets, mems=None):
        raise AssertionError("a text is written, not scored")

    def predict(self, tokens, mems=None, last=None, position_ids=None):
        assert last == 1  # nothing else is looked at
        assert tokens.shape[0] == 1 and position_ids is None
        mems = [np.zeros((1, 0, 2))] if mems is None else mems
        self.read.append(tokens[0].tolist())
        self.memory.append(mems[0].shape[1])
        log_probs = np.log(self.probs)[None, None, :]  # (1, 1, V)
        grown = np.concatenate([mems[0], np.zeros((1, tokens.shape[1], 2))], axis=1)
        return log_probs, [grown[:, max(0, grown.shape[1] - self.config.mem_len) :]]


def test_the_prompt_is_read_in_segments_and_then_one_token_at_a_time():
    model = Recorder(3)
    tokens = list(generate(model, Letters("\nab"), "abababaab", length=4))
    first = [[1], [2, 1, 2, 1], [2, 1, 1, 2]]  # the segments end where the prompt does
    assert model.read == first + [[t] for t in tokens[:-1]]
    assert model.memory == [0, 1, 5, 6, 6, 6]  # never more than mem_len


def test_the_first_token_comes_before_the_second_is_thought_of():
    model = Recorder(3)
    tokens = generate(model, Letters("\nab"), "ab", length=10**9)
    next(tokens)
    assert len(model.read) == 1


@pytest.mark.parametrize(("symbols", "start"), [("a\nb", 1), ("abc", 0)])
def test_an_empty_prompt_starts_after_a_newline_or_the_first_symbol(symbols, start):
    model = Recorder(3)
    list(generate(model, Letters(symbols), length=1))
    assert model.read == [[start]]


def test_the_memory_is_the_models_own_unless_told():
    for mem_len, trained, longest in ((None, 6, 6), (9, 6, 9), (0, 6, 0), (None, 0, 4)):
        model = Recorder(3, mem_len=trained)
        list(generate(model, Letters("\nab"), length=20, mem_len=mem_len))
        assert max(model.memory) == longest


def test_the_seed_decides():
    def text(seed):
        return list(generate(Recorder(3), Letters("\nab"), length=50, seed=seed))

    assert text(1) == text(1) != text(2)


def test_the_last_positions_distribution_is_used():
    model = Recorder(3, probs=[0.01, 0.01, 0.98])
    tokens = list(generate(model, Letters("\nab"), "aa", length=30, temperature=0))
    assert tokens == [2] * 30 and all(type(t) is int for t in tokens)


def test_length_zero_asks_the_model_nothing():
    model = Recorder(3)
    assert list(generate(model, Letters("\nab"), length=0)) == []
    assert model.read == []


def test_thousands_of_tokens_take_no_more_memory():
    class Silent(Recorder):
        def with_options(self, mem_len, ext_len):
            return self

        def predict(self, tokens, mems=None, last=None, position_ids=None):
            self.read.clear()
            self.memory.clear()
            return super().predict(tokens, mems, last, position_ids)

    tokens = generate(Silent(3, mem_len=50), Letters("\nab"), length=3000)
    tracemalloc.start()
    try:
        for _ in itertools.islice(tokens, 300):
            pass
        early, _ = tracemalloc.get_traced_memory()
        for _ in tokens:
            pass
        late, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert late < early + 20_000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": "abz"}, "lacks 'z', at position 2"),
        ({"length": -1}, "length is -1"),
        ({"length": 2.5}, "length is 2.5"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"mem_len": -1}, "mem_len is -1"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"top_p": 2}, "top_p is 2"),
        ({"top_k": -2}, "top_k is -2"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty is inf"),
        ({"prompt": np.array([1, 3])}, "id 3 is outside the vocabulary of 3"),
        ({"prompt": np.array([[1]])}, "one-dimensional"),
        ({"prompt": [1, 2]}, "must be one text, got a list: several .* generate_batch"),
        ({"prompt": b"ab"}, "must be one text, got a bytes"),
        ({"prompt": 1.5}, "must be one text, got a float"),
        ({"prompt": True}, "must be one text, got a bool"),
    ],
)
def test_mistakes_show_when_it_is_called(options, words):
    with pytest.raises(MinitxlError, match=words):
        generate(Recorder(3), Letters("\nab"), **options)


def test_a_vocabulary_of_another_run_is_refused():
    with pytest.raises(MinitxlError, match="has 2 symbols, the model predicts 3"):
        generate(Recorder(3), Letters("ab"))


def test_one_blas_thread_works_and_the_callers_setting_comes_back():
    def threads():
        return [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]

    class Watcher(Recorder):
        def with_options(self, mem_len, ext_len):
            return self

        def predict(self, tokens, mems=None, last=None, position_ids=None):
            inside.append(threads())
            return super().predict(tokens, mems, last, position_ids)

    inside, before = [], threads()
    for _ in generate(Watcher(3), Letters("\nab"), length=2):
        assert threads() == before
    assert inside == [[1] * len(before)] * 2


# ---- several texts side by side, and where they end


def test_a_penalty_makes_what_has_occurred_less_likely():
    """p ** theta for the tokens so far; those of scores above 0 divide, as in the paper."""
    p, occurred = np.array([0.1, 0.6, 0.05, 0.25]), np.array([False, True, False, True])
    want = np.where(occurred, p**1.5, p)
    found = draws(np.log(p), n=20000, repetition_penalty=1.5, occurred=occurred)
    np.testing.assert_allclose(found, want / want.sum(), atol=0.015)
    halved = draws(np.array([2.0, 1.0]), n=20000, repetition_penalty=2, occurred=[True, False])
    np.testing.assert_allclose(halved, [0.5, 0.5], atol=0.015)  # exp(2/2) and exp(1)
    row = draws(np.log(p), n=300, occurred=occurred)
    np.testing.assert_array_equal(row, draws(np.log(p), n=300))  # 1: as it is


def test_the_prompt_and_what_was_drawn_are_penalised():
    model = Recorder(3, probs=[0.5, 0.3, 0.2])
    tokens = list(generate(model, Letters("\nab"), "a", 3, temperature=0, repetition_penalty=9))
    assert tokens == [0, 2, 0]  # all have occurred before the third, and 0 is the likeliest


class Numbers:
    """A vocabulary whose tokens are written 0 ... 9 and a."""

    n_token = 11

    def encode(self, text):
        return np.array([int(x, 16) for x in text], dtype=np.int32)


PROMPTS = ["3141592653589793", "27", "1618033", "5", "27"]


@pytest.mark.parametrize("options", [{}, {"mem_len": 3}, {"mem_len": 0}, {"attn_type": 2}])
def test_prompts_side_by_side_go_on_as_each_would_alone(options):
    """Of any lengths, in float64; row n by its own seed."""
    model = make_model(get_backend("cpu", "float64"), **options)
    how = dict(length=25, temperature=0.9, top_p=0.95, repetition_penalty=1.1)
    together = np.array(list(generate_batch(model, Numbers(), PROMPTS, seed=4, **how))).T
    for n, prompt in enumerate(PROMPTS):
        alone = list(generate(model, Numbers(), prompt, seed=4 + n, **how))
        assert together[n].tolist() == alone, n
    assert len({tuple(row) for row in together}) == len(PROMPTS)


@pytest.mark.parametrize("prompts", ["ab", b"ab", [], None, 3, {"a"}])
def test_prompts_are_a_list(prompts):
    with pytest.raises(MinitxlError, match="prompts must be a list of texts"):
        generate_batch(Recorder(3), Letters("\nab"), prompts)


@pytest.mark.parametrize("prompts", [["a", 3], [["a"]], [None], [b"a"], ["a", 1.5]])
def test_each_of_them_is_a_text(prompts):
    with pytest.raises(MinitxlError, match="must be one text, got a"):
        generate_batch(Recorder(3), Letters("\nab"), prompts)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("stop", ["b", "ab", "aab", "abab", "zz", "\n", "aabaab", "aabaaab"])
def test_until_ends_before_the_first_stop(stop, size):
    """However the text is cut, even through the stop; no piece after it is asked for."""
    text = "aaaabaabaaabab\n and more of it"
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    asked = []

    def watched():
        for piece in pieces:
            asked.append(piece)
            yield piece

    assert "".join(until(watched(), stop)) == text.split(stop)[0]
    end = text.find(stop)
    if end >= 0:
        assert len(asked) == -(-(end + len(stop)) // size)
    assert next(until(iter(["xyz", "never"]), "q")) == "xyz"  # nothing is held back in vain


@pytest.mark.parametrize("stop", ["", None, 3])
def test_a_stop_is_a_text(stop):
    with pytest.raises(MinitxlError, match="stop is"):
        until(["a"], stop)
