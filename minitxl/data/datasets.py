"""The data sets of the paper: where they come from, and how one knows that they are whole.

None of them ships with minitxl. `python -m minitxl data get NAME` fetches one and prepares it: see
`download`, `unpack`, `prepare` and `prepared` for the four steps.
"""

from __future__ import annotations

import difflib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from minitxl.data.words import EOS, UNK
from minitxl.errors import MinitxlError

SPLITS = ("train", "valid", "test")
WHOLE = "whole"  # the one part of a set that is split 90/5/5 by length


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set.

    level      "byte", "char" or "word": what a token is
    url        of the archive, whose name is the file's name in the data folder too
    n_bytes    of the archive, exactly; None: not known, then `max_bytes` bounds the download
    max_text   bytes that the archive may unpack to
    checksum   of the archive, "sha256:..." or "md5:..."
    members    split -> pattern of the members' names in the archive ("?" is any character); a set
               with the one entry WHOLE is split 90/5/5 by length
    file       (bytes, checksum) of the plain text file of a WHOLE set
    n_tokens   split -> tokens, as others have counted them, to verify ours by
    n_token    size of the vocabulary, and `n_lines` of the training text, likewise; None: not
               known well enough to insist on it
    eos, unk   symbols of the end of a line and of an unknown word; `both_ends`: eos also begins
               every line; words rarer than `min_count` in the training text become unk
    """

    name: str
    level: str
    url: str
    checksum: str
    members: dict[str, str]
    source: str
    n_bytes: int | None = None
    max_bytes: int = 300_000_000
    max_text: int = 1_000_000_000
    file: tuple[int, str] | None = None
    n_tokens: dict[str, int] = field(default_factory=dict)
    n_token: int | None = None
    n_lines: int | None = None
    eos: str = EOS
    unk: str = UNK
    both_ends: bool = False
    min_count: int = 1

    @property
    def archive_name(self) -> str:
        """Name of the archive's file."""
        return self.url.rsplit("/", 1)[1]

    @property
    def folder(self) -> Path:
        """The set's folder in the data folder."""
        return data_folder() / self.name

    @property
    def archive(self) -> Path:
        """Where the archive is looked for."""
        return self.folder / self.archive_name


_WIKITEXT = "https://s3.amazonaws.com/research.metamind.io/wikitext/"
_WIKIPEDIA = "from Wikipedia, under its Creative Commons share-alike licence."
_LM1B = "1-billion-word-language-modeling-benchmark-r13output"
_SETS = (
    # All bytes are kept. The released code's loader drops the newlines, which leaves 204 different
    # bytes and an easier text; bits per character are comparable only where nothing is dropped.
    Dataset(
        name="enwik8",
        level="byte",
        url="http://mattmahoney.net/dc/enwik8.zip",
        n_bytes=36_445_475,
        checksum="sha256:547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
        members={WHOLE: "enwik8"},
        file=(
            100_000_000,
            "sha256:2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
        ),
        n_tokens={"train": 90_000_000, "valid": 5_000_000, "test": 5_000_000},
        n_token=205,
        source=f"enwik8, the first 100,000,000 bytes of an XML dump {_WIKIPEDIA}",
    ),
    Dataset(
        name="text8",
        level="char",
        url="http://mattmahoney.net/dc/text8.zip",
        n_bytes=31_344_016,
        checksum="sha256:a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
        members={WHOLE: "text8"},
        file=(100_000_000, "md5:3bea1919949baf155f99411df5fada7e"),
        n_tokens={"train": 90_000_000, "valid": 5_000_000, "test": 5_000_000},
        n_token=27,
        source=f"text8, 100,000,000 characters of cleaned text {_WIKIPEDIA}",
    ),
    Dataset(
        name="ptb",
        level="word",
        url="http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz",
        checksum="md5:30177ea32e27c525793142b6bf2c8e2d",
        members={split: f"simple-examples/data/ptb.{split}.txt" for split in SPLITS},
        n_tokens={"train": 929_589, "valid": 73_760, "test": 82_430},
        n_token=10_000,
        source="Penn Treebank (Wall Street Journal), with 9,999 words and <unk>, as Mikolov "
        "prepared it; licensed by the Linguistic Data Consortium.",
    ),
    Dataset(
        name="wikitext-2",
        level="word",
        url=f"{_WIKITEXT}wikitext-2-v1.zip",
        checksum="sha256:92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
        members={split: f"wikitext-2/wiki.{split}.tokens" for split in SPLITS},
        n_tokens={"train": 2_088_628, "valid": 217_646, "test": 245_569},
        n_token=33_278,
        source=f"WikiText-2, good and featured articles {_WIKIPEDIA}",
    ),
    Dataset(
        name="wikitext-103",
        level="word",
        url=f"{_WIKITEXT}wikitext-103-v1.zip",
        checksum="sha256:242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
        members={split: f"wikitext-103/wiki.{split}.tokens" for split in SPLITS},
        n_tokens={"valid": 217_646, "test": 245_569},
        n_token=267_735,
        source=f"WikiText-103, good and featured articles {_WIKIPEDIA}",
    ),
    # As the released loader reads it: <S> at both ends of a sentence, case kept, the same held-out
    # file for validation and test. The released code takes the vocabulary from a file that is not
    # in the archive; its rule, words that occur three times, is applied to the text instead.
    Dataset(
        name="lm1b",
        level="word",
        url=f"http://www.statmt.org/lm-benchmark/{_LM1B}.tar.gz",
        n_bytes=1_792_209_805,
        checksum="sha256:01ba60381110baf7f189dfd2b8374de371e8c9a340835793f190bdae9e90a34e",
        members={
            "train": f"{_LM1B}/training-monolingual.tokenized.shuffled/news.en-000??-of-00100",
            "valid": f"{_LM1B}/heldout-monolingual.tokenized.shuffled/"
            "news.en.heldout-00000-of-00050",
            "test": f"{_LM1B}/heldout-monolingual.tokenized.shuffled/"
            "news.en.heldout-00000-of-00050",
        },
        n_lines=30_301_028,
        max_text=6_000_000_000,
        eos="<S>",
        unk="<UNK>",
        both_ends=True,
        min_count=3,
        source="One Billion Word benchmark, shuffled sentences of news; see statmt.org.",
    ),
)
DATASETS = {dataset.name: dataset for dataset in _SETS}
"""The data sets by name."""


def find_dataset(name: str) -> Dataset:
    """Return the data set of that name; MinitxlError names the nearest one."""
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise MinitxlError(
            f"no data set is called {name[:80]!r}{hint}: there are {', '.join(DATASETS)}"
        )
    return DATASETS[name]


def split_ends(n: int) -> tuple[int, int]:
    """Return where the training and the validation part of n tokens end, split 90/5/5."""
    return 9 * n // 10, 19 * n // 20


def data_folder() -> Path:
    """Return the folder of all data sets: MINITXL_DATA, else "minitxl" among the user's caches."""
    chosen = os.environ.get("MINITXL_DATA")
    if chosen:
        return Path(chosen).expanduser().absolute()
    home = Path.home()
    if sys.platform == "win32":
        caches = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        caches = home / "Library" / "Caches"
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return caches / "minitxl"
