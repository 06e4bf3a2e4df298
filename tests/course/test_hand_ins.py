"""Whole files and downloads: case -> points and what is told."""

from pathlib import Path

import pytest

pytest.importorskip("nbformat")
pytest.importorskip("psutil")

from bench import bench_grading
from helpers.hand_ins import make_source
from helpers.whole_files import FILES, LAYOUTS, POINTS, fill, graded


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source"))


@pytest.mark.slow  # most cases start a Python
@pytest.mark.parametrize("case", [*FILES, *LAYOUTS])
def test_what_it_is_worth_and_what_is_told(source, tmp_path, case):
    share, told, _ = (FILES | LAYOUTS)[case]
    fill(tmp_path / "in", source, case)
    got, remark = graded(source, tmp_path / "in")
    assert got == round(share * POINTS, 2) and told in remark, (got, remark)
    assert bool(told) == bool(remark), remark


def test_the_stored_table_has_every_case():
    """And no cheat in it has points without a remark."""
    text = (Path(bench_grading.__file__).parent / "grading.txt").read_text(encoding="utf-8")
    *rows, last = text.splitlines()
    cases = bench_grading.names()
    assert len(cases) >= 138 and last.startswith(f"{len(cases)} cases, each in none and bwrap")
    for kind in ("none", "bwrap"):
        own = [row[6:] for row in rows if row[:5].strip() == kind]
        assert [row.split(" -> ")[0] for row in own] == cases
        for row in own:
            points, _, told = row.split(" -> ", 1)[1].partition(", ")
            assert not row.startswith("cheat") or points == "0" or told
            assert not row.startswith("right") or points == str(POINTS)
