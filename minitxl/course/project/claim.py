"""Project: a claim of the paper, measured again with seeds; and what of it holds."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import import_module

from minitxl.course.project.milestones import Milestone, NotReachedError, Project, Work, number
from minitxl.course.project.milestones import written as _written
from minitxl.course.variants import drawn
from minitxl.experiments import stored

SEEDS = 3
VERDICTS = ("yes", "partly", "no")
CLAIMS = {  # experiment: its module, and what the paper claims
    "ablation": ("ablation", "recurrence helps (table 6)"),
    "memory-ladder": ("memory_ladder", "a longer memory at evaluation helps (section 4.2)"),
    "reach": ("reach", "the context grows with the depth, O(N L) (section 3.2)"),
    "recl": ("recl", "the context that pays is longer than a Transformer's (section 4.3, app. C)"),
    "stop-gradient": ("stop_gradient", "the gradient may stop at the memory (section 3.2)"),
}


def claim_of(variant: str) -> str:
    """Return the experiment that a student is asked for; nothing where each may choose."""
    return drawn(variant, "claim", tuple(CLAIMS)) if variant else ""


def _results(work: Work) -> str:
    results = json.loads(work.text("results.json"))
    name, asked = results["experiment"], claim_of(work.variant)
    if name not in CLAIMS or (asked and name != asked):
        raise NotReachedError(
            f"results.json is of the experiment {name!r:.40}, must be of "
            f"{asked or 'one of ' + ', '.join(CLAIMS)}"
        )
    seeds = results["settings"]["seeds"]
    if type(seeds) is not int or seeds < SEEDS:
        raise NotReachedError(f"results.json is of {seeds} seeds, must be of {SEEDS} at least")
    module = import_module(f"minitxl.experiments.{CLAIMS[name][0]}")
    if set(results["settings"]) != set(vars(module.Settings())):
        raise NotReachedError("results.json has not the settings of this version's experiment")
    quick = json.loads(json.dumps(asdict(module.Settings.quick())))
    if results["settings"] | {"seeds": 0} == quick | {"seeds": 0}:
        raise NotReachedError("results.json is of --quick, which shows that it runs, no more")
    table = module.summary(results)
    if results["seconds"] == stored(CLAIMS[name][0])["seconds"]:  # numbers may well be the same
        raise NotReachedError("results.json is what ships with minitxl, not a run of your own")
    work.measured |= {"claim": name, "seeds": seeds, "summary": table}
    return f"{name}, {seeds} seeds"


def _verdict(work: Work) -> str:
    seeds, said = work.need("seeds"), number(work.said("Seeds"))
    if said != seeds:
        raise NotReachedError(f"REPORT.md says {said:g} seeds, results.json has {seeds}")
    holds = work.said("Holds").split()[0].strip(".,;*`").lower()
    if holds not in VERDICTS:
        raise NotReachedError(f"REPORT.md says `Holds: {holds}`, must be {', '.join(VERDICTS)}")
    return f"holds: {holds}"


def _report(work: Work) -> str:
    work.need("claim")
    return _written(work, CLAIM.sections)


CLAIM = Project(
    id="claim",
    title="A claim, measured again",
    task=f"""
Take a claim of the paper:

{"".join(f"- `{name}`: {text}{chr(10)}" for name, (_, text) in CLAIMS.items())}
Write down what you expect, and what would convince you that it is wrong, *before* you measure. Then

    python -m minitxl experiment NAME --seeds 3 --out claim/results.json

(`--resume` goes on, `--jobs 2` trains side by side; some take hours: `--quick` shows how long.) You
may change the settings in a copy of the module, if you say so, not the number of seeds. A single
number is no result: say how far seeds are apart, and what of a difference is larger than that. Put
`results.json` and `REPORT.md` into `claim/`.
""",
    sections=(
        ("The claim", "In the paper's words, with its section; on what evidence it stands there."),
        ("What I expected", "Written before the run; what would have convinced you otherwise."),
        ("What came", "A table with mean and spread over seeds; a picture, if it says more."),
        ("What holds", "Your verdict from these numbers; what differs from the paper's setting, "
         "and what you would have to measure to be sure."),
    ),
    lines=(("Seeds", "how many"), ("Holds", "yes, partly or no")),
    milestones=(
        Milestone("claim-results", f"results of your own, with {SEEDS} seeds", 4, _results),
        Milestone("claim-verdict", "seeds and verdict are told", 2, _verdict),
        Milestone("claim-report", "the report is written", 2, _report),
    ),
    rubric=(
        (2, "the expectation could have been wrong, and was written first"),
        (3, "the verdict follows from the spread over seeds, not from a mean alone"),
        (2, "what differs from the paper is told, and what the run cannot say"),
    ),
)  # fmt: skip
