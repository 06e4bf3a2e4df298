"""The course as web pages, to be read where nothing is installed (`course site`).

The front page is the live component with the table of contents below it; a page for each notebook
shows it as it was run last; docs/EQUATIONS.md is the index of equations. nbconvert turns cells into
HTML; formulas become MathML, which browsers draw themselves. Each page is whole: it fetches
nothing, which its content security policy also says, and all but the front page have no script.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import NamedTuple

import nbformat

from minitxl.course.notebooks import ROOT
from minitxl.errors import MinitxlError
from minitxl.files import write_atomically
from minitxl.viz.in_browser import Live, colours

STYLE = Path(__file__).with_name("site.css")
TITLE = "Transformer-XL, live"
INDEX, EQUATIONS = "index.html", "equations.html"
POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
    "style-src 'unsafe-inline'"
)
LIGHT, DARK = "default", "github-dark"  # Pygments' styles
# Code, then formulas; in code a dollar is a dollar.
PARTS = re.compile(
    r"(?P<code>^```.*?^```|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))"
    r"|\$\$(?P<display>.+?)\$\$|\$(?![\s$])(?P<inline>[^$]+?)(?<!\s)\$(?!\d)",
    re.DOTALL | re.MULTILINE,
)
FUNCTION = re.compile(r"(<mi>(ln|log|exp)</mi>|<msub><mi>log</mi><mn>\d+</mn></msub>)(?=<m[^o])")
INTRO = (
    "<p>The notebooks as they were run. Where there is Python they can be changed and run again,"
    " and their exercises check themselves.</p>"
)
NOTE = "As it was run: what moves, sliders and live components, is a picture here."
PAGE = """\
<!DOCTYPE html>
<html lang="en" class="txl-page">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body class="site">
{nav}
<main>
{body}
</main>
{turn}
</body>
</html>
"""


class Chapter(NamedTuple):
    """A page of the site."""

    file: str
    number: str  # "3", or "" for what is no notebook
    name: str  # relative positions
    title: str  # its first heading, in plain text
    minutes: str  # "40", or ""


def write_site(
    out: Path,
    front: Callable[[], Live],
    notebooks: Path = ROOT / "notebooks",
    equations: Path = ROOT / "docs" / "EQUATIONS.md",
) -> list[Path]:
    """Write the pages into a new folder, the front page first, and return their paths.

    front: makes the live component. notebooks: the folder of notebooks that were run, as
    NN_NAME.ipynb. Raises MinitxlError where there are none or one was not run, and where `out`
    holds something.
    """
    if not equations.is_file():
        raise MinitxlError(f"{equations} is missing: run this command in a clone of the repository")
    books = {path: _read(path) for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))}
    if not books:
        raise MinitxlError(
            f"{notebooks} has no notebooks that were run: write some there by `course student "
            f"--run --out {notebooks}`, or give another folder by --notebooks"
        )
    if out.exists() and any(out.iterdir()):
        raise MinitxlError(f"{out} is not empty: give a new folder")
    chapters = [_chapter(path, book) for path, book in books.items()]
    index = Chapter(EQUATIONS, "", "equations", "The paper's equations, and where they are", "")
    bodies = {
        chapter: _notebook(book) for chapter, book in zip(chapters, books.values(), strict=True)
    }
    bodies[index] = html_of(equations.read_text(encoding="utf-8"))
    every = [*chapters, index]
    pages = {INDEX: front().html(TITLE, below=_contents(every, notebooks), style=_style())}
    for chapter, body in bodies.items():
        pages[chapter.file] = PAGE.format(
            policy=POLICY,
            title=escape(f"{chapter.number} {chapter.title}".strip()),
            style=f"{colours()}\n{_style()}\n{_pygments()}",
            nav=_nav(every, chapter),
            body=_links(body, every),
            turn=_turn(every, chapter),
        )
    out.mkdir(parents=True, exist_ok=True)
    for name, page in pages.items():
        write_atomically(out / name, page.encode("utf-8", errors="replace"))
    return [out / name for name in pages]


def _read(path: Path):
    try:
        book = nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.validator.ValidationError) as error:
        why = str(error).partition("\n")[0]
        raise MinitxlError(f"{path} is no notebook: {why}") from error
    if not any(cell.get("outputs") for cell in book.cells):
        raise MinitxlError(f"{path} was not run: `course student --run` writes it with its outputs")
    return book


def _chapter(path: Path, book) -> Chapter:
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    number, _, name = path.stem.partition("_")
    heading = re.search(r"^# (?:\d+ )?(.+)$", text, re.MULTILINE)
    minutes = re.search(r"(\d+) minutes", text)
    name = name.replace("_", " ")
    title = heading[1].replace("*", "").replace("`", "") if heading else name
    return Chapter(
        f"{path.stem}.html", str(int(number)), name, title, minutes[1] if minutes else ""
    )


# --- what stands on a page ----------------------------------------------------------------------


def _notebook(book) -> str:
    """The cells as HTML."""
    nbconvert = _nbconvert()
    book, drawn = book.copy(), []
    book.cells = [cell.copy() for cell in book.cells]
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = _without_formulas(cell.source, drawn)
            continue
        # The live components leave a rule for JupyterLab's themes: it is in site.css.
        rule = lambda output: output.get("data", {}).get("text/html", "").startswith("<style>")  # noqa: E731
        cell.outputs = [output for output in cell.outputs if not rule(output)]
    body, _ = nbconvert.HTMLExporter(template_name="basic").from_notebook_node(book)
    body = _with_formulas(body, drawn)
    return f'<p class="note">{NOTE}</p>\n{_sections(body)}\n{body}'


def _sections(body: str) -> str:
    """Links to the headings of a page, folded."""
    found = re.findall(r'<h2 id="([^"]+)">(.+?)<a class="anchor-link"', body)
    links = "\n".join(f'<li><a href="#{anchor}">{text}</a></li>' for anchor, text in found)
    return f'<details class="sections"><summary>On this page</summary><ul>{links}</ul></details>'


def html_of(markdown: str) -> str:
    """A text in Markdown as HTML, formulas as MathML."""
    drawn: list[str] = []
    body = _nbconvert().filters.markdown2html(_without_formulas(markdown, drawn))
    return _with_formulas(body, drawn)


def _nbconvert():
    try:
        import latex2mathml.converter  # noqa: F401
        import nbconvert
    except ImportError as error:
        raise MinitxlError(
            f"the site needs {error.name}, which is not installed; run: pip install "
            '"minitxl[notebooks]"'
        ) from error
    return nbconvert


def _without_formulas(markdown: str, drawn: list[str]) -> str:
    """Put a word that Markdown leaves alone in the place of every formula, and draw it."""

    def word(match: re.Match) -> str:
        if match["code"]:
            return match[0]
        drawn.append(formula(match["display"] or match["inline"], bool(match["display"])))
        return f"FORMULA{len(drawn) - 1}X"

    return PARTS.sub(word, markdown)


def _with_formulas(page: str, drawn: list[str]) -> str:
    """Put the drawn formulas back; in an attribute, as a heading's anchor is, their words stay."""
    parts = re.split(r"(<[^>]*>)", page)  # every other part is a tag
    parts[::2] = (re.sub(r"FORMULA(\d+)X", lambda m: drawn[int(m[1])], p) for p in parts[::2])
    return "".join(parts)


def formula(tex: str, display: bool = False) -> str:
    """A formula as MathML; MinitxlError for one that cannot be drawn."""
    from latex2mathml.converter import convert

    source = " ".join(tex.split()).replace("{aligned}", "{split}")  # the same, by a name it knows
    try:
        drawn = convert(source, display="block" if display else "inline")
    except Exception as error:  # whatever a formula makes the converter stumble over
        raise MinitxlError(f"cannot draw the formula {source}: {error!r}") from error
    if "\\" in drawn or "<mi>&</mi>" in drawn:
        raise MinitxlError(f"cannot draw the formula {source}: a command in it is not known")
    drawn = FUNCTION.sub(r'\g<0><mspace width="0.17em"></mspace>', drawn)  # ln p, not lnp
    return f'<span class="formula">{drawn}</span>' if display else drawn


def _links(body: str, chapters: list[Chapter]) -> str:
    """Lead from page to page instead of from notebook to notebook."""
    files = {chapter.file for chapter in chapters}

    def page(match: re.Match) -> str:
        file = f"{match[1]}.html"
        return f'href="{file}' if file in files else match[0]

    return re.sub(r'href="(?:[./\w]*/)?(\w+)\.ipynb', page, body)


# --- around it ----------------------------------------------------------------------------------


def _label(chapter: Chapter) -> str:
    return escape(f"{chapter.number} {chapter.name}".strip())


def _nav(chapters: list[Chapter], here: Chapter) -> str:
    items = [
        f'<a href="{c.file}" title="{_label(c)}"{" aria-current=page" * (c is here)}>'
        f"{c.number or c.name}</a>"
        for c in chapters
    ]
    return f'<nav aria-label="pages"><a href="{INDEX}">{TITLE}</a> {" ".join(items)}</nav>'


def _turn(chapters: list[Chapter], here: Chapter) -> str:
    """Links to the page before and the one after."""
    at = chapters.index(here)
    before = f'<a rel="prev" href="{chapters[at - 1].file}">← {_label(chapters[at - 1])}</a>'
    after = ""
    if at + 1 < len(chapters):
        after = f'<a rel="next" href="{chapters[at + 1].file}">{_label(chapters[at + 1])} →</a>'
    return (
        f'<nav class="turn" aria-label="next page">{before if at else "<span></span>"}{after}</nav>'
    )


def _contents(chapters: list[Chapter], notebooks: Path) -> str:
    """The table of contents, for the front page."""
    items = []
    for chapter in chapters:
        picture = notebooks.parent / "figures" / "course" / f"{chapter.number:0>2}.png"
        image = ""
        if chapter.number and picture.is_file():
            code = base64.b64encode(picture.read_bytes()).decode("ascii")
            image = f'<img src="data:image/png;base64,{code}" alt="" width="180">'
        minutes = f" <small>{chapter.minutes} minutes</small>" if chapter.minutes else ""
        items.append(
            f'<li><a href="{chapter.file}">{image}<b>{chapter.number}</b> {escape(chapter.title)}'
            f"</a>{minutes}</li>"
        )
    table = "\n".join(items)
    head = f'<nav class="contents" aria-label="the course"><h2>The course</h2>{INTRO}'
    return f"{head}<ol>{table}</ol></nav>"


def _style() -> str:
    return STYLE.read_text(encoding="utf-8")


def _pygments() -> str:
    """Colours of code, on a light page and on a dark one."""
    from pygments.formatters import HtmlFormatter

    light, dark = (
        HtmlFormatter(style=style).get_style_defs(".highlight") for style in (LIGHT, DARK)
    )
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"
