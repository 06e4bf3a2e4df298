"""`import` and `export`: models of the released PyTorch code and of Hugging Face."""

from __future__ import annotations

import argparse

from minitxl.cli.common import RUN_HELP, add_checkpoint, add_command, add_device, load


def add(commands) -> None:
    """Add both commands and their options."""
    sentence = "make a run folder of a foreign model, without PyTorch"
    parser = add_command(
        commands,
        "import",
        run_import,
        sentence,
        "A folder of Hugging Face holds config.json, model.safetensors or pytorch_model.bin, and\n"
        "vocab.json, vocab.bin or vocab.pkl. A state dict of the released PyTorch code comes with\n"
        "--arguments, a JSON file of MemTransformerLM's arguments, and --vocab.",
    )
    add = parser.add_argument
    add("path", metavar="PATH", help="a folder, or a state dict (.pt, .npz, .safetensors)")
    add("--out", metavar="FOLDER", required=True, help="the run folder to write")
    add("--arguments", metavar="FILE", help="of the released code's model, as JSON")
    add("--vocab", metavar="FILE", help="vocab.json, .bin or .pkl (default: the folder's own)")
    add("--data", metavar="TEXT", default="", help="the text that eval takes, such as wikitext-103")
    add("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")

    sentence = "write a model as Hugging Face or the released PyTorch code has it"
    parser = add_command(commands, "export", run_export, sentence)
    add = parser.add_argument
    add("folder", metavar="RUN", help=RUN_HELP)
    add("--to", choices=("huggingface", "official"), required=True, help="whose format")
    add("--out", metavar="FOLDER", required=True, help="where to write")
    add_checkpoint(parser)
    add_device(parser)


def run_import(options: argparse.Namespace) -> int:
    """Import a model and say what it is."""
    from pathlib import Path

    from minitxl import interop
    from minitxl.errors import MinitxlError
    from minitxl.files import quoted
    from minitxl.storage import checkpoint
    from minitxl.storage.run_folder import check_new, save_run

    check_new(Path(options.out))
    path = Path(options.path)
    if options.arguments is not None:
        arguments = checkpoint.read_json(options.arguments)
        model = interop.load_official(path, arguments, dtype=options.dtype)
        vocab, source = None, "the released PyTorch code"
    elif path.is_dir():
        model = interop.load_huggingface(path, dtype=options.dtype)
        vocab, source = interop.load_huggingface_vocab(path), "Hugging Face's TransfoXLLMHeadModel"
    else:
        raise MinitxlError(
            f"{options.path!r} is no folder; for a state dict of the released PyTorch code also "
            "give --arguments FILE, the JSON of its model's arguments"
        )
    if options.vocab is not None:
        vocab = interop.read_vocab(options.vocab)
    if vocab is None:
        raise MinitxlError("there is no vocabulary beside the weights; give one by --vocab FILE")
    source = f"Imported from {source}, {path.name}."
    save_run(options.out, model, vocab, "word", options.data, source)
    print(
        f"{model.n_params:,} parameters, {vocab.n_token:,} words; written to {options.out}. Next:"
    )
    print(f'  python -m minitxl generate {quoted(options.out)} --prompt "..."')
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Export a model and say where to."""
    from pathlib import Path

    from minitxl import interop
    from minitxl.files import whole_folder
    from minitxl.storage import checkpoint
    from minitxl.storage.run_folder import check_new

    folder = Path(options.out)
    check_new(folder)
    loaded = load(options)
    with whole_folder(folder) as made:
        if options.to == "huggingface":
            interop.save_huggingface(loaded.model, made, loaded.vocab)
        else:
            arguments = interop.save_official(loaded.model, made / "state_dict.pt")
            checkpoint.write_json(made / "arguments.json", arguments)
            interop.save_vocab(loaded.vocab, made / "vocab.json")
    print(f"written to {folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")
    if options.to == "official" and loaded.model.config.untie_r:
        print("(note: untie_r in arguments.json is the TF code's; MemTransformerLM shares u and v)")
    ours, theirs = loaded.model.config.start_mems, _START[options.to]
    if ours != theirs:
        print(f"(note: this model starts from {ours} memory, there a stream starts from {theirs})")
    return 0


_START = {"huggingface": "zeros", "official": "empty"}
