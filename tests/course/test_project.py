"""Projects: what is handed out, milestones that are reached and that are not, model solutions."""

import dataclasses
import json

import pytest

pytest.importorskip("psutil")

from minitxl import MinitxlError, load_corpus
from minitxl.cli import main
from minitxl.course.grading.roster import Person, Roster
from minitxl.course.project import assess, corpus, memory_rank, solution
from minitxl.course.project.claim import CLAIM, CLAIMS, SEEDS, claim_of
from minitxl.course.project.corpus import CORPUS
from minitxl.course.project.handout import PROJECTS, hand_out, page, report
from minitxl.course.project.milestones import Project, walk
from minitxl.course.variants import word_of
from minitxl.experiments import reach, stored

WORDS = " ".join(f"word{n}" for n in range(60))


def found(project, folder, variant=""):
    return {f.milestone.id: (f.reached, f.text) for f in walk(project, folder, variant)}


def filled(project: Project, **lines):
    texts = {title: WORDS for title, _ in project.sections}
    return report(project, texts | lines)


def put(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_what_is_handed_out_reaches_nothing(tmp_path, capsys):
    hand_out(tmp_path / "project")
    assert main(["course", "project", str(tmp_path), "--csv", str(tmp_path / "x.csv")]) == 0
    out = capsys.readouterr().out
    assert "✓" not in out and out.count("✗") == sum(len(p.milestones) for p in PROJECTS)
    assert out.count(" 0 of ") == out.count("✗") + len(PROJECTS)
    rows = (tmp_path / "x.csv").read_text().splitlines()
    assert len(rows) == 1 + sum(len(p.milestones) + len(p.rubric) for p in PROJECTS)
    (tmp_path / "empty").mkdir()
    assert main(["course", "project", str(tmp_path / "empty")]) == 2
    assert "holds none of corpus/, memory/, claim/" in capsys.readouterr().err


def test_points_are_told():
    text = page()
    assert f"--seeds {SEEDS} " in text
    for project in PROJECTS:
        assert f"({project.id}/`, {project.points} points)".replace("(", "(`", 1) in text
        assert all(f"| {m.title} | {m.points} | itself |" in text for m in project.milestones)


# --- a claim -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rerun():
    """A run of seconds that is not --quick's own."""
    settings = reach.Settings(models=((1, 4, 4), (2, 4, 2)), seeds=3, steps=20, batch_size=8)
    return json.loads(json.dumps(reach.run(settings)))


def test_a_claim(tmp_path, rerun):
    put(tmp_path, "claim/results.json", json.dumps(rerun))
    put(tmp_path, "claim/REPORT.md", filled(CLAIM, Seeds="3", Holds="Partly."))
    got = found(CLAIM, tmp_path)
    assert all(reached for reached, _ in got.values()), got
    assert got["claim-results"][1] == "reach, 3 seeds" and got["claim-verdict"][1].endswith(
        "partly"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r | {"experiment": "coherence"}, "of the experiment 'coherence', must be"),
        (lambda r: r | {"settings": r["settings"] | {"seeds": 2}}, "of 2 seeds, must be of 3"),
        (lambda r: r | {"settings": r["settings"] | {"seeds": "9"}}, "of 9 seeds, must be of 3"),
        (lambda r: r | {"settings": {"seeds": 3}}, "has not the settings of this version"),
        (lambda r: r | {"models": []} and {**r, "models": [{}]}, "it cannot be read: KeyError"),
        (lambda r: [], "it cannot be read: TypeError"),
        (lambda r: stored("reach"), "is what ships with minitxl"),
        (lambda r: r | {"settings": json.loads(json.dumps(
            dataclasses.asdict(reach.Settings.quick()))) | {"seeds": 3}}, "is of --quick"),
    ],
)  # fmt: skip
def test_a_claim_that_does_not_count(tmp_path, rerun, change, words):
    put(tmp_path, "claim/results.json", json.dumps(change(rerun)))
    put(tmp_path, "claim/REPORT.md", filled(CLAIM, Seeds="3", Holds="no"))
    got = found(CLAIM, tmp_path)
    assert words in got["claim-results"][1]
    assert not any(reached for reached, _ in got.values())


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ({"Seeds": "5", "Holds": "no"}, "says 5 seeds, results.json has 3"),
        ({"Seeds": "3", "Holds": "perhaps"}, "must be yes, partly, no"),
        ({"Seeds": "three", "Holds": "no"}, "holds no number"),
        ({"Seeds": "3"}, "has no line `Holds: ...`"),
    ],
)
def test_a_verdict_that_does_not_count(tmp_path, rerun, lines, words):
    put(tmp_path, "claim/results.json", json.dumps(rerun))
    put(tmp_path, "claim/REPORT.md", filled(CLAIM, **lines))
    assert words in found(CLAIM, tmp_path)["claim-verdict"][1]


def test_reports_that_do_not_count(tmp_path, rerun):
    put(tmp_path, "claim/results.json", json.dumps(rerun))
    whole = filled(CLAIM, Seeds="3", Holds="no")
    for text, words in (
        (whole.replace("## What came", "## Other"), "has no section `## What came`"),
        (whole.replace(WORDS, "word " * 60, 1), "it is not written yet"),
        (whole.replace(WORDS, " ".join(WORDS.split()[:30]), 1), "30 words, must be 40"),
        (report(CLAIM, {"Seeds": "3", "Holds": "no"}), "it is not written yet"),
    ):
        put(tmp_path, "claim/REPORT.md", text)
        assert words in found(CLAIM, tmp_path)["claim-report"][1]


def test_each_student_has_a_claim(tmp_path, rerun):
    ids = {claim_of(word_of(f"ann{n}")): f"ann{n}" for n in range(40)}
    assert set(ids) == set(CLAIMS) and claim_of("") == ""
    for name, who in ids.items():
        hand_out(tmp_path / who / "project", word_of(who))
        assert f"**Your claim:** `{name}`" in (tmp_path / who / "project/README.md").read_text()
        put(tmp_path / who, "project/claim/results.json", json.dumps(rerun))
        roster = Roster((Person(who),))
        _, rows = assess.assessed(tmp_path / who, ["claim"], roster)
        assert (rows[0][3] > 0) == (name == "reach") and rows[0][0] == who
    with pytest.raises(MinitxlError, match="which is nobody in the roster"):
        assess.assessed(tmp_path / who, ["claim"], Roster((Person("bob"),)))


# --- a corpus, and all model solutions --------------------------------------------------------


def prose(n):
    """Sentences that nothing has twice."""
    names, verbs = ("anna", "peter", "the count", "my aunt"), ("sees", "calls", "forgets")
    k = range(n)
    return [f"{names[i % 4]} {verbs[i // 7 % 3]} number {i * i % 9973} of street {i}." for i in k]


@pytest.mark.slow
def test_the_model_solutions_run(tmp_path, monkeypatch):
    """In a quick form: everything is written, measured and told; bits alone take longer."""
    solution.write(tmp_path, prose(6000))
    claim = reach.Settings(models=((1, 4, 4), (2, 4, 2)), seeds=3, steps=20, batch_size=8)
    monkeypatch.setattr(corpus, "READ", 1500)
    monkeypatch.setattr(solution, "READ", 1500)
    solution.run(tmp_path, steps=6, memory=memory_rank.Settings.quick(), claim=claim)
    for project in PROJECTS:
        for name, (reached, text) in found(project, tmp_path).items():
            assert reached or name in ("corpus-beats", "corpus-memory"), f"{name}: {text}"
    monkeypatch.setattr(corpus, "compression_bpc", lambda *_, **__: {"xz": 2.0})  # takes seconds
    path = tmp_path / "corpus" / "run" / "run.json"
    info = path.read_text()
    path.write_text(info.replace('"run": "war-and-peace"', '"run": "elsewhere"'))
    assert "begins from 'elsewhere', which may have" in found(CORPUS, tmp_path)["corpus-run"][1]
    path.write_text(info)
    text = (tmp_path / "corpus" / "text.txt").read_text()
    put(tmp_path, "corpus/text.txt", text.replace("anna", "maria"))
    assert "is not the one of the run, or has changed" in found(CORPUS, tmp_path)["corpus-run"][1]
    said = (tmp_path / "corpus" / "REPORT.md").read_text()
    put(tmp_path, "corpus/text.txt", text)
    put(tmp_path, "corpus/REPORT.md", said.replace("Bits: ", "Bits: 1"))
    assert "bits, measured are" in found(CORPUS, tmp_path)["corpus-report"][1]


def test_texts_that_do_not_count(tmp_path):
    ours = load_corpus("tiny-shakespeare")
    text = ours.vocab.decode(ours.train[:300_000])
    for changed, words in (
        (text, "of text.txt is tiny-shakespeare: take your own"),
        (text[:1000], "has 1,000 characters, must have 200,000"),
    ):
        put(tmp_path, "corpus/text.txt", changed)
        reached, got = found(CORPUS, tmp_path)["corpus-text"]
        assert not reached and words in got
    put(tmp_path, "corpus/text.txt", "\n".join(prose(6000)))
    assert found(CORPUS, tmp_path)["corpus-text"][0]


def test_the_lecturers_text(tmp_path):
    """Paragraphs of prose, none of which repeats another."""
    first = "A module that reads a text, segment by segment, and keeps"
    put(tmp_path, "a.py", f'"""{first} what it saw."""')
    more = "Another paragraph says what is new here, in more than sixty characters."
    code = ">>> f() shows nothing that would be prose, however long the line may be"
    put(tmp_path, "b.py", f'"""{first} it.\n\nShort.\n\n{code}\n\n{more}\n"""')
    put(tmp_path, "test/c.py", f'"""Tests: {more}"""')
    put(tmp_path, "d.py", "def (")
    assert list(solution.paragraphs(tmp_path)) == [f"{first} what it saw.", more]
