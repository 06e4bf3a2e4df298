"""nbgrader's pages for students, made readable: names, whole messages, no network.

The page shows what is the student's: exercises, checks, and cells that were changed or added. What
was handed out as it stands is left out (`OwnWork`).
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterable
from html import escape, unescape
from pathlib import Path

from minitxl.course import Exercise
from minitxl.course.notebooks import check_id

SAME = "minitxl_same"  # a cell's metadata: it is as it was handed out
MOST = 3000  # places with code on a page whose formulas are drawn
STYLE = """<style>
pre, .output pre, div.output_area pre { white-space: pre-wrap !important; overflow-wrap: anywhere;
  word-break: normal }
div.output_area, div.output_subarea, div.input_area { max-width: 100%; overflow-x: auto }
div.nbgrader_cell .panel-heading a { color: #555 } svg.formula { vertical-align: middle }
div.prompt { display: none } .panel-heading { height: auto !important }
</style>"""


def improve(page: str, exercises: Iterable[Exercise]) -> str:
    """Return a page with the exercises' names in it, formulas as pictures, and nothing to fetch."""
    page = _without_scripts(page)
    for exercise in exercises:
        mark, title = check_id(exercise.id), escape(exercise.title)
        page = page.replace(f'<a href="#{mark}">Test cell</a>', f'<a href="#{mark}">{title}</a>')
        page = page.replace(f"Grade cell: <code>{mark}</code>", f"{title} (<code>{mark}</code>)")
    page = page.replace("</head>", f"{STYLE}</head>", 1)
    if page.count("<pre") + page.count("<code") > MOST:
        return page
    parts = re.split(r"(<pre.*?</pre>|<code.*?</code>|<style.*?</style>)", page, flags=re.DOTALL)
    for n in range(0, len(parts), 2):
        parts[n] = re.sub(r"\$(?! )([^$<>]{1,200})(?<! )\$(?!\d)", _picture, parts[n])
    return "".join(parts)


def _without_scripts(page: str) -> str:
    parts = re.split(r"<script\b", page, flags=re.IGNORECASE)
    rest = (part.partition("</script>")[2] for part in parts[1:])
    return parts[0] + "".join(rest)


def improve_all(folder: Path, exercises: dict[str, list[Exercise]]) -> None:
    """Improve the pages of a student in a folder, NAME.html."""
    for name, own in exercises.items():
        path = folder / f"{name}.html"
        if path.is_file():
            path.write_text(improve(path.read_text(encoding="utf-8"), own), encoding="utf-8")


def _picture(match: re.Match) -> str:
    return _drawn(match[1]) or match[0]


@functools.lru_cache(4096)
def _drawn(tex: str) -> str:
    """Return a formula as an SVG, or nothing where it cannot be drawn: its source stays then."""
    try:
        from matplotlib import mathtext

        file = io.BytesIO()
        mathtext.math_to_image(f"${unescape(tex)}$", file, format="svg")
    except (ImportError, ValueError, RuntimeError):
        return ""
    picture = file.getvalue().decode("utf-8")
    picture = re.sub(r"<metadata>.*?</metadata>", "", picture[picture.index("<svg") :], flags=re.S)
    return picture.replace("<svg", f'<svg class="formula" role="img" aria-label="{tex}"', 1)
