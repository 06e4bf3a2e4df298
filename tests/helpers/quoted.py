"""Pages whose every number follows from stored results.

A page has functions that make its phrases and rows of tables of what is stored. Each phrase must
stand on the page, and what is left of the page without them must have no digit.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def in_a_line(text: str) -> str:
    return " ".join(text.split())


def spelt(n: int) -> str:
    return ("none", "one", "two", "three", "four", "five")[n]


def missing(page: Path, phrases: list[str]) -> list[str]:
    """The phrases that do not stand on the page, wherever its lines break."""
    text = in_a_line(read(page))
    return [phrase for phrase in phrases if in_a_line(phrase) not in text]


def without_a_source(page: Path, phrases: list[str], names) -> list[str]:
    """The digits, with what is around them, that are in no phrase, path, command or name.

    names: what has a digit and is a name, a setting or a number of the paper, not a result of ours.
    """
    text = re.sub(r"```.*?```|\]\([^)]*\)", " ", read(page), flags=re.DOTALL)
    text = re.sub(r"`[^`]*(?:/|python -m|experiment )[^`]*`", " ", in_a_line(text))
    for phrase in sorted((in_a_line(p) for p in phrases), key=len, reverse=True):
        text = text.replace(phrase, " ")
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, " ")
    return [text[max(0, m.start() - 30) : m.end() + 30] for m in re.finditer(r"\d[\d.,]*", text)]
