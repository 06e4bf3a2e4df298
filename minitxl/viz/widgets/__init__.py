"""Widgets for a notebook: sliders on the left hand, a picture that is redrawn in place."""
