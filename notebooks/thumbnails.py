"""The small pictures of the README's table: `python notebooks/thumbnails.py`, after a build.

Each is cut from a figure stored in the notebook and written to figures/course/NN.png, 360 pixels
wide, to be shown at 180.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

from PIL import Image

from minitxl.errors import MinitxlError
from minitxl.viz.theme import stored

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "figures" / "course"
SIZE = (360, 210)
COLOURS = 128  # of the palette: figures have few, and the file is a third as large

# Number of the notebook -> how the figure's caption begins, and the cut: left, top and width as
# shares of the figure's width.
CUTS = {
    0: ("Left: fixed segments.", 0.5, 0.076, 0.5),
    1: ("Cut into segments of 32", 0.335, 0.052, 0.33),
    2: ("The output is 1.000", 0.385, 0.17, 0.41),
    3: ("Layer 1, head 2: four terms", 0.03, 0.085, 0.9),
    4: ("Gradient of the loss on the whole segment, stopped", 0.36, 0.062, 0.49),
    5: ("The first output depends on 8 tokens", 0.19, 0.085, 0.79),
    6: ("Step ", 0.012, 0.084, 0.49),
    7: ("RECL of the true text", 0.04, 0.052, 0.5),
    8: ("32 states and 32 coarse rows", 0.2, 0.64, 0.25),
}


def figure(number: int, caption: str) -> Image.Image:
    """The first figure of a notebook whose caption begins so; `MinitxlError` if there is none."""
    path = next(HERE.glob(f"{number:02d}_*.ipynb"))
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data and "".join(data["text/plain"]).startswith(caption):
                return Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
    raise MinitxlError(
        f"{path.name} has no figure whose caption begins {caption!r}: build it, or change CUTS"
    )


def thumbnail(number: int) -> Image.Image:
    """The small picture of a notebook, SIZE."""
    caption, left, top, wide = CUTS[number]
    whole = figure(number, caption)
    box = (left, top, left + wide, top + wide * SIZE[1] / SIZE[0])
    cut = whole.resize(SIZE, Image.Resampling.LANCZOS, tuple(x * whole.width for x in box))
    return cut.quantize(COLOURS, dither=Image.Dither.NONE)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    try:
        for number in CUTS:
            path = OUT / f"{number:02d}.png"
            path.write_bytes(stored(thumbnail(number)))
            print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")
    except MinitxlError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
