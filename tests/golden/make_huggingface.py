"""Golden files: what Hugging Face's own `TransfoXLLMHeadModel` computes, as an oracle for ours.

The library dropped the model in version 5, so it cannot be a test dependency. This script ran once,
in an environment of its own, and the suite reads the files it left. To make them again:

    pip install transformers==4.35.2 torch==2.13.0 "numpy<2" safetensors==0.8.0
    HF_HUB_OFFLINE=1 python tests/golden/make_huggingface.py [--out DIR]

Arrays come out the same on every run on one machine. So do the files, but for weights in torch's
old layout, whose storages are named by their address in memory, and for the order of safetensors'
metadata.

CASES holds each case's settings. The weights are drawn so that a slip shows: matrices
N(0, scale^2 / fan-in), so about 0.3 here and log-probs far from uniform; every bias, u and v and
the cluster weights away from 0; LayerNorm gains about 1 +- 0.3. Dropout is off, one thread.

A folder `tests/golden/huggingface/<case>/` holds what the library saves (`config.json`, weights),
a vocabulary of made-up words, and `expected.npz` with, for every segment k = 0, 1, ... of lengths
that differ (B streams, T tokens, V words, L layers, D d_model; float32 but where a name says 64):

    ids_k            (B, T)         int64; the segments follow one another in each stream
    targets_k        (B, T)         int64; the next token of each, across the seam of segments too
    log_probs_k      (B, T, V)      forward(ids_k, mems): `prediction_scores`, nats, from segment 0
                                    without mems, when the library starts from zeros[mem_len]
    mems_k           (L, M, B, D)   the memories after the segment, time before batch as returned;
                                    mems_k[n] is the input of layer n (n = 0: the scaled embedding)
    losses_k         (B, T - 1)     forward(ids_k, mems, labels=ids_k): -log_probs_k[b, t] of
                                    ids_k[b, t + 1]; the first token of a segment is never scored,
                                    nor its last target. With clusters the values come back sorted
                                    by the target's cluster, so their places mean nothing:
    losses_order_k   (B * (T - 1))  int64; losses.flat[i] belongs to flat position order[i]
    loss_k           ()             the library's mean of losses_k
    empty_start_log_probs (B, T, V) segment 0 again, but from memories of no rows
    log_probs64_k    (B, T, V)      log_probs_k run in float64 throughout, from the float32 weights
                                    and the float32 `inv_freq` of the file

and `gradients.npz` in cases with gradients=True: in float64, the gradient of the mean of
-log_probs[targets] over all B * T positions of the last segment (memory a constant) by every named
parameter. A tied parameter has one entry, under the name in `transformer.`, that sums over uses.
`settings.json` repeats the settings, the tied names and the versions for machines.
"""

import argparse
import copy
import json
import math
import pickle
from collections import Counter, OrderedDict
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import safetensors
import safetensors.torch
import torch
import transformers
from transformers import TransfoXLConfig, TransfoXLLMHeadModel

OUT = Path(__file__).parent / "huggingface"
SAVE_LEGACY = partial(torch.save, _use_new_zipfile_serialization=False)


@dataclass(frozen=True)
class Case:
    """One model and one run of it: `config` goes to TransfoXLConfig as it is."""

    config: dict
    seed: int
    weights: str  # safetensors | zip | legacy
    vocab: str  # json | bin_legacy | bin_zip | pkl: the forms in which a vocabulary is met
    n_batch: int = 2
    segments: tuple = (6, 6, 4)  # lengths; the last is the short rest of a text
    scale: float = 1.2  # of the weights
    gradients: bool = False
    other_names: str | None = None  # a folder with the same weights, saved under their other names


CASES = {
    # As the published model in all but size; longest distance 9 > clamp_len.
    "published": Case(
        config=dict(
            vocab_size=48, cutoffs=[14, 26, 40], d_model=16, d_embed=16, n_head=2, d_head=6,
            d_inner=20, n_layer=2, div_val=2, tie_projs=[False, True, True, True], tie_weight=True,
            untie_r=True, same_length=True, clamp_len=7, mem_len=10, tgt_len=6, ext_len=0,
        ),
        seed=3, weights="safetensors", vocab="bin_legacy", gradients=True,
        other_names="published_other_names",
    ),
    # One table cut by columns, one projection for all, u and v shared, memory shorter than T.
    "div_val_1": Case(
        config=dict(
            vocab_size=52, cutoffs=[16, 30, 44], d_model=16, d_embed=10, n_head=3, d_head=4,
            d_inner=18, n_layer=2, div_val=1, tie_projs=[True, True, True, True], untie_r=False,
            same_length=False, clamp_len=-1, mem_len=5, tgt_len=7, ext_len=0,
        ),
        seed=2, weights="zip", vocab="bin_zip", segments=(7, 7, 4), gradients=True,
        other_names="div_val_1_other_names",
    ),
    # Pre-norm, own output tables, a head projection of its own; d_embed of the tails: 4 and 1.
    "pre_lnorm": Case(
        config=dict(
            vocab_size=40, cutoffs=[12, 24], d_model=12, d_embed=16, n_head=2, d_head=5,
            d_inner=14, n_layer=2, div_val=4, tie_projs=[False, True, True],
            tie_word_embeddings=False, pre_lnorm=True, untie_r=True, same_length=True, clamp_len=5,
            mem_len=8, tgt_len=5, ext_len=0,
        ),
        seed=6, weights="legacy", vocab="pkl", segments=(5, 5, 3),
        scale=0.8,  # no norm bounds what leaves the last layer
    ),
    # A plain softmax: no clusters, no projections; a clamp that bites without same_length.
    "no_clusters": Case(
        config=dict(
            vocab_size=40, cutoffs=[], d_model=16, d_embed=16, n_head=3, d_head=6, d_inner=18,
            n_layer=3, div_val=1, tie_projs=[False], untie_r=True, same_length=False, clamp_len=6,
            mem_len=7, tgt_len=5, ext_len=0,
        ),
        seed=4, weights="safetensors", vocab="json", segments=(5, 5, 3),
    ),
}  # fmt: skip


def build(case):
    """The model of a case, in float32, with weights from a frozen random stream."""
    model = TransfoXLLMHeadModel(TransfoXLConfig(**case.config)).eval()
    rng = np.random.RandomState(case.seed)  # RandomState: its numbers never change
    for name, parameter in model.named_parameters():  # tied ones once
        draw = rng.standard_normal(tuple(parameter.shape))
        if parameter.ndim == 2:
            draw *= case.scale / math.sqrt(parameter.shape[1])
        else:
            draw *= 0.3
        if name.endswith("layer_norm.weight"):
            draw += 1
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(draw))
    return model


def streams(case):
    """Token ids (B, sum of segments + 1): every cluster occurs, in and out, and so does <eos>."""
    rng = np.random.RandomState(case.seed + 100)
    edges = [0, *case.config["cutoffs"], case.config["vocab_size"]]
    ids = np.empty((case.n_batch, sum(case.segments) + 1), dtype=np.int64)
    cluster = rng.randint(len(edges) - 1, size=ids.shape)  # uniform over clusters, then words
    for i in range(len(edges) - 1):
        ids[cluster == i] = rng.randint(edges[i], edges[i + 1], size=(cluster == i).sum())
    ids[0, 2] = 0
    last = cluster[:, -case.segments[-1] - 1 :]  # the last segment alone is what the gradients see
    for part in (last[:, :-1], last[:, 1:]):  # ids, targets
        assert len(set(part.ravel())) == len(edges) - 1, f"seed {case.seed} misses a cluster"
    return torch.from_numpy(ids)


def cut(case, tokens):
    """Pairs (ids, targets) of segments."""
    ends = np.cumsum(case.segments)
    return [
        (tokens[:, end - length : end], tokens[:, end - length + 1 : end + 1])
        for end, length in zip(ends, case.segments, strict=True)
    ]


@contextmanager
def float64_scores():
    """Lets the library run in float64: it masks the scores in float32 (`.float()`), which rounds
    them, and then stops at the mask's value, the lowest float64."""
    with mock.patch.object(torch.Tensor, "float", lambda self: self):
        yield


def cluster_order(case, labels):
    """Flat positions (B * (T - 1),) in the order in which the library returns their losses."""
    flat = labels[:, 1:].reshape(-1).numpy()
    cluster = np.searchsorted(case.config["cutoffs"], flat, side="right")
    return np.argsort(cluster, kind="stable")


@torch.no_grad()
def run(case, model, segments):
    """The arrays of `expected.npz` that the module's docstring lists, but for the float64 ones."""
    arrays, mems = {}, None
    for k, (ids, targets) in enumerate(segments):
        plain = model(ids, mems=mems)
        scored = model(ids, mems=mems, labels=ids.clone())
        order = cluster_order(case, ids)
        check_losses(plain.prediction_scores, ids, scored, order)
        arrays |= {
            f"ids_{k}": ids.numpy(),
            f"targets_{k}": targets.numpy(),
            f"log_probs_{k}": plain.prediction_scores.numpy(),
            f"mems_{k}": torch.stack(plain.mems).numpy(),
            f"losses_{k}": scored.losses.numpy(),
            f"losses_order_{k}": order,
            f"loss_{k}": scored.loss.numpy(),
        }
        mems = plain.mems
    ids = segments[0][0]
    empty = [torch.zeros(0, *m.shape[1:]) for m in mems]
    arrays["empty_start_log_probs"] = model(ids, mems=empty).prediction_scores.numpy()
    return arrays


def check_losses(log_probs, ids, scored, order):
    """Stops if the library's losses are not what the docstring says of them."""
    nll = -log_probs[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)
    torch.testing.assert_close(scored.losses.reshape(-1), nll.reshape(-1)[order])
    torch.testing.assert_close(scored.loss, nll.mean())


@torch.no_grad()
def run_float64(model, segments):
    """The float64 arrays of `expected.npz`; `model` is in float64."""
    arrays, mems = {}, None
    with float64_scores():
        for k, (ids, _) in enumerate(segments):
            out = model(ids, mems=mems)
            mems = out.mems
            arrays[f"log_probs64_{k}"] = out.prediction_scores.numpy()
    return arrays


def gradients(model, segments):
    """Name -> d(mean nll of the last segment) / d(parameter); `model` is in float64."""
    mems = None
    with float64_scores(), torch.no_grad():
        for ids, _ in segments[:-1]:
            mems = model(ids, mems=mems).mems
    ids, targets = segments[-1]
    with float64_scores():
        log_probs = model(ids, mems=mems).prediction_scores
    (-log_probs.gather(2, targets[..., None])).mean().backward()
    return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


def save_weights(case, model, folder):
    """As the library's own `save_pretrained`, or (legacy) as it was in the published model's time:
    a pickle now holds a plain dict; it held an OrderedDict with the attribute `_metadata`."""
    model.save_pretrained(folder, safe_serialization=case.weights == "safetensors")
    if case.weights == "legacy":
        SAVE_LEGACY(model.state_dict(), folder / "pytorch_model.bin")


def save_other_names(model, folder):
    """The same weights by safetensors' own `save_model`: of tied names it keeps the first in the
    alphabet (`crit.*`, not `transformer.*`) and notes `dropped name: kept name` as metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    safetensors.torch.save_model(model, folder / "model.safetensors", metadata={"format": "pt"})


def made_up_words(n_word):
    """`<eos>`, `<unk>` and syllables, one of them beyond ASCII."""
    syllables = [a + b for b in "aeiou" for a in "bdfghjklmnprstvz"]
    return ["<eos>", "<unk>", ",", "né", *syllables][:n_word]


def save_vocab(case, folder):
    words = made_up_words(case.config["vocab_size"])
    sym2idx = OrderedDict((word, i) for i, word in enumerate(words))
    # The fields of the released code's vocabulary object, whose __dict__ the library's converter
    # saved with torch.save as vocab.bin; later versions pickled it as vocab.pkl. The library reads
    # vocab.bin in torch's old layout only (not bin_zip, which torch.save writes by itself today).
    fields = dict(
        counter=Counter({word: 3 + len(words) - i for i, word in enumerate(words)}),
        special=["<eos>"], min_freq=0, max_size=None, lower_case=False, delimiter=None,
        vocab_file=None, idx2sym=words, sym2idx=sym2idx, eos_idx=0, unk_idx=1,
    )  # fmt: skip
    if case.vocab == "json":
        text = json.dumps(sym2idx, ensure_ascii=False) + "\n"
        (folder / "vocab.json").write_bytes(text.encode())
    elif case.vocab == "pkl":
        (folder / "vocab.pkl").write_bytes(pickle.dumps(fields, protocol=4))
    else:
        save = SAVE_LEGACY if case.vocab == "bin_legacy" else torch.save
        save(fields, folder / "vocab.bin")


def tied_names(model):
    """Groups of names in the state dict that are one array."""
    groups = {}
    for name, tensor in model.state_dict().items():
        groups.setdefault(tensor.data_ptr(), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def make(name, case, out):
    """Writes the folder of one case; returns what settings.json says of it."""
    folder = out / name
    model = build(case)
    segments = cut(case, streams(case))
    save_weights(case, model, folder)
    save_vocab(case, folder)
    if case.other_names:
        save_other_names(model, out / case.other_names)
    arrays = run(case, model, segments)
    model64 = copy.deepcopy(model).double()
    arrays |= run_float64(model64, segments)
    np.savez_compressed(folder / "expected.npz", **arrays)
    if case.gradients:
        grads = gradients(model64, segments)
        assert all(np.any(g) for g in grads.values()), "a gradient of zeros checks nothing"
        np.savez_compressed(folder / "gradients.npz", **grads)
    return asdict(case) | {"tied": tied_names(model)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="default: %(default)s")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    packages = (transformers, torch, np, safetensors)
    settings = {
        "made_by": "tests/golden/make_huggingface.py",
        "versions": {p.__name__: p.__version__ for p in packages},
        "cases": {name: make(name, case, out) for name, case in CASES.items()},
    }
    text = json.dumps(settings, indent=1) + "\n"
    (out / "settings.json").write_bytes(text.encode())


if __name__ == "__main__":
    main()
