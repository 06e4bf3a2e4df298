"""The lecturer's model solutions of the projects: written, trained and measured by one call.

Not in what students get. `python -m minitxl course solutions --out DIR --project --run` takes some
minutes on two cores; what the reports say is filled in from what came.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from minitxl.course.project import memory_rank, running_means
from minitxl.course.project.claim import CLAIM, SEEDS
from minitxl.course.project.corpus import CORPUS, READ, SHIPPED
from minitxl.course.project.handout import report
from minitxl.course.project.memory import FILE, MEMORY
from minitxl.course.project.own_text import paragraphs
from minitxl.data.stream import segments
from minitxl.experiments import reach
from minitxl.experiments.intervals import spread
from minitxl.files import write_atomically
from minitxl.inference.evaluate import evaluate
from minitxl.storage.run_folder import load_run
from minitxl.storage.run_text import load_corpus_of
from minitxl.training.run import train

RANKED, RERUN = memory_rank.Settings(), reach.Settings(seeds=SEEDS)


def write(folder: Path, texts: Iterable[str] | None = None) -> list[Path]:
    """Write what is to be run: the corpus and the memory; texts: paragraphs, for a test."""
    files = {
        folder / CORPUS.id / "text.txt": "\n".join(paragraphs() if texts is None else texts),
        folder / MEMORY.id / FILE: inspect.getsource(running_means),
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode("utf-8"))
    (folder / CLAIM.id).mkdir(exist_ok=True)
    return list(files)


def run(
    folder: Path,
    *,
    steps: int = 600,
    memory: memory_rank.Settings = RANKED,
    claim: reach.Settings = RERUN,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Train and measure all of them, and write their reports; after `write`."""
    _corpus(folder / CORPUS.id, steps)
    progress(f"{CORPUS.id}: trained")
    _memory(folder / MEMORY.id, memory, progress)
    _claim(folder / CLAIM.id, claim)
    progress(f"{CLAIM.id}: done")


def _put(path: Path, text: str) -> None:
    write_atomically(path, text.encode("utf-8"))


def _corpus(folder: Path, steps: int) -> None:
    train(
        init_from=SHIPPED, data=str(folder / "text.txt"), out=folder / "run", steps=steps,
        learning_rate=1e-3, quiet=True, eval_every=max(1, steps // 4), device="cpu",
    )  # fmt: skip
    loaded = load_run(folder / "run", device="cpu")
    corpus = load_corpus_of(loaded.info)
    bpc, without = (
        evaluate(loaded.model, corpus.test, mem_len=m, max_tokens=READ).bpc for m in (None, 0)
    )
    texts = {
        "Bits": f"{bpc:.4f}",
        "Data": f"The docstrings of Python's standard library as prose (PSF licence): "
        f"{len(corpus.train):,} characters to train on, {len(corpus.valid):,} to choose by, "
        f"{len(corpus.test):,} to test. Examples of code, short lines and other alphabets are left "
        "out, and so is each paragraph of which more than a tenth of the rows of four words stood "
        "in one before: the library says many things twice, and a test text that the training text "
        "holds would show how well a file is remembered, not what was learned of the language.",
        "Training": f"Begun from the model that ships, which has read War and Peace: {steps:,} "
        "steps at a rate of 0.001, the best checkpoint by the validation text is of step "
        f"{loaded.step:,}. "
        "Nothing was tuned: rate and steps were fixed beforehand, the sizes are that model's, so "
        "that the test text had no say in them. Without its memory the same model pays "
        f"{without:.3f} bits, with it {bpc:.3f}; the memory was as long as in training. The curve "
        "is in run/loss_curve.png. That it began with English is an advantage, which is why the "
        "compressors may read that book first.",
        "What it has learned": _examples(loaded, corpus),
    }
    _put(folder / "REPORT.md", report(CORPUS, texts))


def _examples(loaded, corpus) -> str:
    """Tell where the model is surest, and where it is most surprised."""
    text = corpus.test[: min(len(corpus.test), 4000)]
    mems, losses = None, []
    for tokens, targets in segments(text, batch_size=1, tgt_len=loaded.model.config.tgt_len):
        nll, mems = loaded.model.score(tokens, targets, mems)
        losses.append(np.asarray(nll)[0])
    nll = np.concatenate(losses)
    seen = np.convolve(nll, np.ones(12) / 12, mode="valid")  # of twelve characters in a row

    def quoted(at: int) -> str:
        before, then = text[max(0, at - 30) : at + 1], text[at + 1 : at + 13]
        parts = (corpus.vocab.decode(x).replace("\n", " / ") for x in (before, then))
        return "`{}` then `{}` ({:.2f} nats a character)".format(*parts, seen[at])

    def places(order) -> str:
        found: list[int] = []
        for at in order:
            if all(abs(at - one) > 40 for one in found):
                found.append(int(at))
            if len(found) == 3:
                break
        return "; ".join(map(quoted, found))

    ranked = np.argsort(seen)
    return (
        f"It is sure where a phrase of the trade goes on: {places(ranked)}. It is lost where a "
        f"name begins that nothing has prepared: {places(ranked[::-1])}. A compressor that looks "
        "for repeats has the exact phrase wherever it stood, however long ago; the model has what "
        "it has learned of spelling and grammar for words that it never saw in this order, and its "
        "memory for what the last lines were about."
    )


def _memory(folder: Path, settings: memory_rank.Settings, progress) -> None:
    results = memory_rank.measure(folder, settings, progress)
    _put(folder / "results.json", json.dumps(results, indent=1) + "\n")
    recall, keeps = results["paid"]["recall"], ", ".join(map(str, running_means.KEEPS))
    through = spread([a - b for a, b in zip(recall["own"], recall["own+"], strict=True)])
    gain = spread([a - b for a, b in zip(recall["xl"], recall["own"], strict=True)])
    low, high = gain["interval"]
    verdict = (
        "better than" if low > 0 else "worse than" if high < 0 else "not to be told apart from"
    )
    tables = "\n\n".join(
        memory_rank.table(paid, memory_rank.TASKS[name]) for name, paid in results["paid"].items()
    )
    texts = {
        "The idea": "Four rows are running means of all that falls out of the last states: for "
        "each state x that leaves, a_p becomes k_p a_p + (1 - k_p) x, with k_p = "
        f"{keeps}; the other rows are the last states. So nothing of the text is ever "
        "quite gone, and what is far is a summary at four paces: a topic, a speaker, the style. "
        "Where pairs are to be recalled I expect some points of a hundred at lags that the last "
        "states do not reach, and a loss at those they reach: there are four of them less. On a "
        "novel read by characters I expect less than 0.02 bits either way.",
        "The way back": "With n states that leave, a_p' = k^n a_p + (1 - k) sum_i k^(n-1-i) x_i, "
        "a linear map of the mean and of each state. So da_p = k^n da_p', and x_i gets the sum "
        "over the paces of (1 - k_p) k_p^(n-1-i) da_p'. The states that stay hand their "
        "gradient on as it is. The first mean begins as the first state, so that x_0 then has the "
        "weight k^(n-1). What the rows got from the layer that read them is added to both parts.",
        "What came": f"```\n{tables}\n```\n\nAt recall, stopped, it is {verdict} the paper's "
        f"memory by these {settings.seeds} seeds. The gradient through four segments is worth "
        f"{through['mean']:+.2f} points to it, interval [{through['interval'][0]:+.2f}, "
        f"{through['interval'][1]:+.2f}]. Arms share first weights and batches, so "
        "differences are taken by seed; trainings of this length say little of longer ones.",
    }
    _put(folder / "REPORT.md", report(MEMORY, texts))


def _claim(folder: Path, settings: reach.Settings) -> None:
    results = reach.run(settings)
    _put(folder / "results.json", json.dumps(results, indent=1) + "\n")
    off = max(m["largest_difference"] for m in results["models"])
    exact = all(m["reach"]["formula"] == m["reach"]["by perturbation"] for m in results["models"])
    holds = "partly" if exact else "no"
    texts = {
        "Seeds": str(settings.seeds),
        "Holds": holds,
        "The claim": "Section 3.2 says that the largest possible dependency grows linearly with "
        "the number of layers and the segment's length, O(N L), and shows it in a drawing of a "
        "model with a memory as long as a segment. No number is measured there; the evidence is "
        "the argument that each layer reads one memory farther back than the layer below it.",
        "What I expected": "Layers times memory, N M tokens, wherever M is as long as a segment, "
        "and less where it is shorter. I would have called the claim wrong if a changed token "
        "farther back than that had changed an output, or if trained models had answered at "
        "chance before that distance with every seed.",
        "What came": f"```\n{reach.summary(results)}\n```\n\nBy perturbation the reach is "
        f"{'that' if exact else 'not that'} of (N-1) T ceil(M/T) + M in each shape; the trained "
        f"models of all seeds lie within {off:.3f} of the accuracy that follows from it.",
        "What holds": "The growth with the depth does, and it is exact, not an order: but N M is "
        "the reach only where T divides M; elsewhere it is more, since the oldest state in a "
        "memory was computed in a whole segment. The task asks for one marker; that a model of "
        "text makes use of that reach does not follow. It would take a text in which far "
        "characters decide.",
    }
    _put(folder / "REPORT.md", report(CLAIM, texts))
