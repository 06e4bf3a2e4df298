"""Experiments: their numbers, and pictures that are drawn from the stored results alone."""

import copy
import json
from itertools import combinations

import numpy as np
import pytest

from minitxl import MinitxlError, cli
from minitxl.experiments import evaluation_speed, stored
from minitxl.experiments.evaluation_speed import PAPER, Settings, flops, run, summary
from minitxl.experiments.evaluation_speed_figure import draw_evaluation_speed
from minitxl.training.machine import machine_facts


@pytest.fixture(scope="module")
def results():
    """A run of a second, after a way through JSON."""
    settings = Settings(
        attention_lens=(20, 60), segment_lens=(1, 32), repeats=2, seconds=1e-4, n_layer=2
    )
    return json.loads(json.dumps(run(settings)))


def test_every_way_is_timed_at_every_length(results):
    found = {(p["method"], p["attention_len"], p["segment_len"]) for p in results["points"]}
    vanilla = ("window", "window-absolute", "half-window", "chunks")
    want = {(method, a, None) for method in vanilla for a in (20, 60)}
    want |= {(xl, a, s) for xl in ("xl", "xl-cached") for a, s in ((20, 1), (60, 1), (60, 32))}
    assert found == want and len(results["points"]) == len(want)
    for p in results["points"]:
        assert 0 < p["ms_min"] <= p["ms"] <= p["ms_max"]
        assert p["repeats"] == 2 and p["tokens_per_repeat"] >= (p["segment_len"] or 1) and p["how"]


def test_what_must_agree_agrees(results):
    apart = results["largest_difference_of_log_probs"]
    assert len(apart) == 2 and all(0 <= x < 1e-5 for x in apart.values())


def test_different_predictions_are_not_compared(monkeypatch):
    monkeypatch.setattr(evaluation_speed, "TOLERANCE", -1.0)
    settings = Settings(attention_lens=(8,), segment_lens=(1,), repeats=1, seconds=1e-6, n_layer=1)
    with pytest.raises(MinitxlError, match="differ by"):
        run(settings)


def test_speedups_are_over_the_faster_window(results):
    def ms(method, a, s=None):
        key = (method, a, s)
        return next(
            p["ms"]
            for p in results["points"]
            if (p["method"], p["attention_len"], p["segment_len"]) == key
        )

    assert len(results["speedups"]) == 6
    for p in results["speedups"]:
        a = p["attention_len"]
        own, absolute = ms(p["method"], a, p["segment_len"]), ms("window-absolute", a)
        assert p["speedup"] == pytest.approx(min(ms("window", a), absolute) / own)


def test_windows_are_timed_for_enough_tokens(results):
    for p in results["points"]:
        if p["method"].startswith("window"):
            assert p["tokens_per_repeat"] >= evaluation_speed.WINDOW_TOKENS


def test_a_window_predicts_one_token_and_a_chunk_all_of_its_own(monkeypatch):
    """What the jobs read and what they count as predicted."""
    text = np.arange(1000)
    seen = []

    class Watched:
        config = evaluation_speed._config(Settings())

        def __init__(self, *_):
            pass

        def with_options(self, **lengths):
            assert lengths == {"mem_len": 0, "tgt_len": 20}
            return self

        def score(self, x, y):
            seen.append((x, y))

    monkeypatch.setattr(evaluation_speed, "CachedReader", Watched)

    for stride in (1, 10, 20):
        hows = [job.how for job in evaluation_speed._window_jobs(Watched(), text, 20, stride)]
        assert len(set(hows)) == len(hows) == 7
        for job in evaluation_speed._window_jobs(Watched(), text, 20, stride):
            seen.clear()
            job.call()
            assert sum(y.size for _, y in seen) == job.n_token
            for x, y in seen:
                assert x.shape[1] == 20 and y.shape[1] == stride
                np.testing.assert_array_equal(y, x[:, -stride:] + 1)
            first = np.sort(np.concatenate([x[:, 0] for x, _ in seen]))
            np.testing.assert_array_equal(first, np.arange(len(first)) * stride)


def test_xl_reads_memory_and_segment_of_the_attention_length():
    text = np.arange(200) % 78
    model, _ = evaluation_speed._models(Settings(n_layer=1), 78)
    plain, kept, apart = evaluation_speed._xl_jobs(model, text, 24, 8)
    assert apart < 1e-5 and {job.n_token for job in plain + kept} == {8}
    reader = kept[0].call.__defaults__[0]
    for job in (*kept, *kept):
        job.call()
    assert reader.mems[0].shape == (1, 16, 128)


def test_flops_are_the_formulas():
    s, a, n = Settings(), 800, 16
    d, f = s.d_model, s.d_inner
    assert flops("window-absolute", a, None, s) == 4 * a * (8 * d * d + 4 * a * d + 4 * d * f)
    again = 4 * d * d + 4 * a / n * d * d + 2 * a / n * d * d + 6 * a * d + 4 * d * f
    assert flops("xl", a, n, s) == 4 * again
    for n in (1, 64):
        assert flops("xl-cached", a, n, s) == 4 * (8 * d * d + 6 * a * d + 4 * d * f)


def test_a_text_that_is_too_short():
    with pytest.raises(MinitxlError, match="attention length 90000"):
        run(Settings(attention_lens=(90000,)))


def test_summary(results):
    text = summary(results)
    best = max(p["speedup"] for p in results["speedups"] if p["attention_len"] == 60)
    assert f"At 60: {best:,.0f} times faster" in text and "XL cached, 32" in text
    assert "the paper" not in text  # it has no number for this length


def test_machine_facts():
    facts = json.loads(json.dumps(machine_facts()))
    assert facts["cores"] >= facts["threads"] >= 1
    assert all(facts[name] for name in ("cpu", "system", "python", "numpy", "minitxl"))


# --- the command ---


def test_command(tmp_path, monkeypatch, capsys, results):
    monkeypatch.setattr(evaluation_speed, "run", lambda settings, parts, progress: results)
    out = tmp_path / "speed.json"
    assert cli.main(["experiment", "evaluation-speed", "--quick", "--out", str(out)]) == 0
    assert json.loads(out.read_text(encoding="utf-8")) == results
    said = capsys.readouterr()
    assert "times faster than the window" in said.out and "speed.json" in said.err


@pytest.mark.parametrize("quick", [True, False])
def test_command_hands_over_the_settings(tmp_path, monkeypatch, results, quick):
    given = []
    monkeypatch.setattr(
        evaluation_speed, "run", lambda settings, parts, progress: given.append(settings) or results
    )
    out = ["--out", str(tmp_path / "a.json")]
    assert cli.main(["experiment", "evaluation-speed", *out, *["--quick"] * quick]) == 0
    assert given == [Settings.quick() if quick else Settings()]
    assert max(Settings().attention_lens) == max(PAPER)


def test_command_goes_on_where_it_was_interrupted(tmp_path, monkeypatch, capsys):
    """What is done stays, is said to be there, and is used by --resume; then the file is gone."""
    done = []

    def experiment(settings, parts, progress):
        parts.get("first", lambda: done.append("first") or 1)
        if len(done) == 1:
            done.append("Ctrl-C")
            raise KeyboardInterrupt
        return {"found": parts.get("first", lambda: pytest.fail("computed again"))}

    monkeypatch.setattr(evaluation_speed, "run", experiment)
    monkeypatch.setattr(evaluation_speed, "summary", str)
    command = ["experiment", "evaluation-speed", "--out", str(tmp_path / "a.json")]
    assert cli.main(command) == 130
    assert "--resume" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.unfinished.json"]
    assert cli.main([*command, "--resume"]) == 0
    assert done == ["first", "Ctrl-C"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_seeds(tmp_path, capsys):
    command = ["experiment", "--out", str(tmp_path / "a.json"), "--seeds"]
    assert cli.main([*command, "3", "evaluation-speed"]) == 2
    assert cli.main([*command, "0", "reach"]) == 2
    no_seeds, too_few = capsys.readouterr().err.splitlines()
    assert "has no seeds" in no_seeds and "--seeds 0" in too_few
    assert cli.main(["experiment", "--out", str(tmp_path / "a.json"), "--jobs", "0", "reach"]) == 2
    assert "--jobs 0 must be at least 1" in capsys.readouterr().err


def test_command_refuses_at_once_what_it_could_not_write(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation_speed, "run", lambda *_, **__: pytest.fail("measured"))
    for out in (tmp_path / "nowhere" / "a.json", tmp_path):
        assert cli.main(["experiment", "evaluation-speed", "--out", str(out)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        cli.main(["experiment", "nothing"])
    assert "evaluation-speed" in capsys.readouterr().err


# --- the picture ---


def test_picture_is_byte_stable_and_says_what_the_results_say(tmp_path, results):
    before = copy.deepcopy(results)
    files = []
    for name in "ab":
        picture = draw_evaluation_speed(results)
        saved = [picture.save(tmp_path / f"{name}{suffix}") for suffix in (".png", ".svg")]
        files.append([path.read_bytes() for path in saved])
    assert files[0] == files[1] and results == before
    best = max(p["speedup"] for p in results["speedups"] if p["attention_len"] == 60)
    assert f"{best:,.0f} times faster than a window of 60" in picture.caption


@pytest.mark.parametrize("kept", [True, False])
def test_labels_neither_overlap_nor_leave_the_picture(results, kept):
    if kept:
        results = stored("evaluation_speed")
    else:  # a long name, as the machine of the measurement may have
        cpu = "AMD EPYC(TM) 7763 64-Core Processor at 2.45 GHz"
        results = results | {"machine": results["machine"] | {"cpu": cpu}}
    figure = draw_evaluation_speed(results).figure
    figure.canvas.draw()
    texts = [t for ax in figure.axes for t in (*ax.texts, ax.xaxis.label, ax.yaxis.label, ax.title)]
    texts += figure.texts
    for ax in figure.axes:
        for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
            texts += [label for at, label in ticks if low <= at <= high]
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text()]
    for text, box in boxes:
        inside = box.x0 >= 0 and box.y0 >= 0
        assert inside and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    for (a, one), (b, other) in combinations(boxes, 2):
        assert not one.overlaps(other), f"{a!r} lies on {b!r}"


def test_stored_results_are_complete():
    """What the figure shows was measured with the command's own settings."""
    results = stored("evaluation_speed")
    assert results["settings"] == json.loads(json.dumps(Settings().__dict__))
    found = {(p["method"], p["attention_len"], p["segment_len"]) for p in results["points"]}
    assert {("xl-cached", a, s) for a in PAPER for s in (1, 16, 64, 128)} <= found
    assert all(x < 1e-5 for x in results["largest_difference_of_log_probs"].values())
