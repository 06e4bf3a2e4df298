"""Wrong versions of a function, made by changing one place of its syntax tree: mutation testing."""

import ast
import copy

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
    elif isinstance(node, ast.List | ast.Tuple) and len(node.elts) == 2:
        if isinstance(node.ctx, ast.Load):
            yield "elts", node.elts[::-1]


def mutants(source):
    """Yield (what was changed, source) for every place of a function that can be changed."""
    tree = ast.parse(source)
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
            yield f"{before} -> {after}", ast.unparse(ast.fix_missing_locations(other))


def _replace(tree, old, new):
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, field, new)
            elif isinstance(value, list) and any(x is old for x in value):
                value[[x is old for x in value].index(True)] = new
