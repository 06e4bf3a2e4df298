"""The project of a memory of one's own: its checks find what is wrong, and only that."""

import json

import numpy as np
import pytest

pytest.importorskip("psutil")

from minitxl import Config, MinitxlError, TransformerXL, load_run, save_run
from minitxl.course.project import memory_checks, memory_rank, solution
from minitxl.course.project.assess import measured
from minitxl.course.project.handout import report
from minitxl.course.project.memory import FILE, MEMORY, TEMPLATE
from minitxl.course.project.milestones import walk
from minitxl.course.project.running_means import RunningMeans
from minitxl.data.vocab import CharVocab
from minitxl.model.family.memories.kinds import Memory

TITLES = [title for title, _ in memory_checks.CHECKS]


def loaded(tmp_path, source):
    path = tmp_path / FILE
    path.write_text(source, encoding="utf-8")
    return memory_checks.load(path)


def test_the_template_is_the_papers_memory(tmp_path):
    found = list(memory_checks.walk(loaded(tmp_path, TEMPLATE)))
    assert [f.title for f in found] == TITLES
    assert [f.passed for f in found] == [True] * 4 + [False], found
    assert "yours is to come" in found[-1].text


def test_the_model_solution_passes():
    found = list(memory_checks.walk(RunningMeans))
    assert all(f.passed for f in found), found
    assert found[-1].text == "the last segment depends on 28 tokens before it (the paper's on 18)"


# A line of the template, what a student may have written there, the check that finds it, its words.
MUTANTS = {
    "one row too many": (
        "- self.config.mem_len",
        "- self.config.mem_len - 1",
        0,
        "after 1 segments mems[0] has",
    ),
    "grows": (
        "first = max(0, both.shape[1] - self.config.mem_len)",
        "first = 0",
        0,
        "is (2, 0 to 8, 8)",
    ),
    "in place": ("first = max", "state[...] *= 0.5\n        first = max", 0, "changes the state"),
    "not finite": ("return both[:, first:, :]", "return both[:, first:, :] / 0.0", 0, "NaN or inf"),
    "rows of its own": (
        "        return state\n",
        "        return xp.concat([state, state], axis=1)\n",
        0,
        "must be (2, m, 8) with one m for all, at most mem_len=8",
    ),
    "more than told": (
        "    def rows(",
        "    def n_bytes(self, itemsize=4):\n        return 8\n\n    def rows(",
        0,
        "n_bytes says 8",
    ),
    "mixes texts": ("[state, h]", "[state, h + 0 * h + h[::-1]]", 1, "its neighbour in a batch"),
    "keeps it in self": (
        "        both = xp.concat([state, h], axis=1)  # (B, m + T, D)\n",
        "        self.seen = getattr(self, 'seen', 0) + 1\n"
        "        both = xp.concat([state, h * self.seen], axis=1)\n",
        2,
        "is kept elsewhere than in the state",
    ),
    "h gets nothing": (
        "both[:, :n_found, :] + dmem, both[:, n_found:, :]",
        "both[:, :n_found, :] + dmem, None",
        3,
        "2 segments",
    ),
    "the state gets nothing": ("both[:, :n_found, :] + dmem", "dmem", 3, "3 segments"),
    "dmem is dropped": (" + dmem, both", ", both", 3, "3 segments"),
    "the wrong end": ("[gone, dleft]", "[dleft, gone]", 3, "2 segments"),
    "stopped forgets": ("return dmem, None", "return None, None", 3, "2 segments"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_what_is_wrong_is_found(tmp_path, name):
    before, after, number, words = MUTANTS[name]
    assert TEMPLATE.count(before) == 1
    kind = loaded(tmp_path, TEMPLATE.replace(before, after))
    _, check = memory_checks.CHECKS[number]
    with np.errstate(all="ignore"), pytest.raises(MinitxlError) as caught:
        check(kind)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1", "must define one subclass of Memory, it has none"),
        (TEMPLATE + "\n\nclass Second(OwnMemory):\n    pass\n", "it has OwnMemory, Second"),
        ("1 / 0", "does not run: ZeroDivisionError in line 1, `1 / 0`"),
        ("def f(:", "does not run: SyntaxError"),
    ],
)
def test_files_that_define_none(tmp_path, source, words):
    with pytest.raises(MinitxlError) as caught:
        loaded(tmp_path, source)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(MinitxlError, match="is not there: begin with the template"):
        memory_checks.load(tmp_path / "other.py")


def test_what_stops_is_told_with_its_line(tmp_path):
    kind = loaded(tmp_path, TEMPLATE.replace("first = max", "first = self.no + max"))
    first, *_ = memory_checks.walk(kind, tmp_path / FILE)
    assert not first.passed and "`first = self.no + max(0" in first.text
    assert "AttributeError in line" in first.text


# --- a model with it -----------------------------------------------------------------------------


class AsInPaper(Memory):
    """The paper's memory, as somebody's own."""


def test_a_model_with_a_memory_of_ones_own(tmp_path):
    config = Config(n_token=7, n_layer=2, d_model=8, n_head=2, d_head=4, d_inner=8, mem_len=5)
    model = TransformerXL(config, device="cpu", dtype="float64", memory=AsInPaper)
    assert model.config.memory.kind == "custom" and config.memory.kind == "xl"
    paper = TransformerXL(config, device="cpu", dtype="float64")
    ids = np.random.default_rng(0).integers(0, 7, (2, 12))
    mems, theirs = None, None
    for start in (0, 4, 8):
        part = ids[:, start : start + 4]
        log_p, mems = model.predict(part, mems)
        want, theirs = paper.predict(part, theirs)
        np.testing.assert_array_equal(log_p, want)
    longer = model.with_options(mem_len=9)
    assert longer.memory is AsInPaper and longer.predict(ids)[1][0].shape == (2, 9, 8)
    with pytest.raises(MinitxlError, match="is a class, which no file holds: give it by memory="):
        TransformerXL(model.config, device="cpu")
    save_run(tmp_path / "run", model, CharVocab("abcdefg"))
    again = load_run(tmp_path / "run", device="cpu", memory=AsInPaper).model
    np.testing.assert_array_equal(again.predict(ids)[0], model.predict(ids)[0])
    assert again.memory is AsInPaper
    with pytest.raises(MinitxlError, match="give it by memory="):
        load_run(tmp_path / "run")
    with pytest.raises(MinitxlError, match="position_ids cannot be used with a custom memory"):
        model.predict(ids, position_ids=np.arange(24).reshape(2, 12))


# --- the project ---------------------------------------------------------------------------------


def test_milestones(tmp_path):
    folder = tmp_path / MEMORY.id
    quick = memory_rank.Settings.quick()
    solution.write(tmp_path, ["A text."])

    def reached():
        return {f.milestone.id: (f.reached, f.text) for f in walk(MEMORY, tmp_path)}

    assert all("`course project . --measure` writes it" in t for _, t in [*reached().values()][:-1])
    assert measured(tmp_path, print, [MEMORY.id], quick) == f"results: {folder / 'results.json'}"
    words = " ".join(f"word{n}" for n in range(60))
    (folder / "REPORT.md").write_text(report(MEMORY, {t: words for t, _ in MEMORY.sections}))
    assert all(done for done, _ in reached().values()), reached()
    results = json.loads((folder / "results.json").read_text())
    assert list(results["paid"]) == list(memory_rank.TASKS)
    for name, paid in results["paid"].items():
        assert list(paid) == list(memory_rank.ARMS)
        assert name == "recall" or paid["own"] != paid["xl"]
        assert "half of them means of 4" in memory_rank.table(paid, memory_rank.TASKS[name])
    (folder / FILE).write_text(TEMPLATE)
    assert all("was measured with another" in t for _, t in [*reached().values()][:-1])
    told = f"{folder / FILE} is the template: not measured"
    assert measured(tmp_path, print, [MEMORY.id], quick) == told
    (folder / FILE).write_text(TEMPLATE + "\n")
    measured(tmp_path, print, (), quick)
    got = reached()
    assert [done for done, _ in got.values()] == [True] * 4 + [False] * 3
    assert "it is ranked when it passes all checks" in got["memory-ranked"][1]
    with pytest.raises(MinitxlError, match="holds no memory to measure"):
        measured(tmp_path, print, ["claim"])


def test_every_arm_has_as_many_bytes():
    """And the class that is given is in its own arms alone; what has no finite loss is told."""
    asked = {}

    def learn(fields, memory, seed, *, through, s):
        config = Config(n_token=7, n_layer=2, d_model=8, n_head=2, d_head=4, d_inner=8, **fields)
        model = TransformerXL(config, device="cpu", memory=memory)
        asked[len(asked)] = memory, through, model.network.memory or Memory(model.config)
        return float(len(asked))

    s = memory_rank.Settings(seeds=1)
    paid = memory_rank.rank(RunningMeans, s, task=memory_rank.Task("", learn))
    assert [paid[name] for name in memory_rank.ARMS] == [[n + 1.0] for n in range(len(paid))]
    for name, (memory, through, built) in zip(memory_rank.ARMS, asked.values(), strict=True):
        assert built.n_bytes() == (0 if name == "none" else 4 * 2 * s.mem_len * 8), name
        assert memory is (RunningMeans if "own" in name else None) and through == ("+" in name)
    with pytest.raises(MinitxlError, match="no memory, seed 0: the training has no finite loss"):
        memory_rank.rank(RunningMeans, s, task=memory_rank.Task("", lambda *a, **k: np.nan))
