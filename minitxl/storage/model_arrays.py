"""A model's parameters as plain arrays by name, and back: what a checkpoint holds of a model."""

from __future__ import annotations

import numpy as np

from minitxl.config import Config
from minitxl.errors import MinitxlError
from minitxl.model.family.memories.kinds import Memory
from minitxl.model.transformer_xl import TransformerXL, network_of


def params_of(model: TransformerXL) -> dict:
    """Return parameters and constants as arrays on the host, as `load_params` takes them."""
    params, to_numpy = model.params, model.backend.to_numpy
    arrays = {f"params.{name}": to_numpy(a) for name, a in params.items()}
    return arrays | {f"constants.{name}": to_numpy(a) for name, a in params.constants.items()}


def load_params(model: TransformerXL, arrays: dict) -> None:
    """Copy arrays "params.<name>" into the model; a missing or misshapen one is an error.

    Constants ("constants.<name>") may be missing: then they stay as the configuration has them.
    """
    values, constants = {}, {}
    for name, view in model.params.items():
        values[name] = array_of(arrays, f"params.{name}", tuple(view.shape))
    for name, array in model.params.constants.items():
        if f"constants.{name}" in arrays:
            constants[name] = array_of(arrays, f"constants.{name}", tuple(array.shape))
    back = model.backend
    for name, value in values.items():  # only now that all of them fit
        model.params[name] = back.asarray(value, dtype=back.dtype)
    for name, value in constants.items():
        model.params.constants[name] = back.asarray(value, dtype=back.dtype)


def memory_arrays(mems: list, prefix: str) -> dict:
    """Return the arrays of a model's memories by name, "<prefix>.<layer>", where they are.

    A state of several arrays (`model/family/memories/`) has "<prefix>.<layer>.<field>".
    """
    arrays: dict = {}
    for n, state in enumerate(mems):
        fields = state._asdict() if hasattr(state, "_asdict") else {"": state}
        arrays |= {f"{prefix}.{n}.{name}".rstrip("."): a for name, a in fields.items()}
    return arrays


def memories_of(model: TransformerXL, arrays: dict, prefix: str) -> list | None:
    """Return the memories whose arrays `memory_arrays` has named, or None if none are there."""
    names = memory_arrays(model.start_mems(1), prefix)
    if not any(name in arrays for name in names):
        return None
    found = iter(model.backend.asarray(array_of(arrays, name)) for name in names)
    return [
        type(state)(*(next(found) for _ in state)) if hasattr(state, "_asdict") else next(found)
        for state in model.start_mems(1)
    ]


def array_of(arrays: dict, name: str, shape: tuple | None = None):
    """Return one array of a checkpoint, or raise `MinitxlError` where it is not there as wanted."""
    if name not in arrays:
        raise MinitxlError(f"the checkpoint lacks {name}; it belongs to another model")
    if shape is not None and tuple(arrays[name].shape) != shape:
        raise MinitxlError(
            f"{name} has shape {tuple(arrays[name].shape)} in the checkpoint, {shape} in the "
            "model; the checkpoint belongs to another model"
        )
    return arrays[name]


def check_shapes(config: Config, arrays: dict, memory: type[Memory] | None = None) -> None:
    """Raise `MinitxlError` where a file's arrays are not those of the configuration.

    To be asked before a model is made: what a file claims in its settings takes no memory then
    that it does not hold in its arrays.
    """
    if config.n_layer > len(arrays):  # else a list of names as long as the claim would be made
        raise MinitxlError(
            f"n_layer={config.n_layer}, but the checkpoint holds {len(arrays)} arrays in all; the "
            "settings were changed or are damaged"
        )
    for name, shape in network_of(config, memory).param_shapes(config).items():
        array_of(arrays, f"params.{name}", tuple(shape))


def check_finite(arrays: dict, what: str, way_out: str) -> None:
    """Raise `MinitxlError` where a parameter is not a finite number: its model says nothing."""
    wrong = {n: int(np.size(a) - np.isfinite(a).sum()) for n, a in arrays.items()}
    wrong = {name: n for name, n in wrong.items() if n}
    if wrong:
        name, total = next(iter(wrong)), sum(np.size(a) for a in arrays.values())
        raise MinitxlError(
            f"{what}: {sum(wrong.values()):,} of {total:,} weights are not finite numbers (NaN or "
            f"infinite), the first in {name}; its training has diverged or the file was changed; "
            f"{way_out}"
        )
