"""The README must be true: its example runs, its files exist, its commands are the real ones."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_example_runs():
    # The first one; the other example shows how foreign weights, which are not here, are loaded.
    code, foreign = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    compile(foreign, "README.md", "exec")
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert 0 < float(names["loss"]) < 5
    assert names["grads"]["layers.0.attn.w_k"].any()


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", README)
    missing = [x for x in links if not x.startswith("http") and not (ROOT / x).exists()]
    assert links and not missing


def test_commands_exist():
    """Every option that the README names is one of the command's."""
    for line in re.findall(r"^python -m minitxl (.+)$", README, flags=re.MULTILINE):
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
