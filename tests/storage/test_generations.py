"""One older checkpoint is kept, and used with a word where the newest is damaged."""

import warnings

import numpy as np
import pytest

from minitxl.errors import MinitxlError, MinitxlWarning
from minitxl.storage.generations import NEWEST, OLDER, has_newest, load_newest, save_newest


@pytest.fixture
def folder(tmp_path):
    for step in (1, 2):
        save_newest(tmp_path, {"a": np.arange(100.0) * step}, {"n_step": step})
    return tmp_path


def damage(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def test_the_newest_without_a_word(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays, state, whole = load_newest(folder)
    assert state["n_step"] == 2 and whole and arrays["a"][1] == 2


@pytest.mark.parametrize("how", [damage, lambda p: p.write_bytes(b""), lambda p: p.unlink()])
def test_the_older_with_a_word(folder, how):
    how(folder / NEWEST)
    with pytest.warns(MinitxlWarning, match=rf"{NEWEST}.*{OLDER} of step 1"):
        _, state, whole = load_newest(folder)
    assert state["n_step"] == 1 and not whole and has_newest(folder)
    save_newest(folder, {"a": np.zeros(3)}, {"n_step": 2}, keep=whole)
    damage(folder / NEWEST)  # and the older one was not replaced by the damaged one
    with pytest.warns(MinitxlWarning):
        assert load_newest(folder)[1]["n_step"] == 1


def test_neither(folder):
    damage(folder / NEWEST)
    damage(folder / OLDER)
    with pytest.raises(MinitxlError, match=f"{NEWEST}.*and the one before it.*{OLDER}"):
        load_newest(folder)
    (folder / OLDER).unlink()
    with pytest.raises(MinitxlError, match=NEWEST):
        load_newest(folder)
