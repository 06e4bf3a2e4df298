"""Run folders: what `train` writes, and models loaded back from it.

A run folder holds
  run.json            model and training settings, vocabulary, corpus, versions
  last.safetensors    the newest checkpoint: everything that is needed to go on to the same bits
  best.safetensors    the parameters that did best on the validation split
  metrics.jsonl       a line of JSON every few steps; loss_curve.png draws them
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from minitxl.backend import Backend, get_backend
from minitxl.config import Config
from minitxl.data.text import Corpus, load_corpus
from minitxl.data.vocab import ByteVocab, CharVocab, vocab_from_dict
from minitxl.data.words import WordVocab
from minitxl.errors import MinitxlError
from minitxl.model.transformer_xl import TransformerXL, empty_params
from minitxl.storage import checkpoint
from minitxl.storage.model_arrays import load_params, params_of


@dataclass(frozen=True)
class LoadedRun:
    """A trained model with its vocabulary; `info` is what run.json holds."""

    model: TransformerXL
    vocab: CharVocab | ByteVocab | WordVocab
    info: dict
    step: int  # the update after which the parameters were saved


def load_run(
    folder: str | os.PathLike,
    device: str | Backend = "auto",
    dtype: str | None = None,
    which: str = "best",
) -> LoadedRun:
    """Load the model of a run folder; `pretrained.find_run` knows those of shipped models.

    dtype: None takes the one it was trained in. which: "best" (on the validation split; "last"
    where there is none) or "last". Raises `MinitxlError` for a missing folder and for damaged or
    mismatched files.
    """
    if which not in ("best", "last"):
        raise MinitxlError(f"which={which!r} must be 'best' or 'last'")
    path = Path(folder)
    if path.exists() and not (path / "run.json").is_file():
        raise MinitxlError(
            f"{str(folder)!r} is no run folder: it has no run.json; give the folder that train "
            "wrote"
        )
    info = read_info(path)
    config = Config.from_dict(info["config"])
    vocab = vocab_from_dict(info["vocab"])
    if vocab.n_token != config.n_token:
        raise MinitxlError(
            f"{path / 'run.json'}: the vocabulary has {vocab.n_token} symbols, the model n_token="
            f"{config.n_token}; the file was changed by hand or is damaged"
        )
    file = path / f"{which}.safetensors"
    if which == "best" and not file.exists():
        file = path / "last.safetensors"
    if not file.exists():
        raise MinitxlError(f"{path} holds no checkpoint ({file.name}); let train run longer")
    arrays, state = checkpoint.load(file)
    backend = get_backend(device, dtype or info.get("dtype", "float32"))
    model = TransformerXL(config, device=backend, params=empty_params(config, backend))
    load_params(model, arrays)
    return LoadedRun(model, vocab, info, int(state.get("n_step", 0)))


def save_imported(
    folder: str | os.PathLike, model: TransformerXL, vocab, level: str, data: str, source: str
) -> None:
    """Write a run folder for a model that was trained elsewhere.

    data: the text for `eval`, a name or path as `load_corpus` takes it, or "" where it is not
    known; source: one sentence on where the model comes from. The folder must be new or empty.
    """
    if vocab.n_token != model.config.n_token:
        raise MinitxlError(
            f"the vocabulary has {vocab.n_token} symbols, the model n_token="
            f"{model.config.n_token}; give the vocabulary that it was trained with"
        )
    path = Path(folder)
    check_new(path)
    path.mkdir(parents=True, exist_ok=True)
    info = {
        "data": data,
        "level": level,
        "dtype": model.backend.dtype_name,
        "config": model.config.to_dict(),
        "train": {},
        "vocab": vocab.to_dict(),
        "source": source,
        "n_params": model.n_params,
    }
    checkpoint.write_json(path / "run.json", info)
    checkpoint.save(path / "best.safetensors", params_of(model), {"n_step": 0})


def check_new(folder: Path) -> None:
    """Raise `MinitxlError` where something is in the way of a new run folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        resumable = (folder / "last.safetensors").is_file()
        way_out = f"continue it with --resume {folder}, or " if resumable else ""
        raise MinitxlError(f"{folder} exists and is not empty; {way_out}choose another --out")


def load_corpus_of(info: dict) -> Corpus:
    """Load the corpus that a run was trained on."""
    if not info["data"]:
        raise MinitxlError("the model was imported and its text is not known; give one by --data")
    return load_corpus(info["data"], level=info["level"])


def read_info(folder: Path) -> dict:
    """Read and check run.json of a run folder."""
    file = folder / "run.json"
    info = checkpoint.read_json(file)
    want = {"config": dict, "vocab": dict, "train": dict, "data": str, "level": str}
    for key, kind in want.items():
        if not isinstance(info.get(key), kind):
            raise MinitxlError(f"{file}: {key!r} is missing or of a wrong type; it is damaged")
    return info


def read_metrics(folder: str | os.PathLike) -> list[dict]:
    """Read metrics.jsonl of a run folder; lines that a kill left unfinished are left out."""
    file = Path(folder) / "metrics.jsonl"
    if not file.is_file():
        return []
    lines = []
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines
