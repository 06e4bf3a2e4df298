"""Coursework that is more than functions: four projects, with milestones that check themselves.

    python -m minitxl course project FOLDER

says of each milestone whether it is reached, and why not. Nothing that a student claims is
believed: bits are measured anew, baselines computed, results summed up, a memory called with
arrays. What a report is worth a person decides, by the rubric in the hand-out.
"""
