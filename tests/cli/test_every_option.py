"""Every option of every command is given once, in a command line that is run.

The options are read from the parser: a new one that no line below gives fails here, as does one
that ends in an error which is no mistake of use.
"""

import argparse
import json
import zipfile
from pathlib import Path

import pytest

from minitxl import Config, cli
from minitxl.tools import bench, bench_report

TEXT = "".join(f"Line {i}: the café closes at {i % 12 + 1}.\n" for i in range(150))
SMALL = "n_layer=1 d_model=16 n_head=2 d_head=8 d_inner=16 tgt_len=8 mem_len=8".split()
GOLDEN = Path(__file__).parents[1] / "golden" / "huggingface" / "published"
TRAIN = (
    "--preset tiny --data text.txt --level char --steps 4 --batch-size 2 --lr 0.001 --seed 1 "
    "--eval-every 2 --save-every 2 --threads 1 --device cpu --dtype float32 --quiet "
    + " ".join(f"--set {setting}" for setting in SMALL)
)
TINY = Config(n_token=11, n_layer=1, d_model=6, n_head=3, d_head=2, d_inner=4, tgt_len=5, mem_len=7)
SCRIPT = "# %%\nx = 1\n\n# %% exercise reach\n\n# %% check reach\n"

# Command lines in their order (each may use what those before it wrote), and their exit code.
LINES = (
    ("--version", 0),
    ("doctor", 0),
    (f"train {TRAIN} --out run --dry-run", 0),
    (f"train {TRAIN} --out run", 0),
    ("train --resume run --quiet", 0),
    ("train --init-from run --data text.txt --out more --steps 2 --patience 1 --quiet", 0),
    (f"train {TRAIN} --out ids --vocab symbols.txt", 2),  # text.txt is no array of ids
    ("eval run --split test --checkpoint last --device cpu --dtype float64 --json", 0),
    ("eval run --data text.txt --split all --mem-len 4 --tgt-len 4 --clamp-len 6", 0),
    ("eval run --same-length --batch-size 2 --max-tokens 40", 0),
    ("eval run --no-same-length --no-cached --max-tokens 40", 0),
    ("eval run --cached --lines --max-tokens 40", 2),  # that there is a text of lines is another's
    ("eval run --window 8 --stride 4 --max-tokens 40", 0),
    (
        "generate run --length 4 --prompt Line --temperature 0.5 --top-k 3 --seed 1 --mem-len 4 "
        "--checkpoint last --device cpu --dtype float32",
        0,
    ),
    ("generate run --length 4 --top-p 0.5 --samples 2 --stop zz --repetition-penalty 1.1", 0),
    ("generate run --length 4 --prompt-file text.txt", 0),
    (
        "explore run --text text.txt --out explorer.html --tgt-len 8 --mem-len 8 "
        "--layer 1 --head 1 --checkpoint best --device cpu --dtype float32",
        0,
    ),
    ("data list --check", 0),
    ("data prepare enwik8 --from enwik8 --any-size", 0),
    ("data get enwik8 --from enwik8.zip --keep", 2),  # it is not the known one
    ("data get enwik8 --url http://localhost:9/enwik8.zip", 2),  # nobody is there
    ("import {golden} --out imported --data some-text --dtype float64", 0),
    ("export imported --to official --out official --device cpu --dtype float32", 0),
    ("export run --to huggingface --out exported --checkpoint best", 0),
    (
        "import official/state_dict.pt --arguments official/arguments.json "
        "--vocab official/vocab.json --out again",
        0,
    ),
    ("experiment attention --quick --models nothing --device cpu --out attention.json", 0),
    ("experiment attention --quick --jobs 0 --out attention.json", 2),
    ("experiment attention --seeds 1 --resume --out attention.json", 2),  # it has no seeds
    ("figures evaluation_speed --out .", 0),
    ("figures evaluation_speed --data text.txt --out .", 2),
    ("bench --quick --shape d128 --device cpu --json bench.json", 0),
    ("bench --quick --shape d128 --device cpu --compare bench.json", 0),
    ("course student --notebook 05_reach --out notebooks --source scripts --run --questions", 0),
    ("course release released --notebook 05_reach --source scripts --questions", 0),
    ("course release released", 2),
    ("course release apart --notebook 06_training --seed-by-student nobody.csv", 2),
    ("course release handout --notebook 05_reach --source scripts --project", 0),
    ("course project handout --only memory --csv milestones.csv --seed-by-student nobody.csv", 2),
    ("course project nobody --measure", 2),
    ("course gradescope other.zip --seed-by-student nobody.csv", 2),
    ("course gradescope scope.zip --notebook 05_reach --source scripts --seed 3", 0),
    ("course site site --notebooks none", 2),  # there are none; tests/course/test_site.py writes it
    ("course solutions --notebook 05_reach --out solved --source scripts --run --questions", 0),
    ("course solutions --notebook 05_reach --out written --source scripts --project", 0),
    (
        "course grade nobody --notebook 05_reach --out graded --source scripts --timeout 5 "
        "--total 50 --memory 2 --jobs 1 --seed 1 --roster roster.csv --due 2026-12-01 "
        "--late 10%/day --sandbox none --questions --seed-by-student",
        2,
    ),  # that there is no such folder; those of tests/course/ grade
    ("course grade nobody --out graded --only ann --resume", 2),
)


def options_of(parser, path=()):
    """Every option of a parser and of its commands, (words of the command, name of the option)."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from options_of(command, (*path, name))
        elif action.option_strings and not isinstance(action, argparse._HelpAction):
            for name in action.option_strings:
                yield path, name


def given(words):
    """The command in a line, and the options that it gives."""
    command = []
    for word in words[:2]:
        if word.startswith("-") or (command and command[0] not in ("course", "data")):
            break
        command.append(word)
    return {(tuple(command), word) for word in words if word.startswith("--")}


def test_no_option_is_left_out():
    lines = set().union(*(given(line.split()) for line, _ in LINES))
    assert lines == set(options_of(cli._parser()))


@pytest.mark.parametrize("command", [None, *(c for c in cli.COMMANDS)])
def test_help_of_every_command(command, capsys):
    words = [] if command is None else [command.__name__.split(".")[-1]]
    words = {"convert": ["import"]}.get(*words, words) if words else []
    with pytest.raises(SystemExit) as leave:
        cli.main([*words, "--help"])
    assert leave.value.code == 0 and "usage:" in capsys.readouterr().out


@pytest.mark.slow
def test_every_option_of_every_command(tmp_path, monkeypatch, capsys):
    pytest.importorskip("nbformat")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINITXL_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("MINITXL_DEBUG", raising=False)
    monkeypatch.setattr(bench, "SHAPES", {"d128": bench.Shape(TINY, 2, 3, "tiny")})
    monkeypatch.setattr(bench_report, "SHAPES", bench.SHAPES)
    monkeypatch.setattr(bench, "GEMM_SIZES", (8, 16))
    monkeypatch.setattr(bench, "PAUSE", 0.0)
    monkeypatch.setattr(bench, "_torch_works", lambda device: False)
    Path("text.txt").write_text(TEXT, encoding="utf-8", newline="\n")
    Path("enwik8").write_bytes(TEXT.encode() * 20)
    with zipfile.ZipFile("enwik8.zip", "w") as archive:
        archive.write("enwik8")
    Path("roster.csv").write_text("id,name\nann,Ann Lee\n", encoding="utf-8")
    Path("scripts").mkdir()
    Path("scripts", "05_reach.py").write_text(SCRIPT, encoding="utf-8")
    for line, wanted in LINES:
        words = line.format(golden=GOLDEN).split()
        capsys.readouterr()
        try:
            code = cli.main(words)
        except SystemExit as leave:  # argparse
            code = leave.code
        out, err = capsys.readouterr()
        assert code == wanted, f"{line}\n{out}\n{err}"
        assert "this is a bug" not in err, f"{line}\n{err}"
        if wanted == 2:
            assert err.startswith("minitxl: error: ") and err.count("\n") == 1, line
    assert json.loads(Path("bench.json").read_text())
