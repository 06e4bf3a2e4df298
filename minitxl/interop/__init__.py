"""Weights and vocabularies that other programs have written, and ours in their formats.

    model = load_official(state, arguments)  # the released PyTorch code
    model = load_huggingface(directory)  # TransfoXLLMHeadModel, such as transfo-xl-wt103
    to_official(model.params, model.config)  # names, shapes and order of the released code
    save_huggingface(model, directory, vocab)

No PyTorch is needed for any of it, and nothing that a file holds is ever run.
"""

from minitxl.interop.huggingface import (
    load_huggingface,
    load_huggingface_vocab,
    read_vocab,
    save_huggingface,
    save_vocab,
)
from minitxl.interop.official import (
    arguments_of,
    load_official,
    save_official,
    to_official,
)

__all__ = [
    "arguments_of",
    "load_huggingface",
    "load_huggingface_vocab",
    "load_official",
    "read_vocab",
    "save_huggingface",
    "save_official",
    "save_vocab",
    "to_official",
]
