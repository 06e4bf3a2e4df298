"""The autograder's zip, unpacked and run as Gradescope does: alone, without the checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("psutil")

from helpers.hand_ins import HEAD, NAME, RIGHT, make_source  # noqa: E402
from minitxl.course.grading.gradescope import variant_of, write_zip  # noqa: E402
from minitxl.course.grading.roster import Person, Roster  # noqa: E402
from minitxl.course.notebooks import notebook_from, write  # noqa: E402
from minitxl.course.variants import value_of, word_of  # noqa: E402
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


# --- as it is there ------------------------------------------------------------------------------

SCRIPT = "# %% [markdown]\n# 12 layers and $T = 512$, $M = 512$, $M = 513$\n" + "".join(
    f"\n# %% {kind} {name}\n" for name in ("reach", "influence") for kind in ("exercise", "check")
)
PEOPLE = Roster(tuple(Person(f"ann{n}", email=f"ann{n}@x.org") for n in range(40)))


def metadata(folder, email, name="Ann"):
    path = folder / "submission_metadata.json"
    path.write_text(json.dumps({"id": 1, "users": [{"email": email, "id": 7, "name": name}]}))
    return path


def test_who_has_handed_in(tmp_path):
    """By the mail address alone: a name anyone may give to themselves."""
    assert variant_of(metadata(tmp_path, "ANN3@x.org", "ann4"), PEOPLE) == word_of("ann3")
    with pytest.raises(MinitxlError, match="nobody in the roster has the mail address eve@x"):
        variant_of(metadata(tmp_path, "eve@x.org", "ann4"), PEOPLE)


@pytest.mark.slow
@pytest.mark.parametrize("email", ["own", "another", "eve@x.org"])
def test_run_autograder_in_its_place(tmp_path, email):
    """The zip unpacked at /autograder/source, run_autograder started: files as Gradescope has them.

    bubblewrap stands for the container; the environment that setup.sh makes is this one.
    """
    bwrap = shutil.which("bwrap")
    if not bwrap:
        pytest.skip("bubblewrap is not installed")
    source = tmp_path / "scripts"
    source.mkdir()
    (source / "05_reach.py").write_text(SCRIPT)
    place = tmp_path / "autograder"
    path = write_zip(tmp_path / "a.zip", source=source, seed=4, roster=PEOPLE)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(place / "source")
        (place / "run_autograder").write_bytes(archive.read("run_autograder"))
    for name in ("submission", "results", "venv"):
        (place / name).mkdir()
    by = {value_of("reach", word_of(p.id)): p for p in PEOPLE.people}
    metadata(place, {"own": by[1].email, "another": by[2].email}.get(email, email))
    book = notebook_from("05_reach", source, variant=word_of(by[1].id))
    book.cells[1].source = (
        "def reach(n_layer, tgt_len, mem_len):\n"
        "    return max(0, n_layer - 1) * tgt_len * -(-mem_len // tgt_len)"
    )
    write(book, place / "submission" / "homework.ipynb")
    system = [p for p in ("/usr", "/lib", "/lib64", "/bin", "/etc") if os.path.exists(p)]
    pythons = {sys.base_prefix, sys.prefix} - {"/usr"}
    binds = [x for p in (*system, *sorted(pythons)) for x in ("--ro-bind", p, p)]
    binds += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--bind", place, "/autograder"]
    binds += ["--ro-bind", sys.prefix, "/autograder/venv"]
    command = [bwrap, "--unshare-all", *map(str, binds), "/bin/bash", "/autograder/run_autograder"]
    trial = [bwrap, "--ro-bind", "/", "/", "true"]
    if subprocess.run(trial, check=False, capture_output=True).returncode:
        pytest.skip("bubblewrap does not work here")
    env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((place / "results" / "results.json").read_text())
    if email == "eve@x.org":
        assert found["score"] == 0 and "nobody in the roster has the mail" in found["output"]
        return
    first, second = found["tests"]
    assert first["score"] == (first["max_score"] if email == "own" else 0), first
    assert second["score"] == 0 and "NotImplementedError" in second["output"]
