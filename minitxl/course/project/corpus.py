"""Project: a corpus of one's own; prepare it, train on it, beat a compressor, explain."""

from __future__ import annotations

from minitxl.course.project.milestones import Milestone, NotReachedError, Project, Work, number
from minitxl.course.project.milestones import written as _written
from minitxl.data.baselines import compression_bpc, unigram_nats
from minitxl.data.text import CORPORA, load_corpus, shipped_text
from minitxl.data.vocab import CharVocab
from minitxl.inference.evaluate import evaluate
from minitxl.inference.units import bits
from minitxl.storage.run_folder import load_run
from minitxl.storage.run_text import load_corpus_of

SHIPPED = "war-and-peace"  # a model, and the text that it has read
SHORTEST = 200_000  # characters
READ = 40_000  # characters of the test text that are measured
PIECE, PIECES = 60, 200  # of a text, by which one that ships is known again
GAIN = 0.01  # bits that the memory must be worth
SAYS = 0.01  # bits by which the report may be off: rounding


def _text(work: Work) -> str:
    corpus = load_corpus(work.path("text.txt"))
    n = sum(map(len, (corpus.train, corpus.valid, corpus.test)))
    if n < SHORTEST:
        raise NotReachedError(f"text.txt has {n:,} characters, must have {SHORTEST:,} at least")
    text = work.text("text.txt")
    at = range(0, len(text) - PIECE, max(1, len(text) // PIECES))
    pieces = [text[n : n + PIECE] for n in at]
    for name in CORPORA:
        shipped = shipped_text(name).decode("utf-8")
        same = sum(piece in shipped for piece in pieces)
        if same > len(pieces) / 10:
            raise NotReachedError(f"{same / len(pieces):.0%} of text.txt is {name}: take your own")
    return f"{n:,} characters, {corpus.vocab.n_token} symbols"


def _run(work: Work) -> str:
    loaded = load_run(work.path("run"), device="cpu")
    if "text_sha256" not in loaded.info or not loaded.info.get("train"):
        raise NotReachedError("run/ was not trained by `python -m minitxl train`")
    if not isinstance(loaded.vocab, CharVocab):
        raise NotReachedError("run/ is no model of characters: leave --level away")
    if "init_from" in loaded.info and loaded.info["init_from"]["run"] != SHIPPED:
        raise NotReachedError(
            f"run/ begins from {loaded.info['init_from']['run']!r}, which may have read the test "
            f"text; begin anew, or from {SHIPPED}"
        )
    corpus = load_corpus_of(loaded.info, place=str(work.path("text.txt")))
    work.measured |= {"run": loaded, "corpus": corpus}
    return f"{loaded.model.n_params:,} parameters, best after {loaded.step:,} steps"


def _bits(work: Work) -> str:
    loaded, corpus = work.need("run"), work.need("corpus")
    bpc = evaluate(loaded.model, corpus.test, max_tokens=READ).bpc
    guess = bits(unigram_nats(corpus.train, corpus.test[: READ + 1], corpus.vocab.n_token))
    if not bpc < guess:
        raise NotReachedError(f"{bpc:.3f} bits, by the symbols' frequencies alone {guess:.3f}")
    work.measured["bits"] = bpc
    return f"{bpc:.3f} bits per character of the test text"


def _beats(work: Work) -> str:
    corpus, bpc = work.need("corpus"), work.need("bits")
    train, test = (
        corpus.vocab.decode(ids).encode("utf-8") for ids in (corpus.train, corpus.test[: READ + 1])
    )
    n = min(len(corpus.test), READ + 1)
    found = compression_bpc(train, test, n_symbols=n)
    if "init_from" in work.need("run").info:  # what the model has read they may read, too
        more = compression_bpc(shipped_text(SHIPPED) + train, test, n_symbols=n)
        found = {name: min(bits, more[name]) for name, bits in found.items()}
    name, best = min(found.items(), key=lambda pair: pair[1])
    text = ", ".join(f"{n} {x:.3f}" for n, x in found.items())
    if not bpc < best:
        raise NotReachedError(f"{bpc:.3f} bits, {name} pays less: {text}")
    return f"{bpc:.3f} bits, less than each of {text}"


def _memory(work: Work) -> str:
    loaded, corpus, bpc = work.need("run"), work.need("corpus"), work.need("bits")
    if not loaded.model.config.mem_len:
        raise NotReachedError("the model was trained without a memory: mem_len = 0")
    without = evaluate(loaded.model, corpus.test, mem_len=0, max_tokens=READ).bpc
    if without - bpc < GAIN:
        raise NotReachedError(f"the memory is worth {without - bpc:.3f} bits, must be {GAIN}")
    return f"{without:.3f} bits without the memory: it is worth {without - bpc:.3f}"


def _report(work: Work) -> str:
    said, bpc = number(work.said("Bits")), work.need("bits")
    if abs(said - bpc) > SAYS:
        raise NotReachedError(f"REPORT.md says {said:g} bits, measured are {bpc:.3f}")
    return _written(work, CORPUS.sections)


CORPUS = Project(
    id="corpus",
    title="A text of your own",
    task=f"""
Take a text that you know: at least {SHORTEST:,} characters, one kind of text, none that ships with
minitxl; mind its licence. Clean it, and say what you left out. What stands in it twice makes a test
text too easy. Then train, and measure on the test text, which nobody has looked at before:

    python -m minitxl train --init-from {SHIPPED} --data corpus/text.txt --out corpus/run \\
        --lr 1e-3 --steps 600
    python -m minitxl eval corpus/run
    python -m minitxl eval corpus/run --mem-len 0

(For a text that is not English rather leave `--init-from` away, and give it an hour: `--preset
small`.) A general compressor reads the same before the test text. PPMd is hard to beat; here the
best of gzip, bzip2 and xz counts. Put `text.txt`, the folder `run` and `REPORT.md` into `corpus/`.
""",
    sections=(
        ("Data", "Where it is from, its licence, what you left out and why, how large the parts "
         "are."),
        ("Training", "Which settings, and what you tried before; the curve, and where it was "
         "best."),
        ("What it has learned", "Three places where it is sure and right, three where it is wrong; "
         "what a compressor has that it lacks, and the other way round."),
    ),
    lines=(("Bits", "of the test text, for each character, as `eval` says"),),
    milestones=(
        Milestone("corpus-text", "a text that is long enough and your own", 2, _text),
        Milestone("corpus-run", "a model that was trained on it", 2, _run),
        Milestone("corpus-bits", "it knows more than how often each symbol comes", 2, _bits),
        Milestone("corpus-beats", "it beats the best compressor", 4, _beats),
        Milestone("corpus-memory", f"its memory is worth {GAIN} bits or more", 2, _memory),
        Milestone("corpus-report", "the report is written and says what is measured", 2, _report),
    ),
    rubric=(
        (2, "the preparation: duplicates, headers and leaks between the parts are looked for"),
        (2, "the choices in training have reasons, and were made on the valid part"),
        (3, "what it has learned is shown by examples, and compared with a compressor's ways"),
    ),
)  # fmt: skip
