"""The questions of the notebooks as cells with points, which a person grades by nbgrader.

`notebook_from(..., questions=True)` puts a cell for each at the notebook's end. A rubric says what
a point is given for; the model answers are in `notebooks/README.md`.
"""

from __future__ import annotations

from typing import NamedTuple

BLANK = "*Write your answer here.*"
PREFIX = "question-"


class Question(NamedTuple):
    """A question of a notebook: its number, and what each of its points is given for."""

    number: str  # "2.1"
    rubric: tuple[str, ...]

    @property
    def points(self) -> int:
        """One for each line of the rubric."""
        return len(self.rubric)

    @property
    def id(self) -> str:
        """nbgrader's id of its cell."""
        return PREFIX + self.number.replace(".", "-")

    @property
    def stub(self) -> str:
        """Text with which the student begins."""
        points = f"{self.points} point{'s' * (self.points > 1)}"
        return f"**Answer to question {self.number.split('.')[1]}** ({points})\n\n{BLANK}"

    @property
    def solved(self) -> str:
        """Text for the lecturer, with the rubric where the answer would stand."""
        rubric = "\n".join(f"- 1 point: {text}" for text in self.rubric)
        return self.stub.replace(BLANK, f"### BEGIN SOLUTION\n{rubric}\n### END SOLUTION")


_RUBRICS = {
    "01_fragmentation": (
        ("1.1", "what comes before the segment, up to M characters: a speaker, a name, a quote",
         "that the gap shrinks within a segment, and why it need not close"),
        ("1.2", "33 to 64 characters, with the reckoning"),
        ("1.3", "that only the number with another row's past changes, and rises",
         "why: the same author, but not what this text goes on from"),
    ),
    "02_attention_by_hand": (
        ("2.1", "LayerNorm", "why: with gamma all ones the sum of y is that of beta, a constant"),
        ("2.2", "the share of the cached rows is missing",
         "that it is the stream's first segment only"),
        ("2.3", "queries come from the segment alone, so dW_q sums over T rows",
         "that the memory still acts on it, through ds k"),
    ),
    "03_relative_positions": (
        ("3.1", "with T and M fixed each pair of places comes again, and can be learned as a code",
         "a longer memory brings pairs that were never trained"),
        ("3.2", "c, with a reason", "that a + c alone is a bag of characters"),
        ("3.3", "the softmax's backward pass: p = 0 there, so ds is exactly 0"),
    ),
    "04_memory": (
        ("4.1", "dW_k and dW_v of the memory's rows",
         "why: they need the stored states, which keys and values do not give back"),
        ("4.2", "four updates", "why: each of the four segments was written one update earlier"),
        ("4.3", "the longer views: M + 1 + i keys for the query at offset i",
         "that with the limit each sees mem_len"),
    ),
    "05_reach": (
        ("5.1", "6,144 and 11,777", "that the surplus passes through one cached state a hop"),
        ("5.2", "the reach stays N M", "twice the segments, and twice the cost of projecting"),
        ("5.3", "no: it is a mean over single characters at a few places",
         "that a rare one may matter much"),
    ),
    "06_training": (
        ("6.1", "a new model gives every character about 1 / V",
         "three times as much: sure of wrong characters, weights or scores are far too large"),
        ("6.2", "it gains at a segment's first characters", "pays from the seventh on, and why"),
        ("6.3", "half of the training signal is thrown away",
         "absolute positions cannot read what was never trained, with which effect of more steps"),
        ("6.4", "no: it gains only where the memory is short, which training hardly ever showed",
         "once the memory is full it is the sound model"),
        ("6.5", "mask and positions, and stream by a segment's first characters; not zeros, keys",
         "a test that fails for the broken model and passes for the sound one"),
    ),
    "07_evaluation": (
        ("7.1", "with 16 characters it is sure of a wrong name; with none it spreads its bets"),
        ("7.2", "no: the minimum keeps the noise below the best and drops the rest",
         "a larger r takes in easier tokens, so g falls"),
        ("7.3", "700 and 128 words, at r = 0.1", "what a vanilla model can read at most"),
        ("7.4", "after A tokens", "from then on the states have seen a memory: N M back, or more"),
    ),
    "08_beyond": (
        ("8.1", "the states keep 64 tokens exactly, the matrix a trace of the thousandth",
         "a way to decide: what the text asks for, and how many pairs keys can tell apart"),
        ("8.2", "2,560 tokens, 1,024 keys", "equal work M = 1,024, equal span M = 2,560"),
        ("8.3", "both sides of the loss exist when the states leave the memory",
         "states moved by it would become easy to compress, not good at predicting"),
    ),
}  # fmt: skip
QUESTIONS = {
    notebook: tuple(Question(number, tuple(rubric)) for number, *rubric in rows)
    for notebook, rows in _RUBRICS.items()
}


def rubric_page() -> str:
    """Return all rubrics as a table in Markdown, for those who grade."""
    lines = ["| question | a point each for |", "|---|---|"]
    for questions in QUESTIONS.values():
        lines += [f"| {q.number} | {'; '.join(q.rubric)} |" for q in questions]
    return "\n".join(lines) + "\n"
