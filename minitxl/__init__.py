"""minitxl: Transformer-XL with hand-written gradients, on NumPy and CuPy, made to be read.

The rooms of the house, from the ground up. Each imports only from the lines above its own, and the
tests hold it to that (they read this table):

    errors config files lock    mistakes in a line; settings; files always whole; one writer
    backend                NumPy or CuPy, threads, and fast twins of the hot operations
    data                   text in, batches out
    model                  the paper; in model/family what stands beside it
    storage                checkpoints and run folders
    inference              reading with kept keys and values, evaluation, sampling
    pretrained             the models that ship
    interop viz            foreign weights; pictures, widgets, the explorer
    training               optimizer, trainer, `train`, presets, cost
    experiments tools      questions, measurements, their pictures; doctor and bench
    course                 exercises and their grading
    cli                    the commands
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minitxl import course, interop, viz
    from minitxl.config import Config, Memory, TrainConfig
    from minitxl.data.stream import Stream
    from minitxl.data.text import load_corpus
    from minitxl.errors import MinitxlError
    from minitxl.inference.evaluate import evaluate
    from minitxl.inference.generate import generate, generate_batch
    from minitxl.model import attention, gradcheck, ops
    from minitxl.model.attention import Inspection
    from minitxl.model.transformer_xl import TransformerXL
    from minitxl.pretrained import load_pretrained
    from minitxl.storage.run_folder import load_run, save_run
    from minitxl.training.presets import PRESETS
    from minitxl.training.trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "Config",
    "Inspection",
    "Memory",
    "MinitxlError",
    "Stream",
    "TrainConfig",
    "Trainer",
    "TransformerXL",
    "attention",
    "course",
    "evaluate",
    "generate",
    "generate_batch",
    "gradcheck",
    "interop",
    "load_corpus",
    "load_pretrained",
    "load_run",
    "ops",
    "save_run",
    "viz",
]

# Where a public name lives: the module that it is taken from, or that it is.
_HOME = {
    "PRESETS": "training.presets",
    "Config": "config",
    "Inspection": "model.attention",
    "Memory": "config",
    "MinitxlError": "errors",
    "Stream": "data.stream",
    "TrainConfig": "config",
    "Trainer": "training.trainer",
    "TransformerXL": "model.transformer_xl",
    "attention": "model.attention",
    "course": "course",
    "evaluate": "inference.evaluate",
    "generate": "inference.generate",
    "generate_batch": "inference.generate",
    "gradcheck": "model.gradcheck",
    "interop": "interop",
    "load_corpus": "data.text",
    "load_pretrained": "pretrained",
    "load_run": "storage.run_folder",
    "ops": "model.ops",
    "save_run": "storage.run_folder",
    "viz": "viz",
}
_MODULES = {"attention", "course", "gradcheck", "interop", "ops", "viz"}  # public as a whole


def __getattr__(name: str):
    """Import a public name when it is first used.

    So `python -m minitxl --help` answers at once, and `doctor` can speak where NumPy is broken.
    """
    if name not in _HOME:
        raise AttributeError(f"module 'minitxl' has no attribute {name!r}")
    home = import_module(f"minitxl.{_HOME[name]}")
    value = globals()[name] = home if name in _MODULES else getattr(home, name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
