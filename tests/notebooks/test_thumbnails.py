"""The small pictures of the README's table: there, of one size, small, linked, and as cut now."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minitxl.errors import MinitxlError

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
spec = importlib.util.spec_from_file_location("thumbnails", ROOT / "notebooks" / "thumbnails.py")
thumbnails = importlib.util.module_from_spec(spec)
spec.loader.exec_module(thumbnails)


def test_every_notebook_has_a_row_with_its_picture():
    rows = re.findall(
        r'^\| <img src="(\S+)" width="180" alt="([^"]+)".*?\]\((\S+?)\)', README, re.M
    )
    assert [link for _, _, link in rows] == [f"notebooks/{path.name}" for path in NOTEBOOKS]
    for (picture, alt, _), path in zip(rows, NOTEBOOKS, strict=True):
        assert picture == f"figures/course/{path.name[:2]}.png" and len(alt) > 10


def test_minutes_are_those_of_the_lecturers_guide():
    guide = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    want = re.findall(r"^\| \d \| \[[^|]*\|[^|]*\| (\d+) \|", guide, re.MULTILINE)
    assert len(want) == len(NOTEBOOKS)
    assert re.findall(r"^\| <img .*\| (\d+) \|$", README, re.MULTILINE) == want


def test_minutes_are_those_that_the_notebooks_say():
    """And for the exercises four a point, to the nearest five."""
    guide = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d \| \[[^|]*\|[^|]*\| (\d+) \| \d+ \| (\d+) \|$", guide, re.MULTILINE)
    for (minutes, points), path in zip(rows, NOTEBOOKS, strict=True):
        solving = max(5 * (points != "0"), int(4 * int(points) / 5 + 0.5) * 5)
        more = f", and about {solving} for the exercises" if solving else " in all"
        text = " ".join((ROOT / "notebooks/source" / f"{path.stem}.py").read_text("utf-8").split())
        assert f"{minutes} minutes{more}" in text.replace(" # ", " "), path.name


@pytest.mark.parametrize("number", range(len(NOTEBOOKS)))
def test_the_picture_is_that_of_the_notebook(number):
    """Not by its bytes: measured times differ from build to build, and so do image libraries."""
    path = ROOT / "figures" / "course" / f"{number:02d}.png"
    assert path.stat().st_size < 60_000
    with Image.open(path) as image:
        found = np.asarray(image.convert("RGB"), dtype=float)
    want = np.asarray(thumbnails.thumbnail(number).convert("RGB"), dtype=float)
    assert found.shape == (210, 360, 3)
    assert np.abs(found - want).mean() < 4, "run: python notebooks/thumbnails.py"
    assert found.std() > 15, "next to empty"


def test_the_same_bytes_again():
    once, again = (thumbnails.stored(thumbnails.thumbnail(2)) for _ in range(2))
    assert once == again


def test_a_figure_that_is_gone_is_named():
    with pytest.raises(MinitxlError, match=r"^02_attention_by_hand\.ipynb has no figure whose"):
        thumbnails.figure(2, "no such caption")


def test_the_film_is_small_and_short():
    """Light and dark, a still of each; a quarter of a minute at most, in a loop."""
    for ending in ("", "_dark"):
        path = ROOT / "figures" / f"explorer{ending}.gif"
        assert path.stat().st_size < 1_500_000 and f"figures/{path.name}" in README
        with Image.open(path) as film, Image.open(path.with_suffix(".png")) as still:
            assert film.size == still.size and film.width == 900 and film.info["loop"] == 0
            seconds = 0.0
            for frame in range(film.n_frames):
                film.seek(frame)
                seconds += film.info["duration"] / 1000
            assert 8 < seconds < 16
        assert f"figures/explorer{ending}.png" in README
