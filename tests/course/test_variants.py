"""Variants: what one student is asked, another is not; and grading knows whose is which."""

import csv
import itertools
import math
import os

import numpy as np
import pytest

nbformat = pytest.importorskip("nbformat")

from helpers.course_answers import ANSWERS  # noqa: E402
from minitxl import MinitxlError, course  # noqa: E402
from minitxl.course import EXERCISES, generator, hunt  # noqa: E402
from minitxl.course.grading.grading import Order, grade  # noqa: E402
from minitxl.course.grading.roster import Person, Roster  # noqa: E402
from minitxl.course.notebooks import notebook_from, write  # noqa: E402
from minitxl.course.release import release  # noqa: E402
from minitxl.course.variants import (  # noqa: E402
    NUMBERS,
    OTHERS,
    VARIED,
    code_of,
    drawn,
    seed_of,
    value_of,
    vary,
    word_of,
    words_in,
)
from minitxl.model.reach import exact_reach  # noqa: E402

WORDS = [word_of(f"student{n}") for n in range(40)]


def lowest(n, t, m, v):
    return max(0, n - v) * t * math.ceil(m / t)


def hunted(v):
    words = list(hunt.order().values())
    return lambda bugs: tuple(bugs.index(words[i]) for i in v)


def gain(v):
    def recl_gain(near, far, r):
        best = near.min(0)
        hard = np.argsort(-best, kind="stable")[: max(1, round(r * near.shape[1]))]
        later = np.minimum(best, far)[:, hard].mean(1)
        f = best[hard].mean()
        return (v**f - v**later) / v**f

    return recl_gain


ANSWERED = {  # what a student with the parameter v may write; each from its docstring alone
    "context-lengths": lambda v: lambda n, t: [min(i + 1, i % t + 1 + v) for i in range(n)],
    "reach": lambda v: lambda n, t, m: lowest(n, t, m, v),
    "influence": lambda v: lambda n, t, m, o: lowest(n, t, m, v) + o + 1,
    "bug-hunt": hunted,
    "bits-per-character": lambda v: (
        lambda nll: np.concatenate([x.ravel() for x in nll]).mean() / math.log(v)
    ),
    "recl-gain": gain,
    "speed-up": lambda v: lambda *a: ANSWERS["speed-up"](*a) / v,
    "affordable-memory": lambda v: lambda *a: v * ANSWERS["affordable-memory"](*a),
}


def judged(exercise_id, answer, word, seed=1):
    return vary(EXERCISES[exercise_id], word).judge(answer, generator(exercise_id, seed))


def test_all_that_vary_are_answered_here_and_are_no_parts_of_the_model():
    assert set(ANSWERED) == set(VARIED)
    assert not {e.id for e in course.PARTS.values()} & set(VARIED)


@pytest.mark.parametrize("exercise_id", VARIED)
def test_a_right_answer_is_right_for_its_variant_alone(exercise_id):
    by_value = {value_of(exercise_id, word): word for word in WORDS}
    assert len(by_value) >= min(5, len(VARIED[exercise_id].choices))
    some = list(by_value.items())[:3]
    for (v, word), (_, other) in itertools.permutations(some, 2):
        for seed in range(2):
            assert judged(exercise_id, ANSWERED[exercise_id](v), word, seed).passed
            theirs = judged(exercise_id, ANSWERED[exercise_id](v), other, seed)
            assert theirs.score == 0 or (exercise_id == "bug-hunt" and theirs.score < 1)
    for _, word in some:
        common = judged(exercise_id, ANSWERS[exercise_id], word)
        assert common.score < 1 and OTHERS in common.message


@pytest.mark.parametrize("exercise_id", VARIED)
def test_a_varied_exercise_is_well_made(exercise_id):
    base = EXERCISES[exercise_id]
    for word in WORDS[:4]:
        e = vary(base, word)
        assert judged(exercise_id, e.model_solution, word).passed
        assert "Yours: " in e.stub and base.head.rstrip().removesuffix('"""').rstrip() in e.head
        assert max(map(len, e.solution.splitlines())) <= 104  # of which 4 for a function in it
        for mistake in e.mistakes:
            assert not judged(exercise_id, mistake.wrong, word).passed, mistake.message
    assert vary(base, "") is base


def test_what_is_a_part_of_the_model_varies_in_shapes_alone():
    assert vary(EXERCISES["rel-shift"], WORDS[0]) is EXERCISES["rel-shift"]
    assert seed_of("") == 0 and len({seed_of(word) for word in WORDS}) == len(WORDS)


def test_words_stay_what_they_are():
    """A release of today is graded next year, by another version, on another machine."""
    assert word_of("ann") == word_of("Ann") == "7d299fdb"
    assert [value_of(name, word_of("ann")) for name in ("reach", "speed-up")] == [1, 2]


def test_checks_know_the_variant(capsys):
    word = next(w for w in WORDS if value_of("reach", w) == 2)
    reach = ANSWERED["reach"](2)
    exec(f'from minitxl import course\ncourse.check("reach", variant="{word}")', {"reach": reach})
    course.check("reach", reach)
    first, second = capsys.readouterr().out.splitlines()
    points = EXERCISES["reach"].points
    assert first == f"✓ right, {points} of {points} points | reach" and second.startswith("✗ wrong")


def test_cells_are_given_the_variant():
    text = 'x = f(course.hunt.symptoms(m,\n  "π", 1))\ncourse.check("a")\ncourse.parts()'
    assert code_of(text, "ab") == (
        'x = f(course.hunt.symptoms(m,\n  "π", 1, variant="ab"))\ncourse.check("a", variant="ab")\n'
        "course.parts()"
    )
    assert code_of("course.hunt.reveal()", "ab") == 'course.hunt.reveal(variant="ab")'
    assert code_of(text, "") == text
    with pytest.raises(MinitxlError, match="cannot be given a variant"):
        code_of("%time course.check('a')", "ab")


def test_the_models_of_the_hunt_have_other_letters(monkeypatch):
    word = WORDS[0]
    v = value_of("bug-hunt", word)
    common = list(hunt.order().values())
    assert list(hunt.order(word).values()) == [common[i] for i in v] != common
    monkeypatch.setattr(hunt, "_measured", lambda reader, text: type(reader))
    monkeypatch.setattr(hunt.Sound, "__init__", lambda self, model: None)
    found = hunt.symptoms(None, np.arange(9), variant=word)
    assert [found[name] for name in "ABCDE"] == [hunt.BUGS[common[i]] for i in v]


# --- hand-outs -----------------------------------------------------------------------------------


def roster(*names):
    return Roster(tuple(Person(name) for name in names))


def test_each_student_gets_a_hand_out(tmp_path):
    paths = release(tmp_path / "out", roster=roster("ann", "bob"))
    assert paths[0] == tmp_path / "out" / "lecturer" / "variants.csv"
    with open(paths[0], newline="", encoding="utf-8") as file:
        key = {row["student"]: row for row in csv.DictReader(file)}
    assert set(key["ann"]) == {"student", "variant", *VARIED, "4.2", "5.1", "8.2", "claim"}
    books = {}
    for who in ("ann", "bob"):
        folder = tmp_path / "out" / "students" / who
        assert {p.name for p in folder.iterdir()} == {p.name for p in paths[1:]}
        books[who] = {p.name: p.read_text("utf-8") for p in folder.glob("*.ipynb")}
        for name, text in books[who].items():
            nbformat.validate(nbformat.reads(text, 4))
            cells = nbformat.reads(text, 4).cells
            used = [
                c.source for c in cells if c.cell_type == "code" and "course.check(" in c.source
            ]
            assert words_in(used) == ({key[who]["variant"]} if used else set()), name
        call = 'symptoms(minitxl.load_pretrained("war-and-peace").model, text, variant="'
        assert f'{call}{word_of(who)}")' in books[who]["06_training.ipynb"].replace("\\", "")
    assert key["ann"]["bug-hunt"].startswith("A ") and key["ann"]["5.1"] != key["bob"]["5.1"]
    asked = key["ann"]["5.1"].split(": ")[0].split("; ")
    reach = "\n".join(c.source for c in nbformat.reads(books["ann"]["05_reach.ipynb"], 4).cells)
    assert all(text in reach for text in asked) and "$M = 513$" not in reach


def test_numbers_of_questions_and_their_answers():
    for word in WORDS:
        values = drawn(word, "5.1", NUMBERS["05_reach"][0].choices)
        n, t = values["n"], values["t"]
        want = f"{exact_reach(n, t, t):,} and {exact_reach(n, t, t + 1):,}"
        assert NUMBERS["05_reach"][0].answer.format(**values) == want
        values = drawn(word, "4.2", NUMBERS["04_memory"][0].choices)
        assert values["m"] == values["n"] * values["t"]


def test_a_notebook_that_asks_something_else_is_told(tmp_path):
    (tmp_path / "05_reach.py").write_text("# %% [markdown]\n# nothing\n")
    with pytest.raises(MinitxlError, match=r"question 5\.1 does not say '12 layers"):
        notebook_from("05_reach", tmp_path, variant="ab")


# --- grading -------------------------------------------------------------------------------------

SCRIPT = """\
# %% [markdown]
# 12 layers and $T = 512$, $M = 512$, $M = 513$

# %% exercise reach

# %% check reach

# %% exercise influence

# %% check influence
"""


def put(place, source, who, word, v):
    book = notebook_from("05_reach", source, variant=word)
    body = f"max(0, n_layer - {v}) * tgt_len * -(-mem_len // tgt_len)"
    heads = ("reach(n_layer, tgt_len, mem_len)", "influence(n_layer, tgt_len, mem_len, offset)")
    for cell, head, more in zip(book.cells[1::2], heads, ("", " + offset + 1"), strict=True):
        cell.source = f"def {head}:\n    return {body}{more}"
    (place / who).mkdir(parents=True)
    write(book, place / who / "05_reach.ipynb")


@pytest.mark.slow
@pytest.mark.xdist_group("grading")
def test_grading_knows_whose_variant_it_is(tmp_path):
    """Ann is right. Bob hands in her file; eve's is right, in a file that nobody handed out."""
    pytest.importorskip("nbgrader", reason="nbgrader is not installed (extra lecturer)")
    source = tmp_path / "source"
    source.mkdir()
    (source / "05_reach.py").write_text(SCRIPT)
    want = ("reach", "influence")

    def named(name, v):
        ids = (f"{name}{n}" for n in range(99))
        return next(i for i in ids if all(value_of(e, word_of(i)) == v for e in want))

    ann = named("ann", 1)
    bob, eve = (named(name, 2) for name in ("bob", "eve"))
    place = tmp_path / "in"
    put(place, source, ann, word_of(ann), 1)
    put(place, source, bob, word_of(ann), 1)
    put(place, source, eve, "", 2)
    order = Order(source=source, seed=1, jobs=1, by_student=True)
    with pytest.raises(MinitxlError, match="give --roster"):
        grade(place, tmp_path / "out", order)
    assert not os.path.exists(tmp_path / "out")
    whole = Order(source=source, seed=1, jobs=1, by_student=True, roster=roster(ann, bob, eve))
    records = {r.student: r for r in grade(place, tmp_path / "out", whole).records}
    full = sum(EXERCISES[name].points for name in want)
    got = {name: r.points for name, r in records.items()}
    assert got == {ann: full, bob: 0, eve: full}
    remarks = {name: [text for _, text in r.remarks] for name, r in records.items()}
    assert remarks[ann] == []
    assert remarks[bob] == [f"cells of the hand-out of {ann}"]
    assert remarks[eve] == ["not the student's own hand-out: nothing in it names the variant"]
    assert not records[ann].rows[0].remark and records[bob].rows[0].remark
