"""Damaged and made-up files, for everything that reads one: refused in one line, or read."""

import copy
import json
import random
import shutil
import time
import tracemalloc
import zlib
from itertools import cycle
from pathlib import Path

import numpy as np

from minitxl import cli
from minitxl.data import datasets, prepared
from minitxl.data.encoded import encoded_file
from minitxl.data.text import load_corpus
from minitxl.data.vocab import ByteVocab, CharVocab
from minitxl.data.words import WordVocab
from minitxl.errors import MinitxlError
from minitxl.interop import load_huggingface
from minitxl.interop.torch_file import read_state_dict, read_torch, read_vocab_pickle
from minitxl.storage import checkpoint
from minitxl.storage.run_folder import load_run

GOLDEN = Path(__file__).parents[1] / "golden"
TEXT = "".join(f"Line {i}: the café closes at {i % 12 + 1}.\n" for i in range(60))
MOST_MB = 64  # that a small hostile file may take
MOST_SECONDS = 10
NUMBERS = [0, -1, 1, 2, 2**31, 2**31 - 1, 2**40, 2**63, 2**64, 10**30, 0.5, 1e308, -0.0]
NUMBERS += [float("nan"), float("inf")]
VALUES = [None, True, False, "", "x", "\ud800", "\x1b[2J", "9" * 5000, [], {}, [[]], {"a": 1}]
VALUES += [[10**9] * 3, ["a"] * 1000, "a" * 10**6]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some pieces cut, doubled, zeroed, replaced or exchanged; or a head, or nothing of it."""
    data = bytearray(data)
    if rng.random() < 0.1:
        return rng.choice((b"", rng.randbytes(rng.randrange(300)), bytes(data[: len(data) // 2])))
    for _ in range(rng.randint(1, 4)):
        i = rng.randrange(len(data) + 1)
        j = min(len(data), i + rng.choice((1, 2, 8, 40, len(data))))
        new = rng.choice(
            (b"", bytes(data[i:j]) * 2, bytes(j - i), b"\xff" * (j - i), rng.randbytes(j - i),
             bytes(data[:8]), b"9" * 30)
        )  # fmt: skip
        data[i:j] = new
    return bytes(data)


def changed(value, rng: random.Random):
    """The same JSON with some of its values replaced, left out, or put in a second time."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        what = rng.random()
        if what < 0.2:
            del holder[key]
        elif what < 0.3 and isinstance(holder, dict):
            holder[f"{key}x"] = rng.choice(NUMBERS)
        elif what < 0.7:
            holder[key] = rng.choice(NUMBERS)
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return value


def _places(value):
    """(holder, key) of all values inside; of a long list the first few."""
    keys = value if isinstance(value, dict) else range(min(len(value), 9))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def json_bytes(data: bytes, rng: random.Random) -> bytes:
    """A changed JSON file: in its values, or (one in four) in its bytes."""
    if rng.random() < 0.25:
        return damaged(data, rng)
    text = json.dumps(changed(json.loads(data), rng), ensure_ascii=rng.random() < 0.9)
    return text.encode("utf-8", "surrogatepass")


class Kind:
    """A kind of file: `source` is a good one, `read` what reads it in its place."""

    def __init__(self, name, source: Path, read, change=damaged, after=lambda: None):
        self.name, self.source, self.read, self.change = name, source, read, change
        self.after = after  # is called when the file was changed

    def measure(self, n: int, seed: int, seconds: float) -> dict:
        """Read n changed files, fewer when the time is over; return what came of it."""
        good, rng, began = self.source.read_bytes(), random.Random(f"{self.name} {seed}"), _now()
        found = dict(inputs=0, refused=0, read=0, peak_mb=0.0, slowest=0.0, faults=[])
        self.read()  # what is imported now is not the files'
        for number in range(n):
            if _now() - began > seconds:
                break
            self.source.unlink()  # a new file: this one may be mapped into memory
            self.source.write_bytes(self.change(good, rng))
            self.after()
            found["inputs"] += 1
            start, fault = _now(), ""
            tracemalloc.start()
            try:
                self.read()
                found["read"] += 1
            except MinitxlError as error:
                found["refused"] += 1
                text = str(error)
                if not text.isprintable() or len(text) > 900:
                    fault = f"not one short line: {text[:200]!r}"
            except Exception as error:
                fault = f"{type(error).__name__}: {str(error)[:200]!r}"
            finally:
                peak, took = tracemalloc.get_traced_memory()[1] / 1e6, _now() - start
                tracemalloc.stop()
            found["peak_mb"] = max(found["peak_mb"], round(peak, 1))
            found["slowest"] = max(found["slowest"], round(took, 2))
            fault = fault or (f"{peak:.0f} MB" if peak > MOST_MB else "")
            fault = fault or (f"{took:.0f} s" if took > MOST_SECONDS else "")
            if fault:
                found["faults"].append(f"input {number} of seed {seed}: {fault}")
                shutil.copy(self.source, f"{self.source}.fault-{number}")
        self.source.unlink(missing_ok=True)
        self.source.write_bytes(good)
        self.after()
        return found


_now = time.monotonic


def kinds(folder: Path, monkeypatch) -> list[Kind]:
    """Make good files in a folder, and return all kinds."""
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8", newline="\n")
    small = "n_layer=1 d_model=8 n_head=2 d_head=4 d_inner=8 tgt_len=8 mem_len=8".split()
    run = folder / "run"
    argv = ["train", "--data", str(text), "--out", str(run), "--steps", "3", "--batch-size", "2"]
    argv += ["--device", "cpu", "--quiet", *(f"--set={setting}" for setting in small)]
    assert cli.main(argv) == 0
    shutil.copy(run / "best.safetensors", folder / "checkpoint")
    hf = folder / "hf"
    shutil.copytree(GOLDEN / "huggingface" / "published", hf)
    for path in (GOLDEN / "torch_files").glob("*"):
        shutil.copy(path, folder)
    np.savez(folder / "a.npz", a=np.arange(3, dtype=np.float32), b=np.ones((2, 2)))
    monkeypatch.setenv("MINITXL_DATA", str(folder / "data"))
    ptb = folder / "ptb"
    ptb.mkdir()
    for split in ("train", "valid", "test"):
        (ptb / f"ptb.{split}.txt").write_text(TEXT, encoding="utf-8")
    assert cli.main(["data", "prepare", "ptb", "--any-size", "--from", str(ptb)]) == 0
    dataset = datasets.DATASETS["ptb"]
    there = dataset.folder / prepared.FOLDER
    vocabularies = [CharVocab.from_text(TEXT), WordVocab.from_text(TEXT, add_unk=True), ByteVocab()]

    def read_run():
        return load_run(run, device="cpu")

    def right_checksums():
        """As whoever made the changed file would have written them."""
        meta = json.loads((there / "meta.json").read_text(encoding="utf-8"))
        for name, about in meta["files"].items():
            data = (there / name).read_bytes()
            about |= {"bytes": len(data), "crc32": zlib.crc32(data)}
        (there / "meta.json").write_text(json.dumps(meta), encoding="utf-8")

    def read_prepared():
        found = prepared.load_prepared(dataset, check=True)
        return [found.vocab.decode(ids[:9]) for ids in found.tokens.values()]

    ways = [lambda level=level: load_corpus(text, level) for level in ("byte", "char", "word")]
    ways += [lambda vocab=vocab: encoded_file(vocab, text) for vocab in vocabularies]
    turns = cycle(ways)

    return [
        Kind("checkpoint", folder / "checkpoint", lambda: checkpoint.load(folder / "checkpoint")),
        Kind("safetensors of others", hf / "model.safetensors", lambda: load_huggingface(hf)),
        Kind("pickle, PyTorch", folder / "everything.zip",
             lambda: read_torch(folder / "everything.zip")),
        Kind("pickle, old PyTorch", folder / "state_dict.legacy",
             lambda: read_state_dict(folder / "state_dict.legacy")),
        Kind("pickle, vocabulary", folder / "vocab.pkl",
             lambda: read_vocab_pickle(folder / "vocab.pkl")),
        Kind("npz", folder / "a.npz", lambda: read_state_dict(folder / "a.npz")),
        Kind("run.json", run / "run.json", read_run, json_bytes),
        Kind("run's checkpoint", run / "best.safetensors", read_run),
        Kind("config.json", hf / "config.json", lambda: load_huggingface(hf), json_bytes),
        Kind("prepared set, meta.json", there / "meta.json", read_prepared, json_bytes),
        Kind("prepared set, vocab.json", there / "vocab.json", read_prepared, json_bytes),
        Kind("prepared set, train.bin", there / "train.bin", read_prepared),
        Kind("prepared set of others, vocab.json", there / "vocab.json", read_prepared, json_bytes,
             right_checksums),
        Kind("prepared set of others, train.bin", there / "train.bin", read_prepared, damaged,
             right_checksums),
        Kind("text", text, lambda: next(turns)()),
    ]  # fmt: skip
