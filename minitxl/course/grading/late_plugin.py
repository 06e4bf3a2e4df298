"""nbgrader's plugin for late hand-ins, with the rule of `late.py`. Needs nbgrader."""

from __future__ import annotations

from nbgrader.plugins import LateSubmissionPlugin
from traitlets import Unicode

from minitxl.course.grading.late import read_penalty


class LatePenalty(LateSubmissionPlugin):
    """Takes off a share of the points for every hour, day or week that has begun."""

    rule = Unicode("none", help="for instance 10%/day").tag(config=True)

    def late_submission_penalty(self, student_id, score, total_seconds_late):
        """Return the points that are taken off a notebook."""
        return read_penalty(self.rule).of(score, total_seconds_late)
