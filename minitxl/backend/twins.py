"""Faster twins of the few hot operations, chosen by the namespace that an operation runs on.

The plain version, over the array API standard, is the one to read and the oracle of every test of
a twin. It is marked

    @has_twin
    def layer_norm_forward(x, gamma, beta, *, eps, xp): ...

and stays in charge wherever `xp` is a plain namespace. A backend that has a faster version gives
the model a `Namespace` instead, which is its array library with a table of twins beside it; then a
call with that `xp` goes to the twin of the same name. `get_backend(..., fused=False)` leaves the
table away, and so switches all twins off at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any


class Namespace:
    """An array library's namespace with a table of twins: name of an operation -> function."""

    def __init__(self, xp: Any, twins: Mapping[str, Callable]):
        self.library = xp
        self.twins = dict(twins)

    def __getattr__(self, name: str):
        value = getattr(self.library, name)
        setattr(self, name, value)  # found at once the next time
        return value


def has_twin(plain: Callable) -> Any:  # a function with an attribute has no better name
    """Mark an operation that a backend may replace; `plain` stays reachable as `.plain`."""
    name = plain.__name__

    @wraps(plain)
    def operation(*args, xp, **options):
        twin = getattr(xp, "twins", {}).get(name)
        result = NotImplemented if twin is None else twin(*args, xp=xp, **options)
        return plain(*args, xp=xp, **options) if result is NotImplemented else result

    operation.plain = plain  # type: ignore[attr-defined]
    return operation
