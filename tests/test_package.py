"""The package around the code: what pyproject.toml, the documents and the CI say of one another."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import minitxl
from minitxl import cli
from minitxl.course import notebooks

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_documents_agree_on_version_and_licence():
    assert f"\nversion: {minitxl.__version__}\n" in read("CITATION.cff")
    assert f"\n## {minitxl.__version__} - " in read("CHANGELOG.md")
    assert PROJECT["license"] == "MIT" and "\nlicense: MIT\n" in read("CITATION.cff")
    assert read("LICENSE").startswith("MIT License\n\nCopyright (c) 2026 the minitxl authors\n")
    assert (ROOT / "minitxl" / "py.typed").exists()


def test_contributing_names_what_is_there():
    """Its paths and those of its links exist; the steps of the CI that it names too."""
    text = read("CONTRIBUTING.md")
    assert len(text.splitlines()) < 90, "one page"
    paths = re.findall(r"`((?:minitxl|tests|notebooks|figures)/[\w/.]*)`", text)
    assert len(paths) > 10
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_console_script_is_the_command():
    module, name = PROJECT["scripts"]["minitxl"].split(":")
    assert getattr(import_module(module), name) is cli.main


def test_lowest_versions_are_those_of_pyproject():
    """One line for each requirement: a bound of another form than >= would be told here."""
    script = ROOT / ".ci" / "lowest.py"
    lines = subprocess.run(
        [sys.executable, script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    assert lines == [bound.replace(">=", "==") for bound in wanted]


def test_binder_installs_the_course():
    version = read("binder/runtime.txt").strip().removeprefix("python-")
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    lines = [x for x in read("binder/requirements.txt").splitlines() if not x.startswith("#")]
    assert lines == ["-e .[notebooks]"] and "notebooks" in PROJECT["optional-dependencies"]


def test_hosted_ci_runs_the_steps_of_ours():
    """Between its jobs all of them, and no other."""
    steps = re.search(r"^all=\((.+)\)$", read(".ci/run"), re.MULTILINE)[1].split()
    hosted = re.findall(r"run: \.ci/run (.+)", read(".github/workflows/ci.yml"))
    assert sorted(" ".join(hosted).split()) == sorted(steps)
    for step in steps:
        assert re.search(rf"^{step}\(\) {{$", read(".ci/run"), re.MULTILINE)
    assert os.name != "posix" or os.access(ROOT / ".ci" / "run", os.X_OK)


def test_notebooks_are_run_where_they_are_written(tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(notebooks, "execute", lambda book, folder: ran.append(folder))
    command = ["course", "student", "--notebook", "00_start_here", "--out", str(tmp_path)]
    assert cli.main(command) == 0 and not ran
    assert cli.main([*command, "--run"]) == 0 and ran == [tmp_path]
    assert "00_start_here: all cells in 0 s" in capsys.readouterr().err


def test_figures_makes_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["figures", "recl"]) == 0
    assert (tmp_path / "figures" / "recl.png").exists()
