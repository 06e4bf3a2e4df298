"""Mutation testing: wrong versions of a function, each with one place of its syntax tree changed,
and arguments of which one is not what it should be."""

import ast
import copy

import numpy as np

OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
}
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq
}  # fmt: skip
NAMES = {
    "max": "min",
    "min": "max",
    "mean": "sum",
    "sum": "mean",
    "sin": "cos",
    "cos": "sin",
    "ceil": "floor",
    "floor": "ceil",
    "round": "int",
    "minimum": "maximum",
    "sqrt": "square",
    "triu": "tril",
    "tril": "triu",
    "amax": "amin",
    "argsort": "argmin",
}


def _changes(node):
    """What a node may become, one at a time: (attribute, new value)."""
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.MatMult):
            yield "itself", ast.BinOp(node.right, ast.MatMult(), node.left)
        if type(node.op) in OPERATORS:
            yield "op", OPERATORS[type(node.op)]()
        if isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
            yield "itself", node.left  # a part is missing
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield "value", node.value + 1
        yield "value", node.value - 1
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield "ops", [COMPARISONS[type(node.ops[0])]()]
    elif isinstance(node, ast.Slice):
        for end in ("lower", "upper"):
            if getattr(node, end) is not None:
                yield end, None
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "itself", node.operand
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield "id", NAMES[node.id]
    elif isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield "attr", NAMES[node.attr]
    elif isinstance(node, ast.Attribute) and node.attr == "T":  # it is not transposed
        yield "itself", node.value
    elif isinstance(node, ast.List | ast.Tuple) and isinstance(node.ctx, ast.Load):
        for n in range(len(node.elts) - 1):  # neighbours change places
            yield "elts", [*node.elts[:n], *node.elts[n : n + 2][::-1], *node.elts[n + 2 :]]
    elif isinstance(node, ast.IfExp):
        yield "itself", node.body
        yield "itself", node.orelse
    elif isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        yield "op", OPERATORS[type(node.op)]()
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from (("value", text) for text in _transposed(node.value))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in ("swapaxes", "transpose"):  # it is left out
            is_np = ast.unparse(node.func.value) == "np"
            yield "itself", node.args[0] if is_np else node.func.value


def _transposed(text):
    """Other subscripts of einsum: two neighbours of an operand or of the result change places."""
    if "->" in text:
        for n in range(len(text) - 1):
            if text[n : n + 2].isalpha():
                yield text[:n] + text[n + 1] + text[n] + text[n + 2 :]


def mutants(source):
    """Yield (what was changed, source) for every place of a function that can be changed."""
    tree = ast.parse(source)
    same = ast.unparse(tree)
    for number, node in enumerate(ast.walk(tree)):
        for n, _ in enumerate(_changes(node)):
            other = copy.deepcopy(tree)
            place = list(ast.walk(other))[number]
            name, value = list(_changes(place))[n]
            before = ast.unparse(place) if hasattr(place, "lineno") else type(place).__name__
            if name == "itself":
                after = ast.unparse(value)
                _replace(other, place, value)
            else:
                setattr(place, name, value)
                after = ast.unparse(place) if hasattr(place, "lineno") else type(place).__name__
            changed = ast.unparse(ast.fix_missing_locations(other))
            if changed != same:
                yield f"{before} -> {after}", changed


def _replace(tree, old, new):
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, field, new)
            elif isinstance(value, list) and any(x is old for x in value):
                value[[x is old for x in value].index(True)] = new


# --- of arguments --------------------------------------------------------------------------------


def changed_arguments(name, x):
    """Yield (what was changed, a changed x): an answer must not be the same for it."""
    if isinstance(x, int | np.integer):
        yield f"{name} + 1", x + 1
        yield f"{name} - 1", x - 1
    elif isinstance(x, float):
        yield f"{name} doubled", 2 * x
    elif isinstance(x, list | tuple):
        yield f"{name} reversed", x[::-1]
        for n, part in enumerate(x):
            for what, new in changed_arguments(name, part):
                yield f"{what}, {n}", type(x)((*x[:n], new, *x[n + 1 :]))
    elif isinstance(x, np.ndarray):
        yield from _changed_arrays(name, x)


def _changed_arrays(name, x):
    for axis in range(x.ndim):
        first, rest = np.split(x, [1], axis)
        yield f"{name} rolled along {axis}", np.roll(x, 1, axis)
        yield f"{name} reversed along {axis}", np.flip(x, axis)
        if x.shape[axis]:
            yield f"{name} without its first along {axis}", rest
        if x.dtype.kind == "f" and x.shape[axis]:
            yield f"{name} averaged over {axis}", x * 0 + x.mean(axis, keepdims=True)
            yield f"{name} with zeros first along {axis}", np.concatenate([0 * first, rest], axis)
    if x.ndim > 1:
        yield f"{name} transposed", x.swapaxes(-1, -2)
    if x.dtype.kind == "f":
        yield f"{name} negated", -x
        yield f"{name} doubled", 2 * x
        yield f"{name} gone", 0 * x
        yield f"{name} without signs", np.abs(x)
    elif x.dtype.kind == "b":
        yield f"{name} inverted", ~x
