"""minitxl: Transformer-XL with hand-written gradients, on NumPy and CuPy, made to be read."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minitxl.attention import Inspection
    from minitxl.config import Config, TrainConfig
    from minitxl.errors import MinitxlError
    from minitxl.model import TransformerXL
    from minitxl.presets import PRESETS
    from minitxl.runs import load_pretrained

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "Config",
    "Inspection",
    "MinitxlError",
    "TrainConfig",
    "TransformerXL",
    "load_pretrained",
]

_HOME = {
    "Inspection": "attention",
    "PRESETS": "presets",
    "Config": "config",
    "TrainConfig": "config",
    "MinitxlError": "errors",
    "TransformerXL": "model",
    "load_pretrained": "runs",
}


def __getattr__(name: str):
    """Import a public name when it is first used.

    So `python -m minitxl --help` answers at once, and `doctor` can speak where NumPy is broken.
    """
    if name not in _HOME:
        raise AttributeError(f"module 'minitxl' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"minitxl.{_HOME[name]}"), name)
    return value
