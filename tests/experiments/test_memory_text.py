"""The memories on text: what is read, and what is told of it."""

import dataclasses
import math

import numpy as np
import pytest

from minitxl.data.text import load_corpus
from minitxl.experiments import memory_text
from minitxl.experiments.codes import coded_text
from minitxl.experiments.memory_text import EDGES, Settings, measured, run, summary


def test_every_arm_is_read_and_compared():
    s = dataclasses.replace(Settings.quick(), arms=("xl", "conv", "delta"), n_char=2000)
    found = run(s)
    assert [a["arm"] for a in found["arms"]] == list(s.arms)
    even = math.log2(load_corpus().vocab.n_token)
    for arm in found["arms"]:
        assert len(arm["bpc"]) == 2 and all(abs(x - even) < 0.2 for x in arm["bpc"])
        assert arm["label"] in summary(found)
    xl = next(a for a in found["arms"] if a["arm"] == "xl")
    assert xl["minus_xl"]["by_seed"] == [0.0, 0.0] and "p_holm" not in xl["minus_xl"]


def test_names_are_read_at_their_second_letter(monkeypatch):
    """A reader that pays a bit where the next character is such a letter, by distance."""
    s = Settings.quick()
    text = coded_text(load_corpus(), "test", s.n_char, 0)
    price = np.zeros(len(text.ids))
    price[text.place] = np.log(2) * (1 + (text.distance >= 16))

    class Priced:
        def __init__(self, model, batch_size):
            row_len = (len(text.ids) - 1) // batch_size
            self.at = np.arange(batch_size)[:, None] * row_len

        def score(self, x, y):
            places = self.at + np.arange(1, x.shape[1] + 1)
            np.testing.assert_array_equal(text.ids[places], y)
            self.at = self.at + x.shape[1]
            return price[places]

    monkeypatch.setattr(memory_text, "PlainReader", Priced)
    found = measured("xl", 2e-3, 0, s, "cpu")
    assert found["names"] == [1.0] + [2.0] * (len(EDGES) - 2)
    assert found["bpc"] == pytest.approx(price.sum() / np.log(2) / len(text.ids), rel=0.01)
