"""figures/README.md: every number of ours follows from what is stored."""

import functools
import re
import statistics
from math import log

import numpy as np
import pytest

from helpers.budget_page import budget
from helpers.quoted import ROOT, in_a_line, missing, read, spelt, without_a_source
from helpers.text_page import text
from minitxl.experiments import coherence, reading_cost, recl, stop_gradient, stored
from minitxl.experiments.ablation import difference
from minitxl.experiments.evaluation_speed import needless_share
from minitxl.experiments.intervals import spread

PAGE = ROOT / "figures" / "README.md"


def interval(low_high, digits: int = 3) -> str:
    return f"[{low_high[0]:.{digits}f}, {low_high[1]:.{digits}f}]"


def signed(low_high, digits: int = 3) -> str:
    return f"[{low_high[0]:+.{digits}f}, {low_high[1]:+.{digits}f}]"


# --- by section: phrases made of what is stored ---------------------------------------------------


def reach() -> list[str]:
    found = stored("reach")["models"]
    worst = max(m["largest_difference"] for m in found)
    assert all(m["reach"]["formula"] == m["reach"]["by perturbation"] for m in found)
    return [
        f"All {sum(len(m['runs']) for m in found)} trained models lie on that line (largest "
        f"difference {worst:.3f})",
        "in eight shapes" if len(found) == 8 else "?",
    ]


def longer_memory() -> list[str]:
    found = {m["model"]: m for m in stored("longer_memory")["models"]}

    def at(model, option, factor):
        return next(
            p["minus_trained"]
            for p in found[model]["points"]
            if (p["option"], p["factor"]) == (option, factor)
        )

    xl, shaw, absolute = (at(m, "plain", 8) for m in ("xl", "shaw", "abs"))
    best = min(found["xl"]["points"], key=lambda p: p["minus_trained"]["mean"])
    assert (best["option"], best["factor"]) == ("same_length", 2)
    best = best["minus_trained"]
    by_seed = zip(*(x["by_seed"] for x in (xl, shaw, absolute)), strict=True)
    assert all(a < b < c for a, b, c in by_seed)  # "with every seed"
    plain = at("xl", "plain", 2)
    shipped = min(p["minus_trained"]["mean"] for p in found["war-and-peace"]["points"])
    return [
        f"Eight times the trained memory costs XL {xl['mean']:.2f} bits "
        f"{interval(xl['interval'], 2)}, Shaw {shaw['mean']:.2f} {interval(shaw['interval'], 2)}, "
        f"absolute positions {absolute['mean']:.2f} {interval(absolute['interval'], 2)}",
        f"the best of the {len(found['xl']['points'])} points of XL gains {-best['mean']:.3f} bits",
        f"{signed(best['interval'])}: nothing",
        f"twice the memory without options costs {plain['mean']:.3f} {signed(plain['interval'])}",
        f"The larger shipped model (one seed) gains {-shipped:.3f} at best",
    ]


def effective_context() -> list[str]:
    found = stored("recl")

    def of(member, delta):
        return recl.mean_of(found, member, delta, 0.1)

    groups = [g for g in found["groups"] if (g["member"], g["delta"]) == ("xl", 16)]
    groups = sorted((g for g in groups if g["ratio"] == 0.1), key=lambda g: g["seed"])

    def gain(member, c, longer):
        return spread([(x[c] - x[longer]) * log(2) for x in found["bpc"][member]])

    xl16, xl8 = of("xl", 16), of("xl", 8)
    steps = [gain("xl", *x) for x in (("16", "32"), ("32", "48"), ("48", "64"), ("64", "80"))]
    assert all(gain("abs-alone", c, d)["mean"] == 0 for c, d in (("32", "48"), ("48", "64")))
    for c, d in (("16", "32"), ("32", "48"), ("48", "64")):  # "each positive with every seed"
        assert all(x[c] > x[d] for x in found["bpc"]["xl"])
    null = [
        n["16"][d] - x[c]
        for n, x in zip(found["null_bpc"]["xl"], found["bpc"]["xl"], strict=True)
        for c, d in (("32", "48"), ("48", "64"))
    ]
    assert min(null) > 0
    by_seed = "; ".join(f"{g['recl']} {g['intervals']['recl']}" for g in groups)
    by_seed = by_seed.replace(".0", "")
    return [
        f"{xl16['recl']['longer']:+.0%} in steps of 16 characters and {xl8['recl']['longer']:+.0%} "
        "in steps of 8",
        f"foreign text gives {xl16['null_recl']['longer']:+.0%} and "
        f"{xl8['null_recl']['longer']:+.0%}",
        f"XL's RECL by seed, with intervals over positions: {by_seed}",
        f"{steps[0]['mean']:.3f}, {steps[1]['mean']:.3f} and {steps[2]['mean']:.3f} nats up to "
        "32, 48 and 64 characters",
        f"{interval(steps[0]['interval'])}, {interval(steps[1]['interval'])}, "
        f"{interval(steps[2]['interval'])}",
        f"{steps[3]['mean']:.3f} {interval(steps[3]['interval'], 4)} beyond",
        f"foreign text costs XL {min(null):.3f} to {max(null):.3f} bits with every seed",
    ]


def attention() -> list[str]:
    found = stored("attention_spans")
    spans = [h["span"] for h in found["heads"]]
    share = float(np.mean([h["memory_share"] for h in found["heads"]]))
    cost = {t: found["bpc"][t] - found["bpc"]["abcd"] for t in ("abd", "abc", "acd", "bcd")}
    c, d, b, a = (f"{x:.2f}" for x in cost.values())
    return [
        f"over {found['n_query']:,} queries of unseen text",
        f"within {min(spans)} to {max(spans)} characters, {share:.0%} of all weight falls on the "
        f"memory (spread evenly it would be {found['even']:.0%})",
        f"Taking out c costs {c} bits, d {d}, b {b}, a {a}",
    ]


def samples() -> list[str]:
    found = stored("coherence")
    s = found["settings"]
    rows = []
    for w in found["writers"]:
        cells = []
        for count in coherence.COUNTS:
            x = spread(coherence.known(w, count))
            cells.append(f"{x['mean']:.2f} {interval(x['interval'], 2)}")
        name = w["writer"].replace("memory 0", "no memory")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return [
        *rows,
        f"{s['samples']} samples of {s['length']:,} characters each, at a temperature of "
        f"{s['temperature']}, after {s['prompt']} characters of the test text",
    ]


def speed() -> list[str]:
    found = stored("evaluation_speed")
    a = max(found["settings"]["attention_lens"])
    point = {(p["method"], p["segment_len"]): p for p in found["points"] if p["attention_len"] == a}
    window, fast = point["window", None], point["xl-cached", 128]
    low, high = window["ms_min"] / fast["ms_max"], window["ms_max"] / fast["ms_min"]
    ratio = window["ms"] / fast["ms"]
    one = window["ms"] / point["xl-cached", 1]["ms"]
    needless = needless_share(found["settings"], a)
    return [
        f"{ratio:,.0f} at segments of 128 (from the extremes of the repeats: {low:,.0f} to "
        f"{high:,.0f}), {one:.0f} at segments of 1, at an attention length of {a:,}",
        f"{ratio:,.0f} times",
        f"by its products that would save {needless:.0%}, and leave about "
        f"{round(ratio * (1 - needless), -2):,.0f}",
        f"{point['half-window', None]['ms']:.3f} ms a token, the memory in segments of 128 "
        f"{fast['ms']:.3f}",
    ]


def context() -> list[str]:
    found = stored("context")
    of = {(a["arm"], r["reading"]): r for a in found["arms"] for r in a["readings"]}

    def learned(*key) -> str:
        flags = of[key]["learned"]
        return f"{sum(flags)} of {len(flags)}"

    def halves(*key) -> str:
        pairs = zip(of[key]["half_distance"], of[key]["learned"], strict=True)
        return ", ".join(str(x) if ok else f"({x})" for x, ok in pairs)

    rows = []
    for label, arm, reading in (
        ("Transformer-XL, M = T = 16", "xl-16", "memory"),
        ("Transformer-XL, M = 48", "xl-48", "memory"),
        ("Transformer-XL, M = 112", "xl-112", "memory"),
        ("the same, read with M = 448", "xl-112", "longer memory"),
        ("vanilla, window of 16, fixed", "vanilla-16", "fixed"),
        ("vanilla, window of 16, sliding", "vanilla-16", "sliding"),
        ("relative, window of 16, sliding", "xl-alone", "sliding"),
        ("vanilla, window of 128, fixed", "vanilla-128", "fixed"),
        ("vanilla, window of 128, sliding", "vanilla-128", "sliding"),
        ("relative, window of 128, sliding", "relative-128", "sliding"),
    ):
        key = (arm, reading)
        cells = f"{of[key]['ceiling']:.0f} | {learned(*key)} | {halves(*key)}"
        rows.append(f"| {label} | {cells} |")

    def middle(*key) -> float:
        pairs = zip(of[key]["half_distance"], of[key]["learned"], strict=True)
        return statistics.median(x for x, ok in pairs if ok)

    both = ("half_distance", "half_distance_foreign", "learned")
    elsewhere = max(
        abs(a - b)
        for (_, reading), r in of.items()
        for a, b, ok in zip(*(r[key] for key in both), strict=True)
        if ok and reading != "fixed"
    )
    vanilla = middle("vanilla-16", "sliding")
    equal, long = (middle(x, "memory") / vanilla - 1 for x in ("xl-16", "xl-112"))
    longer = middle("xl-112", "longer memory")
    s = found["settings"]
    return [
        *rows,
        f"{s['n_layer']} layers, D {s['d_model']}, {s['steps']:,} steps of {s['tokens_per_step']} "
        "characters, rates and steps fixed beforehand",
        f"with M = T by {equal:.0%} in the median, with M = 7 T by {long:.0%}",
        f"{longer:.0f} characters, {longer / vanilla:.0f} times vanilla",
        f"learned by {learned('xl-112', 'memory')} starts with M = 112",
        f"puts them {elsewhere} characters elsewhere at most",
    ]


def ablation() -> list[str]:
    found = stored("ablation")
    cells = {c["member"]: c for c in found["cells"]}

    def d(question, digits=3) -> str:
        x = difference(found, question)
        return f"{x['mean']:.{digits}f} {interval(x['interval'], digits)}"

    def minus(question) -> str:
        x = difference(found, question)
        low, high = x["interval"]
        return f"{-x['mean']:.3f} {interval((-high, -low))}"

    def p(question) -> str:
        return f"p = {difference(found, question)['p_holm']:.2f}"

    first = [np.mean(cells[n]["by_position"], axis=0)[0] for n in ("xl-alone", "xl")]
    n_params = [c["n_params"] for c in cells.values()]
    s = found["settings"]
    rates = [c["lr"] for n, c in cells.items() if n not in ("xl-half", "abs-alone-half")]
    assert sorted(rates)[1:] == [max(s["lrs"])] * 9 and cells["abs-naive"]["lr"] == s["lrs"][1]
    half = np.mean(cells["abs-alone-half"]["bpc"]["chunks"])
    positions = np.mean(cells["abs-alone-half"]["by_position"], axis=0)
    memoryless = np.mean(cells["abs-alone"]["bpc"]["stride"])
    naive = np.mean(cells["abs-naive"]["bpc"]["memory"])
    least = {(x["member"], x["lr"]): x["bpc"][0] for x in found["pilots"]}
    larger = stored("ablation_larger_rate")["pilots"]
    pairs = [(x["bpc"][0], least[x["member"], max(s["lrs"])]) for x in larger]
    assert all(x["lr"] == 2 * max(s["lrs"]) for x in larger) and all(a > b for a, b in pairs)
    costs = [a - b for a, b in pairs]
    return [
        f"tried with {spelt(len(costs))} arms on one of these seeds, costs each of them "
        f"{min(costs):.3f} to {max(costs):.3f} bits of the validation text",
        f"{d('XL: no recurrence, in chunks')} bits per character against fixed chunks, "
        f"{d('XL: no recurrence, by a window')} against a window moved by half its length",
        f"longer segments of equal memory, read by a window: {d(EQUAL)}",
        f"{d('with memory: Shaw, not XL')} bits with recurrence, {p('with memory: Shaw, not XL')}",
        f"*without* it Shaw's is better by {minus('no memory, by a window: Shaw, not XL')}, "
        f"{p('no memory, by a window: Shaw, not XL')}",
        f"with the terms (a) and (b) alone {d('with memory: Shaw (a, b), not XL')} and "
        f"{minus('no memory, by a window: Shaw (a, b), not XL')}",
        f"the naive cache costs {d('with memory: naive absolute, not sound')} bits more than a "
        f"sound one, and is worse than no memory by {minus(NAIVE)}",
        f"sound absolute positions lose {d('lost more with memory: absolute, not XL')} bits more "
        "with a memory than without",
        f"relative: half costs {d('XL: loss on half')} bits; absolute without memory: "
        f"{d('absolute, no memory, by a window: loss on half')}",
        f"{half:.2f} bits in chunks, {positions[0]:.1f} at the first character",
        f"{first[0]:.1f} bits instead of {first[1]:.1f}",
        f"{min(n_params) / 1e6:.2f} to {max(n_params) / 1e6:.2f} M parameters, {s['n_layer']} "
        f"layers, D {s['d_model']}, {s['steps']:,} steps of {s['batch_size']} x {s['tgt_len']} "
        "characters",
        f"segments of {s['equal_len']} instead of {s['tgt_len']}",
        f"all {len(found['differences'])} comparisons",
        f"{s['lrs'][0]:g}, {s['lrs'][1]:g} and {s['lrs'][2]:g}",
        f"{naive:.2f} bits with its memory, {memoryless:.2f} without one",
        f"Shaw {d('Shaw: no recurrence, by a window')}, absolute "
        f"{d('absolute: no recurrence, by a window')}",
        f"{d('lost more with memory: Shaw, not XL')}, {p('lost more with memory: Shaw, not XL')}",
    ]


EQUAL = "XL: no recurrence, equal memory, by a window"
NAIVE = "naive absolute: no recurrence, by a window"


def stopped_gradient() -> list[str]:
    found = stored("stop_gradient")
    s = found["settings"]
    stopped, full = (stop_gradient.of_way(found, way) for way in ("stopped", "full"))
    n, (low, high) = stop_gradient.stalled(stopped)
    m, _ = stop_gradient.stalled(full)
    assert m == 0
    known = [sorted(x for x in g["learned_after"] if x is not None) for g in (stopped, full)]
    hops = [g for g, x in zip(stopped["accuracy_by_hop"], stopped["learned_after"], strict=True)
            if x is None]  # fmt: skip
    right = [h for h in hops if min(h) == 1]
    assert len(right) == 1 and len(hops) == 2
    medians = [stop_gradient.median_updates(g) for g in (full, stopped)]
    return [
        f"{medians[0]:g} updates in the median ({known[1][0]} to {known[1][-1]}), with every one "
        f"of {s['seeds']} seeds",
        f"Stopped, it takes {medians[1]:g} in the median; {n} of {s['seeds']} "
        f"[{low:.0%}, {high:.0%}] have not learned in {s['steps']}",
        f"{sum(x <= 140 for x in known[0])} of {s['seeds']} are done after 140",
        f"the slowest that learned took {known[0][-1]}",
        f"rates {full['lr']:g} and {stopped['lr']:g}, chosen on {spelt(len(s['pilot_seeds']))} "
        "other seeds",
    ]


def ladder() -> list[str]:
    found = stored("memory_ladder")
    s, said = found["settings"], []
    for model in found["models"]:
        t = model["tgt_len"]
        at = {(p["option"], p["mem_len"]): p["minus_trained"] for p in model["points"]}
        twice, far, none = at["plain", 2 * t], at["plain", 1024], at["plain", 0]
        said.append(
            f"| {t} | {none['mean']:+.3f} {signed(none['interval'])} | {twice['mean']:+.4f} "
            f"{signed(twice['interval'], 4)} | {far['mean']:+.4f} {signed(far['interval'], 4)} |"
        )
        longer = [x for (_, m), x in at.items() if m > t]
        assert min(x["p_holm"] for x in longer) > 0.05  # "none of them is sure"
        assert max(abs(x["mean"]) for x in longer) < 0.02
    gains = [
        -p["minus_trained"]["mean"]
        for m in found["models"]
        for p in m["points"]
        if p["mem_len"] > m["tgt_len"]
    ]
    return [
        *said,
        f"the most that any longer memory gains is {max(gains):.4f} bits",
        f"{s['n_layer']} layers, D {s['d_model']}, {s['steps']:,} steps of "
        f"{s['tokens_per_step']:,} characters",
    ]


def bits_and_time() -> list[str]:
    found = stored("reading_cost")
    point = functools.partial(reading_cost.point_of, found)
    rows = [
        ("fixed chunks", point("window", 32)),
        ("window moved by 16", point("window", 16)),
        ("window moved by 1", point("window", 1)),
        ("memory of 32", point("memory", 32)),
        ("memory of 256", point("memory", 256)),
    ]
    return [
        f"| {label} | {p['bpc']:.3f} | {p['ms']:.3f} | {p['ms_min']:.3f} to {p['ms_max']:.3f} |"
        for label, p in rows
    ]


def work() -> list[str]:
    many = [stored(n) for n in ("context", "ablation", "stop_gradient", "memory_ladder")]
    minutes = sum(sum(x["seconds"].values()) for x in many) / 60
    assert all(x["machine"] == many[0]["machine"] for x in many)
    machine = many[0]["machine"]
    return [
        f"The four with five seeds and more took {minutes:.0f} minutes of processes that shared "
        f"{machine['cores']} cores and an {machine['gpu']}"
    ]


CLAIMS = (
    work, reach, longer_memory, effective_context, attention, samples, speed, context, ablation,
    stopped_gradient, ladder, budget, text, bits_and_time,
)  # fmt: skip
NAMES = {  # what has a digit and is a name, a setting or a number of the paper, not ours
    "of 95% and over seeds", "(N-1) T ceil(M/T) + M", "sec. 3.2", "sec. 3.3", "sec. 4.2",
    "sec. 4.3", "sec. 4.5", "(table 6", "; 10 at equal memory)", "27.02 against 29.59 perplexity",
    "; 28.43 |", "27.02 against 27.94", "28.69 against 27.02", "27.02 to 26.77", "not in table 6",
    "(sec. 4.2, table 6)", "450%", "700 against 128 words", "1,874 times", "a window of 3,800",
    "accuracy is 1 up to R", "within 0.1 nats of its", "ratio of 176 to 128", "the 80% over RNNs",
    "1.00 up to the formula's reach", "that under 16 characters", "T / 2 + M", "a window T - 1",
    "A window of 128", "M = 112", "with 128.", "T = M of 32, 64 and 128", "none to 1,024",
    "| twice | 1,024 |", "T + M is 64", "first 32.", "runs of 8 characters", "training_wikitext2",
    "M = 65", "d_head = 64", "n_f + c n_c = 164", "(2 layers, D 64, T = 32)", "texts of 512",
    "over 16 comparisons", "With 128 pairs", "from lag 97 on", "costs 4.70",
    "lags 33-64 | 97-160, up to 8 pairs | 64 and more | 257-512, up to 8 pairs | 64 and more",
}  # fmt: skip


@pytest.mark.parametrize("claims", CLAIMS, ids=lambda f: f.__name__)
def test_numbers_are_those_stored(claims):
    lacking = missing(PAGE, claims())
    assert not lacking, "\n".join(lacking)


def test_no_number_without_a_source():
    left = without_a_source(PAGE, [p for c in CLAIMS for p in c()], NAMES)
    assert not left, "\n".join(left)


def test_samples_are_those_stored():
    found, page = stored("coherence"), in_a_line(re.sub("^> ?", "", read(PAGE), flags=re.M))
    for writer in ("0", "128"):
        assert in_a_line(found["texts"][writer][:300]) in page, writer
