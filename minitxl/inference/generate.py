"""Sampling text from a trained model, one token at a time, with the memory carried along.

`sample_token` draws from one distribution; `generate` feeds each drawn token back. A step costs the
same however long the text has become: what the model knows of it is the memory, which never holds
more than `mem_len` tokens, and whose keys and values are kept (`cached.py`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator

import numpy as np

from minitxl.backend.threads import one_blas_thread
from minitxl.data.encoded import encoded_text
from minitxl.errors import MinitxlError
from minitxl.inference.cached import reader_of


def sample_token(
    log_probs: np.ndarray,
    rng: np.random.Generator,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> int:
    """Draw one token id from p ** (1 / temperature), cut to the likeliest tokens.

    log_probs: (V,) natural-log probabilities, not necessarily normalised; -inf means never. Worked
    on in float64.
    temperature: 1 samples the model's own distribution, less is bolder; 0 takes the likeliest token
    (the first of equals) and draws nothing from rng.
    top_k: keep the k likeliest tokens; 0 keeps all.
    top_p: then keep the smallest set of the likeliest whose share of what is left reaches top_p
    (nucleus sampling, Holtzman et al. 2020); 1 keeps all. One token always stays.
    Raises MinitxlError for an option out of range and for log_probs without a usable value (NaN).
    """
    temperature, top_k, top_p = _checked_options(temperature, top_k, top_p)
    log_probs = np.asarray(log_probs, dtype=np.float64)
    if log_probs.ndim != 1 or log_probs.size == 0:
        raise MinitxlError(
            f"log_probs has shape {log_probs.shape}, one row (V,) is wanted: take one of predict's"
        )
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
    prompt: str = "",
    length: int = 1000,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    mem_len: int | None = None,
) -> Iterator[int]:
    """Return an iterator over `length` token ids that continue the prompt, drawn from the model.

    The prompt is read in segments of tgt_len, the drawn tokens one by one; both go into the memory.
    The prompt itself is not given back. An empty prompt starts after a newline, or after symbol 0
    where the vocabulary has no newline.
    temperature, top_k, top_p: see sample_token. The same seed and options give the same tokens on
    the same machine.
    mem_len: tokens of memory; None takes the model's own, or tgt_len for a model trained without
    memory (which would otherwise see a single token); 0 is allowed.
    Raises MinitxlError at once (not at the first token) for a bad option or a prompt with unknown
    symbols.
    """
    if not isinstance(prompt, str):
        raise MinitxlError(
            f"the prompt must be one text, got a {type(prompt).__name__}: generate from several "
            "prompts one after the other, and turn ids to text with vocab.decode(ids)"
        )
    _checked_options(temperature, top_k, top_p)
    length = _whole_number("length", length)
    rng = np.random.default_rng(_whole_number("seed", seed))
    if vocab.n_token != model.config.n_token:
        raise MinitxlError(
            f"the vocabulary has {vocab.n_token} symbols, the model predicts "
            f"{model.config.n_token}: take both from the same run"
        )
    if mem_len is None:
        mem_len = model.config.mem_len or model.config.tgt_len
    # Nothing is read twice here, so all of it goes into the memory.
    model = model.with_options(mem_len=_whole_number("mem_len", mem_len), ext_len=0)
    start = encoded_text(vocab, prompt) if prompt else start_of_text(vocab)
    return _sample(model, start, length, rng, (temperature, top_k, top_p))


_CONTROL = dict.fromkeys(i for i in (*range(32), *range(127, 160)) if chr(i) not in "\n\t")


def printable(text: str) -> str:
    """Return the text without control characters, which a terminal would obey.

    A model of bytes may well draw some.
    """
    return text.translate(_CONTROL)


def _sample(model, start, length, rng, options) -> Iterator[int]:
    """Yield the tokens; apart from `generate`, so that its mistakes show when it is called."""
    tgt_len, reader = model.config.tgt_len, reader_of(model)
    to_read = np.asarray(start, dtype=np.int32)
    for _ in range(length):
        # One row is too little to share: waking a second BLAS thread for it takes longer than the
        # product. The limit ends before the token is given away, so the caller never meets it.
        with one_blas_thread():
            for at in range(0, len(to_read), tgt_len):
                segment = to_read[None, at : at + tgt_len]  # (1, T)
                log_probs = reader.read(segment, last=1)  # (1, 1, V)
        token = sample_token(model.backend.to_numpy(log_probs[0, -1, :]), rng, *options)
        yield token
        to_read = np.asarray([token], dtype=np.int32)


def start_of_text(vocab) -> np.ndarray:
    """A newline, so that the text begins as a line does; else symbol 0."""
    try:
        ids = vocab.encode("\n")
    except Exception:  # a vocabulary of the user's own may raise anything
        ids = ()
    return ids if len(ids) else np.zeros(1, dtype=np.int32)


def _checked_options(temperature, top_k, top_p) -> tuple[float, int, float]:
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
    return float(temperature), top_k, float(top_p)


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
