"""Sampling text from a trained model, one token at a time, with the memory carried along.

`sample_token` draws from one distribution; `generate` feeds each drawn token back, and
`generate_batch` does so for several prompts or samples side by side. A step costs the
same however long the text has become: what the model knows of it is the memory, which never holds
more than `mem_len` tokens, and whose keys and values are kept (`cached.py`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from minitxl.backend.threads import one_blas_thread
from minitxl.data.checks import checked_ids, short
from minitxl.data.documents import right_aligned
from minitxl.data.encoded import encoded_text
from minitxl.errors import MinitxlError
from minitxl.inference.cached import reader_of


def sample_token(
    log_probs: np.ndarray,
    rng: np.random.Generator,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    occurred: np.ndarray | None = None,
) -> int:
    """Draw one token id from p ** (1 / temperature), cut to the likeliest tokens.

    log_probs: (V,) natural-log probabilities, not necessarily normalised; -inf means never. Worked
    on in float64.
    temperature: 1 samples the model's own distribution, less is bolder; 0 takes the likeliest token
    (the first of equals) and draws nothing from rng.
    top_k: keep the k likeliest tokens; 0 keeps all.
    top_p: then keep the smallest set of the likeliest whose share of what is left reaches top_p
    (nucleus sampling, Holtzman et al. 2020); 1 keeps all. One token always stays.
    repetition_penalty, occurred: theta, and (V,) bool, the tokens of the text so far. With a theta
    above 1 these become less likely. In Keskar et al. (2019, "CTRL", sec. 4.1) token i of score x_i
    has p_i ~ exp(x_i / (temperature I_i)), I_i = theta if i has occurred, else 1. That is meant for
    x_i > 0; a score below 0, such as every log p_i, is multiplied by theta instead of divided, or
    it would grow: p_i ~ p_i ** (theta / temperature). 1 leaves all as it is.
    Raises MinitxlError for an option out of range and for log_probs without a usable value (NaN).
    """
    checked = _checked_options(temperature, top_k, top_p, repetition_penalty)
    temperature, top_k, top_p, theta = checked
    log_probs = np.asarray(log_probs, dtype=np.float64)
    if log_probs.ndim != 1 or log_probs.size == 0:
        raise MinitxlError(
            f"log_probs has shape {log_probs.shape}, one row (V,) is wanted: take one of predict's"
        )
    if occurred is not None and theta != 1:
        penalised = np.where(log_probs > 0, log_probs / theta, log_probs * theta)
        log_probs = np.where(occurred, penalised, log_probs)
    best = log_probs.max()  # NaN if any entry is NaN
    if not math.isfinite(best):
        raise MinitxlError(
            f"the largest log-probability is {best}, a finite number is wanted: "
            "the model's training has probably diverged; train again with a lower learning rate"
        )
    if temperature == 0:
        return int(log_probs.argmax())

    order = np.argsort(-log_probs, kind="stable")  # (V,) likeliest first, equals by id
    if top_k:
        order = order[:top_k]
    # A tiny temperature may push the others to -inf; they get probability 0.
    with np.errstate(over="ignore"):
        weights = np.exp((log_probs[order] - best) / temperature)  # (V,) -> (kept,)
    mass = np.cumsum(weights)
    if top_p < 1:
        # The rounding of the sum must not let one token more in: {0.5, 0.3, 0.2} at 0.8 keeps two.
        kept = int(np.searchsorted(mass, (top_p - 1e-12) * mass[-1])) + 1
        order, mass = order[:kept], mass[:kept]
    # side="right" passes over tokens of probability 0; min, as rounding may reach mass[-1] itself.
    drawn = np.searchsorted(mass, rng.random() * mass[-1], side="right")
    return int(order[min(int(drawn), len(order) - 1)])


def generate(
    model,
    vocab,
    prompt: str | np.ndarray = "",
    length: int = 1000,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    mem_len: int | None = None,
    repetition_penalty: float = 1.0,
) -> Iterator[int]:
    """Return an iterator over `length` token ids that continue the prompt, drawn from the model.

    The prompt, a text or its ids (n,), is read in segments of tgt_len that end where it ends, the
    drawn tokens one by one; both go into the memory. The prompt itself is not given back. An empty
    prompt starts after a newline, or after symbol 0 where the vocabulary has no newline.
    temperature, top_k, top_p, repetition_penalty: see sample_token; what is penalised are the
    tokens of the prompt and those drawn so far. The same seed and options give the same tokens on
    the same machine. `until` ends the text at a word of its own.
    mem_len: tokens of memory; None takes the model's own, or tgt_len for a model trained without
    memory (which would otherwise see a single token); 0 is allowed.
    Raises MinitxlError at once (not at the first token) for a bad option or a prompt with unknown
    symbols.
    """
    options = (length, temperature, top_k, top_p, seed, mem_len, repetition_penalty)
    return (ids[0] for ids in generate_batch(model, vocab, [prompt], *options))


def generate_batch(
    model,
    vocab,
    prompts: Sequence[str | np.ndarray],
    length: int = 1000,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    mem_len: int | None = None,
    repetition_penalty: float = 1.0,
) -> Iterator[list[int]]:
    """Return an iterator over `length` lists of token ids, the next one of each prompt.

    All prompts are read and continued side by side, however long each is. Prompt n is continued
    as by `generate` with seed + n: for several samples give one prompt several times. The
    other options are those of `generate`.
    """
    if isinstance(prompts, str | bytes) or not isinstance(prompts, Sequence) or not prompts:
        raise MinitxlError(
            f"prompts must be a list of texts, got {short(prompts)}: for one prompt use generate"
        )
    options = _checked_options(temperature, top_k, top_p, repetition_penalty)
    length, seed = _whole_number("length", length), _whole_number("seed", seed)
    if vocab.n_token != model.config.n_token:
        raise MinitxlError(
            f"the vocabulary has {vocab.n_token} symbols, the model predicts "
            f"{model.config.n_token}: take both from the same run"
        )
    c = model.config
    if mem_len is None:
        mem_len = c.mem_len or (c.tgt_len if c.memory.kind != "tokens" else 0)
    # Nothing is read twice here, so all of it goes into the memory.
    model = model.with_options(mem_len=_whole_number("mem_len", mem_len), ext_len=0)
    rngs = [np.random.default_rng(seed + n) for n in range(len(prompts))]
    return _sample(model, [_prompt_ids(vocab, prompt) for prompt in prompts], length, rngs, options)


def until(texts: Iterable[str], stop: str) -> Iterator[str]:
    """Yield a text that comes in pieces up to the first `stop`, which is left out.

    What may be the beginning of `stop` is held back until it is known; after it no more is asked
    for. Without a `stop` in it the whole text comes.
    """
    if not isinstance(stop, str) or not stop:
        raise MinitxlError(f"stop is {stop!r}, a text of one character or more is wanted")
    return _until(texts, stop)


def _until(texts: Iterable[str], stop: str) -> Iterator[str]:
    held = ""
    for text in texts:
        held += text
        if stop in held:
            yield held[: held.index(stop)]
            return
        begun = next(n for n in range(len(stop) - 1, -1, -1) if held.endswith(stop[:n]))
        yield held[: len(held) - begun]
        held = held[len(held) - begun :]
    yield held


_CONTROL = dict.fromkeys(i for i in (*range(32), *range(127, 160)) if chr(i) not in "\n\t")


def printable(text: str) -> str:
    """Return the text without control characters, which a terminal would obey.

    A model of bytes may well draw some.
    """
    return text.translate(_CONTROL)


def _sample(
    model, starts, length, rngs, options: tuple[float, int, float, float]
) -> Iterator[list[int]]:
    """Yield the tokens; apart from `generate_batch`, so that its mistakes show at the call."""
    c, reader = model.config, reader_of(model, len(starts))
    to_read, places = right_aligned(starts)
    # Rows of one length need no places, and none does once its memory is full of its own.
    shorter = len({len(start) for start in starts}) > 1
    n_row, n_token = len(starts), c.n_token
    seen = np.zeros((n_row, n_token), dtype=bool)
    for row, start in zip(seen, starts, strict=True):
        row[start] = True
    for _ in range(length):
        # Few rows are too little to share: waking a second BLAS thread for them takes longer than
        # the product. The limit ends before the tokens are given away: the caller never meets it.
        with one_blas_thread():
            # All segments but the first are full, so that their ends are the same in every row.
            n = to_read.shape[1]
            for stop in range((n - 1) % c.tgt_len + 1, n + 1, c.tgt_len):
                part = slice(max(0, stop - c.tgt_len), stop)
                own = dict(position_ids=places[:, part]) if shorter else {}
                log_probs = reader.read(to_read[:, part], last=1, **own)  # (B, 1, V)
        rows = zip(model.backend.to_numpy(log_probs)[:, -1, :], rngs, seen, strict=True)
        drawn = [sample_token(p, rng, *options, occurred) for p, rng, occurred in rows]
        seen[np.arange(n_row), drawn] = True
        yield drawn
        to_read, places = np.asarray(drawn, dtype=np.int32)[:, None], places[:, -1:] + 1
        shorter = shorter and bool((places < c.mem_len).any())


def _prompt_ids(vocab, prompt) -> np.ndarray:
    """Return the ids of a prompt, at least one."""
    if isinstance(prompt, np.ndarray):
        return checked_ids(prompt, vocab.n_token) if prompt.size else start_of_text(vocab)
    if not isinstance(prompt, str):
        raise MinitxlError(
            f"the prompt must be one text, got a {type(prompt).__name__}: several go side by side "
            "by generate_batch, ids as a NumPy array"
        )
    ids = encoded_text(vocab, prompt)
    return ids if len(ids) else start_of_text(vocab)


def start_of_text(vocab) -> np.ndarray:
    """A newline, so that the text begins as a line does; else symbol 0."""
    try:
        ids = vocab.encode("\n")
    except Exception:  # a vocabulary of the user's own may raise anything
        ids = ()
    return ids if len(ids) else np.zeros(1, dtype=np.int32)


def _checked_options(temperature, top_k, top_p, theta) -> tuple[float, int, float, float]:
    top_k = _whole_number("top_k", top_k)
    if not (_is_number(temperature) and 0 <= temperature < math.inf):
        raise MinitxlError(
            f"temperature is {temperature!r}, a number from 0 up is wanted: "
            "1 samples the model's own distribution"
        )
    if not (_is_number(top_p) and 0 < top_p <= 1):
        raise MinitxlError(
            f"top_p is {top_p!r}, a number above 0 and up to 1 is wanted: 1 keeps every token"
        )
    if not (_is_number(theta) and 0 < theta < math.inf):
        raise MinitxlError(
            f"repetition_penalty is {theta!r}, a number above 0 is wanted: 1 for none, more (1.2) "
            "against repetition"
        )
    return float(temperature), top_k, float(top_p), float(theta)


def _is_number(value) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _whole_number(name: str, value) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0 or isinstance(value, bool):
        raise MinitxlError(f"{name} is {value!r}, a whole number from 0 up is wanted")
    return number
