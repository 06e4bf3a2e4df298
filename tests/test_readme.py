"""The README must be true: its example runs, its files exist, its commands are the real ones."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
USING = (ROOT / "docs" / "USING.md").read_text(encoding="utf-8")


def test_examples_run():
    library, debugger = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {}
    exec(compile(library, "README.md", "exec"), names)
    assert 0 < float(names["loss"]) < 5
    assert names["grads"]["layers.0.attn.w_k"].any()
    exec(compile(debugger, "README.md", "exec"), names)
    assert names["model"].n_params


def visible_words(text: str) -> list[str]:
    """The words that a reader reads: no code blocks, no tags (alt texts), no targets of links."""
    text = re.sub(r"^```.*?^```$", " ", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<[^>]*>", " ", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", " ", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return [word for word in text.split() if re.search(r"\w", word)]


def test_short():
    assert 300 < len(visible_words(README)) <= 900
    assert len(visible_words("a [b c](d e) ![f](g) <i alt='h'>j</i>\n```\nk\n```\n| l |")) == 5


def test_reading_path():
    """An ordered list of files that exist, each once."""
    section = README.split("## Reading the model")[1].split("\n## ")[0]
    files = re.findall(r"^\d+\. \[`(\S+?)`\]\(\1\): \w", section, flags=re.MULTILINE)
    assert len(files) == len(set(files)) == len(re.findall(r"^\d+\. ", section, re.MULTILINE))
    assert 5 <= len(files) <= 10 and all((ROOT / file).exists() for file in files)


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", README)
    missing = [x for x in links if not x.startswith("http") and not (ROOT / x).exists()]
    assert links and not missing


def test_commands_exist():
    """Every option that the guide names is one of the command's."""
    for line in re.findall(r"^python -m minitxl (.+)$", USING, flags=re.MULTILINE):
        command, *options = re.findall(r"(?<!\S)(?:--)?[a-z][a-z-]+(?=\s|$)", line)
        helped = subprocess.run(
            [sys.executable, "-m", "minitxl", command, "--help"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        for option in options:
            assert not option.startswith("--") or option in helped, (line, option)


def test_the_two_commands():
    install = "pip install -r requirements.txt && "
    assert install + "jupyter lab notebooks/00_start_here.ipynb\n" in README
    assert install + "python -m pytest\n" in README
    assert len((ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()) <= 5
