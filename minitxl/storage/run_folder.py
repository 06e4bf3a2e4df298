"""Run folders: what `train` writes, and models loaded back from it.

A run folder holds
  run.json            model and training settings, vocabulary, corpus, versions
  last.safetensors    the newest checkpoint: everything that is needed to go on to the same bits;
                      last.older.safetensors is the one before it
  best.safetensors    the parameters that did best on the validation split
  metrics.jsonl       a line of JSON every few steps; loss_curve.png draws them
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from minitxl.backend import Backend, get_backend
from minitxl.config import Config
from minitxl.data.tokens import Vocabulary
from minitxl.data.vocab import Known, level_of, stored_vocab, vocab_from_dict
from minitxl.errors import MinitxlError
from minitxl.files import clean, leftovers, quoted, whole_folder
from minitxl.lock import NAME as LOCK
from minitxl.lock import locked
from minitxl.model.family.memories.kinds import Memory
from minitxl.model.transformer_xl import TransformerXL, empty_params, network_of
from minitxl.storage import checkpoint
from minitxl.storage.generations import NEWEST, OLDER, has_newest, load_newest
from minitxl.storage.model_arrays import check_finite, check_shapes, load_params, params_of

BEST = "best.safetensors"


@dataclass(frozen=True)
class LoadedRun:
    """A trained model with its vocabulary; `info` is what run.json holds."""

    model: TransformerXL
    vocab: Vocabulary
    info: dict
    step: int  # the update after which the parameters were saved


def load_run(
    folder: str | os.PathLike,
    device: str | Backend = "auto",
    dtype: str | None = None,
    which: str = "best",
    vocab: Vocabulary | None = None,
    memory: type[Memory] | None = None,
) -> LoadedRun:
    """Load the model of a run folder; `pretrained.find_run` knows those of shipped models.

    dtype: None takes the one it was trained in. which: "best" (on the validation split; "last"
    where there is none) or "last". vocab: the vocabulary of the program that trained it, in place
    of the symbols that run.json has of it (`data/tokens.py`); memory: the class of a "custom" one.
    Raises `MinitxlError` for a missing folder and for damaged or mismatched files.
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
    config, stored = of_info(path, info)
    vocab = stored if vocab is None else own_or_stored(vocab, info)
    best = path / BEST
    if which == "best" and best.exists():
        arrays, state = checkpoint.load(best)
    elif has_newest(path):
        arrays, state, _ = load_newest(path)
    else:
        raise MinitxlError(f"{path} holds no checkpoint (last.safetensors); let train run longer")
    check_shapes(config, arrays, memory)
    other = "last" if which == "best" else "best"
    params = {name: a for name, a in arrays.items() if name.startswith(("params.", "constants."))}
    check_finite(params, str(path), f"take another checkpoint (--checkpoint {other}) or run")
    backend = get_backend(device, dtype or info.get("dtype", "float32"))
    empty = empty_params(config, backend, memory)
    model = TransformerXL(config, device=backend, params=empty, memory=memory)
    load_params(model, arrays)
    return LoadedRun(model, vocab, info, int(state.get("n_step", 0)))


def of_info(folder: Path, info: dict) -> tuple[Config, Known]:
    """Return the configuration and the vocabulary that run.json holds, if they fit each other."""
    config, vocab = Config.from_dict(info["config"]), vocab_from_dict(info["vocab"])
    if vocab.n_token != config.n_token:
        raise MinitxlError(
            f"{folder / 'run.json'}: the vocabulary has {vocab.n_token} symbols, the model n_token="
            f"{config.n_token}; the file was changed by hand or is damaged"
        )
    return config, vocab


def own_or_stored(vocab: Vocabulary | None, info: dict) -> Vocabulary:
    """Return the vocabulary that run.json holds, or the program's own, if that is the same."""
    if vocab is None:
        return vocab_from_dict(info["vocab"])
    if stored_vocab(vocab) != info["vocab"]:
        has = vocab_from_dict(info["vocab"])
        raise MinitxlError(
            f"the vocabulary given has {vocab.n_token} symbols, and they are not the {has.n_token} "
            "of the run: give the one that it was trained with, or none"
        )
    return vocab


def save_run(
    folder: str | os.PathLike,
    model: TransformerXL,
    vocab: Vocabulary,
    level: str | None = None,
    data: str = "",
    source: str = "",
) -> None:
    """Write a run folder for a model that `train` has not trained, so that the commands know it.

    vocab: one of this package's or any `Vocabulary` (`data/tokens.py`); level: what a token is, by
    default what the vocabulary says; data: the text for `eval`, a name or path as `load_corpus`
    takes it, or "" where it is not known; source: one sentence on where the model comes from. The
    folder must be new or empty; where something cannot be stored nothing is left of it.
    """
    stored = stored_vocab(vocab)
    if vocab.n_token != model.config.n_token:
        raise MinitxlError(
            f"the vocabulary has {vocab.n_token} symbols, the model n_token="
            f"{model.config.n_token}; give the vocabulary that it was trained with"
        )
    params = params_of(model)
    check_finite(params, "the model", "give another one")
    info = {
        "data": data,
        "level": level or level_of(vocab),
        "dtype": model.backend.dtype_name,
        "config": model.config.to_dict(),
        "train": {},
        "vocab": stored,
        "source": source,
        "n_params": model.n_params,
    }
    check_new(Path(folder))
    with whole_folder(folder) as made:
        checkpoint.write_json(made / "run.json", info)
        checkpoint.save(made / BEST, params, {"n_step": 0})


def check_new(folder: Path) -> None:
    """Raise `MinitxlError` where something is in the way of a new run folder.

    The lock and what a killed process left under a temporary name are in nobody's way.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_dir():
        ours = {LOCK, *(path.name for path in leftovers(folder))}
        if all(path.name in ours for path in folder.iterdir()):
            return
    resumable = (folder / "run.json").is_file() and not is_imported(folder)
    way_out = f"continue it with --resume {quoted(folder)}, or " if resumable else ""
    raise MinitxlError(f"{folder} exists and is not empty; {way_out}choose another --out")


def is_imported(folder: Path) -> bool:
    """Say whether the model was trained elsewhere: then there is no training to go on with."""
    try:
        return not read_info(folder)["train"]
    except MinitxlError:
        return False


@contextmanager
def writing(folder: Path, *, new: bool) -> Iterator[None]:
    """Be the only one that writes to a run folder, which is made if need be; clear it up first.

    new: nothing else may be in it. MinitxlError, which says who, where another process trains in
    it.
    """
    if folder.exists() and not folder.is_dir():
        raise MinitxlError(f"{folder} is a file; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MinitxlError(f"cannot make the folder {folder}: {error.strerror}") from error
    try:
        with locked(folder):
            if new:
                check_new(folder)
            clean(folder)
            yield
    except BaseException:
        if new:  # where not even run.json could be written, no empty folder stays
            with suppress(OSError):
                folder.rmdir()
        raise


def read_info(folder: Path) -> dict:
    """Read and check run.json of a run folder."""
    file = folder / "run.json"
    info = checkpoint.read_json(file)
    want = {"config": dict, "vocab": dict, "train": dict, "data": str, "level": str}
    for key, kind in want.items():
        if not isinstance(info.get(key), kind):
            raise MinitxlError(f"{file}: {key!r} is missing or of a wrong type; it is damaged")
    return info


def check_size(folder: Path, info: dict, config: Config) -> None:
    """Raise `MinitxlError` before memory is taken for sizes that the run cannot have had."""
    n = sum(math.prod(shape) for shape in network_of(config).param_shapes(config).values())
    if n != info.get("n_params"):
        raise MinitxlError(
            f"{folder / 'run.json'}: n_params is {info.get('n_params')}, but its config has {n:,} "
            "parameters; the file was changed or is damaged"
        )
    names = (NEWEST, OLDER, BEST)
    files = [folder / name for name in names if (folder / name).is_file()]
    largest = max(files, key=lambda file: file.stat().st_size, default=None)
    if largest and 2 * n > largest.stat().st_size:  # the shipped ones are in float16
        raise MinitxlError(
            f"{largest} has {largest.stat().st_size:,} bytes, too few for the {n:,} parameters of "
            "run.json; one of them was cut off, changed or is damaged"
        )


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
