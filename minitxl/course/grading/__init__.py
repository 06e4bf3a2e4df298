"""Grading what students hand in, with nbgrader."""
