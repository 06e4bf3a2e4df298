"""The arms of the ablation: encodings with and without recurrence, and what is compared with what.

Two of them are no configuration of the library, but a change of one:
  shaw-ab    Shaw's encoding as its paper has it, the terms (a) and (b) alone. The released code,
             and `attn_type` 1, add the biases (c) and (d) to it, which here stay zero.
  abs-naive  the cache of sec. 3.3's argument: the sinusoid U_1 ... U_T is added before states are
             cached, so that place j of every segment in the memory looks like place j of this one.
             ("abs" is sound: memory and segment are numbered through when they are read.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from minitxl.config import RELATIVE, SHAW, SINUSOID
from minitxl.model.family import network as family
from minitxl.model.family.absolute import add_sinusoid_forward
from minitxl.model.family.encodings import encoding_of
from minitxl.model.ops import sinusoid_table
from minitxl.model.transformer_xl import TransformerXL


class Arm(NamedTuple):
    """What makes an arm different. paper: perplexity, at the trained length."""

    label: str
    attn_type: int
    recurrence: bool = True
    paper: float | None = None
    loss_on: str = "full"
    longer_segments: bool = False
    rate_of: str | None = None  # the arm whose learning rate it takes


ARMS = {
    "xl": Arm("Transformer-XL", RELATIVE, paper=27.02),
    "xl-alone": Arm("Transformer-XL, no memory", RELATIVE, False, 29.59),
    "xl-equal": Arm("the same, of equal memory", RELATIVE, False, 28.43, longer_segments=True),
    "shaw": Arm("Shaw, as released", SHAW, paper=27.94),
    "shaw-alone": Arm("Shaw, as released, no memory", SHAW, False, 29.75),
    "shaw-ab": Arm("Shaw, (a) and (b) alone", SHAW),
    "shaw-ab-alone": Arm("Shaw, (a) and (b) alone, no memory", SHAW, False),
    "abs": Arm("absolute, sound", SINUSOID),
    "abs-naive": Arm("absolute, naive", SINUSOID),
    "abs-alone": Arm("absolute, no memory", SINUSOID, False),
    "xl-half": Arm("Transformer-XL, half loss", RELATIVE, True, 28.69, "half", rate_of="xl"),
    "abs-alone-half": Arm(
        "absolute, no memory, half loss", SINUSOID, False, 30.97, "half", rate_of="abs-alone"
    ),
}
"""By name. The paper's 28.43 is of table 10 (segments of 176 without recurrence, 128 with it), all
others of table 6; its absolute positions are trained with loss on the recent half only."""


def change_of(name: str) -> Callable[[TransformerXL], None] | None:
    """Return what makes a model of the arm's configuration the arm; None: nothing."""
    if name.startswith("shaw-ab"):
        return without_biases
    return with_naive_cache if name == "abs-naive" else None


def without_biases(model: TransformerXL) -> None:
    """Take the terms (c) and (d) out of a model with Shaw's encoding, for good."""
    names = [n for n in model.params.shapes if n.endswith(("r_w_bias", "r_bias"))]
    for name in names:
        model.params[name][...] = 0.0
    plain = model.network.backward

    def backward(*args, **options):
        gradients = plain(*args, **options)
        for name in names:
            gradients.params[name][...] = 0.0
        return gradients

    model.network = model.network._replace(backward=backward)


def with_naive_cache(model: TransformerXL) -> None:
    """Give every segment in the memory the positions that this one has (paper, sec. 3.3)."""
    encoding = encoding_of(model.config)._replace(add_forward=_add_same_sinusoid)
    network = family.network_with(encoding, family.ends_of(model.config))
    model.network = network


def _add_same_sinusoid(h, n, params, config, *, rng, xp):
    """As the sound encoding's, with R of T positions again and again, counted from the end."""
    if n > 0:
        return h, None
    n_key, t = h.shape[1], config.tgt_len
    pos = sinusoid_table(t, params.constants["inv_freq"], clamp_len=config.clamp_len, xp=xp)
    pos = xp.concat([pos] * -(-n_key // t), axis=0)  # (T, D) -> (S * T, D)
    return add_sinusoid_forward(h, pos[-n_key:, :], dropout=config.dropout, rng=rng, xp=xp)


def comparisons(arms: tuple) -> list[tuple[str, list]]:
    """Return (question, terms) of all whose arms are there; a term is (sign, arm, reading).

    The sum of the terms is what is paid more; bits of an arm with a memory are those read with it.
    """

    def less(one, reading, other, other_reading="memory"):
        return [(1, one, reading), (-1, other, other_reading)]

    def interaction(name, alone):
        own = less(name, "memory", "xl")
        return own + [(-sign, *rest) for sign, *rest in less(alone, "stride", "xl-alone", "stride")]

    found = []
    spoken = {"xl": "XL", "shaw": "Shaw", "shaw-ab": "Shaw (a, b)", "abs": "absolute"}
    for e, said in spoken.items():
        for reading, how in (("chunks", "in chunks"), ("stride", "by a window")):
            terms = less(f"{e}-alone", reading, e)
            found.append((f"{said}: no recurrence, {how}", terms))
    found += [
        ("XL: no recurrence, equal memory, in chunks", less("xl-equal", "chunks", "xl")),
        ("XL: no recurrence, equal memory, by a window", less("xl-equal", "stride", "xl")),
        ("with memory: Shaw, not XL", less("shaw", "memory", "xl")),
        ("with memory: Shaw (a, b), not XL", less("shaw-ab", "memory", "xl")),
        ("with memory: absolute, not XL", less("abs", "memory", "xl")),
        ("with memory: naive absolute, not XL", less("abs-naive", "memory", "xl")),
        ("with memory: naive absolute, not sound", less("abs-naive", "memory", "abs")),
        ("naive absolute: no recurrence, by a window", less("abs-alone", "stride", "abs-naive")),
        ("no memory, by a window: Shaw, not XL",
         less("shaw-alone", "stride", "xl-alone", "stride")),
        ("no memory, by a window: Shaw (a, b), not XL",
         less("shaw-ab-alone", "stride", "xl-alone", "stride")),
        ("no memory, by a window: absolute, not XL",
         less("abs-alone", "stride", "xl-alone", "stride")),
        ("lost more with memory: absolute, not XL", interaction("abs", "abs-alone")),
        ("lost more with memory: naive absolute, not XL", interaction("abs-naive", "abs-alone")),
        ("lost more with memory: Shaw, not XL", interaction("shaw", "shaw-alone")),
        ("XL: loss on half", less("xl-half", "memory", "xl")),
        ("absolute, no memory, by a window: loss on half",
         less("abs-alone-half", "stride", "abs-alone", "stride")),
    ]  # fmt: skip
    return [
        (question, [list(term) for term in terms])
        for question, terms in found
        if {name for _, name, _ in terms} <= set(arms)
    ]
