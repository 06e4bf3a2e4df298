"""The ablation: its arms, its readings, and what is compared."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from minitxl.config import Config, TrainConfig
from minitxl.data import load_corpus
from minitxl.experiments import ablation, intervals
from minitxl.experiments.arms import ARMS, comparisons, with_naive_cache, without_biases
from minitxl.inference.evaluate import evaluate
from minitxl.model.transformer_xl import TransformerXL
from minitxl.training.trainer import Trainer

SIZES = dict(n_token=11, n_layer=2, d_model=8, n_head=2, d_head=4, d_inner=8, dropout=0.0)
SETTINGS = replace(ablation.Settings.quick(), lrs=(4e-3,), corpus="tiny-shakespeare")


def tokens(n_row, length, seed=0):
    return np.random.default_rng(seed).integers(0, 11, (n_row, length)).astype(np.int32)


# --- the arms that are no configuration ---


def test_shaw_without_biases_has_the_terms_a_and_b_alone():
    """Zero at the start and after training, while the released encoding moves them."""
    for change in (without_biases, None):
        model = TransformerXL(
            Config(attn_type=1, tgt_len=4, mem_len=4, init_std=0.3, **SIZES), device="cpu"
        )
        if change is not None:
            change(model)
        trainer = Trainer(model, TrainConfig(batch_size=2, lr=0.1, warmup=0, threads=1))
        before = model.params.flat.copy()
        for n in range(3):
            trainer.step(tokens(2, 4, n), tokens(2, 4, n + 9))
        names = [n for n in model.params if n.endswith(("r_w_bias", "r_bias"))]
        assert len(names) == 4
        for name in names:
            assert bool((model.params[name] == 0).all()) == (change is not None)
        assert np.abs(model.params.flat - before).max() > 0.05


def test_the_naive_cache_cannot_tell_segments_apart():
    """Sec. 3.3: place j of every segment looks alike, so that two segments in the memory of a layer
    may change places. The sound encoding sees that."""
    for change in (with_naive_cache, None):
        model = TransformerXL(
            Config(attn_type=2, tgt_len=4, mem_len=8, init_std=0.3, **(SIZES | dict(n_layer=1))),
            device="cpu",
            dtype="float64",
        )
        if change is not None:
            change(model)
        losses = []
        for order in ((1, 2), (2, 1)):
            mems = None
            for seed in order:
                _, mems = model.score(tokens(2, 4, seed), tokens(2, 4, seed), mems)
            losses.append(model.score(tokens(2, 4, 3), tokens(2, 4, 4), mems)[0])
        apart = np.abs(losses[0] - losses[1]).max()
        assert apart < 1e-12 if change is not None else apart > 1e-3
        alone, _ = model.score(tokens(2, 4, 3), tokens(2, 4, 4))
        assert np.abs(alone - losses[0]).max() > 1e-3  # the memory is read


# --- the readings ---


@cache
def text():
    return load_corpus("tiny-shakespeare").test


def test_positions_are_those_in_the_segment():
    """Without recurrence a segment is read from nothing, with it after the one before."""
    x = text()[: 5 * 8 + 1]
    for attn_type, mem_len in ((0, 0), (0, 8), (2, 8)):
        config = Config(**(SIZES | dict(n_token=65)), tgt_len=8, mem_len=mem_len,
                        attn_type=attn_type, init_std=0.3)  # fmt: skip
        model = TransformerXL(config, device="cpu")
        found, memory, nll = ablation.bits_by_position(model, x, 1), None, []
        for i in range(0, 40, 8):
            one, kept = model.score(x[None, i : i + 8], x[None, i + 1 : i + 9], memory)
            memory = kept if mem_len else None
            nll.append(one[0] / np.log(2))
        want = np.mean(nll, axis=0)
        np.testing.assert_allclose(found["by_position"], want, rtol=1e-4)
        assert found["bpc"] == pytest.approx(want.mean(), rel=1e-5) and found["n_token"] == 40
        assert found["bpc"] == pytest.approx(evaluate(model, x).bpc, rel=1e-5)


# --- the experiment ---


@pytest.fixture(scope="module")
def results():
    return json.loads(json.dumps(ablation.run(SETTINGS)))


def test_every_arm_is_read_in_every_way(results):
    assert [cell["member"] for cell in results["cells"]] == list(ARMS)
    for cell in results["cells"]:
        arm = ARMS[cell["member"]]
        want = {"chunks", "stride"} | ({"memory"} if arm.recurrence else set())
        assert set(cell["bpc"]) == want and all(len(x) == 2 for x in cell["bpc"].values())
        t = 11 if arm.longer_segments else 8
        assert np.shape(cell["by_position"]) == (2, t)
        assert cell["n_params"] > 0 and cell["paper_perplexity"] == arm.paper


def test_every_comparison_is_a_paired_one_of_readings_that_exist(results):
    cells = {cell["member"]: cell["bpc"] for cell in results["cells"]}
    asked = comparisons(tuple(ARMS))
    assert [d["question"] for d in results["differences"]] == [q for q, _ in asked]
    for d in results["differences"]:
        assert sum(sign for sign, *_ in d["terms"]) == 0
        want = sum(sign * np.array(cells[arm][how]) for sign, arm, how in d["terms"])
        np.testing.assert_allclose(d["by_seed"], want)
        assert d["p"] <= d["p_holm"] <= 1
        low, high = d["interval"]
        assert (low <= 0 <= high) == (d["p"] >= 0.05)


def test_rates_are_chosen_on_pilot_seeds():
    s = replace(SETTINGS, lrs=(1.0, 2.0), pilot_seeds=(7, 8), arms=("xl", "xl-half", "abs"))
    jobs = ablation.pilot_jobs(s)
    assert len(jobs) == 2 * 2 * 2 and not any("half" in name for name in jobs)
    better = {"xl": 2.0, "abs": 1.0}
    pilots = {name: {"bpc": 3.0 - (f"{better[call[1]]}" in name)} for name, call in jobs.items()}
    rates = ablation.best_rates(pilots, s)
    assert rates == {"xl": 2.0, "xl-half": 2.0, "abs": 1.0}
    assert {call[3] for call in ablation.jobs(rates, s).values()} == {0, 1}


def test_summary(results):
    said = ablation.summary(results)
    assert "27.02" in said and all(d["question"] in said for d in results["differences"])


# --- intervals ---


def test_spread():
    found = intervals.spread([1.0, 2.0, 3.0])
    assert (found["mean"], found["sd"]) == (2.0, 1.0)
    np.testing.assert_allclose(found["interval"], [2 - 2.484, 2 + 2.484], atol=1e-3)
    assert intervals.spread([5.0]) == {"mean": 5.0, "sd": None, "interval": None}


@pytest.mark.parametrize("df, t", [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042)])
def test_quantiles_of_student(df, t):
    assert intervals.t_quantile(0.975, df) == pytest.approx(t, abs=1e-3)


def test_p_values_and_their_correction():
    assert intervals.p_value([1.0, 2.0, 3.0]) == pytest.approx(0.0742, abs=1e-4)
    assert intervals.p_value([1.0]) is None and intervals.p_value([2.0, 2.0]) == 0
    assert intervals.holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])


def test_interval_of_a_share():
    assert intervals.share_interval(2, 12) == pytest.approx([0.0470, 0.4480], abs=1e-3)
    assert intervals.share_interval(0, 5)[0] == 0 and intervals.share_interval(5, 5)[1] == 1
