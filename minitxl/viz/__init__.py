"""Pictures and widgets: attention over cached segments, and the gradient that stops at the memory.

The drawing functions take plain arrays; `Reading` gets them from a model; the explorers join both.
Pictures that belong to one notebook each, `draw_*` and `LiveCurves`, are in `lessons/`.
"""

from minitxl.viz.attention import AttentionFigure, nearest_first, span, weight_by_distance
from minitxl.viz.gradient import colour_limits, gradient_norms
from minitxl.viz.in_browser import live
from minitxl.viz.lessons.beyond import draw_reading_cost
from minitxl.viz.lessons.bugs import draw_symptoms
from minitxl.viz.lessons.by_hand import draw_checks, draw_stop
from minitxl.viz.lessons.four_terms import draw_four_terms, draw_leak
from minitxl.viz.lessons.fragmentation import (
    draw_group_by_position,
    draw_saw,
    draw_segment_lengths,
    draw_sliding,
)
from minitxl.viz.lessons.idea import draw_idea
from minitxl.viz.lessons.influence import draw_changes, draw_learned_reach
from minitxl.viz.lessons.learning import LiveCurves
from minitxl.viz.lessons.memory_rows import draw_masks, draw_recurrence, draw_stale_states
from minitxl.viz.lessons.samples import Samples
from minitxl.viz.reading import Reading, memory_share
from minitxl.viz.theme import Picture
from minitxl.viz.widgets.compression import compression_explorer
from minitxl.viz.widgets.cut import play_cut
from minitxl.viz.widgets.dependencies import span_explorer
from minitxl.viz.widgets.explorers import Explorer
from minitxl.viz.widgets.gradient import gradient_explorer
from minitxl.viz.widgets.overfull import overfull_explorer
from minitxl.viz.widgets.rel_shift import rel_shift_explorer
from minitxl.viz.widgets.small_attention import play_attention

__all__ = [
    "AttentionFigure",
    "Explorer",
    "LiveCurves",
    "Picture",
    "Reading",
    "Samples",
    "colour_limits",
    "compression_explorer",
    "draw_changes",
    "draw_checks",
    "draw_four_terms",
    "draw_group_by_position",
    "draw_idea",
    "draw_leak",
    "draw_learned_reach",
    "draw_masks",
    "draw_reading_cost",
    "draw_recurrence",
    "draw_saw",
    "draw_segment_lengths",
    "draw_sliding",
    "draw_stale_states",
    "draw_stop",
    "draw_symptoms",
    "gradient_explorer",
    "gradient_norms",
    "live",
    "memory_share",
    "nearest_first",
    "overfull_explorer",
    "play_attention",
    "play_cut",
    "rel_shift_explorer",
    "span",
    "span_explorer",
    "weight_by_distance",
]
