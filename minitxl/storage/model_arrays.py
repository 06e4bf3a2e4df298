"""A model's parameters as plain arrays by name, and back: what a checkpoint holds of a model."""

from __future__ import annotations

from minitxl.errors import MinitxlError
from minitxl.model.transformer_xl import TransformerXL


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
