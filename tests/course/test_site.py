"""`course site`: pages that are whole, and lead to one another."""

import re

import nbformat
import numpy as np
import pytest

pytest.importorskip("nbconvert", reason="no nbconvert")
pytest.importorskip("latex2mathml", reason="no latex2mathml")

from minitxl import MinitxlError
from minitxl.course import notebooks, site

PIXEL = "iVBORw0KGgo="


class Front:
    """What `write_site` asks of a live component."""

    def html(self, title, *, below, style):
        return f"<title>{title}</title><style>{style}</style>{below}"


def a_notebook(title, *texts):
    new = nbformat.v4
    book = new.new_notebook()
    book.cells = [new.new_markdown_cell(text) for text in (f"# {title}\n\n25 minutes", *texts)]
    shown = {"image/png": PIXEL, "text/plain": "seen by nobody"}
    picture = new.new_output("display_data", shown, metadata={"image/png": {"alt": "a picture"}})
    printed = new.new_output("stream", name="stdout", text="2 < 3\n")
    rule = new.new_output("display_data", {"text/html": "<style>b { color: red }</style>"})
    book.cells.append(new.new_code_cell('print("2 < $3")', outputs=[rule, printed, picture]))
    return book


@pytest.fixture
def folder(tmp_path):
    texts = (
        r"Let $x_{<t}$ be $\tfrac12$, and `$HOME` cost \$5 or $6." "\n\n$$a_1 *b* c_2$$",
        "See [the next](01_next_one.ipynb#a) and [a paper](https://arxiv.org/abs/1901.02860).",
        "<details><summary>more</summary>\n\n**bold**\n\n</details>\n\n## A *part*",
    )
    (tmp_path / "run").mkdir()
    for name, book in (
        ("00_start", a_notebook("Start <here>", *texts)),
        ("01_next_one", a_notebook("1 The *next* one")),
        ("02_last", a_notebook("2 Last")),
    ):
        nbformat.write(book, tmp_path / "run" / f"{name}.ipynb")
    (tmp_path / "E.md").write_text("# Equations\n\n| a | b |\n|---|---|\n| `x` | y |\n")
    return tmp_path


def written(folder):
    paths = site.write_site(folder / "out", Front, folder / "run", folder / "E.md")
    return {path.name: path.read_text("utf-8") for path in paths}


def test_pages_lead_to_one_another(folder):
    pages = written(folder)
    names = ["index.html", "00_start.html", "01_next_one.html", "02_last.html", "equations.html"]
    assert list(pages) == names
    for name, page in pages.items():
        links = re.findall(r'href="([^"#]+)', page)
        assert {link for link in links if not link.startswith(("http", "data:"))} <= set(names)
        assert set(names[1:]) <= set(links), name
    middle = pages["01_next_one.html"]
    assert 'rel="prev" href="00_start.html">← 0 start' in middle
    assert 'rel="next" href="02_last.html">2 last →' in middle
    assert middle.count("aria-current=page") == 1 and "<title>1 The next one</title>" in middle
    assert "rel=" + '"prev"' not in pages["00_start.html"].split("<main>")[1]
    assert 'href="01_next_one.html#a"' in pages["00_start.html"]
    assert "Start &lt;here&gt;</a> <small>25 minutes" in pages["index.html"]


def test_what_a_page_shows(folder):
    page = written(folder)["00_start.html"]
    assert "<code>$HOME</code>" in page and page.count("<math") == 3
    assert "<mo>&#x0003C;</mo>" in page and "FORMULA" not in page
    shown = re.search(r'<span class="formula">(<math.*?</math>)</span>', page)[1]
    assert "<em>" not in shown and shown.count("&#x0002A;") == 2
    assert '<img alt="a picture" src="data:image/png;base64,' in page
    assert "2 &lt; 3" in page and "seen by nobody" not in page and "color: red" not in page
    assert '<li><a href="#A-part">A <em>part</em></a></li>' in page and '<h2 id="A-part">' in page
    assert "<details><summary>more</summary>" in page and "<strong>bold</strong>" in page


def test_a_formula_in_a_heading_leaves_its_anchor_whole():
    """It was drawn inside of `id`, whose rest then stood in the heading."""
    page = site.html_of("## Of $u$ and `v`")
    assert re.findall(r"<h2 id=\"([^\"<>]+)\">", page) and page.count("<math") == 1
    assert re.sub(r"<[^>]*>", "", re.sub(r"<math.*?</math>", "u", page)).startswith("Of u and v")


def test_nothing_is_fetched(folder):
    for page in written(folder).values():
        assert "<script" not in page and "@import" not in page and "url(" not in page
        assert not re.findall(r'(?:src|srcset|data)="(?!data:)', page)
        assert re.findall(r"<link [^>]*>", page) in ([], ['<link rel="icon" href="data:,">'])


@pytest.mark.parametrize("name", notebooks.known())
def test_every_formula_of_the_course_can_be_drawn(name):
    source = (notebooks.SOURCE / f"{name}.py").read_text("utf-8")
    drawn = []
    for kind, text in notebooks.cells_of(source):
        if kind == "markdown":
            rest = site._without_formulas(text, drawn)
            assert "$" not in re.sub(r"`[^`]*`", "", rest)
    assert drawn


@pytest.mark.parametrize(
    ("tex", "words"),
    [(r"\frac", "cannot draw"), (r"\nosuch{x}", "is not known"), ("a & b", "is not known")],
)
def test_what_cannot_be_drawn_is_named(tex, words):
    with pytest.raises(MinitxlError, match=words) as caught:
        site.formula(tex)
    assert tex in str(caught.value) and "\n" not in str(caught.value)


def test_mistakes_are_told_in_one_line_and_nothing_is_written(folder):
    blank = a_notebook("3 Blank")
    blank.cells[-1].outputs = []
    (folder / "blank").mkdir()
    nbformat.write(blank, folder / "blank" / "03_blank.ipynb")
    (folder / "broken").mkdir()
    (folder / "broken" / "00_x.ipynb").write_text("{")
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    run, equations = folder / "run", folder / "E.md"
    for out, books, index, words in (
        ("out", folder / "none", equations, "has no notebooks that were run"),
        ("out", folder / "blank", equations, "was not run"),
        ("out", folder / "broken", equations, "is no notebook"),
        ("out", run, folder / "none.md", "is missing"),
        ("full", run, equations, "is not empty"),
    ):
        with pytest.raises(MinitxlError, match=words) as caught:
            site.write_site(folder / out, Front, books, index)
        assert "\n" not in str(caught.value)
    assert not (folder / "out").exists() and len(list((folder / "full").iterdir())) == 1


# --- the real one, in a browser -----------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    from minitxl import cli

    out = tmp_path_factory.mktemp("site") / "out"
    assert cli.main(["course", "site", str(out)]) == 0
    return out


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1366), ("dark", 390)])
def test_pages_in_a_browser_without_a_network(real, scheme, width):
    """Nothing is asked for, all pictures are there, nothing is wider than the window."""
    from helpers.in_browser import chromium

    with chromium() as browser:
        page = browser.new_context(
            color_scheme=scheme, viewport=dict(width=width, height=768), offline=True,
            bypass_csp=True,  # for `evaluate` alone: what is asked for is seen below
        ).new_page()  # fmt: skip
        asked, trouble = [], []
        page.on("request", lambda request: asked.append(request.url.split("#")[0]))
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        files = sorted(real.glob("*.html"))
        assert len(files) == len(notebooks.known()) + 2
        files = files if scheme == "light" else files[::-4]
        for path in files:
            page.goto(path.as_uri())
            if path.name == "index.html":
                page.locator(".txl-strongest table").wait_for()
            wide, pictures, unseen, back = page.evaluate(
                """() => [document.documentElement.scrollWidth, document.images.length,
                [...document.images].filter((x) => !x.naturalWidth).length,
                getComputedStyle(document.documentElement).backgroundColor]"""
            )
            assert wide <= width and not unseen, path.name
            assert pictures > 1 or path.name == "equations.html"
            dark = np.mean([int(x) for x in re.findall(r"\d+", back)[:3]]) < 100
            assert dark == (scheme == "dark"), (path.name, back)
        own = {path.as_uri() for path in files}
        assert {x for x in asked if not x.startswith(("data:", "blob:"))} == own
        assert trouble == []
        page.context.close()
