"""A learner's functions in the model: the same numbers, where they are right, and only there."""

import re
from pathlib import Path

import numpy as np
import pytest

from helpers.course_answers import ANSWERS
from minitxl import Config, MinitxlError, TransformerXL, course, load_pretrained
from minitxl.backend import get_backend
from minitxl.course import PARTS, notebooks, trial

RIGHT = {name: ANSWERS[e.id] for name, e in PARTS.items()}
ROOT = Path(__file__).resolve().parents[2]


def model(**options):
    sizes = dict(n_layer=2, d_model=12, n_head=3, d_head=4, d_inner=20, tgt_len=5, mem_len=7)
    sizes |= dict(n_token=11, pre_lnorm=False, dropout=0.0, init_std=0.3) | options
    return TransformerXL(Config(**sizes), device="cpu", dtype="float64", seed=1)


def walk(one):
    """Losses and gradients of four segments, all numbers in a line."""
    ids, mems, found = np.random.default_rng(0).integers(0, 11, (2, 21)), None, []
    for s in range(0, 20, 5):
        nll, mems, cache = one.forward(ids[:, s : s + 5], ids[:, s + 1 : s + 6], mems)
        found += [nll.ravel(), one.backward(cache).flat]
    return np.concatenate(found)


def test_thirteen_exercises_are_parts():
    assert len(PARTS) == 13 and (len(trial.FORWARD), len(trial.BACKWARD)) == (6, 7)


@pytest.mark.parametrize(
    "options",
    [{}, {"pre_lnorm": True}, {"same_length": True}, {"mem_len": 0}, {"clamp_len": 4}],
    ids=str,
)
def test_right_functions_compute_the_same(options):
    base = model(**options)
    want = walk(base)
    for functions in (*({n: f} for n, f in RIGHT.items()), RIGHT):
        np.testing.assert_allclose(walk(course.install(base, **functions)), want, 0, 1e-12)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_used(name):
    """Each known mistake shows in the model's numbers, or stops it in one line."""
    base, exercise = model(init_std=0.5, same_length=name == "attention_mask"), PARTS[name]
    want, silent = walk(base), []
    for mistake in exercise.mistakes:
        try:
            with np.errstate(all="ignore"):
                off = np.abs(walk(course.install(base, **{name: mistake.wrong})) - want).max()
        except MinitxlError as error:
            assert "\n" not in str(error)
            continue
        if off < 1e-6:  # NaN is no less
            silent.append(mistake.message)
    assert len(silent) == SILENT.get(name, 0), silent


# Mistakes that this model cannot show: the mask hides the corner of rel-shift, and the gradients
# there; no score or logit is large; mem_len is not 0; 0 and -inf are turned into False and True.
SILENT = {"rel_shift": 2, "rel_shift_backward": 2, "attend": 3, "cross_entropy_gradient": 1}
SILENT |= {"update_memory": 1, "attention_mask": 1}


def test_nothing_leaks():
    """Other models compute the same bits, before, beside and after; no weights are shared."""
    before, shipped = model(), load_pretrained("war-and-peace", device="cpu").model
    want, weights = walk(before), shipped.params.flat.copy()
    twins = dict(shipped.backend.xp.twins)
    wrong = {name: PARTS[name].mistakes[0].wrong for name in ("rel_shift", "softmax_backward")}
    mine = course.install(before, **wrong)
    assert not np.allclose(walk(mine), want)
    for other in (before, model(), before.with_options(mem_len=7)):
        np.testing.assert_array_equal(walk(other), want)
    assert not np.allclose(walk(mine.with_options(mem_len=7)), want)  # it stays what it is
    mine.params.flat[:] = 0.0
    np.testing.assert_array_equal(walk(before), want)
    course.install(**RIGHT).params.flat[:] = 0.0
    np.testing.assert_array_equal(shipped.params.flat, weights)
    again = load_pretrained("war-and-peace", device="cpu").model
    np.testing.assert_array_equal(again.params.flat, weights)
    assert again.backend.xp.twins == twins
    assert not hasattr(get_backend("cpu", fused=False).xp, "twins")


def change_in_place(do, q, k, v, p):
    k[:] = v[:] = q[:] = 0.0
    return q, k, v


@pytest.mark.parametrize(
    ("functions", "words"),
    [
        ({"softmax": len}, "softmax is no part of the model; these are: relative_positions, "),
        ({"attend": 3}, "attend is of type int, must be a function"),
        ({"rel_shift": lambda x: 1 / 0}, "your rel_shift stops the model, ZeroDivisionError: "),
        ({"rel_shift": lambda x: x[..., 1:]}, r"your rel_shift returns \(2, 3, 5, 4\) in the mod"),
        ({"four_terms": lambda *a: a[:2]}, "your four_terms returns"),
        ({"attend": lambda *a: None}, "your attend (stops|returns)"),
        ({"update_memory": lambda m, h, n: np.concatenate([m, h], 1)}, "mem_len=7"),
    ],
)
def test_errors_are_one_line(functions, words):
    with pytest.raises(MinitxlError, match=words) as caught:
        walk(course.install(model(), **functions))
    assert "\n" not in str(caught.value)


def test_what_has_no_such_parts_is_refused():
    other = TransformerXL(Config(n_token=5, n_layer=1, attn_type=2), device="cpu")
    with pytest.raises(MinitxlError, match="attn_type=2, memory xl: the exercises are"):
        course.install(other, attend=RIGHT["attend"])


def test_changes_in_place_damage_nothing():
    base = model()
    mine = course.install(base, attention_backward=change_in_place)
    weights = mine.params.flat.copy()
    walk(mine)
    np.testing.assert_array_equal(mine.params.flat, weights)


# --- what is printed -----------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(trial, "READ", 300)
    monkeypatch.setattr(trial, "WRITTEN", 5)
    monkeypatch.setattr(trial, "TRIED", 3)


def unsolved(*args):
    raise NotImplementedError


def test_a_right_function_keeps_the_bits_and_writes(quick, capsys):
    course.run_with(rel_shift=RIGHT["rel_shift"])
    out = capsys.readouterr().out
    assert "✓ your rel_shift is right" in out and "yours are 1 of its 13 parts: rel_shift" in out
    library, yours = re.search(r"300 char.* library (\S+), yours (\S+) bits", out).groups()
    assert library == yours and float(yours) < 3
    assert len(out.split("It writes:\n")[1]) == len(trial.PROMPT) + 5 + 1


def test_a_wrong_one_runs_and_ruins_it(quick, capsys):
    course.run_with(rel_shift=lambda x: x)
    out = capsys.readouterr().out
    assert "✗ your rel_shift is wrong (nothing is shifted); now the model runs on it" in out
    library, yours = re.search(r"library (\S+), yours (\S+) bits", out).groups()
    assert float(yours) > float(library) + 1


def test_one_that_is_not_solved_stays_out(quick, capsys):
    course.run_with(rel_shift=unsolved)
    out = capsys.readouterr().out
    assert out == "… rel_shift: not solved yet, the library's own stays in its place\n"


def test_one_that_stops_ends_in_a_line(quick, capsys):
    course.run_with(rel_shift=lambda x: 1 / 0)
    assert capsys.readouterr().out.splitlines()[-1].startswith("✗ your rel_shift stops the model")


def test_backwards_a_small_model_learns(quick, capsys):
    course.run_with(softmax_backward=RIGHT["softmax_backward"])
    out = capsys.readouterr().out
    apart = re.search(r"after 3 steps .* farther apart than (\S+)\n", out)[1]
    assert float(apart) < 1e-12 and "It writes" not in out


def test_what_is_right_here_runs_with_it(quick, capsys):
    names = {"run_with": course.run_with, "rel_shift": RIGHT["rel_shift"], "attend": unsolved}
    names |= {"attention_mask": len, "softmax_backward": RIGHT["softmax_backward"]}
    exec("run_with('softmax-backward', 'the-stop')", names)
    out = capsys.readouterr().out
    assert "yours are 2 of its 13 parts: rel_shift, softmax_backward" in out
    assert "… key_value_backward: it is not there, run its cell" in out
    with pytest.raises(MinitxlError, match="'reach' is no part of the model; these are: relat"):
        course.run_with("reach")


def test_nothing_runs_in_grading(quick, capsys, monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    course.run_with(rel_shift=RIGHT["rel_shift"])
    assert capsys.readouterr().out == ""


def test_parts_are_found_here_and_in_saved_notebooks(tmp_path, capsys):
    source = (ROOT / "tests" / "helpers" / "course_answers.py").read_text(encoding="utf-8")
    book = notebooks.notebook_from("04_memory", ROOT / "notebooks" / "source")
    for cell in book.cells:
        mark = cell.metadata.get("nbgrader", {}).get("grade_id")
        if mark == "memory-update":
            cell.source = re.search(r"^def update_memory.*?(?=^def)", source, re.M | re.S)[0]
        if mark == "same-length-mask":
            cell.source = cell.source.replace("raise NotImplementedError", "return np.zeros(3)")
        if mark == "the-stop":
            cell.source = "def key_value_backward("  # not even Python
    notebooks.write(book, tmp_path / "04_memory.ipynb")
    (tmp_path / "05_half.ipynb").write_text("{", encoding="utf-8")
    files = {p: p.read_bytes() for p in tmp_path.iterdir()}
    names = {"parts": course.parts, "rel_shift": RIGHT["rel_shift"], "four_terms": unsolved}
    names["key_value_backward"] = PARTS["key_value_backward"].judge  # the library's is nobody's
    exec(f"found = parts({str(tmp_path)!r})", names)
    out = capsys.readouterr().out.splitlines()
    assert set(names["found"]) == {"update_memory", "rel_shift"}
    assert out[0] == "2 of 13 parts of the model are yours" and len(out) == 14
    marks = {line.split()[1]: line[0] for line in out[1:]}
    assert marks["rel_shift"] == marks["update_memory"] == "✓"
    assert marks["attention_mask"] == "✗" and marks["four_terms"] == "…"
    assert marks["key_value_backward"] == "…"
    assert files == {p: p.read_bytes() for p in tmp_path.iterdir()}


def test_the_capstone_learns_by_their_functions_alone(capsys):
    vectorised = {n: f for n, f in RIGHT.items() if n != "four_terms"}
    course.capstone(vectorised, steps=8)
    out = capsys.readouterr().out
    assert out.startswith("12 of 13 parts are yours")
    library, yours, apart = re.search(
        r"after 8 steps .* library (\S+), yours (\S+) bits; .* than (\S+)\n", out
    ).groups()
    assert library == yours and float(apart) < 1e-11


def test_a_capstone_of_nothing_is_not_run(capsys):
    course.capstone({})
    assert "solve an exercise" in capsys.readouterr().out
