"""The text of a run: found again wherever it lies now, and known by its checksum."""

from __future__ import annotations

import os

from minitxl.data.checksums import text_checksum
from minitxl.data.datasets import DATASETS
from minitxl.data.ids import is_ids
from minitxl.data.merge import translated
from minitxl.data.text import CORPORA, Corpus, load_corpus
from minitxl.data.tokens import Vocabulary
from minitxl.data.vocab import stored_vocab, vocab_from_dict
from minitxl.errors import MinitxlError


def load_corpus_of(
    info: dict, place: str | None = None, option: str = "--data", vocab: Vocabulary | None = None
) -> Corpus:
    """Load the corpus that a run was trained on, from another place than then if one is given.

    info: what run.json holds; option: that of the command which gives the place; vocab: that of the
    program which trained the run, where it is none of this package's. The ids are those of the
    run's vocabulary, also where that has more symbols than the text. `MinitxlError` if it is not
    there, or is not what it was.
    """
    known = place or info["data"]
    if not known:
        raise MinitxlError(
            f"the model was imported and its text is not known; give one as {option} TEXT"
        )
    if place is None and known not in {*CORPORA, *DATASETS} and not os.path.exists(known):
        raise MinitxlError(
            f"the text of the run is not at {known} any more; give its new place as {option} PATH"
        )
    if info["level"] == "token" and vocab is None:
        vocab = vocab_from_dict(info.get("text_vocab", info["vocab"]))
    corpus = load_corpus(known, level=info["level"], check=True, vocab=vocab)
    was = info.get("text_sha256")  # runs of older versions and imported models have none
    if was is not None and (found := text_checksum(corpus)) != was:
        if info["level"] == "token" and not is_ids(known):
            option = f"{option} PATH or, to a program that has a vocabulary of its own, vocab=..."
        else:
            option = f"{option} PATH"
        raise MinitxlError(
            f"the text at {known} is not the one of the run, or has changed since: its sha256 is "
            f"{found[:16]}..., was {str(was)[:16]}...; give the place of the unchanged text as "
            f"{option}, or train anew with --out"
        )
    if "init_from" in info and stored_vocab(corpus.vocab) != info["vocab"]:
        return translated(corpus, vocab_from_dict(info["vocab"]))
    return corpus
