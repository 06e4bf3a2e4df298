"""Every kind of file that is read, damaged or made up: one short line, or what can be read.

Few inputs of each kind; `tests/bench/bench_faults.py` tries as many as one wants.
"""

from helpers import hostile


def test_every_kind_of_file(tmp_path, monkeypatch):
    for kind in hostile.kinds(tmp_path, monkeypatch):
        found = kind.measure(40, seed=3, seconds=60)
        assert not found["faults"], (kind.name, found["faults"])
        assert found["inputs"] == 40 and found["refused"] > 0, kind.name
