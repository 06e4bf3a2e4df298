"""The folder `project/` that students get: tasks, milestones, rubrics, reports to be filled in."""

from __future__ import annotations

from pathlib import Path

from minitxl.course.project.claim import CLAIM, CLAIMS, claim_of
from minitxl.course.project.corpus import CORPUS
from minitxl.course.project.memory import FILE, MEMORY, TEMPLATE
from minitxl.course.project.milestones import BLANK, Project
from minitxl.course.variants import COMMON
from minitxl.files import write_atomically

PROJECTS = (CORPUS, MEMORY, CLAIM)
HEAD = """\
# Projects

Three of them; your lecturer says which. Each has a folder here, in which all that you hand in lies,
and milestones that check themselves:

    python -m minitxl course project .

says which are reached, and why one is not; nothing is handed in by it. What you claim is measured
again when it is graded: bits, baselines, what your memory does. The rest a person reads.
"""
OWN = "**Your claim:** `{name}`, that {text}.\n"


def page(variant: str = COMMON) -> str:
    """Return README.md."""
    parts = [HEAD]
    for project in PROJECTS:
        parts.append(f"## {project.title} (`{project.id}/`, {project.points} points)\n")
        parts.append(project.task.strip() + "\n")
        if project is CLAIM and (name := claim_of(variant)):
            parts.append(OWN.format(name=name, text=CLAIMS[name][1]))
        rows = [f"| {m.title} | {m.points} | itself |" for m in project.milestones]
        rows += [f"| {text} | {points} | a person |" for points, text in project.rubric]
        parts.append("\n".join(["| what | points | checked by |", "|---|---:|---|", *rows]) + "\n")
    return "\n".join(parts)


def report(project: Project, texts: dict[str, str] | None = None) -> str:
    """Return a project's REPORT.md, to be filled in; texts: by section and line, if it is."""
    texts = texts or {}
    lines = [f"# {project.title}", ""]
    lines += [f"{name}: {texts.get(name, f'{BLANK}: {what}*')}" for name, what in project.lines]
    for title, what in project.sections:
        lines += ["", f"## {title}", "", texts.get(title, f"{BLANK}. {what}*")]
    return "\n".join(lines) + "\n"


def hand_out(folder: Path, variant: str = COMMON) -> list[Path]:
    """Write the folder; return the paths of its files."""
    files = {folder / "README.md": page(variant), folder / MEMORY.id / FILE: TEMPLATE}
    files |= {folder / p.id / "REPORT.md": report(p) for p in PROJECTS}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode("utf-8"))
    return list(files)
