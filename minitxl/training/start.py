"""How a run begins: the pieces of a new one, and those of one that is to go on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import minitxl
from minitxl.config import Config, TrainConfig
from minitxl.data.checksums import text_checksum
from minitxl.data.datasets import DATASETS
from minitxl.data.ids import is_ids
from minitxl.data.text import Corpus, load_corpus
from minitxl.data.tokens import Vocabulary, read_vocab
from minitxl.data.vocab import stored_vocab
from minitxl.errors import MinitxlError
from minitxl.model.transformer_xl import TransformerXL
from minitxl.storage.generations import has_newest
from minitxl.storage.run_folder import check_size, own_or_stored, read_info
from minitxl.storage.run_text import load_corpus_of
from minitxl.training.origin import beginning, carry_over, carry_over_again, record, told
from minitxl.training.parallel import Group
from minitxl.training.presets import Preset, find_preset, settings_of

ENDS = ("steps", "patience")  # settings that a run which goes on may change


@dataclass
class Pieces:
    """What a run is made of; `info` is what run.json holds, or is to hold.

    was: the settings that a run had which goes on, maybe to another end. told: a line on the model
    that a run begins from.
    """

    folder: Path
    model: TransformerXL
    corpus: Corpus
    settings: TrainConfig
    info: dict
    was: TrainConfig
    told: str = ""


def new_pieces(out, init_from, names: dict, asked: dict, model_options: dict, device) -> Pieces:
    """Return the pieces of a new run; nothing is written yet."""
    if init_from is not None:
        return _pieces_from(out, init_from, names, asked, model_options, device)
    name = "tiny" if names["preset"] is None else names["preset"]
    preset = find_preset(name)
    corpus = corpus_of(preset, names["data"], names["level"], names["vocab"], check=True)
    config, settings = settings_of(preset, corpus.vocab.n_token, corpus.name, model_options, asked)
    dtype = names["dtype"] or "float32"
    model = TransformerXL(config, device, dtype, seed=settings.seed)
    info = _info(name, corpus, text_checksum(corpus), settings, model)
    return Pieces(_folder(out, name, corpus), model, corpus, settings, info, settings)


def _pieces_from(out, init_from, names, asked, model_options, device) -> Pieces:
    """Return the pieces of a new run that begins from the weights of a model."""
    start = beginning(init_from, names, asked, model_options)
    corpus, settings = start.corpus, start.settings
    model = TransformerXL(start.config, device, start.dtype, seed=settings.seed)
    began = carry_over(model, corpus.vocab, start.origin)
    name = names["preset"] or str(start.origin.info.get("preset", ""))
    info = _info(name, corpus, start.text_sha256, settings, model)
    info |= {"init_from": began, **record(start)}
    folder = _folder(out, Path(start.origin.name).name, corpus)
    return Pieces(folder, model, corpus, settings, info, settings, told(start))


def _folder(out, name: str, corpus: Corpus) -> Path:
    return Path("runs") / f"{name}-{Path(corpus.name).stem}" if out is None else Path(out)


def _info(name: str, corpus: Corpus, text_sha256: str, settings: TrainConfig, model) -> dict:
    """Return what run.json is to hold."""
    return {
        "minitxl": minitxl.__version__,
        "preset": name,
        "data": corpus.name,
        "level": corpus.level,
        "text_sha256": text_sha256,
        "dtype": model.backend.dtype_name,
        "config": model.config.to_dict(),
        "train": settings.to_dict(),
        "vocab": stored_vocab(corpus.vocab),
        "source": corpus.source,
        "n_params": model.n_params,
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "device": model.backend.name,
    }


def corpus_of(
    preset: Preset,
    data: str | None,
    level: str | None,
    vocab: Vocabulary | str | os.PathLike | None = None,
    check: bool = False,
) -> Corpus:
    """Load a text, by default the preset's; a preset for words takes the words of a file.

    vocab: that of its tokens, or the file of one.
    """
    data = preset.data if data is None else data
    if level is None and vocab is None and data not in DATASETS and not is_ids(data):
        level = preset.level
    return load_corpus(data, level=level, check=check, vocab=read_vocab(vocab))


def old_pieces(resume, out, names, asked, model_options, device, group: Group) -> Pieces:
    """Return the pieces of a run that is to go on, once all is found to be what it was."""
    folder = Path(resume)
    if not group.on_first((folder / "run.json").is_file):
        raise MinitxlError(f"--resume {folder}: no run.json there; give a folder that train wrote")
    if out is not None and Path(out) != folder:
        raise MinitxlError(f"--out {out} contradicts --resume {folder}; leave --out away")
    info = group.on_first(read_info, folder)
    end = {key: asked[key] for key in ENDS if asked.get(key) is not None}
    kept = {key: value for key, value in asked.items() if key not in ENDS}
    vocab = read_vocab(names["vocab"])
    if vocab is not None:
        own_or_stored(vocab, {"vocab": info.get("text_vocab", info["vocab"])})
    _check_asked(folder, info, {**names, **kept, **model_options, "vocab": None})
    config, settings = Config.from_dict(info["config"]), _settings_of(folder, info)
    group.on_first(check_size, folder, info, config)
    corpus = load_corpus_of(info, _place(names["data"], info), vocab=vocab)
    if stored_vocab(corpus.vocab) != info["vocab"]:
        raise MinitxlError(
            f"the text at {corpus.name} has a vocabulary of {corpus.vocab.n_token} symbols that is "
            f"not the run's, of {config.n_token}: the text has changed; give the place of the "
            "unchanged one as --data PATH, or start anew with --out"
        )
    model = TransformerXL(config, device, info.get("dtype", "float32"), seed=settings.seed)
    if model.backend.name != info.get("device"):
        raise MinitxlError(
            f"the run was trained on {info.get('device')}, this is {model.backend.name}: other "
            f"hardware gives other bits; use --device {info.get('device')}"
        )
    if "init_from" in info and not group.on_first(has_newest, folder):
        carry_over_again(model, corpus.vocab, info, folder)
    return Pieces(folder, model, corpus, settings.replace(**end), info, settings)


def extensions(folder: Path, info: dict) -> list[dict]:
    """Return what run.json tells of new ends: at, the step then, and steps, the end before."""
    found = info.get("extended", [])
    if not isinstance(found, list) or not all(
        isinstance(e, dict) and all(type(e.get(key)) is int for key in ("at", "steps"))
        for e in found
    ):
        raise MinitxlError(f"{folder / 'run.json'}: 'extended' is of a wrong type; it is damaged")
    return found


def _settings_of(folder: Path, info: dict) -> TrainConfig:
    if not info["train"]:
        raise MinitxlError(
            f"the model in {folder} was trained elsewhere: there is no training to resume; "
            f"begin a new run from it with --init-from {folder}"
        )
    return TrainConfig.from_dict(info["train"])


def _check_asked(folder: Path, info: dict, asked: dict) -> None:
    """Raise `MinitxlError` for an option that contradicts the run."""
    for key, value in asked.items():
        was = {**info, **info["train"], **info["config"]}.get(key)
        same = value is None or value == was
        same = same or (key == "threads" and value == 0)  # 0 left it to the run to decide
        # Another place is as good, if the text there has the checksum that the run was begun with.
        same = same or (key == "data" and ("text_sha256" in info or _same_file(value, was)))
        if not same:
            raise MinitxlError(
                f"{key}={value} contradicts the run in {folder}, which has {key}={was}; leave the "
                "option away, or start a new run with --out"
            )


def _place(data, info: dict) -> str | None:
    """Return the place that --data gives the text, None where it is the one that it had."""
    return None if data is None or data == info["data"] else data


def _same_file(a: str, b: str | None) -> bool:
    try:
        return b is not None and os.path.samefile(a, b)
    except OSError:
        return False
