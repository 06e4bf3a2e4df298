"""How far a model looks: the text of codes, the three histories, and the half-distance."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from minitxl.config import Config
from minitxl.data import load_corpus
from minitxl.experiments import codes, context
from minitxl.model.transformer_xl import TransformerXL

FEW = replace(context.Settings.quick(), n_char=40_000, n_target=2, longer=64)


@pytest.fixture(scope="module")
def coded():
    return codes.coded_text(load_corpus(), "test", 40_000, 3)


def test_only_an_earlier_mention_tells_the_second_letter(coded):
    """In a piece every capital belongs to one name; the free ones to none."""
    vocab, start = load_corpus().vocab, coded.start
    text = vocab.decode(coded.ids)
    ends = dict(zip(np.unique(start), [*np.unique(start)[1:], len(text)], strict=True))
    for first in np.unique(start):
        piece = text[first : ends[first]]
        pairs = set(codes.re.findall("[A-Z][A-Z]", piece))
        if first != max(start):  # a piece without mentions may follow, and is another one
            assert max(Counter("".join(pairs)).values()) <= 2
    for place, distance, free in zip(coded.place, coded.distance, coded.free, strict=True):
        name = text[place - 1 : place + 1]
        assert name == text[place - distance - 1 : place - distance + 1] and name.isupper()
        between = text[place - distance + 1 : place - 1]
        assert name not in between
        assert not set(vocab.decode(free)) & set(name)


def test_the_text_is_a_third_of_the_book_and_the_seed_tells_all(coded):
    again = codes.coded_text(load_corpus(), "test", 40_000, 3)
    np.testing.assert_array_equal(again.ids, coded.ids)
    other = codes.coded_text(load_corpus(), "test", 40_000, 4)
    assert not np.array_equal(other.ids[:1000], coded.ids[:1000])
    capitals = np.isin(coded.ids, load_corpus().vocab.encode(codes.LETTERS))
    assert 0.2 < capitals.mean() < 0.5


# --- the histories ---


class Reads:
    """In place of a model: the loss of a target is a number made of what was read before it."""

    def __init__(self, tgt_len, mem_len):
        sizes = dict(n_token=78, n_layer=2, d_model=8, n_head=2, d_head=4, d_inner=8)
        self.model = TransformerXL(Config(tgt_len=tgt_len, mem_len=mem_len, **sizes), device="cpu")
        self.config, self.backend, self.seen = self.model.config, self.model.backend, []

    def score(self, x, y, mems):
        self.seen.append(x)
        return np.where(y > 0, 1.0, 0.0), mems


def histories(targets, tgt_len, mem_len, slides):
    """Every history as it was read -> (N, L), and where the target comes."""
    found = {}
    for history in context.HISTORIES:
        model = Reads(tgt_len, mem_len)
        losses = context.losses_of(model, targets, history, slides)
        assert (losses == 1.0).all()  # picked where the target stands, which is no <0>
        found[history] = np.concatenate(model.seen, axis=1)
    return found


@pytest.mark.parametrize(
    "tgt_len, mem_len, slides", [(16, 32, False), (16, 0, True), (128, 0, False)]
)
def test_histories_differ_up_to_the_last_mention_alone(tgt_len, mem_len, slides):
    targets = context.chosen(FEW)
    found, n = histories(targets, tgt_len, mem_len, slides), len(targets.place)
    offset = np.random.default_rng(1).integers(0, tgt_len, n)
    for i in range(n):
        true, foreign, renamed = (found[h][i] for h in context.HISTORIES)
        at = len(true) - 1 if slides else len(true) - tgt_len + offset[i]  # the target's input
        mention = at + 1 - targets.distance[i]
        place = targets.place[i]
        np.testing.assert_array_equal(true[: at + 1], targets.ids[place - 1 - at : place])
        for other in (foreign, renamed):
            np.testing.assert_array_equal(other[max(0, mention + 1) :], true[max(0, mention + 1) :])
        if mention > 0:
            assert renamed[mention] == targets.free[i, 1] != true[mention]
            assert renamed[mention - 1] == targets.free[i, 0]
            changed = (renamed != true)[: mention + 1]
            name = targets.ids[place - 1], targets.ids[place]
            assert set(true[: mention + 1][changed].tolist()) <= {int(x) for x in name}
        if mention > 40:
            assert (foreign[: mention + 1] != true[: mention + 1]).mean() > 0.5


# --- what follows ---


def test_falling_is_the_nearest_curve_that_never_rises():
    np.testing.assert_allclose(context.falling([3.0, 1.0, 2.0, 0.0]), [3, 1.5, 1.5, 0])
    np.testing.assert_allclose(context.falling([0.0, 1.0, 2.0]), [1, 1, 1])


def test_half_distance_is_where_the_gain_is_lost():
    rng = np.random.default_rng(0)
    distance = rng.integers(2, 500, 4000)
    gain = 3.0 * (distance <= 120) + rng.normal(size=4000)
    assert abs(context.half_distance(distance, gain) - 121) <= 2
    assert context.half_distance(distance, np.ones(4000)) is None


def test_a_run_that_copies_has_learned():
    distance = np.arange(2, 200)
    gone = np.full(198, 3.3)
    true = np.where(distance <= 120, 0.2, 3.3)
    found = context.found_in({"true": true, "foreign": gone, "renamed": gone}, distance, 120)
    assert found["learned"] and found["half_distance"] == 121
    assert found["near_gain"]["renamed"] == pytest.approx(3.1)
    slow = context.found_in({"true": gone, "foreign": gone, "renamed": gone}, distance, 120)
    assert not slow["learned"]


@pytest.fixture(scope="module")
def results():
    return json.loads(json.dumps(context.run(replace(FEW, arms=("xl-112", "vanilla-16")))))


def test_every_arm_is_read_in_its_ways(results):
    xl, vanilla = results["arms"]
    assert [r["reading"] for r in xl["readings"]] == ["memory", "longer memory"]
    assert [r["ceiling"] for r in xl["readings"]] == [8 + 112, 8 + 64]
    assert [(r["reading"], r["ceiling"]) for r in vanilla["readings"]] == [
        ("fixed", 8),
        ("sliding", 15),
    ]
    n = len(results["edges"]) - 1
    for arm in results["arms"]:
        for r in arm["readings"]:
            assert all(np.shape(r["nll"][h]) == (1, n) for h in context.HISTORIES)
            assert len(r["half_distance"]) == len(r["learned"]) == 1
    assert "Transformer-XL, M = 112" in context.summary(results)
