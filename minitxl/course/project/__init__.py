"""Coursework that is more than functions: three projects, with milestones that check themselves.

    python -m minitxl course project FOLDER

says of each milestone whether it is reached, and why not. What a student claims is not believed:
bits are measured anew, baselines computed, results summed up; a memory is checked and ranked again
by `--measure`, which runs its code. What a report is worth a person decides, by the rubric in the
hand-out.
"""
