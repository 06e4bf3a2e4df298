"""The benchmark: what it times, how it counts, and when it calls a difference one."""

import json
import os
import subprocess
import sys

import pytest

from minitxl import Config, MinitxlError, cli
from minitxl.storage import checkpoint
from minitxl.tools import bench, bench_report
from minitxl.tools.bench import Case, Results, Row, Shape

VARIANTS = ("fused", "plain")
TINY = Config(
    n_token=11, n_layer=2, d_model=6, n_head=3, d_head=4, d_inner=10, tgt_len=5, mem_len=7,
    dropout=0.0,
)  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """A benchmark of a fraction of a second."""
    monkeypatch.setattr(bench, "SHAPES", {"d128": Shape(TINY, 2, 3, "tiny"), "b": None})
    monkeypatch.setattr(bench_report, "SHAPES", bench.SHAPES)
    monkeypatch.setattr(bench, "GEMM_SIZES", (8, 16))
    monkeypatch.setattr(bench, "PAUSE", 0.0)
    monkeypatch.setattr(bench, "_torch_works", lambda device: False)


def test_needed_flops():
    """Counted by hand: B = 2, T = 5, M = 7, K = 12, D = 6, H Dh = 12, F = 10, V = 11."""
    qo, kv, r = 2 * 5 * 6 * 12 * 2, 2 * 12 * 6 * 12 * 2, 12 * 6 * 12
    scores, feed_forward = 2 * 5 * 12 * 12 * 3, 2 * 5 * 6 * 10 * 2
    layer = 3 * (qo + scores + feed_forward) + 2 * (kv + r)  # forward, and the weights' gradients
    layer += 2 * 5 * 6 * 12 * 2  # k's and v's gradient towards this segment's 5 rows alone
    assert bench.needed_flops(TINY, 2) == 2 * (2 * layer + 3 * 2 * 5 * 6 * 11)


def test_cases_take_turns(monkeypatch):
    monkeypatch.setattr(bench, "PAUSE", 0.0)
    order, clock = [], iter(range(100))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    cases = [Case("a", lambda: order.append("a")), Case("b", lambda: order.append("b"))]
    assert bench.in_turns(cases, 2) == [[1, 1], [1, 1]]
    assert "".join(order) == "ababab"  # the first round is not counted


def test_a_step_has_its_memory_full(tiny):
    """What is timed first, after the two steps that fill it."""
    shape = bench.SHAPES["d128"]
    seen, step = [], bench.Trainer.step

    def watched(self, *batch):
        seen.append(self.mems[0] and self.mems[0][0].shape[1])
        return step(self, *batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.Trainer, "step", watched)
        cases = bench.step_cases(shape, "cpu")
        assert [case.variant for case in cases] == ["fused", "plain"]
        assert all(case.peak_bytes > 3 * 4 * 1000 for case in cases)
        seen.clear()
        cases[0].run()
    assert seen == [TINY.mem_len]


def run(*options):
    return cli.main(["bench", "--device=cpu", *map(str, options)])


def test_command(tiny, tmp_path, capsys):
    file = tmp_path / "bench.json"
    assert run("--quick", "--json", file) == 0
    text = capsys.readouterr().out
    values = json.loads(file.read_text(encoding="utf-8"))
    keys = [(r["what"], r["shape"], r["variant"]) for r in values["rows"]]
    pairs = [(w, "d128", v) for w in ("step", "evaluation", "generation") for v in VARIANTS]
    assert keys[1:] == pairs and keys[0][0] == "gemm"
    assert all(f"{what} {shape} {variant} " in text for what, shape, variant in keys)
    assert values["command"] == "python -m minitxl bench --quick --device cpu"
    assert values["machine"]["cores"] and values["machine"]["numpy"]
    for row in values["rows"]:
        assert row["what"] == "gemm" or row["gemm_rate"] > 0
        assert row["min"] == min(row["seconds"]) <= row["median"]
    steps = [r for r in values["rows"] if r["what"] == "step"]
    assert all(len(r["seconds"]) == 3 and r["flop"] == bench.needed_flops(TINY, 2) for r in steps)
    assert run("--quick", "--compare", file) == 0
    text = capsys.readouterr().out
    assert "new/old" in text and "careful" not in text and "only in" not in text


def row(seconds, what="step", gemm_rate=1e9, variant="fused"):
    return Row("cpu", what, "d128", variant, seconds, 100, 1e9, 0, gemm_rate)


@pytest.mark.parametrize(
    ("was", "now", "expected"),
    [
        (row([1.0, 1.1, 1.2]), row([0.5, 0.6, 0.7]), "faster"),
        (row([1.0, 1.1, 1.2]), row([1.5, 1.6, 1.7]), "slower"),
        (row([1.0, 1.1, 1.2]), row([1.12, 1.18, 1.3]), "within the noise"),
        (row([1.0, 1.1, 1.2, 9.0]), row([1.05, 1.15, 1.25, 1.2]), "within the noise"),
        (row([1.0, 1.5, 1.6, 1.7]), row([1.1, 1.1, 1.1, 1.1]), "within the noise"),  # a slow hour
        # Half the time, but so for the bare product: the machine is faster, not the code.
        (row([1.0, 1.1, 1.2]), row([0.5, 0.55, 0.6], gemm_rate=2e9), "within the noise"),
        (row([1.0, 1.1, 1.2]), row([0.2, 0.22, 0.24], gemm_rate=2e9), "faster"),
    ],
)
def test_verdict(was, now, expected):
    assert bench_report.verdict(was, now) == expected


def test_comparison():
    old = Results({"cpu": "A", "cores": 2}, "x", [row([1.0, 1.1, 1.2]), row([1.0], "evaluation")])
    new = Results({"cpu": "B", "cores": 2}, "x", [row([0.5, 0.55, 0.6]), row([1.0], "generation")])
    lines = bench_report.comparison(old, new).splitlines()
    assert lines[1].split() == "step d128 fused 1.1 s 550 ms 0.50 0.50 faster".split()
    assert lines[2:] == [
        "only in the new one: generation d128 fused",
        "only in the old one: evaluation d128 fused",
        "careful: cpu was A, is B",
    ]


def test_table_has_the_ratios():
    rows = [row([2.0, 2.0, 2.0]), row([4.0, 4.0, 4.0], variant="PyTorch")]
    lines = bench_report.table(Results({}, "x", rows)).splitlines()
    line = next(line for line in lines if line.startswith("step d128 fused"))
    assert line.split()[3:] == "2 s 2 s 0% 50 0 50% 0.50".split()


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "nothing", '{"machine": {}, "command": "x", "rows": [1]}',
     '{"machine": {}, "command": "x", "rows": [{"backend": "cpu"}]}',
     '{"machine": {}, "command": "x", "rows": [{"backend": "cpu", "what": "step", "shape": "d128", '
     '"variant": "plain", "seconds": []}]}',
     '{"machine": {}, "command": "x", "rows": [{"backend": "cpu", "what": "step", "shape": "d128", '
     '"variant": "plain", "seconds": [0]}]}',
     '{"machine": {}, "command": "x", "rows": [{"backend": "cpu", "what": "step", "shape": [1], '
     '"variant": "plain", "seconds": [1.0]}]}'],
)  # fmt: skip
def test_wrong_files_are_refused_before_anything_is_timed(tiny, tmp_path, capsys, text):
    file = tmp_path / "old.json"
    file.write_text(text, encoding="utf-8")
    assert run("--compare", file) == 2
    out = capsys.readouterr()
    assert out.out == "" and len(out.err.splitlines()) == 1 and "old.json" in out.err


def test_wrong_options(tiny, tmp_path, capsys):
    for options in (["--shape=d1"], ["--json", tmp_path / "no" / "a.json"], ["--json", tmp_path]):
        assert run(*options) == 2
        out = capsys.readouterr()
        assert out.out == "" and len(out.err.splitlines()) == 1


def test_ctrl_c_shows_what_is_done_and_writes_nothing(tiny, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "evaluation_cases", interrupted)
    file = tmp_path / "bench.json"
    file.write_text("old", encoding="utf-8")
    assert run("--quick", "--json", file) == 130
    out = capsys.readouterr()
    assert "step d128 plain" in out.out and "evaluation" not in out.out
    assert "interrupted" in out.err and file.read_text(encoding="utf-8") == "old"


def test_results_go_through_json(tmp_path):
    results = Results({"cpu": "A"}, "x", [row([1.0, 2.0])])
    checkpoint.write_json(tmp_path / "a.json", results.to_dict())
    assert Results.from_dict(checkpoint.read_json(tmp_path / "a.json")) == results
    with pytest.raises(MinitxlError, match="holds no benchmark"):
        Results.from_dict({"rows": []})


def test_same_losses_as_pytorch():
    """What is compared in speed computes the same."""
    pytest.importorskip("torch", reason='needs PyTorch: pip install -e ".[torch]"')
    from minitxl.tools.bench_torch import TorchTrainer, TorchTransformerXL

    shape = Shape(TINY, 2, 3, "tiny")
    model = bench.models(shape, "cpu")["fused"]
    theirs = TorchTransformerXL(TINY)
    theirs.load(model.params)
    settings = bench.STEP_SETTINGS.replace(batch_size=2)
    ours, theirs = bench.Trainer(model, settings), TorchTrainer(theirs, TINY, 2)
    source = bench.batches(shape)
    for _ in range(4):
        batch = next(source)
        assert float(ours.step(*batch)) == pytest.approx(float(theirs.step(*batch)), rel=1e-5)


@pytest.mark.slow
def test_quick_is_quick():
    """The real thing, PyTorch included where it is installed; 30 seconds on a quiet machine."""
    ran = subprocess.run(
        [sys.executable, "-m", "minitxl", "bench", "--quick", "--device=cpu"],
        capture_output=True, text=True, env=dict(os.environ), timeout=90,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("step d128") >= 2
