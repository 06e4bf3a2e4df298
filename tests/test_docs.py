"""What docs/ say is so: every number of MEASURED.md follows from stored data, every name exists."""

import ast
import json
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest

from helpers.faults import table
from helpers.quoted import ROOT, in_a_line, missing, read, without_a_source
from minitxl import load_corpus
from minitxl.backend import get_backend
from minitxl.data.baselines import PPMD, compression_bpc
from minitxl.experiments import RESULTS, stored
from minitxl.experiments.evaluation_speed import needless_share
from minitxl.experiments.gpu_figure import fastest

DOCS = ROOT / "docs"
SHIPPED = ROOT / "minitxl" / "pretrained" / "war-and-peace"


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in read(folder / "metrics.jsonl").splitlines()]


def on_gpu(part: str) -> dict:
    return json.loads(read(RESULTS / "gpu" / f"{part}.json"))["found"]


# --- MEASURED.md: phrases and rows of tables, made of what is stored ------------------------------


def limits_of_tests() -> list[str]:
    """Counts of stored cases, and limits that stand in the tests named."""
    golden = ROOT / "tests" / "golden"
    released = len(list((golden / "released").glob("*.npz")))
    cases = [p for p in (golden / "huggingface").iterdir() if p.is_dir()]
    cases = len([p for p in cases if not p.name.endswith("other_names")])
    for file, limit in (
        ("interop/test_interop.py", "max(differences(path)) < 1e-12"),
        ("interop/test_interop.py", '[("float32", 2e-5), ("float64", 1e-12)]'),
        ("interop/test_interop.py", "gradient, rtol=0, atol=1e-10"),
        ("model/test_torch.py", "ABSOLUTE = 1e-10"),
        ("model/test_model.py", "whole, cut, rtol=0, atol=1e-12"),
    ):
        assert limit in read(ROOT / "tests" / file), (file, limit)
    assert "RTOL = 1e-6" in read(ROOT / "minitxl" / "model" / "gradcheck.py")
    return [
        "| numeric derivatives | float64 | 1e-6, relative |",
        f"| released PyTorch code, {released} stored cases | float64 | 1e-12 |",
        f"| Hugging Face, {cases} stored cases | float64 | 1e-12; gradients 1e-10 |",
        f"| Hugging Face, {cases} stored cases | float32 | 2e-5 |",
        "| our own PyTorch version | float64 | 1e-10 |",
        "| the same text cut into other segments | float64 | 1e-12 |",
    ]


def shipped_model() -> list[str]:
    """Bits of the shipped model and of compressors, and how it was trained."""
    found, run = stored("shipped_model"), json.loads(read(SHIPPED / "run.json"))
    bits = {(e["split"], e["batch_size"], e["mem_len"]): e["bpc"] for e in found["evaluations"]}
    rows = []
    for name in ("bzip2", "xz", "PPMd"):
        price = found["compressors"][name]
        rows.append(f"| {name} | | {price['valid']:.3f} | {price['test']:.3f} |")
    parameters = f"{run['n_params'] / 1e6:.2f} M"
    ours = f"{bits['valid', 1, 128]:.3f} | {bits['test', 1, 128]:.3f}"
    large = on_gpu("war_and_peace_10m")
    read_in = large["test"]["bits per character by length of the memory"]
    best = min(bpc for _, bpc in large["valid"])
    rows += [
        f"| the model that ships | {parameters} | {ours} |",
        f"| a larger one, trained on a GPU | {large['n_params'] / 1e6:.1f} M | {best:.3f} | "
        f"{read_in['128']:.3f} |",
        f"| zpaq -m5 | | | {found['compressors']['zpaq -m5']['test']:.3f} |",
    ]
    curve = metrics(SHIPPED)
    last, valid = curve[-2], [x for x in curve if "valid_bpc" in x]
    train = run["train"]
    million = "two three four five six seven eight nine ten".split()

    def passed(bpc: float) -> str:
        return million[round(next(x for x in valid if x["valid_bpc"] < bpc)["tokens"] / 1e6) - 2]

    bzip2, ppmd = (passed(found["compressors"][n]["valid"]) for n in ("bzip2", "PPMd"))
    return [
        *rows,
        f"`train --preset small`: {train['steps']:,} steps of {train['batch_size']} x "
        f"{run['config']['tgt_len']} characters in {last['seconds'] / 60:.0f} minutes on "
        f"{train['threads']} busy cores",
        f"passes bzip2 after {bzip2} million characters and PPMd after {ppmd} million",
        f"Read in 16 rows it pays {bits['test', 16, 128]:.3f} on the test text, and "
        f"{bits['test', 16, 0]:.3f} without its memory",
    ]


def larger_model() -> list[str]:
    """The run on a GPU."""
    found = on_gpu("war_and_peace_10m")
    config, train = found["config"], found["train"]
    logged = found["logged"]
    rates = sorted((b[1] - a[1]) / (b[2] - a[2]) for a, b in pairwise(logged))
    read_in = found["test"]["bits per character by length of the memory"]
    assert min(read_in.values()) > stored("shipped_model")["compressors"]["zpaq -m5"]["test"]
    return [
        f"{config['n_layer']} layers, D {config['d_model']}, T = M = {config['tgt_len']}, dropout "
        f"{config['dropout']}",
        f"{train['steps']:,} steps of {train['batch_size']} x {config['tgt_len']} characters took "
        f"{logged[-1][2]:.0f} s, evaluation included",
        f"{rates[len(rates) // 2] / 1e3:.0f} thousand characters a second between evaluations",
        f"It is read in {found['test']['rows']} rows; with a memory of 512 the test text costs "
        f"{read_in['512']:.3f}",
    ]


def words() -> list[str]:
    """WikiText-2."""
    folder = RESULTS / "training_wikitext2"
    run, curve = json.loads(read(folder / "run.json")), metrics(folder)
    valid, last = curve[-1], curve[-2]
    return [
        f"{run['n_params'] / 1e6:.1f} M parameters",
        f"{last['tokens'] / 1e6:.0f} million words in {last['seconds'] / 60:.0f} minutes",
        f"perplexity of {valid['valid_perplexity']:.1f} on the validation text",
    ]


def evaluation_on_cpu() -> list[str]:
    """Evaluation speed on two cores, at the largest attention length."""
    found = stored("evaluation_speed")
    s, a = found["settings"], max(found["settings"]["attention_lens"])
    point = {(p["method"], p["segment_len"]): p for p in found["points"] if p["attention_len"] == a}
    window, fast = point["window", None], point["xl-cached", 128]
    low, high = window["ms_min"] / fast["ms_max"], window["ms_max"] / fast["ms_min"]
    assert window["repeats"] == s["repeats"] == 5 and window["tokens_per_repeat"] == 24
    needless = needless_share(s, a)
    paper = next(p["speedup"] for p in found["paper"] if p["attention_len"] == a)
    rows = [
        ("the window, moved by one token", "window", None),
        ("the window, moved by half its length", "half-window", None),
        ("disjoint chunks", "chunks", None),
        ("memory kept, segments of 1", "xl-cached", 1),
        ("memory kept, segments of 16", "xl-cached", 16),
        ("memory kept, segments of 64", "xl-cached", 64),
        ("memory kept, segments of 128", "xl-cached", 128),
    ]
    table = [f"| {label} | {point[m, n]['ms']:.3f} |" for label, m, n in rows]
    return [
        *table,
        f"At an attention length of {a:,}",
        f"{s['n_layer']} layers, D {s['d_model']}",
        f"{window['ms'] / fast['ms']:,.0f} times",
        f"between {low:,.0f} and {high:,.0f} from the extremes of five repeats of 24 tokens",
        f"The paper says {paper:,}",
        f"by its products {needless:.0%} of all, which would leave about "
        f"{round(window['ms'] / fast['ms'] * (1 - needless), -2):,.0f}",
    ]


SHAPES = ("tiny", "small", "enwik8-base")


def best_torch(times: dict) -> dict:
    return min((t for name, t in times.items() if "Torch" in name), key=lambda t: t["median"])


def ratios(row: dict) -> list[float]:
    theirs = best_torch(row)["median"]
    return [row[way]["median"] / theirs for way in ("replayed", "fused", "plain")]


def steps_on_gpu() -> list[str]:
    """Training steps as ratios, and memory."""
    found = []
    for products, part in (("float32", "steps"), ("TF32", "steps-tf32")):
        for shape in SHAPES:
            for dropout in ("0.0", "0.1"):
                row = on_gpu(part)[f"{shape}, dropout {dropout}"]
                times = " | ".join(f"{x:.2f}" for x in ratios(row))
                theirs = f"{best_torch(row)['median'] * 1e3:.1f} ms"
                found.append(f"| {products} | {shape} | {dropout} | {theirs} | {times} |")
                assert ratios(row)[0] < 0.9  # "in every row"
    for dropout in ("0.0", "0.1"):
        row = on_gpu("steps-tf32")[f"enwik8-base, dropout {dropout}"]
        gib = " | ".join(
            f"{row[way]['bytes'] / 2**30:.1f}"
            for way in ("PyTorch", "PyTorch, SDPA", "replayed", "fused", "plain")
        )
        found.append(f"| {dropout} | {gib} |")
    from minitxl.tools.gpu_shared import ROWS, config_of

    for shape in SHAPES:
        c, batch = config_of(shape)
        found.append(f"`{shape}` {c.n_layer} layers, D {c.d_model}, T = M = {c.tgt_len}, B {batch}")
    assert ROWS == 7
    profile = on_gpu("profile")
    walls = on_gpu("steps")
    theirs = walls["tiny, dropout 0.0"]["PyTorch, SDPA"]["median"] * 1e3
    kernels = profile["tiny, PyTorch, SDPA"]["ms"]
    base = [profile[f"enwik8-base, {way}"]["ms"] for way in ("PyTorch, SDPA", "replayed")]
    return [
        *found,
        "medians of seven rows of steps",
        f"kernels take {kernels:.1f} of the {theirs:.1f} ms",
        f"kernels alone take {base[0]:.0f} ms in PyTorch and {base[1]:.0f} ms here",
    ]


def parity_on_gpu() -> list[str]:
    """Differences from NumPy, training and generation."""
    cases = on_gpu("parity")
    worst = {
        dtype: max(c["worst"] for name, c in cases.items() if f", {dtype}," in name)
        for dtype in ("float64", "float32")
    }
    assert worst["float64"] < 2.1e-15 and worst["float32"] < 8e-7
    run = on_gpu("training")
    assert run["texts"]["cpu"] == run["texts"]["cuda"]
    losses = run["losses"]
    apart = {
        name: max(abs(x - y) for x, y in zip(found, losses["cpu float64"], strict=True))
        for name, found in losses.items()
    }
    return [
        f"In all {len(cases)} cases",
        f"at most {worst['float64']:.1e} of the largest number in float64 and "
        f"{worst['float32']:.1e} in float32",
        f"The losses of {len(losses['cpu float64'])} training steps differ by at most "
        f"{apart['cuda float64']:.1e} nats in float64 and {apart['cuda float32']:.1e} in float32",
        f"writes the same {len(run['texts']['cpu'])} characters",
    ]


def evaluation_on_gpu() -> list[str]:
    """Ratios, rounded down, beside the paper's."""
    paper = {p["attention_len"]: p["speedup"] for p in stored("evaluation_speed")["paper"]}
    found = {}
    for p in fastest(on_gpu("evaluation")["points"]):
        assert (p["method"], p["segment_len"]) == ("xl", 128)  # "projected again"
        ratio = math.floor(p["window_ms"] / p["ms"])
        found[p["model"], p["attention_len"]] = f"{p['window_ms']:.3f} | {p['ms']:.5f} | {ratio}"
    fits, compiled = on_gpu("largest-batch")["replayed"], on_gpu("compiled")["tiny, default"]
    rows = [
        f"{fits} rows of 512",
        f"compiled step of `tiny` took {compiled['median'] * 1e3:.1f} ms",
    ]
    for (model, a), numbers in found.items():
        name = {"4 layers": "4 layers, D 128", "enwik8-base": "12 layers, D 512"}[model]
        rows.append(f"| {name} | {a:,} | {numbers} | {paper[a]:,} |")
    return rows


def machine() -> list[str]:
    m = on_gpu("machine")
    cuda = m["cuda"] // 1000
    return [
        f"One {m['gpu']}, CuPy {m['cupy']}, CUDA {cuda}, PyTorch {m['torch'].split('+')[0]}",
    ]


def faults() -> list[str]:
    """The table as the script prints it, of a run in which all held."""
    found = json.loads(read(ROOT / "tests" / "bench" / "faults.json"))
    assert not found["kills"]["faults"] and not found["disks"]["faults"]
    assert not any(kind["faults"] for kind in found["files"].values())
    return table(found).splitlines()[2:]


def hand_ins() -> list[str]:
    """The last line of the stored table: how many cases, and that none got what it should not."""
    last = read(ROOT / "tests" / "bench" / "grading.txt").splitlines()[-1]
    cases, undeserved = re.findall(r"\d+", last)
    assert undeserved == "0"
    return [f"Of {cases} cases no such way got points"]


CLAIMS = (
    limits_of_tests, faults, hand_ins, shipped_model, larger_model, words, evaluation_on_cpu,
    machine, parity_on_gpu, steps_on_gpu, evaluation_on_gpu,
)  # fmt: skip
NAMES = {  # what has a digit and is a name or a setting, not a result
    "float32", "float64", "TF32", "WikiText-2", "wikitext-2", "wt2-small", "enwik8-base", "wt103",
    "(N-1) T ceil(M/T) + M", "first 90%", "segments of 128", "1, 64 or 128", "below 1.00",
    "at 2,800 and 3,800",
}  # fmt: skip


@pytest.mark.parametrize("claims", CLAIMS, ids=lambda f: f.__name__)
def test_numbers_are_those_stored(claims):
    lacking = missing(DOCS / "MEASURED.md", claims())
    assert not lacking, "\n".join(lacking)


def test_no_number_without_a_source():
    """What is left of the page without its checked phrases and without names has no digit."""
    left = without_a_source(DOCS / "MEASURED.md", [p for c in CLAIMS for p in c()], NAMES)
    assert not left, "\n".join(left)


@pytest.mark.slow
def test_compressors_pay_what_is_stored():
    corpus, prices = load_corpus("war-and-peace"), stored("shipped_model")["compressors"]
    for split in ("valid", "test"):
        texts = (corpus.vocab.to_bytes(x) for x in (corpus.train, getattr(corpus, split)))
        for name, bpc in compression_bpc(*texts).items():  # other versions pack a little otherwise
            assert bpc == pytest.approx(prices[name][split], abs=0.01)
        assert prices["PPMd"][split] == PPMD["war-and-peace", split]


def test_the_card_says_the_same():
    """The shipped model's card and what is stored of it."""
    card, found = read(SHIPPED / "README.md"), stored("shipped_model")
    bits = [e["bpc"] for e in found["evaluations"][:2]]
    assert "| this model | {:.3f} | {:.3f} |".format(*bits) in card
    assert f"| {found['compressors']['zpaq -m5']['test']:.3f} |" in card


# --- links and commands ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#]+)\)", read(path))
    missing = [x for x in links if not x.startswith("http") and not (DOCS / x).exists()]
    assert links and not missing


def test_examples_compile():
    for code in re.findall(r"```python\n(.*?)```", read(DOCS / "USING.md"), flags=re.DOTALL):
        compile(code, "USING.md", "exec")  # it loads foreign weights, which are not here


def test_modules_that_the_page_runs_exist():
    page = read(DOCS / "MEASURED.md")
    for module in re.findall(r"python -m (minitxl\.[\w.]+)", page):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    for script in re.findall(r"python (tests/\S+?\.py)", page):
        assert (ROOT / script).exists(), script
    assert get_backend("cpu", fused=False).name  # as README spells it


# --- EQUATIONS.md ---------------------------------------------------------------------------------

EQUATIONS = read(DOCS / "EQUATIONS.md")
PLACE = r"`(minitxl/[\w/]+\.py): (\w+)`"


def source_of(file: str, name: str) -> str:
    """The text of a function or class at the top of a file."""
    text = read(ROOT / file)
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return ast.get_source_segment(text, node)
    raise AssertionError(f"{file} defines no {name}")


def said_in(source: str) -> str:
    """Docstrings and comments of a piece of code, in one line."""
    docs = re.findall(r'""".*?"""', source, flags=re.DOTALL)
    return in_a_line(" ".join(docs + re.findall(r"#.*", source)))


@pytest.mark.parametrize("place", sorted(set(re.findall(PLACE, EQUATIONS))), ids=" ".join)
def test_names_exist(place):
    assert source_of(*place)


def test_functions_name_their_section():
    rows = re.findall(rf"^\|[^|]*\| ((?:sec|app)\. \S+) \|[^|]+\| {PLACE}", EQUATIONS, re.M)
    assert len(rows) > 25
    for section, file, name in rows:
        said = said_in(source_of(file, name))
        kind, number = section.split()  # "sec. 3.2, 3.3" names both
        assert re.search(rf"{re.escape(kind)} (?:[\d.]+, )*{re.escape(number)}(?!\d)", said), (
            file, name, section,
        )  # fmt: skip


def test_every_row_has_its_backward():
    """f or f_forward stands beside f_backward; the memory's stop and update have their own."""
    for _, first, _, second in re.findall(rf"{PLACE} \| {PLACE}", EQUATIONS):
        name = first.removesuffix("forward").strip("_")
        if name not in ("hidden", "update_mems"):
            assert second.strip("_") == f"{name}_backward".strip("_"), (first, second)


def test_questions_are_answered_by_one_search():
    rows = re.findall(rf"^\| [^|]+\? \| `([^`]+)` \| {PLACE} \|", EQUATIONS, re.M)
    assert len(rows) == 5
    for needle, file, name in rows:
        assert needle in source_of(file, name), (needle, name)
        hits = [
            (path, line)
            for path in sorted((ROOT / "minitxl" / "model").rglob("*.py"))
            for line in read(path).splitlines()
            if needle in line
        ]
        assert 1 <= len(hits) <= 6, (needle, len(hits))
