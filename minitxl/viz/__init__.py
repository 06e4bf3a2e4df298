"""Pictures and widgets: attention over cached segments, and the gradient that stops at the memory.

The drawing functions take plain arrays; `Reading` gets them from a model; the explorers join both.
"""

from minitxl.viz.attention import AttentionFigure, nearest_first, span, weight_by_distance
from minitxl.viz.by_position import bits_by_position
from minitxl.viz.explorer import token_explorer
from minitxl.viz.gradient import GradientFigure, colour_limits, gradient_norms
from minitxl.viz.lessons.idea import draw_idea
from minitxl.viz.reading import Reading, memory_share
from minitxl.viz.theme import Picture
from minitxl.viz.widgets.dependencies import span_explorer
from minitxl.viz.widgets.explorers import Explorer, attention_explorer, gradient_explorer
from minitxl.viz.widgets.memory_length import memory_length_explorer
from minitxl.viz.widgets.rel_shift import rel_shift_explorer

__all__ = [
    "AttentionFigure",
    "Explorer",
    "GradientFigure",
    "Picture",
    "Reading",
    "attention_explorer",
    "bits_by_position",
    "colour_limits",
    "draw_idea",
    "gradient_explorer",
    "gradient_norms",
    "memory_length_explorer",
    "memory_share",
    "nearest_first",
    "rel_shift_explorer",
    "span",
    "span_explorer",
    "token_explorer",
    "weight_by_distance",
]
