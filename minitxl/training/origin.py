"""Training that begins from the weights of another model, on a text that may have new symbols.

The model's architecture stays. Its rows of embedding and softmax go with their symbols, whatever
ids these have now; symbols that only the new text has get fresh rows; those that it lacks stay, so
that the model still reads what it read before.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minitxl.config import LEARNED, SHAW, Config, TrainConfig
from minitxl.data.checksums import text_checksum
from minitxl.data.datasets import DATASETS
from minitxl.data.ids import is_ids
from minitxl.data.merge import id_map, merged, translated, used_ids
from minitxl.data.text import Corpus, load_corpus
from minitxl.data.tokens import NumberVocab, Vocabulary, read_vocab
from minitxl.data.vocab import ByteVocab, Known, stored_vocab, vocab_from_dict
from minitxl.errors import MinitxlError
from minitxl.model.transformer_xl import TransformerXL
from minitxl.pretrained import find_run
from minitxl.storage.model_arrays import load_params, params_of
from minitxl.storage.run_folder import check_size, load_run, of_info, read_info
from minitxl.training.presets import find_preset, train_settings

# What may differ from the model's: no parameter has another shape or meaning then.
FREE = (
    "tgt_len mem_len ext_len clamp_len same_length dropout dropatt init_std proj_init_std"
).split()

# Of a model that was trained elsewhere nothing is known; the rate is that of the released scripts.
_ELSEWHERE = TrainConfig(lr=2.5e-4)
_NAMED = 8  # new symbols that the line about them spells out


class Origin(NamedTuple):
    """A model to begin from, without its weights."""

    name: str  # of a shipped model, or the absolute path of its folder
    folder: Path
    info: dict
    config: Config
    vocab: Known


class Beginning(NamedTuple):
    """What a run that begins from a model is made of, and what run.json is to hold of that."""

    origin: Origin
    corpus: Corpus
    text_vocab: Vocabulary  # the text's own
    config: Config
    settings: TrainConfig
    dtype: str
    text_sha256: str  # as the text is by itself


def find_origin(run: str | os.PathLike) -> Origin:
    """Return what is known of the model in a run folder, or of a shipped one by its name."""
    folder = find_run(run)
    if not (folder / "run.json").is_file():
        raise MinitxlError(f"--init-from {run}: no run.json there; give a folder that train wrote")
    info = read_info(folder)
    config, vocab = of_info(folder, info)
    check_size(folder, info, config)  # a file that others made may claim any
    name = str(run) if Path(run) != folder else str(folder.resolve())
    return Origin(name, folder, info, config, vocab)


def beginning(run, names: dict, asked: dict, model_options: dict) -> Beginning:
    """Return the text, in a vocabulary of all symbols, and the settings; no weights are read.

    MinitxlError for options that contradict the model's architecture, with both values.
    """
    origin = find_origin(run)
    default, shape = _ELSEWHERE, {}
    if names["preset"] is not None:
        preset = find_preset(names["preset"])
        default, shape = preset.train, preset.model
        _check_shape(origin, shape, f"the preset {names['preset']} has ")
    elif origin.info["train"]:
        # The number of threads is that of the machine, the seed its own.
        default = TrainConfig.from_dict(origin.info["train"]).replace(threads=0, seed=0)
    _check_shape(origin, model_options, "")
    text = _text(origin, names["data"], names["level"], names["vocab"])
    vocab = text.vocab
    if isinstance(vocab, ByteVocab):  # those that occur: it knows all 256 of any text
        vocab = ByteVocab(bytes(vocab.values[i] for i in used_ids(text)))
    vocab = merged(origin.vocab, vocab)
    table = id_map(origin.vocab, vocab)
    changes = {k: v for k, v in {**shape, **model_options}.items() if k in FREE}
    if origin.config.attn_type in (SHAW, LEARNED):
        changes["max_klen"] = origin.config.table_len  # its table keeps its rows
    config = origin.config.replace(
        n_token=vocab.n_token,
        cutoffs=tuple(int(table[first]) for first in origin.config.cutoffs),
        **changes,
    )
    dtype = names["dtype"] or origin.info.get("dtype", "float32")
    settings = train_settings(default, asked)
    corpus, checksum = translated(text, vocab), text_checksum(text)
    return Beginning(origin, corpus, text.vocab, config, settings, dtype, checksum)


def _check_shape(origin: Origin, options: dict, what: str) -> None:
    has = origin.config.to_dict()
    for key, value in options.items():
        was = has.get(key)
        if key not in FREE and (tuple(value) if isinstance(value, list) else value) != was:
            raise MinitxlError(
                f"{what}{key}={value} contradicts the model of --init-from {origin.name}, which "
                f"has {key}={was}: its architecture stays; leave the option away"
            )


def _text(origin: Origin, data: str | None, level: str | None, vocab) -> Corpus:
    has = origin.info["level"]
    if level not in (None, has):
        raise MinitxlError(
            f"level={level} contradicts the model of --init-from {origin.name}, whose tokens are "
            f"of level {has}; leave --level away"
        )
    if vocab is not None and has != "token":
        raise MinitxlError(
            f"the model of --init-from {origin.name} has tokens of level {has} and their "
            "vocabulary: leave --vocab away"
        )
    if data is None and vocab is None and "text_vocab" in origin.info:
        vocab = vocab_from_dict(origin.info["text_vocab"])
    data = data or origin.info["data"]
    if not data:
        raise MinitxlError(
            f"the model of --init-from {origin.name} was imported and its text is not known; give "
            "one as --data TEXT"
        )
    if is_ids(data) and has != "token":
        raise MinitxlError(
            f"{data} holds ids, the model of --init-from {origin.name} has tokens of level {has}: "
            "give a text"
        )
    if data in DATASETS and DATASETS[data].level != has:
        raise MinitxlError(
            f"the tokens of {data} are of level {DATASETS[data].level}, those of the model of "
            f"--init-from {origin.name} of level {has}: give another text"
        )
    vocab = read_vocab(vocab)
    if has == "token" and vocab is None:
        more = isinstance(origin.vocab, NumberVocab) and is_ids(data)
        vocab = None if more else origin.vocab
    return load_corpus(data, level=has, check=True, vocab=vocab)


def told(start: Beginning) -> str:
    """Return a line on the model that a run begins from, and on the symbols of its text."""
    origin, vocab = start.origin, start.corpus.vocab
    new = np.setdiff1d(np.arange(vocab.n_token), id_map(origin.vocab, vocab))
    lacks = vocab.n_token - len(new) - len(np.setdiff1d(used_ids(start.corpus), new))
    line = f"begins from {origin.name}, {origin.config.n_layer} layers, D {origin.config.d_model}; "
    if len(new):
        names = ", ".join(repr(vocab.decode([i])) for i in new[:_NAMED])
        more = f" and {len(new) - _NAMED:,} more" if len(new) > _NAMED else ""
        rows = "symbol gets a fresh row" if len(new) == 1 else "symbols get fresh rows"
        line += f"{len(new):,} new {rows}: {names}{more}"
    else:
        line += "no symbol is new"
    return line + (f"; {lacks:,} that the text lacks keep theirs" if lacks else "")


def carry_over(model: TransformerXL, vocab: Vocabulary, origin: Origin) -> dict:
    """Give a fresh model the weights of another; return what run.json is to hold of that."""
    dtype = model.backend.dtype_name
    loaded = load_run(origin.folder, device="cpu", dtype=dtype)
    arrays, fresh = params_of(loaded.model), params_of(model)
    table = id_map(origin.vocab, vocab)
    for name, array in arrays.items():
        rows = _symbols(name, origin.config)
        if rows is None:
            fresh[name] = array
        else:  # a copy: the array may be a view of the model's buffer
            first, _ = _symbols(name, model.config) or (0, 0)
            fresh[name] = fresh[name].copy()
            fresh[name][table[slice(*rows)] - first] = array
    load_params(model, fresh)
    return {"run": origin.name, "step": loaded.step, "sha256": _checksum(arrays)}


def _symbols(name: str, config: Config) -> tuple[int, int] | None:
    """Return the range of ids that have their rows in a parameter, None where it has no such."""
    _, table, *band = name.split(".")
    if table not in ("word_emb", "out_emb", "out_bias"):
        return None
    edges = (0, *config.cutoffs, config.n_token)
    if not band or config.div_val == 1:  # one table for all
        return 0, config.n_token
    return edges[int(band[0])], edges[int(band[0]) + 1]


def _checksum(arrays: dict) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def carry_over_again(model: TransformerXL, vocab: Vocabulary, info: dict, folder: Path) -> None:
    """Begin a run anew that was stopped before its first checkpoint; MinitxlError if it cannot."""
    known = info["init_from"]
    if not isinstance(known, dict) or not isinstance(known.get("run"), str):
        raise MinitxlError(f"{folder / 'run.json'}: 'init_from' is of a wrong type; it is damaged")
    try:
        same = carry_over(model, vocab, find_origin(known["run"])) == known
        why = "has changed since"
    except MinitxlError as error:
        same, why = False, f"cannot be read ({error})"
    if not same:
        raise MinitxlError(
            f"the run in {folder} had not saved yet, and the model that it began from, "
            f"{known['run']}, {why}; remove the folder and start again with --init-from"
        )


def record(start: Beginning) -> dict:
    """Return what run.json is to hold of a text whose ids are not those of the model's symbols."""
    own = stored_vocab(start.text_vocab)
    differs = start.corpus.level == "token" and own != stored_vocab(start.corpus.vocab)
    return {"text_vocab": own} if differs else {}
