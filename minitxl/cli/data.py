"""`data`: the data sets of the paper, fetched and prepared."""

from __future__ import annotations

import argparse
import sys

from minitxl.cli.common import Parser, add_command

EPILOG = """The folder of all sets is MINITXL_DATA, if that is set, else a folder for caches.
A set that is prepared is trained on by its name: python -m minitxl train --data wikitext-2"""


def add(commands) -> None:
    """Add the command and its three actions."""
    parser = add_command(commands, "data", run, "fetch and prepare the data of the paper", EPILOG)
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, parser_class=Parser
    )
    listed = actions.add_parser("list", help="what there is, and what is on this machine")
    listed.add_argument("--check", action="store_true", help="read prepared sets, find damage")
    get = actions.add_parser("get", help="fetch a set, check it, prepare it")
    get.add_argument("name", metavar="NAME", help="see list")
    get.add_argument("--url", metavar="URL", help="another address of the same archive")
    _add_from(get)
    get.add_argument("--keep", action="store_true", help="keep the archive when all is done")
    prepared = actions.add_parser("prepare", help="prepare a set from what is on the disk")
    prepared.add_argument("name", metavar="NAME", help="see list")
    _add_from(prepared)
    prepared.add_argument(
        "--any-size",
        action="store_true",
        help="take a text that is not the known one, say a part of it; list shows it as a part",
    )


def _add_from(parser: Parser) -> None:
    parser.add_argument(
        "--from",
        dest="path",
        metavar="PATH",
        help="the archive, or its text file, or a folder with its files",
    )


def run(options: argparse.Namespace) -> int:
    """Do the action; tables and results go to stdout, progress to stderr."""
    if options.action == "list":
        return _list(options.check)
    from minitxl.data.datasets import find_dataset
    from minitxl.errors import MinitxlError

    dataset = find_dataset(options.name)
    path, any_size, ours = options.path, False, False
    if options.action == "prepare":
        any_size = options.any_size
    elif path is None:
        if (found := _whole(dataset)) is not None:
            _tell(dataset, found)
            return 0
        from minitxl.data.download import download

        ours = not dataset.archive.is_file()  # one that was put there by hand stays
        path = download(dataset, options.url)
    elif options.url is not None:
        raise MinitxlError("--url and --from contradict each other: leave one out")
    from minitxl.data.prepare import prepare

    found = prepare(dataset, path, any_size=any_size)
    if ours and not options.keep:
        path.unlink()
    _tell(dataset, found)
    return 0


def _whole(dataset):
    """Return the prepared set, or None where there is none, a damaged one or a part of it."""
    from minitxl.data.prepared import is_prepared, load_prepared
    from minitxl.errors import MinitxlError

    try:
        found = load_prepared(dataset) if is_prepared(dataset) else None
    except MinitxlError:
        return None
    return found if found is not None and found.exact else None


def _tell(dataset, found) -> None:
    """Print what a prepared set holds."""
    what = dataset.name if found.exact else f"a part of {dataset.name}"
    print(f"{what} is prepared in {dataset.folder}")
    counts = ", ".join(f"{split} {ids.size:,}" for split, ids in found.tokens.items())
    print(f"  {dataset.level}s: {counts}; vocabulary {found.vocab.n_token:,}")


def _list(check: bool) -> int:
    from minitxl.data.datasets import DATASETS, data_folder
    from minitxl.data.prepared import is_prepared, load_prepared
    from minitxl.errors import MinitxlError

    print(f"{'name':<14}{'level':<7}{'archive':>9}  {'fetched':<9}{'prepared':<10}tokens")
    damaged = []
    for dataset in DATASETS.values():
        tokens = ""
        ready = "yes" if is_prepared(dataset) else "-"
        if ready == "yes":
            try:
                found = load_prepared(dataset, check=check)
                tokens = " / ".join(f"{ids.size:,}" for ids in found.tokens.values())
                ready = "yes" if found.exact else "part"
            except MinitxlError as error:
                ready = "damaged"
                damaged.append(error)
        size = f"{dataset.n_bytes / 1e6:,.0f} MB" if dataset.n_bytes else "unknown"
        fetched = "yes" if dataset.archive.is_file() else "-"
        print(f"{dataset.name:<14}{dataset.level:<7}{size:>9}  {fetched:<9}{ready:<10}{tokens}")
    print(f"in {data_folder()}")
    for error in damaged:
        print(f"minitxl: {error}", file=sys.stderr)
    return 2 if damaged else 0
