"""Memories at equal bytes: arms, budgets, rates, and what is made of the runs."""

import dataclasses
import json

import numpy as np
import pytest

from minitxl.experiments import memory_budget as experiment
from minitxl.experiments.memory_arms import (
    ARMS,
    D_MODEL,
    N_LAYER,
    RATE,
    best_rates,
    pilot_jobs,
)
from minitxl.experiments.memory_budget import (
    Settings,
    cell_of,
    config_of,
    difference,
    jobs,
    piloted,
    recall_of,
    report,
    run,
    summary,
    winners,
)
from minitxl.experiments.memory_budget_figure import draw_memory_budget
from minitxl.experiments.parts import Parts
from minitxl.experiments.recall import EDGES
from minitxl.training.cost import memory_bytes

S = Settings()
SHARES = {"xl": 0.0, "every": 0.2, "mean": 0.3, "delta+": 0.9}  # beyond M + T; others: 0.5


def pilots_of(s):
    """The middle rate is best for all but one arm."""
    return {
        name: abs(lr - s.lrs[1]) + (0 if arm != "sum" else 10 * (lr != s.lrs[0]))
        for name, (_, arm, lr, _, _) in pilot_jobs(piloted, s).items()
    }


def run_of(arm, d_head, seed):
    """Out of 100 questions in each bin; all answered up to M, each seed a question more."""
    low = np.array(EDGES[:-1])
    far = 100 * SHARES.get(arm, 0.5) + seed * (arm == "delta+")
    right = np.where(low <= d_head + 1, 100, far).astype(int)
    n = len(S.task.n_pairs)
    return {
        "arm": arm, "d_head": d_head, "seed": seed, "lr": 0.1, "loss": [1.0], "device": "cpu",
        "asked": [[100] * (len(low) + 1)] * n, "right": [[96, *right.tolist()]] * n,
    }  # fmt: skip


@pytest.fixture(scope="module")
def results():
    pilots = pilots_of(S)
    calls = jobs(best_rates(pilots, S), S)
    done = {name: run_of(*(call[1], call[2], call[4])) for name, call in calls.items()}
    return json.loads(json.dumps(report(S, Parts(dataclasses.asdict(S)), pilots, done)))


def test_arms_keep_as_many_bytes():
    """To the sixteenth that a matrix without a denominator keeps less; everything is more."""
    for d_head in S.d_heads:
        budget = 4 * (d_head + 1) * D_MODEL
        for name in ARMS:
            config = config_of(name, d_head, S)
            found = memory_bytes(config) / (1 if name == "tokens+" else N_LAYER)
            found /= N_LAYER if name == "tokens+" else 1
            if name == "none":
                assert found == 0
            elif name == "xl-all":
                assert found == 4 * 2 * S.task.length * D_MODEL
            else:
                assert 0.94 * budget < found <= budget, (name, d_head)
            if config.memory.kind == "compressive":
                assert config.mem_len % RATE == 0
                assert config.mem_len + config.memory.n_coarse == d_head + 1
            assert config.n_head * config.d_head == D_MODEL


def test_rates_are_those_of_the_pilots():
    rates = best_rates(pilots_of(S), S)
    assert rates.pop("sum") == S.lrs[0] and set(rates.values()) == {S.lrs[1]}
    assert {arm for _, arm, *_ in pilot_jobs(piloted, S).values()} == {
        "xl", "mean", "delta+", "delta", "sum+", "sum", "conv"
    }  # fmt: skip
    found = [call[1:3] for call in jobs(best_rates(pilots_of(S), S), S).values()]
    assert len(found) == 5 * (13 + 4 + 4)
    assert {arm for arm, d_head in found if d_head == 16} == set(experiment.RIVALS)


def test_runs_are_gathered(results):
    assert len(results["cells"]) == 13 + 4 + 4
    xl, delta = cell_of(results, "xl"), cell_of(results, "delta+")
    assert xl["d_head"] == 64 and xl["seeds"] == [0, 1, 2, 3, 4] and xl["own_segment"] == [0.96] * 5
    assert recall_of(results, xl, (33, 65)) == dict.fromkeys(range(5), 1.0)
    assert recall_of(results, delta, (97, 161), (4, 8)) == pytest.approx(
        {seed: 0.9 + seed / 100 for seed in range(5)}
    )
    # two of eight bins begin within M
    assert recall_of(results, xl, (49, 513))[0] == pytest.approx(2 / 8)
    assert recall_of(results, xl, (600, 700)) == {}
    assert cell_of(results, "sum", 16) is None
    assert xl["flops"] > delta["flops"] and cell_of(results, "xl-all")["flops"] > xl["flops"]


def test_differences_are_paired_and_corrected(results):
    d = difference(results, "up to 16 pairs, lags from 97: delta+, not XL")
    assert d["by_seed"] == pytest.approx([0.9, 0.91, 0.92, 0.93, 0.94])
    assert d["mean"] == pytest.approx(0.92)
    assert len(results["differences"]) == len(experiment.QUESTIONS)
    assert d["p"] < d["p_holm"] <= len(experiment.QUESTIONS) * d["p"] + 1e-12
    d = difference(results, "lags from 33: gradient through, delta")
    assert d["mean"] == pytest.approx(6 / 9 * 0.42)  # three of nine bins are within M


def test_winners(results):
    for d_head in S.d_heads:
        low = np.array(EDGES[:-1])
        for row in winners(results, d_head):
            for at, (name, share) in zip(low, row, strict=True):
                want = ("level", 1.0) if at <= d_head + 1 else ("delta+", 0.92)
                assert (name, pytest.approx(share)) == want


def test_a_lead_must_be_there_with_every_seed(results):
    changed = json.loads(json.dumps(results))
    recall = cell_of(changed, "delta+")["recall"]
    recall[1][0][-1], recall[0][1][-1] = 0.3, 0.0  # as good as the next with one seed; worse
    for seed in range(5):
        recall[seed][2][-1] = 0.32  # a lead of two points with each
        cell_of(changed, "mean")["recall"][seed][3][-1] = 0.2
        recall[seed][3][-1] = 0.2
    found = [row[-1][0] for row in winners(changed, 64)]
    assert found == ["level", "level", "level", "nobody", "delta+", "delta+"]


def test_what_is_not_done_is_left_out():
    """Results of an interrupted run: of the seeds and arms that are there."""
    pilots = pilots_of(S)
    names = [("xl", 0), ("mean", 0), ("xl", 1)]
    done = {f"{arm}{seed}": run_of(arm, 64, seed) for arm, seed in names}
    found = report(S, Parts(dataclasses.asdict(S)), pilots, done)
    assert [c["seeds"] for c in found["cells"]] == [[0, 1], [0]] and not found["differences"]
    assert {name for row in winners(found, 64) for name, _ in row} == {None}
    assert "not done" not in summary(found)


def test_picture(results):
    picture = draw_memory_budget(results)
    assert "a matrix answers 92% of up to 16 pairs, means 30%" in picture.caption
    figure = picture.figure
    figure.canvas.draw()
    texts = [t for ax in figure.axes for t in (*ax.texts, ax.xaxis.label, ax.yaxis.label, ax.title)]
    for text in (*texts, *figure.texts):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0, text.get_text()
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text.get_text()


def test_quick_run():
    """One arm of each family trains and is measured, memory tokens too."""
    arms = ("xl", "conv", "sum+", "tokens+")
    s = dataclasses.replace(Settings.quick(), d_heads=(16,), seeds=1, lrs=(1e-2,), arms=arms)
    found = run(s)
    assert tuple(c["arm"] for c in found["cells"]) == arms
    assert all(c["bytes"] > 0 and c["label"] in summary(found) for c in found["cells"])
    assert set(found["settings"]) == {f.name for f in dataclasses.fields(Settings)}
