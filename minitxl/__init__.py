"""minitxl: Transformer-XL with hand-written gradients, on NumPy and CuPy, made to be read."""

from minitxl.attention import Inspection
from minitxl.config import PRESETS, Config, TrainConfig
from minitxl.errors import MinitxlError
from minitxl.model import TransformerXL
from minitxl.runs import load_pretrained

__version__ = "0.1.0"

__all__ = ["PRESETS", "Config", "Inspection", "MinitxlError", "TrainConfig", "TransformerXL", "load_pretrained"]
