"""What notebooks 3 and 4 say in words follows from what is stored beside them."""

import re

import numpy as np
import pytest

nbformat = pytest.importorskip("nbformat")

from helpers.quoted import ROOT, in_a_line  # noqa: E402
from minitxl import Inspection, course, load_corpus, load_pretrained  # noqa: E402
from minitxl.course import trial  # noqa: E402
from minitxl.experiments import stop_gradient, stored  # noqa: E402
from minitxl.experiments.attention_spans import with_terms  # noqa: E402
from minitxl.viz.lessons.influence import even_span  # noqa: E402


def book(name):
    """Words of a stored notebook on one line, and what its cells printed."""
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    words = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    words = in_a_line(words).replace("> ", "")  # of quoted lines
    printed = [o.text for c in cells for o in c.get("outputs", ()) if o.output_type == "stream"]
    return words, "".join(printed)


def test_what_a_memory_is_worth_by_encoding():
    words, printed = book("03_relative_positions")
    assert "Counted on, every seed does a little worse with it than with a window." in words
    assert "Transformer-XL gains with every seed." in words
    rows = re.findall(r"^(\S+).* ([\d.]+) +([\d.]+) +(-?[\d.]+)   \[(.*)\]", printed, re.MULTILINE)
    assert len(rows) == 3
    xl, counted, naive = ([float(x) for x in seeds.split()] for *_, seeds in rows)
    assert len(xl) == len(counted) == len(naive) == 5
    assert min(xl) > 0.05 and -0.06 < max(counted) < 0 and max(naive) < -0.5


def test_what_notebooks_0_and_1_say_of_cuts():
    cells = {c["member"]: np.array(c["by_position"]) for c in stored("ablation")["cells"]}
    vanilla, alone, kept = (cells[m].mean(axis=0) for m in ("abs-alone", "xl-alone", "xl"))
    lost = alone - kept
    first, all_ = f"{lost[0]:.2f}", f"{lost.mean():.2f}"
    words, printed = book("00_start_here")
    assert f"they lose {first} bits at a segment's first character, and {all_} on average" in words
    even, *shares = (float(x) for x in re.findall(r"(\d+)%", printed.split("crosses the")[1])[:31])
    assert "All heads but one prefer what is near" in words and sum(x < even for x in shares) == 29
    words, printed = book("01_fragmentation")
    gain = f"{vanilla.mean() - alone.mean():.2f}"
    assert f"gain {gain} bits over vanilla, and the memory another {all_}" in words
    assert "over half of it at a segment's first four" in words
    assert 0.5 < lost[:4].sum() / lost.sum() < 0.6 and min(lost[4:]) > 0.03
    own, none, other = (float(x) for x in re.findall(r"([\d.]+) bits per character", printed))
    more, error = re.search(r"another's less none: ([\d.]+) \+- ([\d.]+)", printed).groups()
    assert own < none < other and float(more) > float(error)
    assert "Another row's past is worse than none" in words


def test_letters_alone_and_even_heads():
    count = np.bincount(load_corpus("war-and-peace").test)
    p = count[count > 0] / count.sum()
    assert f"({-(p * np.log2(p)).sum():.1f} bits)" in book("03_relative_positions")[0]
    spans = [head["span"] for head in stored("attention_spans")["heads"]]
    assert "all put 90% of their weight nearer than an even spread would" in book("05_reach")[0]
    assert max(spans) < even_span(128, 128) == 179


def test_what_the_plain_mean_says_of_context():
    words, printed = book("07_evaluation")
    assert "Between 32 and 64 foreign characters *cost*, and true ones gain" in words
    assert "beyond $T + M = 64$ neither does anything" in words
    table = printed.split("foreign ones gain\n")[1]
    rows = re.findall(r"(\d+) to +(\d+) +(-?[\d.]+) +(-?[\d.]+)", table)
    true, foreign = ([float(row[i]) for row in rows] for i in (2, 3))
    assert len(rows) == 5 and min(true[:3]) > 0.02 and max(np.abs(true[3:] + foreign[3:])) < 0.002
    assert "From 16 to 32 foreign ones gain a sixth of what true ones do" in words
    assert 5 < true[0] / foreign[0] < 7
    assert max(foreign[1:3]) < -0.01


def test_what_a_small_memory_gains_over_windows():
    points = stored("reading_cost")["points"]
    memory = min(p["bpc"] for p in points if p.get("mem_len") == 32)
    half = next(p["bpc"] for p in points if p.get("stride") == 24)  # moved by about half of 48
    assert f"{memory:.3f} for {half:.3f}" in book("07_evaluation")[0]


def test_half_the_loss_in_notebook_6():
    found = {d["question"]: d["mean"] for d in stored("ablation")["differences"]}
    half = found["XL: loss on half"], found["absolute, no memory, by a window: loss on half"]
    naive = found["with memory: naive absolute, not sound"]
    less = found["lost more with memory: absolute, not XL"]
    words, _ = book("06_training")
    assert (
        "it costs XL {:.3f} bits (8), and absolute positions without memory {:.3f}".format(*half)
        in words
    )
    assert f"costs {naive:.2f} bits more than counting on" in words
    own = -found["absolute: no recurrence, by a window"], found["XL: no recurrence, by a window"]
    said = f"memory costs {own[0]:.3f} bits, where XL gains {own[1]:.3f}: {less:.3f} apart"
    assert said in words


def test_which_layers_learn_from_the_memory():
    words, printed = book("04_memory")
    assert "teach every layer to *read* them, with the largest share in the top two" in words
    rows = re.findall(r"layer \d +dw_k: +([\d.]+)% +dw_v: +([\d.]+)%", printed)
    shares = np.array(rows, dtype=float)
    assert shares.shape == (6, 2)
    assert shares.min() > 1 and (shares[4:].min(axis=0) > shares[:4].max(axis=0)).all()


def test_how_many_starts_the_stop_delays():
    found, (words, _) = stored("stop_gradient"), book("04_memory")
    stopped = stop_gradient.of_way(found, "stopped")
    late = [
        min(hops)
        for hops, after in zip(stopped["accuracy_by_hop"], stopped["learned_after"], strict=True)
        if after is None
    ]
    assert sorted(x == 1 for x in late) == [False, True]  # one answers all, later than 600
    ends = [r["curve"][-1] for r in stopped["runs"] if r["learned_after"] is None]
    assert abs(max(ends) - found["floors"][1]) < 0.1  # the other stays where one hop ends
    n = found["settings"]["seeds"]
    slow = sorted(x for x in stopped["learned_after"] if x is not None and x > 140)
    full = stop_gradient.of_way(found, "full")["learned_after"]
    assert max(full) == 140 and len(slow) + len(late) == 5 and found["settings"]["steps"] == 600
    assert f"Of {n} starts 5 have not learned after 140 updates" in words
    assert "three need {}, {} and {}, one is on its way at 600".format(*slow) in words


def test_reading_with_a_shift_that_shifts_nothing():
    assert "It reads at more than three times the bits" in book("03_relative_positions")[0]
    model, text = load_pretrained("war-and-peace").model, load_corpus("war-and-peace").test
    mine = course.install(model, rel_shift=lambda x: x)
    library, yours, n = trial.compare(model, mine, text[: trial.READ + 1])
    assert n == trial.READ and yours > 3 * library


def test_what_notebook_7_says_of_windows_and_of_shaw():
    words, _ = book("07_evaluation")
    points = stored("evaluation_speed")["points"]
    at = {(p["method"], p["segment_len"]): p["ms"] for p in points if p["attention_len"] == 3800}
    half = at["half-window", None]
    assert f"{half:.2f} ms a token, the memory {at['xl-cached', 128]:.2f}" in words
    (arm,) = (a for a in stored("context")["arms"] if a["arm"] == "xl-alone")
    reading = next(r for r in arm["readings"] if r["reading"] == "sliding")
    assert sorted(reading["half_distance"])[:4] == [13] * 4 and all(reading["learned"])
    for name in ("recl", "null_recl"):
        of = {
            m: np.mean([g[name] for g in stored("recl")["groups"] if g["member"] == m])
            for m in ("xl", "shaw", "xl-alone", "abs-alone")
        }
        assert max(of, key=lambda m: of[m]) == "shaw"


@pytest.mark.slow
def test_a_strangers_memory_is_worse_than_none_at_the_first_character():
    """Notebook 6, 6.3: by the notebook's own cells, rows dealt out in another order each step."""
    words, _ = book("06_training")
    assert "cost more than without any memory" in words
    cells = nbformat.read(ROOT / "notebooks" / "06_training.ipynb", as_version=4).cells
    room: dict = {}
    for begins in (
        "import numpy as np\n\nimport minitxl",
        'TEXT = "',
        "T, B, STEPS",
        "class Learn",
    ):
        (source,) = (c.source for c in cells if c.source.startswith(begins))
        exec(source, room)
    learners = {m: room["Learner"](mem_len=m) for m in (0, room["T"])}
    stream = room["Stream"](room["corpus"].train, batch_size=room["B"], tgt_len=room["T"])
    first = {m: [] for m in learners}
    for n in range(room["STEPS"]):
        order = np.random.default_rng(n).permutation(room["B"])
        tokens, targets, fresh = stream.next()
        for m, learner in learners.items():
            nll = learner.step(tokens[order], targets[order], fresh)
            first[m].append(float(nll[:, 0].mean() / np.log(2)))
    none, stranger = (np.mean(first[m][-400:]) for m in (0, room["T"]))
    assert stranger > none + 0.05, (stranger, none)


def test_what_the_mark_of_notebook_3_needs():
    """3.2, "What to see": terms switched off for the one character that is read last."""
    run, text = load_pretrained("war-and-peace", device="cpu"), load_corpus("war-and-peace").test
    novel = run.vocab.decode(text)
    begin = novel.index('"I could not, on my honor')
    last = novel.index("!", begin + 192)
    reader, mems = run.model.with_options(tgt_len=64, mem_len=192), None
    for start in range(begin, begin + 192, 64):
        _, mems = reader.predict(text[None, start : start + 64], mems)
    reader = run.model.with_options(tgt_len=64, mem_len=last - begin)  # its own segment, too
    _, mems = reader.predict(text[None, begin + 192 : last], mems)
    is_mark = np.array(list(novel[begin : last + 1])) == '"'

    def without(terms):
        seen, kept = Inspection(), "".join(x for x in "abcd" if x not in terms)
        log_p, _ = with_terms(reader, kept).predict(text[None, last : last + 1], mems, inspect=seen)
        on_marks = float(seen.probs[4][0, 4, -1][is_mark].sum())
        near = float(seen.probs[0][0, 1, -1][-2:].sum())
        return on_marks, near, float(np.exp(log_p[0, -1, run.vocab.encode('"')[0]]))

    words, _ = book("03_relative_positions")
    assert "either is enough; without both it is missed" in words
    assert "without b the closing mark falls from 67 % to 23 %" in words
    assert min(without(x)[0] for x in "abcd") > 0.8 and without("ac")[0] < 0.1
    assert abs(without("")[2] - 0.67) < 0.01 and abs(without("b")[2] - 0.23) < 0.01
    assert without("b")[1] > 0.8 > 0.1 > max(without(x)[1] for x in "acd")
