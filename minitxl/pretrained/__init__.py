"""Trained models that ship with minitxl, each a run folder."""
