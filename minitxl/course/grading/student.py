"""The student's process: runs what an exercise needs of a notebook, and returns arrays.

    python -I student.py < request.json > replies.jsonl

It is started by the judge (`judge.py`) with `guard.py` and `running.py` beside it, and has nothing
else of minitxl: the package is not to be had, `minitxl` is a stand-in whose functions raise. It is
given the notebook's cells and arguments; it returns, line by line, what the function gave. Whether
that is right is not known here, so nothing in this process is worth attacking. What the system
cannot hold (`sandbox.py`), an audit hook refuses: other files, other processes, the network.
"""

from __future__ import annotations

import ast
import builtins
import dis
import importlib
import importlib.abc
import importlib.machinery
import io
import json
import linecache
import os
import re
import sys
import types

PRINTED = 20_000  # characters of what a cell prints that are kept
EARLY = ("torch", "scipy", "pandas", "matplotlib", "jax", "numba")  # imported before the guard
READS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
SKIPPED = "bash|sh|script|html|javascript|js|latex|markdown|svg|perl|ruby|writefile|file|cmd|system"


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    import guard

    guard.limit(request["memory"], request["processes"])
    import running

    sys.path.pop(0)
    if request.get("trial"):
        replies.write('{"trial": "done"}')
        return
    texts = [cell["source"] for cell in request["cells"]]
    for name in EARLY:
        if any(re.search(rf"\b{name}\b", text) for text in texts):
            try:
                importlib.import_module(name)
            except ImportError:
                pass  # told at the line that imports it
    sys.meta_path.insert(0, NoLibrary(running.LibraryCalledError))
    out = Printed()
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), out, out
    builtins.input = _no_input
    guard.refuse(request["closed"], request["work"], request["readable"])
    book = Notebook(request["cells"], request["name"], request["until"])
    names = book.run()
    answer = names.get(request["name"], running)  # running: not there

    def reply(**fields) -> None:
        replies.write(json.dumps(fields) + "\n")
        replies.flush()

    reply(errors=book.errors, there=answer is not running, printed=out.take())
    if answer is running:
        return
    begun = answer is not None and answer is not ...
    if not begun or not callable(answer):
        what = "must be a function" if begun else "it is not solved yet"
        reply(
            failed=[f"{request['name']} is of type {type(answer).__name__}; {what}", begun, False]
        )
        return
    for case in request["cases"]:
        args = running.unpack(case)
        got = running.call(answer, args, request["arguments"], request["outputs"])
        if isinstance(got, running.Failed):
            reply(failed=list(got), printed=out.take())
        else:
            reply(outputs=running.pack(got), printed=out.take())
    os._exit(0)  # whatever threads and clean-ups there are


# --- what an exercise needs of a notebook --------------------------------------------------------


class Notebook:
    """Cells, of which the statements that a name needs are run.

    cells: those of code, {"number", "source"}. A statement is needed if it sets a needed name, or
    calls a method of one, sets an item of one; what it reads is then needed, too. So the rest of a
    notebook takes no time, and can do no harm. name: of the function; until: number of the cell
    after which nothing counts, unless the function is only made there.
    """

    def __init__(self, cells: list[dict], name: str, until: int):
        self.name = name
        self.errors: list[list] = []  # [cell's number, text]
        self.statements: list[tuple[int, ast.stmt, str]] = []
        for cell in cells:
            filename = f"<cell {cell['number']}>"
            source = python_of(cell["source"])
            linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
            try:
                tree = ast.parse(source, filename)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                self.errors.append([cell["number"], _syntax(error)])
                continue
            self.statements += [(cell["number"], node, filename) for node in tree.body]
        before = [s for s in self.statements if s[0] <= until]
        if any(name in bound(node) for _, node, _ in before):
            self.statements = before

    def run(self) -> dict:
        """Run what is needed, and return all names; an error in it is kept, and passed over."""
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        names = module.__dict__
        names.update(display=print, get_ipython=Nothing())
        needed = self.needed()
        self._run(names, [n for n in range(len(self.statements)) if n in needed])
        if self.name not in names:  # made in a way that is not seen: by exec, say
            known = len(self.errors)
            self._run(names, [n for n in range(len(self.statements)) if n not in needed])
            del self.errors[known:]
        return names

    def _run(self, names: dict, numbers: list[int]) -> None:
        import running

        for n in numbers:
            cell, node, filename = self.statements[n]
            try:
                code = compile(ast.Module([node], []), filename, "exec")
                with running.quiet():
                    exec(code, names)
            except BaseException as error:
                self.errors.append([cell, running.described(error)])

    def needed(self) -> set[int]:
        """Return the numbers of the statements that the function needs."""
        facts = [(bound(s), read(s), changed(s)) for _, s, _ in self.statements]
        names, chosen = {self.name, "*"}, set()
        grown = True
        while grown:
            grown = False
            for n, (sets, reads, changes) in enumerate(facts):
                if n in chosen:
                    continue
                wanted = sets & names
                if not wanted and changes & names:
                    known = names | set(dir(builtins))
                    plain = isinstance(self.statements[n][1], ast.Expr)
                    wanted = not plain or reads <= known
                if wanted:
                    chosen.add(n)
                    names |= reads
                    grown = True
        return chosen


def bound(statement: ast.AST) -> set[str]:
    """Return the names that a statement of a module sets; "*" for those that it does not say."""
    found: set[str] = set()
    todo: list[ast.AST] = [statement]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            found |= {n for g in ast.walk(node) if isinstance(g, ast.Global) for n in g.names}
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            found.add(node.name)
        elif isinstance(node, ast.Name) and node.id in ("exec", "globals", "setattr", "vars"):
            found.add("*")
        todo += ast.iter_child_nodes(node)
    return found


def read(statement: ast.AST) -> set[str]:
    """Return the names of the module that a statement reads, in its functions' bodies, too."""
    try:
        todo = [compile(ast.Module([statement], []), "<read>", "exec")]
    except (SyntaxError, ValueError, RecursionError):
        return set()
    found = set()
    while todo:
        code = todo.pop()
        found |= {
            step.argval for step in dis.get_instructions(code) if step.opname.startswith(READS)
        }
        todo += [one for one in code.co_consts if isinstance(one, types.CodeType)]
    return found


def changed(statement: ast.AST) -> set[str]:
    """Return the names whose object a statement may change: x.f(), x[0] = 1, x.y = 1."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return set()  # what a function does, it does when it is called
    found = set()
    for node in ast.walk(statement):
        target = None
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            target = node
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            target = node.value.func if isinstance(node.value.func, ast.Attribute) else None
        while isinstance(target, ast.Attribute | ast.Subscript | ast.Call):
            target = target.func if isinstance(target, ast.Call) else target.value
        if isinstance(target, ast.Name):
            found.add(target.id)
    return found


def python_of(source: str) -> str:
    """Return a cell without what only IPython knows: magics, shell commands, questions."""
    source = source.removeprefix("\ufeff").replace("\r\n", "\n")
    lines = source.split("\n")
    first = next((n for n, line in enumerate(lines) if line.strip()), None)
    if first is not None and lines[first].lstrip().startswith("%%"):
        if re.match(rf"\s*%%({SKIPPED})\b", lines[first]):
            return ""
        lines[first] = ""  # %%time, %%capture: of the cell itself
    try:
        ast.parse("\n".join(lines))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        lines = [_plain(line) for line in lines]
    return "\n".join(lines)


def _plain(line: str) -> str:
    begin = line[: len(line) - len(line.lstrip())]
    text = line.strip()
    if timed := re.match(r"%(?:time|timeit|prun)\s+(?:-\w+\s+\S+\s+)*(.*)", text):
        return begin + timed.group(1)
    if text.startswith(("%", "!", "?")) or re.fullmatch(r"[\w.]+\?{1,2}", text):
        return begin + "pass"
    if magic := re.match(r"([\w, ]+)=\s*[%!]", text):
        return f"{begin}{magic.group(1)}= None"
    return line


def _syntax(error: BaseException) -> str:
    text = str(getattr(error, "msg", "")) or str(error)
    line = f" in line {error.lineno}" if getattr(error, "lineno", None) else ""
    return f"{type(error).__name__}{line}: {text}"


# --- what is there in place of other things ------------------------------------------------------


class Printed(io.StringIO):
    """What was printed, of which so much is kept; printing more is no mistake."""

    def write(self, text: str) -> int:
        """Keep a text while there is room."""
        if self.tell() < PRINTED:
            super().write(text[: PRINTED - self.tell()])
        return len(text)

    def take(self) -> str:
        """Return what was printed since the last time."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


class Nothing:
    """Stands for IPython: takes every call, gives itself."""

    def __call__(self, *args, **settings):
        """Do nothing."""
        return self

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return self


class StandIn(types.ModuleType):
    """Stands for `minitxl` and all that is in it: may be imported, not called."""

    def __getattr__(self, name: str):
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        if name == "__all__":
            return []
        return StandIn(f"{self.__name__}.{name}")

    def __call__(self, *args, **settings):
        """Raise an error that says what was called."""
        raise StandIn.error(self.__name__)

    error: type = RuntimeError


class NoLibrary(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the stand-in, whatever of minitxl is imported."""

    def __init__(self, error: type):
        StandIn.error = error

    def find_spec(self, name, path=None, target=None):
        """Return how the stand-in is made, for minitxl alone."""
        if name == "minitxl" or name.startswith("minitxl."):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        """Return the stand-in."""
        return StandIn(spec.name)

    def exec_module(self, module):
        """There is nothing to run."""


def _no_input(prompt=""):
    raise RuntimeError(
        "input() waits for someone to type, and in grading nobody does: leave it out"
    )


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main()
