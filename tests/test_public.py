"""The public names: each can be imported on its own, first of all, and no others are shown."""

import subprocess
import sys
from types import ModuleType

import pytest

import minitxl
from minitxl import MinitxlError
from minitxl.experiments import DRAWN, RESULTS, draw, stored

MODULES = {"attention", "course", "gradcheck", "interop", "ops", "viz"}


def fresh(code: str) -> str:
    """What a new Python prints."""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.parametrize("name", minitxl.__all__)
def test_each_name_alone_in_a_new_process(name):
    show = "import types; print('module' if isinstance(x, types.ModuleType) else type(x))"
    kind = fresh(f"from minitxl import {name} as x; {show}")
    assert (kind == "module") == (name in MODULES)
    assert kind == fresh(f"import minitxl; x = minitxl.{name}; {show}")


def test_functions_are_functions_whatever_was_imported_before():
    """Rooms and modules have names of their own: no import puts a module in a function's place."""
    code = (
        "import minitxl.inference.evaluate, minitxl.inference.generate, minitxl.cli\n"
        "from minitxl import evaluate, generate\n"
        "print(callable(evaluate), callable(generate), minitxl.evaluate is evaluate)"
    )
    assert fresh(code) == "True True True"


def test_only_public_names_are_shown():
    want = """
        Config Memory TrainConfig TransformerXL Trainer Stream PRESETS Inspection MinitxlError
        load_corpus load_pretrained load_run save_run evaluate generate generate_batch
        interop viz course ops attention gradcheck
    """.split()
    assert sorted(minitxl.__all__) == sorted(want)
    assert dir(minitxl) == sorted([*want, "__version__"])
    for name in want:
        assert isinstance(getattr(minitxl, name), ModuleType) == (name in MODULES)
    with pytest.raises(AttributeError, match="no attribute 'Transformer'"):
        _ = minitxl.Transformer


def test_importing_the_package_imports_nothing_else():
    code = "import sys, minitxl; print('numpy' in sys.modules, 'minitxl.config' in sys.modules)"
    assert fresh(code) == "False False"


def test_stored_results():
    names = {path.stem for path in RESULTS.glob("*.json")}
    assert len(names) >= 7 and all(stored(name)["settings"] for name in names)
    with pytest.raises(MinitxlError, match="no results 'abolition' are stored; there are ablation"):
        stored("abolition")


@pytest.mark.parametrize("name", DRAWN)
def test_stored_results_are_drawn(name):
    picture = draw(name)
    assert len(picture.caption) > 40
    assert draw(name, stored(name)).caption == picture.caption


def test_an_experiment_without_a_picture():
    folder = RESULTS.parent
    assert {f"{name}_figure" for name in DRAWN} | {"lead_figure", "gpu_figure"} == {
        path.stem for path in folder.glob("*_figure.py")
    }
    with pytest.raises(MinitxlError, match="'shipped_model' has no picture; there are ablation"):
        draw("shipped_model")
