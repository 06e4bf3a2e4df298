"""The group of models, the parts of an experiment, and the experiments on the group."""

import copy
import json
import shutil
from dataclasses import asdict, replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest

from minitxl import MinitxlError, TransformerXL, cli
from minitxl.config import RELATIVE, SHAW, SINUSOID
from minitxl.data import load_corpus
from minitxl.experiments import group, longer_memory
from minitxl.experiments.group import MEMBERS, Shape, settings_of_member, trained
from minitxl.experiments.intervals import spread
from minitxl.experiments.longer_memory_figure import draw_longer_memory
from minitxl.experiments.parts import Parts
from minitxl.inference.evaluate import evaluate
from minitxl.storage.run_folder import LoadedRun
from minitxl.training.trainer import Trainer

TINY = replace(Shape.quick(), corpus="tiny-shakespeare", steps=6, tgt_len=8, n_layer=1, d_model=8)
N_TOKENS = 403  # no whole number of segments


@cache
def text():
    return load_corpus(TINY.corpus).test


# --- parts ---


@pytest.fixture
def kept(tmp_path):
    """A file with one part, and the settings that it was begun with."""
    file, settings = tmp_path / "a.unfinished.json", {"seeds": 3, "shape": {"steps": 5}}
    assert Parts(settings, file).get("one", lambda: (1, 0.1 + 0.2)) == [1, 0.1 + 0.2]
    return file, settings


def test_resumed_parts_are_the_same_and_not_computed_again(kept):
    file, settings = kept
    parts = Parts(settings, file, resume=True)
    assert "one" in parts and "two" not in parts and list(parts.seconds) == ["one"]
    assert parts.get("one", lambda: pytest.fail("computed again")) == [1, 0.1 + 0.2]
    parts.get("two", lambda: {"x": 2})
    again = Parts(settings, file, resume=True)
    assert [again.get(n, pytest.fail) for n in ("one", "two")] == [[1, 0.1 + 0.2], {"x": 2}]
    assert again.seconds == parts.seconds


def test_parts_start_anew_unless_asked(kept):
    file, settings = kept
    parts = Parts(settings, file)
    assert parts.get("one", lambda: "new") == "new"
    assert Parts(settings, file, resume=True).get("one", pytest.fail) == "new"


def test_a_part_that_fails_is_not_kept(kept):
    file, settings = kept
    before = file.read_bytes()

    def fails():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Parts(settings, file, resume=True).get("two", fails)
    assert file.read_bytes() == before


def test_parts_of_other_settings(kept):
    file, settings = kept
    for other in (settings | {"seeds": 4}, settings | {"more": 1}, {"seeds": 3}):
        with pytest.raises(MinitxlError, match=r"was begun with (seeds=3|more=None|shape=)"):
            Parts(other, file, resume=True)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"settings": {}, "seconds": {}, "parts": []}', '{"parts": {}}']
)
def test_parts_of_a_file_changed_by_hand(kept, text):
    file, settings = kept
    file.write_text(text, encoding="utf-8")
    with pytest.raises(MinitxlError) as caught:
        Parts(settings, file, resume=True)
    assert "\n" not in str(caught.value) and file.name in str(caught.value)


# --- the group ---


def test_members_differ_in_what_they_say_alone():
    """Against xl of the same seed: only the fields that the name speaks of."""
    reference = [x.to_dict() for x in settings_of_member("xl", 1, Shape(), 78)]
    for name, member in MEMBERS.items():
        found = [x.to_dict() for x in settings_of_member(name, 1, Shape(), 78)]
        apart = {
            key: value
            for have, other in zip(found, reference, strict=True)
            for key, value in have.items()
            if value != other[key]
        }
        want = {"attn_type": {"x": RELATIVE, "s": SHAW, "a": SINUSOID}[name[0]]}
        want |= {"mem_len": 0} if "-alone" in name else {}
        if want["attn_type"] == RELATIVE:
            del want["attn_type"]
        assert apart == want
        assert member.recurrence == ("-alone" not in name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one trained member."""
    folder = tmp_path_factory.mktemp("models")
    trained("xl", 0, TINY, folder)
    return folder


@pytest.fixture
def copied(folder, tmp_path):
    """The same, to be spoilt."""
    return shutil.copytree(folder, tmp_path / "models")


def test_a_trained_member_is_taken_as_it_is(folder, monkeypatch):
    monkeypatch.setattr(group, "train", lambda *_, **__: pytest.fail("trained again"))
    run = trained("xl", 0, TINY, folder)
    assert run.step == TINY.steps and run.model.config.mem_len == TINY.tgt_len


@pytest.mark.parametrize("last", [4, 0])  # the step of the last checkpoint
def test_an_interrupted_member_goes_on_to_the_same_bits(folder, tmp_path, monkeypatch, last):
    options, step = group.options, Trainer.step

    def saves_often(*args):
        model, how = options(*args)
        return model, how | {"save_every": 2}

    def fails(self, *batch):
        if self.n_step == last + 1:
            raise KeyboardInterrupt
        return step(self, *batch)

    monkeypatch.setattr(group, "options", saves_often)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", fails)
        with pytest.raises(KeyboardInterrupt):
            trained("xl", 0, TINY, tmp_path)
    assert last_of(tmp_path).step == last
    got = trained("xl", 0, TINY, tmp_path)
    assert got.step == TINY.steps
    np.testing.assert_array_equal(got.model.params.flat, last_of(folder).model.params.flat)


def last_of(folder) -> LoadedRun:
    """The last checkpoint of a member, as it is."""
    return group.load_run(folder / "xl-0", device="cpu", which="last")


@pytest.mark.parametrize(
    "change", [{"steps": 7}, {"d_model": 10}, {"lr": 0.1}, {"corpus": "war-and-peace"}]
)
def test_a_member_of_other_settings_is_refused(folder, change):
    with pytest.raises(MinitxlError, match=r"other settings.*--models"):
        trained("xl", 0, replace(TINY, **change), folder)


@pytest.mark.parametrize("name", ["xl-alone", "shaw", "xl"])
def test_a_member_under_another_name_is_refused(copied, name):
    seed = 1 if name == "xl" else 0
    (copied / "xl-0").rename(copied / f"{name}-{seed}")
    with pytest.raises(MinitxlError, match="other settings"):
        trained(name, seed, TINY, copied)


@pytest.mark.parametrize(
    "old, new",
    [
        ("{", "["),
        ('"config"', '"confog"'),
        ('"n_token"', '"n_tokens"'),
        ('"n_token": 65', '"n_token": 66'),
        ('"n_token": 65', '"n_token": "x"'),
        ('"steps"', '"stops"'),
    ],
)
def test_a_run_changed_by_hand_is_refused_in_one_line(copied, old, new):
    file = copied / "xl-0" / "run.json"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(MinitxlError) as caught:
        trained("xl", 0, TINY, copied)
    assert "\n" not in str(caught.value)


# --- experiments on models that were not trained ---


@pytest.fixture(scope="module")
def untrained():
    """Members with the weights of their start, of some size."""

    def member(name, seed, shape, folder):
        config, _ = settings_of_member(name, seed, shape, 65)
        model = TransformerXL(config.replace(init_std=0.3), device="cpu", seed=seed)
        return LoadedRun(model, None, {}, shape.steps)

    shipped = member("xl", 9, replace(TINY, tgt_len=6), None)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(longer_memory, "trained", member)
        patched.setattr(longer_memory, "load_pretrained", lambda name, device: shipped)
        yield member


SETTINGS = longer_memory.Settings(shape=TINY, n_tokens=N_TOKENS, batch_size=3)


@pytest.fixture(scope="module")
def results(untrained):
    """Results, after a way through JSON."""
    return json.loads(json.dumps(longer_memory.run(SETTINGS)))


def test_longer_memory_reads_with_the_lengths_that_it_says(results, untrained):
    found = results
    assert [m["model"] for m in found["models"]] == ["xl", "shaw", "abs", "war-and-peace"]
    for m in found["models"]:
        t = m["trained_mem_len"]
        assert t == m["tgt_len"] == (6 if m["model"] == "war-and-peace" else 8)
        n_seeds = 1 if m["model"] == "war-and-peace" else 3
        shape = replace(TINY, tgt_len=t)
        name, seed = ("xl", 9) if m["model"] == "war-and-peace" else (m["model"], 0)
        model = untrained(name, seed, shape, None).model
        for p in m["points"]:
            assert p["mem_len"] == p["factor"] * t and len(p["bpc"]) == n_seeds
            assert p.get("clamp_len", 2 * t - 1) == 2 * t - 1
            assert ("clamp_len" in p) == (p["option"] in ("clamp_len", "both"))
            assert p.get("same_length", False) == (p["option"] in ("same_length", "both"))
            lengths = {k: p[k] for k in ("mem_len", "clamp_len", "same_length") if k in p}
            want = evaluate(model, text(), 3, max_tokens=N_TOKENS, **lengths).bpc
            assert p["bpc"][0] == pytest.approx(want, rel=1e-6)


def test_longer_memory_is_measured_against_the_trained_one(results):
    for m in results["models"]:
        points = {(p["option"], p["factor"]): p for p in m["points"]}
        one = points["plain", 1]
        assert one["minus_trained"]["mean"] == 0
        for p in m["points"]:
            want = np.subtract(p["bpc"], one["bpc"])
            np.testing.assert_allclose(p["minus_trained"]["by_seed"], want)


def test_what_longer_memory_leaves_out_would_say_nothing_new(untrained):
    """It is the plain reading, or cannot be."""
    for name, (_, attn_type) in group.ENCODINGS.items():
        model = untrained(name, 0, TINY, None).model
        for factor in (0, 0.5, 1, 2):
            how = dict(batch_size=2, max_tokens=300, mem_len=int(8 * factor))
            plain = evaluate(model, text(), **how).bpc
            longest = 16 if attn_type == SHAW else 15  # rows of a table, or the longest distance
            clamped = evaluate(model, text(), clamp_len=longest, **how).bpc
            for option in ("clamp_len", "both"):
                possible = longer_memory.possible(option, attn_type, factor)
                assert possible == (abs(clamped - plain) > 1e-6)
            if not longer_memory.possible("same_length", attn_type, factor):
                with pytest.raises(MinitxlError, match="hide every key"):
                    evaluate(model, text(), same_length=True, **how)


def test_longer_memory_needs_the_trained_one():
    with pytest.raises(MinitxlError, match="factors"):
        longer_memory.run(replace(SETTINGS, factors=(0, 2)))


def test_an_experiment_resumes(results, tmp_path, monkeypatch):
    settings, file = SETTINGS, tmp_path / "a.json"
    original, calls = longer_memory.evaluate, []

    def fails_late(*args, **kwargs):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(longer_memory, "evaluate", fails_late)
    with pytest.raises(KeyboardInterrupt):
        longer_memory.run(settings, Parts(asdict(settings), file))
    parts = Parts(asdict(settings), file, resume=True)
    assert 0 < len(parts.seconds) < len(results["seconds"])
    found = json.loads(json.dumps(longer_memory.run(settings, parts)))
    for name in set(found) - {"seconds", "machine"}:
        assert found[name] == results[name]
    assert list(found["seconds"]) == list(results["seconds"])


def test_summaries(results):
    said = longer_memory.summary(results)
    best = [f"{p['bpc'][0]:.4f}" for p in results["models"][-1]["points"]]
    judged = {
        "hurts": {"minus_trained": spread([0.1, 0.11, 0.12])},
        "helps": {"minus_trained": spread([-0.1, -0.11, -0.12])},
        "not clear": {"minus_trained": spread([-0.1, 0.11, 0.12])},
    }
    for word, point in judged.items():
        assert word in longer_memory._judged(point)
    assert all(x in said for x in best) and "shipped model: trained with M = 6" in said


def test_command(results, tmp_path, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(longer_memory, "run", lambda s, *_, **__: given.append(s) or results)
    out = tmp_path / "a.json"
    assert (
        cli.main(["experiment", "longer-memory", "--quick", "--seeds", "2", "--out", str(out)]) == 0
    )
    assert given == [replace(longer_memory.Settings.quick(), seeds=2)]
    assert json.loads(out.read_text(encoding="utf-8")) == results
    assert "bits per character" in capsys.readouterr().out


# --- pictures ---


def test_pictures_are_byte_stable(results, tmp_path):
    before, files = copy.deepcopy(results), []
    for name in "ab":
        picture = draw_longer_memory(results)
        saved = [picture.save(tmp_path / f"{name}{suffix}") for suffix in (".png", ".svg")]
        files.append([path.read_bytes() for path in saved])
    assert files[0] == files[1] and results == before


def test_labels_neither_overlap_nor_leave_the_picture(results):
    figure = draw_longer_memory(results).figure
    figure.canvas.draw()
    texts = [t for ax in figure.axes for t in (*ax.texts, ax.xaxis.label, ax.yaxis.label, ax.title)]
    texts += figure.texts
    for ax in figure.axes:
        for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, sorted(ax.get_ylim()))):
            ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
            texts += [label for at, label in ticks if low <= at <= high]
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text()]
    for text, box in boxes:
        inside = box.x0 >= 0 and box.y0 >= 0
        assert inside and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    for (a, one), (b, other) in combinations(boxes, 2):
        assert not one.overlaps(other), f"{a!r} lies on {b!r}"


def test_pictures_say_what_the_results_say(results):
    found = results["models"]
    ends = [
        p["minus_trained"]["mean"]
        for m in found[:3]
        for p in m["points"]
        if (p["option"], p["factor"]) == ("plain", 8)
    ]
    caption = draw_longer_memory(results).caption
    assert all(f"{x:+.3f}" in caption for x in ends)
