"""The autograder's zip, unpacked and run as Gradescope does: alone, without the checkout."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("psutil")

from helpers.hand_ins import HEAD, NAME, RIGHT, make_source  # noqa: E402
from minitxl.course.grading.gradescope import write_zip  # noqa: E402
from minitxl.course.notebooks import notebook_from, write  # noqa: E402
from minitxl.errors import MinitxlError  # noqa: E402


@pytest.fixture(scope="module")
def autograder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scope")
    source = make_source(folder / "source")
    path = write_zip(folder / "autograder.zip", source=source, seed=4)
    with pytest.raises(MinitxlError, match="exists: give a new file"):
        write_zip(path, source=source)
    assert path.stat().st_size < 2_000_000
    with zipfile.ZipFile(path) as archive:
        assert {i.filename: i.external_attr >> 16 & 0o111 for i in archive.infolist()
                if "/" not in i.filename} == {
            "setup.sh": 0o111, "run_autograder": 0o111, "requirements.txt": 0, "settings.json": 0,
        }  # fmt: skip
        archive.extractall(folder / "unpacked")
    requirements = (folder / "unpacked" / "requirements.txt").read_text()
    assert "numpy" in requirements and "nbgrader" not in requirements
    return folder / "unpacked", source


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "points", "words"),
    [
        (RIGHT, 3, "softmax_backward"),
        (HEAD + "    return p * dp", 0, "softmax_backward: the sum is missing"),
        (None, 0, "no notebook was handed in"),
    ],
)
def test_a_submission(autograder, tmp_path, answer, points, words):
    (tmp_path / "submission").mkdir()
    if answer is not None:
        book = notebook_from(NAME, autograder[1])
        book.cells[1].source = answer
        write(book, tmp_path / "submission" / "homework.ipynb")
    results = tmp_path / "results" / "results.json"
    subprocess.run(
        [sys.executable, "-m", "minitxl.course.grading.gradescope", "submission", str(results)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(autograder[0])},
        check=True,
    )
    (test,) = json.loads(results.read_text())["tests"]
    assert (test["score"], test["max_score"], test["name"]) == (points, 3, "Softmax backwards")
    assert test["output"].startswith(words)
