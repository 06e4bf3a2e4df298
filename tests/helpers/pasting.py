"""What a learner sees of code and formulas while an exercise is not solved, as answers to paste.

Seen are the cells of all notebooks, their texts, what they print, the exercises' stubs, and what
`help` says of everything of the library that a cell names. From these every expression, function,
lambda and run of statements is put into an exercise's function, and judged.
"""

import ast
import builtins
import functools
import inspect
import math
import re
from typing import NamedTuple

import nbformat
import numpy as np

from minitxl.course import EXERCISES, generator
from minitxl.course import notebooks as nb
from minitxl.course.running import Failed, call

KNOWN = {"np", "math"} | set(dir(builtins))
LONGEST = 12  # statements that are pasted together
NAMED = (ast.FunctionDef, ast.Lambda)
WORTH = (ast.BinOp, ast.Call, ast.Subscript, ast.Tuple, ast.Compare, ast.UnaryOp, ast.IfExp)
WORTH += (ast.ListComp, ast.List)


# --- what is seen --------------------------------------------------------------------------------


def code_cells(name):
    return [text for kind, text in nb.cells_of(script(name)) if kind == "code"]


def script(name):
    return (nb.SOURCE / f"{name}.py").read_text(encoding="utf-8")


def texts(name):
    """A notebook's text cells, and what its cells print as they are built."""
    cells = [text for kind, text in nb.cells_of(script(name)) if kind == "markdown"]
    book = nbformat.read(nb.SOURCE.parent / f"{name}.ipynb", as_version=4)
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    return cells + [output.text for output in outputs if output.output_type == "stream"]


def named(cells):
    """Functions and classes of the library that cells name, by their name."""
    names, found = {}, {}
    trees = [ast.parse(text) for text in cells]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import | ast.ImportFrom) and "minitxl" in ast.unparse(node):
            exec(ast.unparse(node), names)
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Name | ast.Attribute):
            path = ast.unparse(node).split(".")
            one = names.get(path[0])
            for part in path[1:]:
                one = getattr(one, part, None)
            if (inspect.isroutine(one) or inspect.isclass(one)) and hasattr(one, "__module__"):
                found[path[-1]] = one
    return found


def helped(cells):
    """What `help` says of all that the cells name of the library."""
    every = list(named(cells).values())
    for one in [x for x in every if inspect.isclass(x)]:
        every += [f for n, f in inspect.getmembers(one, callable) if not n.startswith("_")]
    return [inspect.getdoc(one) or "" for one in every]


def shown(cells):
    """The source of what cells show by `getsource`, `help` or two question marks."""
    shows = re.compile(r"(?:getsource|help)\(\s*([\w.]+)|([\w.]+)\?\?")
    names = [(m[1] or m[2]).split(".")[-1] for text in cells for m in shows.finditer(text)]
    return [inspect.getsource(named(cells)[name]) for name in names]


def code_in(text):
    """Pieces of a text that are Python: blocks, `spans`, and lines that happen to be."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.S)
    blocks += re.findall(r"(?:^ {4}.*\n?)+", text, re.M)
    spans = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", text)]
    lines = [line.strip(" >#-*|.,;:") for line in text.splitlines()]
    lines += [part.strip() for line in lines for part in re.split(r"[;:=]\s|\s{4,}", line)]
    for piece in (*map(inspect.cleandoc, blocks), *spans, *lines):
        try:
            yield ast.parse(piece)
        except (SyntaxError, ValueError):
            continue


# --- what can be pasted --------------------------------------------------------------------------


class Pasted(NamedTuple):
    """Code for the inside of a function, or a function with parameters of its own."""

    source: str
    free: frozenset  # names that it reads and does not set
    args: tuple | None = None  # (at least, at most) so many arguments; None: the exercise's names


def bound_and_read(nodes):
    """Names that nodes set, at any depth, and names that they read."""
    sets, reads = set(), set()
    for node in (part for one in nodes for part in ast.walk(one)):
        if isinstance(node, ast.Name):
            (reads if isinstance(node.ctx, ast.Load) else sets).add(node.id)
        elif isinstance(node, ast.arg):
            sets.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            sets.add(node.name)
    return sets, reads


def pieces(tree):
    """Everything of a syntax tree that could be an answer."""
    for node in ast.walk(tree):
        if isinstance(node, WORTH) and not any(
            isinstance(part, ast.Slice) for part in ast.iter_child_nodes(node)
        ):
            sets, reads = bound_and_read([node])
            yield Pasted(f"return {ast.unparse(node)}", frozenset(reads - sets))
        if isinstance(node, NAMED):
            a = node.args
            n = len(a.posonlyargs) + len(a.args)
            sets, reads = bound_and_read([node])
            whole = ast.unparse(node)
            whole = f"f = {whole}" if isinstance(node, ast.Lambda) else whole
            yield Pasted(whole, frozenset(reads - sets), (n - len(a.defaults), n))
        if isinstance(node, ast.Module | ast.FunctionDef):
            yield from _runs(node.body)


def _runs(body):
    """Runs of statements, with a return of what they set last."""
    for first in range(len(body)):
        for last in range(first, min(first + LONGEST, len(body))):
            run = body[first : last + 1]
            if not isinstance(run[-1], ast.Assign | ast.AugAssign | ast.For | ast.AnnAssign):
                continue
            source = "\n".join(map(ast.unparse, run))
            before: set = set()
            needs: set = set()
            for statement in run:
                own, read = bound_and_read([statement])
                needs |= read - before - (own if not isinstance(statement, ast.Assign) else set())
                before |= own
            ends = [
                t for s in run[-1:] for t in getattr(s, "targets", [getattr(s, "target", None)])
            ]
            for end in [ast.unparse(t) for t in ends if t is not None]:
                yield Pasted(f"{source}\nreturn {end}", frozenset(needs))
            yield Pasted(f"{source}\nreturn OUTPUTS", frozenset(needs))


@functools.cache
def everything():
    """All that can be pasted, each once, and the names of functions that cells define."""
    found: dict[Pasted, None] = {}
    functions: dict[str, ast.FunctionDef] = {}
    for name in nb.known():
        cells = code_cells(name)
        for text in cells:
            tree = ast.parse(text)
            functions |= {x.name: x for x in tree.body if isinstance(x, ast.FunctionDef)}
            found |= dict.fromkeys(pieces(tree))
        for text in (*texts(name), *helped(cells), *shown(cells)):
            for tree in code_in(text):
                found |= dict.fromkeys(pieces(tree))
    for exercise in EXERCISES.values():
        for tree in (ast.parse(exercise.stub), *code_in(exercise.stub)):
            found |= dict.fromkeys(pieces(tree))
    return tuple(found), own(functions)


def own(functions):
    """Functions of cells that need nothing of the library, as they are after their cells ran."""
    names: dict = {"np": np, "math": math}
    grown = True
    while grown:
        grown = False
        for name, node in functions.items():
            sets, reads = bound_and_read([node])
            if name not in names and reads - sets <= KNOWN | set(names):
                exec(ast.unparse(node), names)
                grown = True
    return {name: names[name] for name in functions if name in names}


def earns(exercise, pasted, names, cases):
    """Whether something pasted gets points: one of its outputs is right in these cases."""
    arguments = ", ".join(exercise.arguments)
    if pasted.args is None:
        inside = pasted.source.replace("return OUTPUTS", f"return {', '.join(exercise.outputs)}")
        lines = "\n".join(f"    {line}" for line in inside.splitlines())
        source, name = f"def {exercise.name}({arguments}):\n{lines}\n", exercise.name
    else:
        source = pasted.source
        name = re.match(r"def (\w+)|f = ", source)[1] or "f"
    here = dict(names)
    try:
        exec(compile(source, "<pasted>", "exec"), here)
    except Exception:  # return in a class, say
        return False
    for case in cases:
        got = call(here[name], case.args, exercise.arguments, exercise.outputs)
        if isinstance(got, Failed) or not exercise.verdict([case], [got]).score:
            return False
    return True


def candidates(exercise, found, names):
    """What of all that can be pasted would run as this exercise's function."""
    arguments, known = set(exercise.arguments), KNOWN | set(names)
    n = len(arguments)
    for one in found:
        if one.args is None:
            if one.free & arguments and one.free <= arguments | known:
                yield one
        elif one.args[0] <= n <= one.args[1] and one.free <= known:
            yield one


def pasted_answers(exercise, found, names):
    """Return what gets points in an exercise by being pasted."""
    cases = [case for case in exercise.cases(generator(exercise.id, 0)) if not case.edge]
    names = {"np": np, "math": math} | names
    every = candidates(exercise, found, names)
    return [one.source for one in every if earns(exercise, one, names, cases)]


# --- formulas ------------------------------------------------------------------------------------


def plain(text):
    """A formula without spaces, brackets, signs of multiplication and LaTeX's commands."""
    text = re.sub(r"\\(?:mathrm|text|tfrac|mathrel|bar|tilde|hat|d?frac)\b", "", text)
    text = re.sub(r"\\(?:top|partial|cdot|odot|quad|qquad|big|Big|left|right)\b", _latex, text)
    return re.sub(r"[\s$\\{}()\[\]^_*@,;:.|&]", "", text).lower()


def _latex(match):
    return {"\\top": "t", "\\partial": "d"}.get(match[0], "")


def held_back(exercise):
    """The formulas of an exercise's steps, as `plain` has them."""
    parts = re.split(r"[;,:]\s|\s(?:and|of|where|with|then|gives)\s", " ; ".join(exercise.steps))
    return {plain(part): part.strip() for part in parts if "=" in part and len(plain(part)) >= 6}


def told_formulas(pages):
    """Return (exercise's id, formula, page) of what steps hold back and a page tells.

    pages: name -> texts. Docstrings of the library are none: they are not shown unless asked for.
    """
    found = []
    for page, every in pages.items():
        said = plain("\n".join(every))
        for exercise in EXERCISES.values():
            found += [
                (exercise.id, formula, page)
                for short, formula in held_back(exercise).items()
                if short in said
            ]
    return found


def all_pages():
    """What is read of every notebook: its texts, what it prints, what it shows, and its stubs."""
    stubs = {
        name: [e.stub for e in EXERCISES.values() if e.notebook == name] for name in nb.known()
    }
    return {name: [*texts(name), *shown(code_cells(name)), *stubs[name]] for name in nb.known()}
