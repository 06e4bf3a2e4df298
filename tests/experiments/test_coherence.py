"""What is counted in samples, how they are written, and bits against milliseconds."""

import json
from dataclasses import replace

import numpy as np
import pytest

from minitxl import MinitxlError, load_corpus, load_pretrained
from minitxl.experiments import coherence, reading_cost
from minitxl.experiments.reading_cost_figure import draw_reading_cost
from minitxl.inference.evaluate import evaluate

TEXT = 'Cut.\n\n"He," said Anna, "and Boris."\n\nWell.\n\n"No\n\n"Yes."\n\nThe Boris" cut'


def test_quotations_are_closed_where_marks_are_even():
    assert coherence.closed_quotations(TEXT) == pytest.approx(2 / 3)
    assert coherence.closed_quotations("none\n\nat\n\nall") is None


def test_names_return_in_the_second_half():
    text = "and Anna saw Boris, ".ljust(60) + "then Boris went. Anna stayed"
    assert coherence.returning(text, text) == 0.5  # Anna begins a sentence there
    assert coherence.returning(text, "x" * 60 + "and Nobody came, " + "." * 9) == 0
    assert coherence.returning("nobody", text) is None


def test_repeated_runs():
    assert coherence.repeated("abcdefgh" * 2) == pytest.approx(1 / 9)
    assert coherence.repeated("abcdefghijklm") == 0


def test_without_memory_a_segment_is_written_from_itself_alone():
    """The first drawn characters are those of a model that has read the last segment and no more,
    and a segment that begins forgets what was before it."""
    model = load_pretrained("tiny-xl", device="cpu").model
    t = model.config.tgt_len
    text = load_corpus().test.astype(np.int32)
    s = replace(coherence.Settings(), length=t + 3, temperature=1e-3)  # the likeliest
    prompts = text[: 2 * t][None, :]
    drawn = coherence.written(model, prompts, 0, s)[0]
    whole = np.concatenate([prompts[0], drawn])
    for n in (0, 1, 5, t, t + 1, t + 2):
        end = 2 * t + n
        start = (end - 1) // t * t
        log_p, _ = model.with_options(mem_len=0).predict(whole[None, start:end], last=1)
        assert drawn[n] == log_p[0, -1].argmax()
    with_memory = coherence.written(model, prompts, t, s)[0]
    log_p, _ = model.predict(prompts[:, t:], model.predict(prompts[:, :t])[1], last=1)
    assert with_memory[0] == log_p[0, -1].argmax()


def test_results_of_samples():
    found = json.loads(json.dumps(coherence.run(coherence.Settings.quick())))
    assert [w["writer"] for w in found["writers"]] == ["the book", "memory 0", "memory 16"]
    assert all(len(x) == 2 for w in found["writers"] for x in w["counts"].values())
    assert "names_of_another" in coherence.summary(found)
    with pytest.raises(MinitxlError, match="do not fit"):
        coherence.run(replace(coherence.Settings.quick(), length=10**5))


def test_bits_and_milliseconds_of_every_way():
    s = replace(reading_cost.Settings.quick(), n_tokens=200, repeats=2)
    found = json.loads(json.dumps(reading_cost.run(s)))
    assert [(p["way"], p.get("stride", p.get("mem_len"))) for p in found["points"]] == [
        ("window", 32), ("window", 16), ("memory", 16), ("memory", 32),
    ]  # fmt: skip
    assert all(0 < p["ms_min"] <= p["ms"] <= p["ms_max"] for p in found["points"])
    xl = load_pretrained("tiny-xl", device="cpu").model
    want = evaluate(xl, load_corpus().test, 4, max_tokens=200).bpc
    assert reading_cost.point_of(found, "memory", 32)["bpc"] == pytest.approx(want, rel=1e-6)
    caption = draw_reading_cost(found).caption
    assert f"{want:.3f}" in caption and "stride 16" in reading_cost.summary(found)
