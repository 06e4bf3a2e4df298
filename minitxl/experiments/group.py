"""A group of models trained alike: the same text in the same order, and one thing different.

The paper compares its model with others that lack the recurrence, or the encoding (table 6). Here
they are at a size that two cores train in a minute or two, so that every comparison can be made
with several seeds; models of one seed share what they can: order of the text, number of steps,
learning rate.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from minitxl.config import RELATIVE, SHAW, SINUSOID, Config, TrainConfig
from minitxl.errors import MinitxlError
from minitxl.storage.run_folder import LoadedRun, load_run, read_info
from minitxl.training.presets import find_preset, settings_of
from minitxl.training.run import train


class Member(NamedTuple):
    """What makes a member of the group different."""

    label: str
    attn_type: int
    recurrence: bool = True


ENCODINGS = {
    "xl": ("Transformer-XL", RELATIVE),
    "shaw": ("Shaw", SHAW),
    "abs": ("absolute", SINUSOID),
}
MEMBERS = {
    f"{key}{'' if recurrence else '-alone'}": Member(label, attn_type, recurrence)
    for key, (label, attn_type) in ENCODINGS.items()
    for recurrence in (True, False)
}
"""By name: xl, xl-alone (no recurrence), and so for shaw and abs.

"abs-alone" is the vanilla Transformer; "abs" has recurrence with absolute positions.
"""


@dataclass(frozen=True)
class Shape:
    """Size and training of every member."""

    corpus: str = "war-and-peace"
    n_layer: int = 3
    d_model: int = 128
    n_head: int = 4
    d_head: int = 32
    d_inner: int = 512
    tgt_len: int = 32  # also the memory's length, where there is one
    steps: int = 2000
    batch_size: int = 32
    lr: float = 4e-3
    warmup: int = 100

    @classmethod
    def quick(cls) -> Shape:
        """Trained in a second, to see that all works: it learns next to nothing."""
        sizes = dict(n_layer=2, d_model=32, n_head=2, d_head=16, d_inner=64)
        return cls(**sizes, tgt_len=16, steps=40, batch_size=8, warmup=4)


def options(name: str, seed: int, shape: Shape) -> tuple[dict, dict]:
    """Return the fields of Config and of TrainConfig that train a member."""
    member = MEMBERS[name]
    s = asdict(shape)
    sizes = ("n_layer", "d_model", "n_head", "d_head", "d_inner", "tgt_len")
    model = {key: s[key] for key in sizes} | dict(
        mem_len=shape.tgt_len if member.recurrence else 0,
        attn_type=member.attn_type,
        pre_lnorm=True,
        dropout=0.0,  # the text is read about once
    )
    how = {key: s[key] for key in ("steps", "batch_size", "lr", "warmup")}
    # Each piece of a batch adds its gradient on its own: a fixed number of them gives the same
    # weights on any number of cores.
    how |= dict(seed=seed, threads=2, eval_every=shape.steps)
    return model, how | dict(save_every=500, log_every=50)


def trained(name: str, seed: int, shape: Shape, folder: Path) -> LoadedRun:
    """Return a member from its run folder in `folder`, trained there first, or further, if need be.

    Raises MinitxlError where the run folder holds a model of other settings.
    """
    run = Path(folder) / f"{name}-{seed}"
    model, how = options(name, seed, shape)
    done = None
    if (run / "run.json").exists():
        done = read_info(run)
        have = (Config.from_dict(done["config"]), TrainConfig.from_dict(done["train"]))
        want = settings_of_member(name, seed, shape, have[0].n_token)
        if want != have or done["data"] != shape.corpus:
            raise MinitxlError(
                f"{run} holds a model of other settings than this experiment's; move it away, or "
                "give another folder with --models"
            )
    asked = dict(model_options=model, train_options=how, device="cpu", quiet=True)
    if done is None:
        train("tiny", shape.corpus, out=run, **asked)
    elif not (run / "last.safetensors").exists() or load_run(run, which="last").step < shape.steps:
        train(resume=run, device="cpu", quiet=True)
    return load_run(run, device="cpu", which="last")


def settings_of_member(name: str, seed: int, shape: Shape, n_token: int):
    """Return the Config and TrainConfig of a member for a text of n_token symbols."""
    return settings_of(find_preset("tiny"), n_token, shape.corpus, *options(name, seed, shape))
