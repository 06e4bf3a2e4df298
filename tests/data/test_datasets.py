"""Data sets: fetched from a server of our own, unpacked, prepared; and everything that goes wrong.

The archives are small ones made here. The real texts are tested where MINITXL_TEST_DATA names a
folder that holds wikitext-2.{train,valid,test}.txt and the first million bytes of enwik8.
"""

import contextlib
import dataclasses
import errno
import gzip
import hashlib
import http.server
import io
import itertools
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from helpers.failing_disk import FailingDisk
from minitxl import cli
from minitxl.data import DATASETS, Stream, datasets, download, load_corpus, prepare, segments
from minitxl.data.prepared import Writer, is_prepared, load_prepared
from minitxl.errors import MinitxlError

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "valid", "test")
LINES = {
    "train": " \n = A title = \n \n the cat <unk> on the mat .\n" * 20,
    "valid": " the cat sat .\n" * 3,
    "test": " a mat .\n the cat\n",
}
RAW = bytes(range(32, 96)) * 50 + "é\n".encode()


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(MinitxlError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 1200, message
    return message


def zipped(members: dict[str, bytes | str], method=zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return packed.getvalue()


def tarred(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


WIKI = zipped({f"wikitext-2/wiki.{s}.tokens": LINES[s] for s in SPLITS} | {"../evil": "x"})
PTB = tarred({f"./simple-examples/data/ptb.{s}.txt": LINES[s].encode() for s in SPLITS})
ENWIK = zipped({"enwik8": RAW})


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The data folder, and registered sets that are those of this test, small and with counts."""
    monkeypatch.setenv("MINITXL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("MINITXL_DEBUG", raising=False)
    return tmp_path / "data"


@pytest.fixture
def register(monkeypatch):
    """Change what is known of a set; by default to what the small archive of it is."""

    def change(name, archive, **facts):
        known = {
            "checksum": "sha256:" + hashlib.sha256(archive).hexdigest(),
            "n_bytes": len(archive),
            "n_tokens": {},
            "n_token": None,
            "n_lines": None,
            "file": None,
        }
        changed = dataclasses.replace(DATASETS[name], **(known | facts))
        monkeypatch.setitem(DATASETS, name, changed)
        return changed

    return change


@pytest.fixture
def wiki(home, register):
    return register("wikitext-2", WIKI, n_tokens={"valid": 15, "test": 7}, n_token=10)


@pytest.fixture
def command(home, capsys):
    def run(*argv):
        capsys.readouterr()
        code = cli.main(["data", *map(str, argv)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def fails(command):
    def run(*argv):
        code, out, err = command(*argv)
        assert code == 2 and out == "", (code, out, err)
        assert err.startswith("minitxl: error: ") and err.count("\n") == 1, err
        return err

    return run


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def all_tokens(corpus):
    return np.concatenate([corpus.train, corpus.valid, corpus.test])


# --- a server ---


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.content`; `server.mode` says how well. Notes what it was asked for."""

    def do_GET(self):  # the name that http.server wants
        server, content = self.server, self.server.content
        asked = self.headers.get("Range")
        server.asked.append(asked)
        mode = server.mode
        if mode.isdecimal():
            return self.send_error(int(mode))
        if mode.startswith(("ftp:", "file:", "http:")):
            self.send_response(302)
            self.send_header("Location", mode)
            server.mode = "whole"
            return self.end_headers()
        start = 0
        if asked and mode != "no ranges":
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self.send_error(416)
            if mode == "wrong range":
                start += 1
            self.send_response(206)
            end = f"{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", f"bytes {start}-{end}")
        else:
            self.send_response(200)
        if mode != "no length":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if mode == "breaks":
            self.wfile.write(content[start : (start + len(content)) // 2])
        elif mode == "no length":
            with contextlib.suppress(ConnectionError):  # who has enough hangs up
                for i in range(start, len(content), 1000):
                    self.wfile.write(content[i : i + 1000])
                    server.sent = i
        else:
            self.wfile.write(content[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.mode, server.asked = WIKI, "whole", []
    server.url = f"http://127.0.0.1:{server.server_port}/wikitext-2-v1.zip"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


# --- what is known ---


def test_registry():
    assert list(DATASETS) == ["enwik8", "text8", "ptb", "wikitext-2", "wikitext-103", "lm1b"]
    for name, dataset in DATASETS.items():
        assert dataset.name == name and dataset.url.startswith("http")
        algorithm, _, value = dataset.checksum.partition(":")
        assert len(value) == {"sha256": 64, "md5": 32}[algorithm]
        assert set(dataset.members) in (set(SPLITS), {"whole"})
        assert (dataset.file is not None) == (set(dataset.members) == {"whole"})
    assert "did you mean wikitext-2?" in refusal(datasets.find_dataset, "wikitext2")


def test_the_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("MINITXL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    found = datasets.data_folder()
    assert found.is_absolute() and found.name == "minitxl"
    assert sys.platform == "darwin" or found.parent == tmp_path
    monkeypatch.setenv("MINITXL_DATA", "here")
    assert datasets.data_folder() == Path.cwd() / "here"


# --- from archive to corpus ---


def test_get_fetches_and_prepares(command, wiki, server, home):
    code, out, err = command("get", "wikitext-2", "--url", server.url)
    assert code == 0 and "words: train 300, valid 15, test 7; vocabulary 10" in out, err
    assert sorted(p.name for p in home.rglob("*")) == [
        *("meta.json", "prepared", "test.bin", "train.bin", "valid.bin", "vocab.json"),
        "wikitext-2",
    ]
    corpus = load_corpus("wikitext-2")
    assert (corpus.name, corpus.level) == ("wikitext-2", "word")
    assert corpus.vocab.symbols[:5] == ["<eos>", "=", "the", "A", "title"]
    assert corpus.vocab.decode(corpus.test) == "<unk> mat .\nthe cat\n"  # "a": not in train
    assert corpus.vocab.decode(corpus.train[:7]) == "\n= A title =\n\n"
    again = load_corpus(corpus.name, corpus.level)
    assert again.vocab == corpus.vocab and np.array_equal(all_tokens(again), all_tokens(corpus))
    asked = len(server.asked)
    assert command("get", "wikitext-2", "--url", server.url)[0] == 0  # it is there
    assert len(server.asked) == asked


def test_keep(command, wiki, server):
    assert command("get", "wikitext-2", "--url", server.url, "--keep")[0] == 0
    assert wiki.archive.read_bytes() == WIKI
    assert command("prepare", "wikitext-2")[0] == 0
    assert wiki.archive.exists()


@pytest.mark.parametrize("lasting", [False, True])
def test_get_may_meet_a_full_disk_at_any_change(
    command, wiki, server, home, monkeypatch, capsys, lasting
):
    """It ends in one line, and the same command then comes to the same files."""
    get = ("get", "wikitext-2", "--url", server.url)
    assert command(*get)[0] == 0
    prepared = home / "wikitext-2" / "prepared"
    expected = {p.name: p.read_bytes() for p in prepared.iterdir()}
    for n in itertools.count(1):
        shutil.rmtree(home)
        with FailingDisk(monkeypatch, home, n, lasting) as disk:
            code, _, err = command(*get)
        if not disk.failed:
            break
        lines = [line for line in err.splitlines() if "error:" in line]
        assert code == 2 and len(lines) == 1 and str(home) in lines[0], (n, disk.failed, err)
        if prepared.exists():
            assert {p.name: p.read_bytes() for p in prepared.iterdir()} == expected
        assert command(*get)[0] == 0, (n, disk.failed)
        # An archive that was fetched whole before is one that was there, and stays.
        names = {p.name for p in home.rglob("*") if p.is_file()} - {wiki.archive.name}
        assert names == set(expected)
        assert {p.name: p.read_bytes() for p in prepared.iterdir()} == expected
    with capsys.disabled():
        print(f"\ndata get: each of {n - 1} changes failed, and all after it")
    assert n > 20


def test_an_archive_put_there_by_hand_is_used_and_kept(command, wiki, server):
    put(wiki.archive, WIKI)
    assert command("get", "wikitext-2", "--url", server.url)[0] == 0
    assert server.asked == [] and wiki.archive.read_bytes() == WIKI


def test_list(command, wiki, home):
    code, out, _ = command("list")
    assert code == 0 and str(home) in out and all(name in out for name in DATASETS)
    put(wiki.archive, WIKI)
    prepare.prepare(wiki)
    [line] = [line for line in command("list")[1].splitlines() if line.startswith("wikitext-2 ")]
    assert line.split()[4:6] == ["yes", "yes"] and line.endswith("300 / 15 / 7")
    file = wiki.folder / "prepared" / "train.bin"
    flipped = bytearray(file.read_bytes())
    flipped[3] ^= 1
    file.write_bytes(flipped)
    assert command("list")[0] == 0  # the checksum is read only where it is asked for
    code, out, err = command("list", "--check")
    assert code == 2 and "damaged" in out and "train.bin has crc32" in err


def test_tar_archive(home, register):
    ptb = register("ptb", PTB, checksum="md5:" + hashlib.md5(PTB).hexdigest(), n_bytes=None)
    put(ptb.archive, PTB)
    vocab, tokens, _ = prepare.prepare(ptb)
    assert vocab.decode(tokens["valid"]) == "the cat <unk> .\n" * 3


def test_lm1b_reads_its_shards_by_name_and_ends_sentences_twice(home, register):
    known = DATASETS["lm1b"]
    top = known.archive_name.removesuffix(".tar.gz")
    shards = {
        f"{top}/training-monolingual.tokenized.shuffled/news.en-000{i:02}-of-00100": text
        for i, text in ((2, b"c c c\nb b\n"), (1, b"c c a a a a\n"), (10, b"b b\n"))
    }
    held = f"{top}/heldout-monolingual.tokenized.shuffled/news.en.heldout-000{{}}-of-00050"
    shards[held.format("01")] = b"not this one\n"
    shards[held.format("00")] = b"a c z\na\n"
    archive = tarred(shards)
    vocab, tokens, _ = prepare.prepare(register("lm1b", archive, n_lines=4), put_archive(archive))
    assert vocab.symbols == ["<S>", "c", "a", "b", "<UNK>"]
    read = " ".join(vocab.symbols[i] for i in tokens["train"])
    assert read == "<S> c c a a a a <S> <S> c c c <S> <S> b b <S> <S> b b <S>"
    read = " ".join(vocab.symbols[i] for i in tokens["test"])
    assert read == "<S> a c <UNK> <S> <S> a <S>"
    assert np.array_equal(tokens["valid"], tokens["test"])
    register("lm1b", archive, n_lines=5)
    message = refusal(prepare.prepare, DATASETS["lm1b"], put_archive(archive))
    assert "4 training lines, the real one has 5" in message


def put_archive(content: bytes) -> Path:
    return put(datasets.data_folder() / "elsewhere.gz", content)


def test_bytes_are_all_kept_and_only_those_that_occur_are_tokens(home, register):
    digest = "sha256:" + hashlib.sha256(RAW).hexdigest()
    enwik8 = register("enwik8", ENWIK, file=(len(RAW), digest), n_token=67)
    put(enwik8.archive, ENWIK)
    prepare.prepare(enwik8)
    corpus = load_corpus("enwik8")
    assert corpus.level == "byte" and corpus.vocab.n_token == 67
    assert corpus.vocab.to_bytes(all_tokens(corpus)) == RAW
    n = len(RAW)
    assert (corpus.train.size, corpus.test.size) == (9 * n // 10, n - 19 * n // 20)
    put(enwik8.archive, zipped({"enwik8": RAW[:-1] + b"!"}))
    register("enwik8", enwik8.archive.read_bytes(), file=(len(RAW), digest))
    assert "sha256" in refusal(prepare.prepare, DATASETS["enwik8"])


def test_characters(home, register):
    text = b"the quick brown fox " * 30
    archive = zipped({"text8": text})
    text8 = register("text8", archive)
    vocab, tokens, _ = prepare.prepare(text8, put(home / "x.zip", archive))
    assert vocab.symbols == " bcefhiknoqrtuwx"
    assert vocab.decode(tokens["train"]) == text[:540].decode()
    message = refusal(prepare.prepare, text8, put(home / "x", b"caf\xe9" * 50), any_size=True)
    assert "0xe9" in message


def test_from_plain_files(command, fails, wiki, home, tmp_path):
    forms = ("wiki.{}.tokens", "wikitext-2.{}.txt", "{}.txt", "wikitext-2/wiki.{}.tokens")
    for i, form in enumerate(forms):
        folder = tmp_path / f"form {i}"
        for split in SPLITS:
            put(folder / form.format(split), LINES[split].encode())
        code, out, err = command("prepare", "wikitext-2", "--from", folder)
        assert code == 0 and "train 300, valid 15" in out, err
    (folder / "wikitext-2" / "wiki.valid.tokens").unlink()
    assert "wiki.valid.tokens" in fails("prepare", "wikitext-2", "--from", folder)
    text = put(tmp_path / "text.txt", b"words")
    assert "no zip or tar.gz archive" in fails("prepare", "wikitext-2", "--from", text)
    assert "does not exist" in fails("prepare", "wikitext-2", "--from", tmp_path / "nowhere")
    assert load_prepared(wiki).tokens["train"].size == 300  # as before


def test_another_size_is_taken_only_on_purpose(command, fails, home, tmp_path):
    part = put(tmp_path / "part", RAW)
    message = fails("prepare", "enwik8", "--from", part)
    assert f"{len(RAW):,} bytes, the real one has 100,000,000" in message
    way_out = "python -m minitxl data prepare enwik8 --from PATH --any-size"
    assert message.rstrip().endswith(way_out) and not is_prepared(DATASETS["enwik8"])
    assert fails("get", "enwik8", "--from", part) == message  # which has no such option itself
    assert command(*way_out.split()[4:-2], part, "--any-size")[0] == 0
    assert load_corpus("enwik8").train.size == 9 * len(RAW) // 10


def in_list(command, name) -> str:
    """What the column "prepared" of the list says of a set."""
    code, out, err = command("list", "--check")
    [words] = [line.split() for line in out.splitlines() if line.startswith(f"{name} ")]
    assert code == 0, err
    return words[5]


def test_a_part_of_a_set_is_not_taken_for_the_set(command, fails, wiki, server, tmp_path):
    assert in_list(command, "wikitext-2") == "-"
    part = tmp_path / "part"
    for split in SPLITS:
        put(part / f"{split}.txt", LINES["test"].encode())
    code, out, err = command("prepare", "wikitext-2", "--from", part, "--any-size")
    assert code == 0 and out.startswith("a part of wikitext-2 is prepared"), err
    assert in_list(command, "wikitext-2") == "part"
    source = f"wikitext-2, a part of it (21 words): {wiki.source}"
    assert load_corpus("wikitext-2").source == source
    fails("prepare", "wikitext-2", "--from", part)
    server.mode = "404"
    fails("get", "wikitext-2", "--url", server.url)
    assert load_corpus("wikitext-2").source == source  # nothing better came
    server.mode = "whole"
    code, out, err = command("get", "wikitext-2", "--url", server.url)
    assert code == 0 and out.startswith("wikitext-2 is prepared") and len(server.asked) == 2, err
    assert in_list(command, "wikitext-2") == "yes"
    corpus = load_corpus("wikitext-2")
    assert corpus.source == wiki.source and corpus.train.size == 300
    assert [p.name for p in wiki.folder.iterdir()] == ["prepared"]


@pytest.mark.parametrize(
    ("change", "exact"),
    [({}, True), ({"n_tokens": {"train": 301}}, False), ({"n_token": 11}, False)],
)
def test_any_size_marks_only_what_is_not_the_known_text(home, register, change, exact):
    wiki = register("wikitext-2", WIKI, **change)
    assert prepare.prepare(wiki, put_archive(WIKI), any_size=True).exact is exact
    assert load_prepared(wiki).exact is exact


def test_any_size_compares_checksums(home, register):
    known = "sha256:" + hashlib.sha256(RAW).hexdigest()
    enwik8 = register("enwik8", ENWIK, file=(len(RAW), known))
    for text, exact in ((RAW, True), (RAW[::-1], False), (RAW[:400], False)):
        path = put(home / "text", text)
        assert prepare.prepare(enwik8, path, any_size=True).exact is exact
    other = zipped({"enwik8": RAW}, zipfile.ZIP_STORED)
    assert not prepare.prepare(enwik8, put_archive(other), any_size=True).exact


def test_sets_that_older_versions_prepared_are_exact(home, wiki):
    put(wiki.archive, WIKI)
    prepare.prepare(wiki)
    meta = wiki.folder / "prepared" / "meta.json"
    text = meta.read_text(encoding="ascii")
    assert text.count('"exact": true,') == 1
    meta.write_text(text.replace('"exact": true,', ""), encoding="ascii")
    assert load_prepared(wiki).exact


def test_counts_are_verified(fails, command, home, register, tmp_path):
    register("wikitext-2", WIKI, n_tokens={"train": 301})
    archive = put(tmp_path / "a.zip", WIKI)
    message = fails("prepare", "wikitext-2", "--from", archive)
    assert "has 300 train tokens, the real one has 301" in message
    register("wikitext-2", WIKI, n_token=11)
    assert "has 10 symbols, the real one has 11" in fails("get", "wikitext-2", "--from", archive)
    assert list(home.rglob("*.bin")) == [] and archive.exists()
    assert command("prepare", "wikitext-2", "--from", archive, "--any-size")[0] == 0


def test_a_split_needs_tokens(home, register):
    archive = zipped({f"wikitext-2/wiki.{s}.tokens": LINES[s] * (s != "test") for s in SPLITS})
    message = refusal(prepare.prepare, register("wikitext-2", archive), put_archive(archive))
    assert "has 0 test tokens" in message
    archive = zipped({"enwik8": b""})
    assert "is empty" in refusal(prepare.prepare, register("enwik8", archive), put_archive(archive))


# --- the corpus ---


def test_not_prepared_and_other_levels(home, wiki):
    assert "python -m minitxl data get wikitext-2" in refusal(load_corpus, "wikitext-2")
    put(wiki.archive, WIKI)
    prepare.prepare(wiki)
    assert "'word', not 'char'" in refusal(load_corpus, "wikitext-2", "char")
    assert "did you mean 'wikitext-2'?" in refusal(load_corpus, "wikitext2")


def test_a_large_set_is_mapped_not_read(home, monkeypatch):
    """100 million tokens: opened, streamed and evaluated without reading them all."""
    dataset = dataclasses.replace(DATASETS["enwik8"], n_tokens={})
    monkeypatch.setitem(DATASETS, "enwik8", dataset)
    dataset.folder.mkdir(parents=True)
    writer = Writer(dataset.folder / "new", load_corpus("tiny-shakespeare", "byte").vocab)
    block = np.arange(1_000_000, dtype=np.uint8)
    writer.write("train", (block for _ in range(100)))
    writer.write("valid", [block])
    writer.write("test", [block])
    writer.finish(dataset)
    began = time.process_time()
    corpus = load_corpus("enwik8")
    stream = Stream(corpus.train, batch_size=22, tgt_len=512)
    x, y, _ = stream.next()
    first = next(iter(segments(corpus.train, batch_size=1, tgt_len=8)))[0]
    assert time.process_time() - began < 0.5
    assert corpus.train.size == 100_000_000 and np.array_equal(x[:, 1:], y[:, :-1])
    assert first.tolist() == [list(range(8))] and not corpus.train.flags.writeable
    assert isinstance(corpus.train.base, np.memmap)
    assert stream.state() == stream.state()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("train.bin", lambda data: data[:-1]),
        ("valid.bin", lambda data: data + b"\0"),
        ("vocab.json", lambda data: data.replace(b"cat", b"cut")),
        ("vocab.json", lambda data: data[:-3]),
        ("meta.json", lambda data: b""),
        ("meta.json", lambda data: b"[1]"),
        ("meta.json", lambda data: b"[" * 100_000),
        ("meta.json", lambda data: data.replace(b'"format": 1', b'"format": 2')),
        ("meta.json", lambda data: data.replace(b"uint8", b"object")),
        ("meta.json", lambda data: data.replace(b'"exact": true', b'"exact": "no"')),
        ("meta.json", lambda data: data.replace(b"test.bin", b"toast.bin")),
        ("meta.json", lambda data: data.replace(b'"bytes": 300', b'"bytes": "300"')),
        ("test.bin", None),
    ],
)
def test_damaged_prepared_files(home, wiki, name, change):
    put(wiki.archive, WIKI)
    prepare.prepare(wiki)
    file = wiki.folder / "prepared" / name
    if change is None:
        file.unlink()
    else:
        changed = change(file.read_bytes())
        assert changed != file.read_bytes()
        file.write_bytes(changed)
    message = refusal(load_corpus, "wikitext-2")
    assert "is damaged" in message and "data get wikitext-2" in message
    prepare.prepare(wiki)  # again, over it
    assert load_corpus("wikitext-2").train.size == 300
    assert sorted(p.name for p in wiki.folder.iterdir()) == ["prepared", "wikitext-2-v1.zip"]


@pytest.mark.parametrize("split", SPLITS)
def test_a_changed_byte_inside_a_set_is_noticed_on_resume(wiki, capsys, split):
    """An id changed to another one of the vocabulary: only a checksum can tell."""
    put(wiki.archive, WIKI)
    prepare.prepare(wiki)
    sizes = "n_layer=1 d_model=8 n_head=2 d_head=4 d_inner=8 tgt_len=4 mem_len=4".split()
    out = str(wiki.folder / "run")
    options = ["--steps=2", "--batch-size=2", "--device=cpu", "--quiet", f"--out={out}"]
    options += [f"--set={size}" for size in sizes]
    assert cli.main(["train", "--data=wikitext-2", *options]) == 0
    file = wiki.folder / "prepared" / f"{split}.bin"
    data = bytearray(file.read_bytes())
    data[3] = 1 if data[3] != 1 else 2
    file.write_bytes(data)
    capsys.readouterr()
    assert cli.main(["train", "--resume", out, "--device=cpu"]) == 2
    message = capsys.readouterr().err
    assert f"{split}.bin has crc32" in message and "data get wikitext-2" in message


def test_get_mends_a_damaged_set(command, wiki, server):
    """The advice that a damaged set gives must not loop."""
    put(wiki.archive, WIKI)
    assert command("get", "wikitext-2", "--url", server.url)[0] == 0
    (wiki.folder / "prepared" / "meta.json").write_bytes(b"{")
    assert "data get wikitext-2" in refusal(load_corpus, "wikitext-2")
    assert command("get", "wikitext-2", "--url", server.url)[0] == 0
    assert load_corpus("wikitext-2").train.size == 300


# --- downloads ---


def test_resume(wiki, server):
    part = put(wiki.folder / "wikitext-2-v1.zip.part", WIKI[:100])
    assert download.download(wiki, server.url).read_bytes() == WIKI
    assert server.asked == ["bytes=100-"] and not part.exists()


@pytest.mark.parametrize("mode", ["no ranges", "wrong range"])
def test_a_server_that_cannot_resume(wiki, server, mode):
    server.mode = mode
    put(wiki.folder / "wikitext-2-v1.zip.part", b"x" * 100)
    assert download.download(wiki, server.url).read_bytes() == WIKI
    assert server.asked == ["bytes=100-"] + [None] * (mode == "wrong range")


def test_a_part_that_is_too_long_or_complete(wiki, server):
    put(wiki.folder / "wikitext-2-v1.zip.part", b"x" * (len(WIKI) + 5))
    assert download.download(wiki, server.url).read_bytes() == WIKI
    assert server.asked[-1] is None
    wiki.archive.rename(wiki.folder / "wikitext-2-v1.zip.part")
    asked = len(server.asked)
    assert download.download(wiki, server.url).read_bytes() == WIKI
    assert len(server.asked) == asked


@pytest.mark.parametrize("mode", ["whole", "no length"])
def test_without_a_known_size(register, home, server, mode):
    server.mode = mode
    wiki = register("wikitext-2", WIKI, n_bytes=None)
    assert download.download(wiki, server.url).read_bytes() == WIKI


def test_a_broken_connection_goes_on_the_next_time(fails, command, wiki, server):
    server.mode = "breaks"
    message = fails("get", "wikitext-2", "--url", server.url)
    assert f"after {len(WIKI) // 2:,} of {len(WIKI):,} bytes" in message and "go on" in message
    server.mode = "whole"
    assert command("get", "wikitext-2", "--url", server.url)[0] == 0
    assert server.asked == [None, f"bytes={len(WIKI) // 2}-"]


def test_the_wrong_file_is_set_aside_before_anything_is_unpacked(fails, command, wiki, server):
    server.content = WIKI[:-1] + b"!"
    message = fails("get", "wikitext-2", "--url", server.url)
    assert wiki.checksum.partition(":")[2] in message
    assert hashlib.sha256(server.content).hexdigest() in message
    assert [p.name for p in wiki.folder.iterdir()] == ["wikitext-2-v1.zip.bad"]
    server.content = WIKI
    assert command("get", "wikitext-2", "--url", server.url)[0] == 0
    put(wiki.archive, b"put there by hand")
    prepared = wiki.folder / "prepared"
    prepared.rename(wiki.folder / "other")
    assert "is now wikitext-2-v1.zip.bad" in fails("get", "wikitext-2", "--url", server.url)
    assert command("get", "wikitext-2", "--url", server.url)[0] == 0


@pytest.mark.parametrize("mode", ["whole", "no length"])
@pytest.mark.parametrize("known", [True, False])
def test_too_large(fails, register, home, server, mode, known):
    limits = {"n_bytes": len(WIKI) - 1} if known else {"n_bytes": None, "max_bytes": 100}
    wiki = register("wikitext-2", WIKI, **limits)
    server.mode = mode
    message = fails("get", "wikitext-2", "--url", server.url)
    assert f"{len(WIKI) - 1 if known else 100:,}" in message and "--url" in message
    assert list(wiki.folder.iterdir()) == []


def test_an_endless_answer_is_not_listened_to(fails, wiki, server):
    server.mode, server.content = "no length", bytes(50_000_000)
    assert "sends more than" in fails("get", "wikitext-2", "--url", server.url)
    assert server.sent < 20_000_000 and list(wiki.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("404", "answers 404"),
        ("503", "answers 503"),
        ("ftp://127.0.0.1/x", "neither http"),
        ("file:///etc/passwd", "is not allowed"),  # urllib sees to it first
    ],
)
def test_servers_that_do_not_have_it(fails, wiki, server, mode, words):
    server.mode = mode
    message = fails("get", "wikitext-2", "--url", server.url)
    assert words in message and server.url in message and "--from PATH" in message
    assert str(wiki.archive) in message


def test_a_redirect_is_followed(wiki, server):
    server.mode = server.url + "?moved"
    assert download.download(wiki, server.url).read_bytes() == WIKI


def test_no_network_and_bad_addresses(fails, wiki, server, monkeypatch):
    server.shutdown()
    server.server_close()
    message = fails("get", "wikitext-2", "--url", server.url)
    assert "cannot reach" in message and str(wiki.archive) in message and "--from" in message
    for url in ("ftp://x/y", "file:///etc/passwd", "wikitext", "", "http://a b/", "http://x\n/"):
        assert "must begin with http" in fails("get", "wikitext-2", "--url", url)
    for url in ("http://", "http://[", "http://x:port/", "https://x/\x7f"):
        fails("get", "wikitext-2", "--url", url)
    assert "contradict" in fails("get", "wikitext-2", "--url", server.url, "--from", "x")


def test_silence(fails, wiki, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.05)
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        assert "timed out" in fails("get", "wikitext-2", "--url", url)


class FullDisk(io.RawIOBase):
    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk(fails, wiki, server, monkeypatch):
    real = Path.open

    def full(path, mode="r", *args, **kwargs):
        return FullDisk() if set(mode) & set("wax") else real(path, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        message = fails("get", "wikitext-2", "--url", server.url)
        assert "No space left" in message and "MINITXL_DATA" in message
    put(wiki.archive, WIKI)
    monkeypatch.setattr(Path, "open", full)
    assert "No space left" in fails("prepare", "wikitext-2")
    assert sorted(p.name for p in wiki.folder.iterdir()) == ["wikitext-2-v1.zip"]


def test_a_dripping_server_is_given_up(home, wiki, server, monkeypatch):
    """A byte now and then is no reason to wait for ever; what has come is kept."""
    real, clock = http.client.HTTPResponse.read1, [0.0]

    def drip(response, n):
        clock[0] += 10.0
        return real(response, 1)

    monkeypatch.setattr(http.client.HTTPResponse, "read1", drip)
    monkeypatch.setattr(download, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    assert "only 4 bytes in 40 s, at least 100 a second" in refusal(
        download.download, wiki, server.url
    )
    assert [p.read_bytes() for p in wiki.folder.iterdir()] == [WIKI[:4]]


def test_dripping_headers_are_given_up(home, wiki, monkeypatch):
    """Bytes of a head that never ends, each in time for a socket's own timeout."""
    monkeypatch.setattr(download, "ANSWER", 0.3)
    ended = threading.Event()

    def drip(listener):
        client, _ = listener.accept()
        with client, contextlib.suppress(ConnectionError):
            client.sendall(b"HTTP/1.1 200 OK\r\n")
            while not ended.wait(0.02):
                client.sendall(b"a")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/wikitext-2-v1.zip"
        message = refusal(download.download, wiki, url)
        ended.set()
        thread.join()
    assert "no whole answer in 0.3 s" in message and "run the command again" in message
    assert not list(wiki.folder.iterdir())


def test_ctrl_c_keeps_the_part(command, wiki, server, monkeypatch):
    real = http.client.HTTPResponse.read1
    calls = []

    def read(response, n):
        calls.append(n)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return real(response, 50)

    with monkeypatch.context() as patch:
        patch.setattr(http.client.HTTPResponse, "read1", read)
        assert command("get", "wikitext-2", "--url", server.url)[0] == 130
    assert [p.read_bytes() for p in wiki.folder.iterdir()] == [WIKI[:50]]


# --- hostile archives ---


def entry(name, kind=tarfile.REGTYPE, **facts) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in facts.items():
        setattr(info, key, value)
    return info


def with_link() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        info = zipfile.ZipInfo("wikitext-2/wiki.train.tokens")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return packed.getvalue()


def encrypted() -> bytes:
    packed = bytearray(WIKI)
    for sign, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        packed[packed.index(sign) + place] |= 1
    return bytes(packed)


TRAIN, PTB_TRAIN = "wikitext-2/wiki.train.tokens", "simple-examples/data/ptb.train.txt"


@pytest.mark.parametrize(
    ("name", "archive", "words"),
    [
        ("wikitext-2", WIKI[: len(WIKI) // 2], "unpacked"),
        ("wikitext-2", b"PK\3\4 and no more", "unpacked"),
        ("wikitext-2", zipped({TRAIN: b"x " * 10_000_000}), "more than 1,000,000 bytes"),
        ("wikitext-2", with_link(), "a link"),
        ("wikitext-2", encrypted(), "encrypted"),
        ("wikitext-2", zipped({f"../{TRAIN}": "x", f"/{TRAIN}": "x"}), "no member"),
        ("wikitext-2", zipped({TRAIN: "x"}), "no member wikitext-2/wiki.valid.tokens"),
        ("ptb", PTB[: len(PTB) // 2], "unpacked"),
        ("ptb", gzip.compress(b"not a tar" * 1000), "unpacked"),
        ("ptb", gzip.compress(bytes(10_000_000)), "no member"),
        ("ptb", tarred({"other": bytes(10_000_000)}), "more than 1,000,000 bytes"),
        ("ptb", tarred({PTB_TRAIN: bytes(10_000_000)}), "more than 1,000,000 bytes"),
        ("ptb", tarred({"a": entry(PTB_TRAIN, tarfile.SYMTYPE, linkname="x")}), "no plain file"),
        ("ptb", tarred({"a": entry(PTB_TRAIN, tarfile.LNKTYPE, linkname="/x")}), "no plain file"),
        ("ptb", tarred({"a": entry(PTB_TRAIN, tarfile.FIFOTYPE)}), "no plain file"),
        ("ptb", tarred({PTB_TRAIN: b"x", f"./{PTB_TRAIN}": b"y"}), "comes twice"),
        ("ptb", tarred({f"../{PTB_TRAIN}": b"x", f"/{PTB_TRAIN}": b"x"}), "no member"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_archives(home, register, tmp_path, name, archive, words):
    dataset = register(name, archive, max_text=1_000_000)
    path = put(tmp_path / "archive", archive)
    before = sorted(p for p in tmp_path.rglob("*"))
    assert words in refusal(prepare.prepare, dataset, path)
    assert sorted(p for p in tmp_path.rglob("*") if home not in (p, p.parent)) == before
    assert list(dataset.folder.iterdir()) == []


def test_sparse_tar_members(home, register, tmp_path):
    """A gigabyte of zeros that takes no bytes in the archive."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        headers = {"GNU.sparse.size": str(2**40), "GNU.sparse.numblocks": "0"}
        headers |= {"GNU.sparse.map": "0,0"}
        archive.addfile(entry(PTB_TRAIN, pax_headers=headers))
    ptb = register("ptb", packed.getvalue())
    assert "no plain file" in refusal(prepare.prepare, ptb, put_archive(packed.getvalue()))


def test_the_archive_is_checked_before_it_is_opened(home, register, tmp_path):
    wiki = register("wikitext-2", WIKI)
    path = put(tmp_path / "archive", WIKI[:-1] + b"!")
    assert "sha256" in refusal(prepare.prepare, wiki, path)
    assert path.exists() and not wiki.folder.exists()


def test_text_that_is_not_utf8(home, register, tmp_path):
    archive = zipped({f"wikitext-2/wiki.{s}.tokens": b"abc \xe9" for s in SPLITS})
    assert "byte 4 is 0xe9" in refusal(
        prepare.prepare, register("wikitext-2", archive), put(tmp_path / "a", archive)
    )


# --- killed in the middle ---


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("place", ["index", "write", "finish"])
def test_a_killed_preparation_leaves_nothing_that_looks_finished(home, wiki, place, tmp_path):
    """The process kills itself at some place; the next one clears up and is whole."""
    hooks = {
        "index": "from minitxl.data.words import WordIndex as C; C.counts = kill",
        "write": "from minitxl.data.prepared import Writer as C; C.write = kill",
        "finish": "import os; os.fsync = lambda f, n=[]: (n.append(f), len(n) > 4 and kill())",
    }
    archive = put(tmp_path / "archive", WIKI)
    code = (
        "import os, signal, pathlib; from minitxl.data import DATASETS, prepare\n"
        "def kill(*a, **k): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{hooks[place]}\n"
        f"prepare.prepare(DATASETS['wikitext-2'], pathlib.Path({str(archive)!r}), any_size=True)"
    )
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = {p.name for p in wiki.folder.iterdir()} - {".lock"}
    assert len(left) == 1 and left.pop().endswith(".tmp")
    assert not is_prepared(wiki)
    refusal(load_corpus, "wikitext-2")
    prepare.prepare(wiki, archive)
    assert [p.name for p in wiki.folder.iterdir()] == ["prepared"]


def test_a_failure_leaves_the_old_preparation(home, wiki, monkeypatch):
    put(wiki.archive, WIKI)
    prepare.prepare(wiki)

    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Writer, "finish", stop)
        prepare.prepare(wiki)
    assert sorted(p.name for p in wiki.folder.iterdir()) == ["prepared", "wikitext-2-v1.zip"]
    assert load_corpus("wikitext-2").train.size == 300


# --- the real texts ---

REAL = os.environ.get("MINITXL_TEST_DATA")
real = pytest.mark.skipif(not REAL, reason="MINITXL_TEST_DATA names no folder with real texts")


@real
def test_real_wikitext_2(home):
    prepare.prepare(DATASETS["wikitext-2"], Path(REAL))
    corpus = load_corpus("wikitext-2")
    assert (corpus.train.size, corpus.valid.size) == (2_088_628, 217_646)
    assert (corpus.test.size, corpus.vocab.n_token) == (245_569, 33_278)
    assert corpus.vocab.symbols[:7] == ["<eos>", "the", ",", ".", "of", "<unk>", "and"]
    text = (Path(REAL) / "wikitext-2.valid.txt").read_text(encoding="utf-8")
    assert corpus.vocab.decode(corpus.valid).split() == text.split()


@real
def test_real_start_of_enwik8(home):
    path = Path(REAL) / "enwik8_first_1000000_bytes"
    assert "1,000,000 bytes" in refusal(prepare.prepare, DATASETS["enwik8"], path)
    prepare.prepare(DATASETS["enwik8"], path, any_size=True)
    corpus = load_corpus("enwik8")
    assert corpus.vocab.to_bytes(all_tokens(corpus)) == path.read_bytes()
    assert (corpus.train.size, corpus.valid.size, corpus.test.size) == (900_000, 50_000, 50_000)
