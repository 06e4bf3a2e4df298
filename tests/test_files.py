"""Files are whole or not there, also where the disk fails or the process is killed."""

import errno
import os
import re
import subprocess
from pathlib import Path

import pytest

from minitxl import files
from minitxl.errors import MinitxlError
from minitxl.storage.run_folder import check_new

OURS = ".run.json.abcdef01.tmp"


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_the_older_file_is_kept(tmp_path):
    path = tmp_path / "a"
    for text in (b"1", b"2", b"3"):
        files.write_atomically(path, text, older="b")
    assert (path.read_bytes(), (tmp_path / "b").read_bytes()) == (b"3", b"2")
    assert names(tmp_path) == ["a", "b"]


def test_the_older_file_is_kept_where_there_are_no_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    for text in (b"1", b"2"):
        files.write_atomically(tmp_path / "a", text, older="b")
    assert (tmp_path / "b").read_bytes() == b"1" and names(tmp_path) == ["a", "b"]


def test_renaming_waits_for_windows(tmp_path, monkeypatch):
    rename, refused = os.replace, []

    def busy(old, new):
        if len(refused) < 3:
            refused.append(old)
            raise PermissionError(errno.EACCES, "in use")
        rename(old, new)

    monkeypatch.setattr(os, "replace", busy)
    files.write_atomically(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x" and len(refused) == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows opens no folders")
def test_the_name_is_forced_to_the_disk(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda n: (synced.append(os.fstat(n).st_mode), fsync(n)))
    files.write_atomically(tmp_path / "a", b"x")
    assert [mode >> 12 for mode in synced] == [0o10, 0o4]  # the file, then its folder


def test_leftovers_are_ours_alone(tmp_path):
    for name in (OURS, ".run.json.tmp", "run.json.abcdef01.tmp", ".x.ABCDEF01.tmp", ".a.b.tmp"):
        (tmp_path / name).touch()
    (tmp_path / ".folder.01234567.tmp").mkdir()
    assert sorted(p.name for p in files.leftovers(tmp_path)) == [".folder.01234567.tmp", OURS]
    assert [p.name for p in files.leftovers(tmp_path, "run.json")] == [OURS]
    files.clean(tmp_path)
    assert len(names(tmp_path)) == 4


def test_leftovers_and_locks_are_no_obstacle(tmp_path):
    (tmp_path / OURS).touch()
    (tmp_path / ".lock").touch()
    check_new(tmp_path)
    (tmp_path / "other").touch()
    with pytest.raises(MinitxlError, match="not empty"):
        check_new(tmp_path)


def test_a_folder_is_whole_or_not_there(tmp_path):
    out = tmp_path / "new" / "out"
    with pytest.raises(KeyError), files.whole_folder(out) as made:
        (made / "a").write_text("half")
        raise KeyError
    assert names(out.parent) == []
    out.mkdir()
    with files.whole_folder(out) as made:
        (made / "a").write_text("whole")
        assert names(out) == []
    assert names(out.parent) == ["out"] and names(out) == ["a"]
    with pytest.raises(MinitxlError, match="out"), files.whole_folder(out) as made:
        (made / "b").write_text("never over what is there")
    assert names(out.parent) == ["out"] and names(out) == ["a"]


def test_a_line_is_added_as_a_whole_or_not(tmp_path):
    path = tmp_path / "log"
    files.append(path, "one\n")
    files.append(path, "two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    with pytest.raises(MinitxlError, match=r"cannot write to .*log"):
        files.append(tmp_path / "nowhere" / "log", "x")


# --- commands that we suggest ---


@pytest.mark.parametrize(
    "name",
    ["plain", "a b", "it's", 'say "x"', "$HOME", "a&b;c", "-out", "ä ö", "a\\b", "`ls`", "*"],
)
def test_a_suggested_path_survives_the_shell(name):
    found = subprocess.run(
        ["sh", "-c", f"printf %s {files.quoted(name)}"], capture_output=True, text=True, check=True
    )
    assert found.stdout == (f"./{name}" if name.startswith("-") else name)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("C:\\runs\\a-1", "C:\\runs\\a-1"),
        ("C:\\my runs\\a", '"C:\\my runs\\a"'),
        ("C:\\my runs\\", '"C:\\my runs\\\\"'),  # or the backslash would quote the quote
        ("it's", '"it\'s"'),
        ("a&b", '"a&b"'),
        ("a;b", '"a;b"'),
        ("(a)", '"(a)"'),
    ],
)
def test_cmd_and_powershell_know_double_quotes(monkeypatch, name, wanted):
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        found = files.quoted(name)
    assert found == wanted


def test_every_command_with_a_path_quotes_it():
    """Whatever stands in braces behind the name of a command or an option is quoted or no path."""
    no_paths = (
        r"quoted\(|dataset\.name|preset\.|text\}|options\}|SHIPPED\}|"
        r"folder\} \{options|folder\} --length"
    )
    suggests = re.compile(r"python -m minitxl [^{\"]*\{|with --(?:resume|out|data) \{")
    found = []
    for path in Path(files.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for match in suggests.finditer(text):
            found.append(path.name)
            rest = text[match.end() : match.end() + 60]
            assert re.match(no_paths, rest), f"{path.name}: {match[0]}{rest!r}"
    assert {"run.py", "run_folder.py", "convert.py"} <= set(found)
