"""A picture with a few choices above it, all of whose states are in the page.

What an `Explorer` asks the kernel at every key, an `Album` has computed before: it is for few
states, such as what was measured at a few steps of a training.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

from minitxl.errors import MinitxlError
from minitxl.viz.widgets.in_page import InPage
from minitxl.viz.widgets.scene import Scene

MOST = 100  # states


class Choice(NamedTuple):
    """A control: its name, label -> value, and whether the values have an order (a slider)."""

    name: str
    options: dict
    ordered: bool = True


class Album(InPage):
    """Controls above a drawing; showing it in a notebook gives the widget or its picture.

    choices: argument of `draw` -> `Choice`. draw(**values): the scene of a state. start: argument
    -> label, of the first where none is given. stills: likewise, for each part of the picture that
    stands where no script runs. Raises `MinitxlError` for more than MOST states.
    """

    def __init__(
        self, choices: dict[str, Choice], draw: Callable[..., Scene], *, start: dict,
        stills: list[dict],
    ) -> None:  # fmt: skip
        labels = [list(choice.options) for choice in choices.values()]
        states = list(product(*labels))
        if not 0 < len(states) <= MOST:
            raise MinitxlError(
                f"an album of {len(states)} states: 1 to {MOST} go into a page; give fewer options"
            )
        self.pages = {}
        for state in states:
            values = [c.options[x] for c, x in zip(choices.values(), state, strict=True)]
            self.pages[state] = draw(**dict(zip(choices, values, strict=True)))
        first = dict(zip(choices, states[0], strict=True)) | start
        at = {state: [x.index(y) for x, y in zip(labels, state, strict=True)] for state in states}
        data = {
            "choices": [
                {"name": c.name, "labels": list(c.options), "ordered": c.ordered}
                for c in choices.values()
            ],
            "pages": {",".join(map(str, at[s])): page.data() for s, page in self.pages.items()},
            "start": at[tuple(first.values())],
        }
        super().__init__(
            "album.js", data, [self.pages[tuple((first | s).values())] for s in stills]
        )
