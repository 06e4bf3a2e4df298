"""Trained models that ship with minitxl, each a run folder."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from minitxl.errors import MinitxlError
from minitxl.storage.run_folder import LoadedRun, load_run


def models_folder() -> Path:
    """Return the folder inside the package that holds a run folder for each shipped model."""
    return Path(str(resources.files("minitxl.pretrained")))


def shipped_models() -> list[str]:
    """Return the names of the trained models inside the package."""
    return sorted(p.parent.name for p in models_folder().glob("*/run.json"))


def load_pretrained(
    name: str = "war-and-peace", device: str = "auto", dtype: str | None = None
) -> LoadedRun:
    """Load a model that ships with minitxl: `.model`, `.vocab`, `.info` (see `LoadedRun`)."""
    if name not in shipped_models():
        raise MinitxlError(
            f"no model {name!r} ships with minitxl; there is {', '.join(shipped_models())}"
        )
    return load_run(models_folder() / name, device, dtype)


def find_run(folder: str | os.PathLike) -> Path:
    """Return the folder of a run: the path of one, or the name of a model that ships."""
    path = Path(folder)
    if not (path / "run.json").is_file() and str(folder) in shipped_models():
        return models_folder() / str(folder)
    if not path.exists():
        raise MinitxlError(
            f"there is no folder {str(folder)!r}; give the folder that train wrote, or one of the "
            f"shipped models: {', '.join(shipped_models()) or 'none'}"
        )
    return path
