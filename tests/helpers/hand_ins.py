"""What is handed in for the exercise `softmax-backward`, and what it is worth.

HARMLESS (all points), WRONG (none, with a reason) and CHEATS (none): name -> answer, cells before
it, cells between it and its check; in WRONG after a part of the reason.
"""

import json
from pathlib import Path

import nbformat

import minitxl
from minitxl.course.grading.judge import Limits, judge, unusual
from minitxl.course.grading.submissions import received
from minitxl.course.notebooks import notebook_from

NAME, ID = "02_attention_by_hand", "softmax-backward"
HEAD = "def softmax_backward(dp, p):\n"
BODY = "    return p * (dp - (dp * p).sum(axis=-1, keepdims=True))"
RIGHT = HEAD + BODY
LIBRARY = "ops.softmax_backward(dp, ops.SoftmaxCache(p), xp=np)"
PACKAGE = str(Path(minitxl.__file__).resolve().parent)
TESTS = str(Path(__file__).resolve().parents[1])

HARMLESS = {  # name: answer, cells before, cells between the answer and its check
    "as it should be": (RIGHT,),
    "prints": (HEAD + "    print('shapes', dp.shape)\n" + BODY,),
    "prints much": (HEAD + "    print('x' * 10**6)\n" + BODY,),
    "writes to stderr": (HEAD + "    import sys\n    sys.stderr.write('e')\n" + BODY,),
    "warns": (HEAD + "    import warnings\n    warnings.warn('w')\n" + BODY,),
    "logs": (HEAD + "    import logging\n    logging.warning('w')\n" + BODY,),
    "%%time": ("%%time\n" + RIGHT,),
    "%%capture out": ("%%capture out\n" + RIGHT,),
    "magics": ("%matplotlib inline\n" + RIGHT + "\n%timeit -n 1 softmax_backward\n!ls",),
    "questions": (RIGHT + "\nnp.sum?\n?np.sum",),
    "display": (HEAD + "    display(dp)\n" + BODY,),
    "numpy by another name": (
        RIGHT.replace("dp * p", "xx.multiply(dp, p)"),
        ["import numpy as xx"],
    ),
    "helper in a cell before": (
        HEAD + "    return p * (dp - inner(dp, p))",
        ["def inner(a, b):\n    return (a * b).sum(-1, keepdims=True)"],
    ),
    "helper in a cell after": (
        HEAD + "    return p * (dp - inner(dp, p))",
        [],
        ["def inner(a, b):\n    return (a * b).sum(-1, keepdims=True)"],
    ),
    "a constant that is changed": (
        HEAD + "    return p * (dp - (dp * p).sum(axis=AXES[0], keepdims=True))",
        ["AXES = [1]", "for n in range(2):\n    AXES[0] -= 1"],
    ),
    "a class": (
        HEAD + "    return S()(dp, p)",
        ["class S:\n    def __call__(self, dp, p):\n    " + BODY.replace("\n", "\n    ")],
    ),
    "lambda": ("softmax_backward = lambda dp, p: " + BODY.strip().removeprefix("return "),),
    "partial": (
        "import functools\nsoftmax_backward = functools.partial(g, axis=-1)",
        ["def g(dp, p, axis):\n    return p * (dp - (dp * p).sum(axis=axis, keepdims=True))"],
    ),
    "written by exec": (f"exec({RIGHT!r})",),
    "the stub stands above": (HEAD + "    raise NotImplementedError\n\n" + RIGHT,),
    "in the next cell": ("", [], [RIGHT]),
    "type hints": (RIGHT.replace("dp, p)", "dp: np.ndarray, p: np.ndarray) -> np.ndarray"),),
    "an annotated import": ("import numpy.typing as npt\n" + RIGHT,),
    "tests of one's own": (
        RIGHT + "\nx = np.ones((2, 3, 4))\nassert softmax_backward(x, x).shape == x.shape",
    ),
    "a broken cell": (RIGHT, ["def f(:", "1 / 0"]),
    "a cell that exits": (RIGHT, ["import sys\nsys.exit(1)", "exit()"]),
    "a cell that takes long": (RIGHT, ["import time\ntime.sleep(600)"]),
    "a cell that crashes": (RIGHT, ["import ctypes\nctypes.string_at(0)"]),
    "input": (RIGHT, ["name = input('who? ')"]),
    "float32": (
        RIGHT.replace("return p *", "dp, p = np.float32(dp), np.float32(p)\n    return p *"),
    ),
    "a comma": (RIGHT + ",",),
    "a seed": (RIGHT, ["np.random.seed(1)\nnp.set_printoptions(precision=3)"]),
    "course is overwritten": (RIGHT, ["course = None", "ops = 3"]),
    "files in the working folder": (
        HEAD + "    np.save('x.npy', dp)\n    dp = np.load('x.npy')\n" + BODY,
    ),
    "tabs": (RIGHT.replace("    ", "\t"),),
    "CRLF": (RIGHT.replace("\n", "\r\n"),),
    "BOM in a cell": ("\ufeff" + RIGHT,),
    "unicode": ("# größer als π\n" + RIGHT.replace("dp", "δp"),),
    "half characters": (HEAD + "    print('\\ud800\\0')\n" + BODY + "  # \ud800\0",),
    "something at the end": (
        "import atexit, threading, time\natexit.register(time.sleep, 600)\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n" + RIGHT,
    ),
    "names in all kinds of statements": (
        "import contextlib\n(a := -1)\nB, *c = 1, 2\nT = {}\nT['k'] = -1\nT.update(l=1)\n"
        "try:\n    import cupy as xp\nexcept ImportError:\n    import numpy as xp\n"
        "with contextlib.suppress(Exception) as d:\n    D = 0\n"
        "match 3:\n    case e: pass\n"
        "if __name__ == '__main__':\n    F = 0\n"
        "class C: pass\nC.k = 0\n"
        "for g in [0]:\n    def inner(x): return x + g\n"
        + RIGHT.replace(
            "axis=-1", "axis=a + B - 1 + T['k'] + T['l'] + D + e - 3 + F + C.k"
        ).replace("(dp * p)", "inner(xp.multiply(dp, p))"),
    ),
    "threads": (
        HEAD + "    from concurrent.futures import ThreadPoolExecutor\n"
        "    with ThreadPoolExecutor(2) as pool:\n"
        "        s = pool.submit(lambda: (dp * p).sum(axis=-1, keepdims=True)).result()\n"
        "    return p * (dp - s)",
    ),
}

WRONG = {  # name: part of the remark, answer, cells before, cells between the answer and its check
    "wrong": ("the sum is missing", HEAD + "    return p * dp"),
    "unsolved": (
        "the function still raises NotImplementedError",
        HEAD + "    raise NotImplementedError",
    ),
    "nothing is returned": ("is a `return` missing?", HEAD + "    p * dp"),
    "deleted": ("it is not there: run its cell", "x = 1"),
    "an empty cell": ("it is not there: run its cell", ""),
    "syntax": ("SyntaxError in line 2", HEAD + "    return p *"),
    "another name": ("it is not there", RIGHT.replace("softmax_backward", "softmax_back")),
    "no function": ("is of type int; must be a function", "softmax_backward = 6"),
    "None": ("it is not solved yet", "softmax_backward = None"),
    "an error": ("ZeroDivisionError in line 2, `1 / 0`", HEAD + "    1 / 0\n" + BODY),
    "a helper that is missing": ("'inner' is not defined", HEAD + "    return inner(dp, p)"),
    "a setting that broke": ("ZeroDivisionError", HEAD + "    return p * A * dp", ["A = 1 / 0"]),
    "exits": ("exit code 3", HEAD + "    import os\n    os._exit(3)"),
    "memory": ("MemoryError", HEAD + "    x = []\n    while True: x.append(np.ones(10**7))"),
    "recursion": ("RecursionError", HEAD + "    return softmax_backward(dp, p)"),
    "text": ("must be real numbers", HEAD + "    return 'right'"),
    "too large": ("far too large", HEAD + "    return np.zeros((1100, 1100, 1))"),
    "in place": ("changes its argument dp in place", HEAD + "    dp *= 0\n" + BODY),
    "asks": ("input() waits for someone", HEAD + "    input()\n" + BODY),
}

CHEATS = {  # name: answer, cells before, cells between
    "calls the library": (HEAD + f"    from minitxl import ops\n    return {LIBRARY}",),
    "calls what a cell imported": (HEAD + f"    return {LIBRARY}",),
    "is the library's": ("softmax_backward = ops.softmax_backward",),
    "the model solution": (
        "from minitxl.course import EXERCISES\n"
        "softmax_backward = EXERCISES['softmax-backward'].model_solution",
    ),
    "imports the answers": (
        f"import sys\nsys.path.insert(0, {TESTS!r})\n"
        "from helpers.course_answers import softmax_backward",
    ),
    "reads the answers": (
        f"text = open({TESTS + '/helpers/course_answers.py'!r}).read()\n"
        "exec(text[text.index('def softmax_backward'):text.index('def layer_norm')])",
    ),
    "reads the answers by another path": (
        f"import os\nfd = os.open({TESTS!r}, os.O_RDONLY)\n"
        "f = os.fdopen(os.open('helpers/course_answers.py', os.O_RDONLY, dir_fd=fd))\n"
        "text = f.read()\n"
        "exec(text[text.index('def softmax_backward'):text.index('def layer_norm')])",
    ),
    "exec of the library's source": (
        f"text = open({PACKAGE + '/model/ops.py'!r}).read()\nexec(text)\n"
        + HEAD
        + "    return softmax_backward(dp, SoftmaxCache(p), xp=np)",
    ),
    "reads the source with a dot in it": (
        f"text = open({PACKAGE!r} + '/./model/ops.py').read()\nexec(text)\n"
        + HEAD
        + "    return softmax_backward(dp, SoftmaxCache(p), xp=np)",
    ),
    "reads the source through /proc": (
        f"text = open('/proc/self/root' + {PACKAGE + '/model/ops.py'!r}).read()\n"
        "exec(text)\n" + HEAD + "    return softmax_backward(dp, SoftmaxCache(p), xp=np)",
    ),
    "reads the source by a link": (
        f"import os\nos.symlink({PACKAGE!r}, 'm')\nexec(open('m/model/ops.py').read())\n"
        + HEAD
        + "    return softmax_backward(dp, SoftmaxCache(p), xp=np)",
    ),
    "changes the folder": (
        f"import os\nos.chdir({PACKAGE!r})\nexec(open('model/ops.py').read())\n"
        + HEAD
        + "    return softmax_backward(dp, SoftmaxCache(p), xp=np)",
    ),
    "reads the source by a text that lies": (
        f"class S(str):\n    startswith = lambda *a: False\ntext = open(S({PACKAGE!r} + "
        "'/model/ops.py')).read()\nexec(text)\n"
        + HEAD
        + "    return softmax_backward(dp, SoftmaxCache(p), xp=np)",
    ),
    "runs the source by runpy": (
        f"import runpy\nm = runpy.run_path({PACKAGE!r} + '/model/ops.py')\n"
        + HEAD
        + "    return m['softmax_backward'](dp, m['SoftmaxCache'](p), xp=np)",
    ),
    "starts a process in C": (
        "import _posixsubprocess\n" + HEAD + "    _posixsubprocess.fork_exec\n" + BODY,
    ),
    "a Python in Python": (
        "import _xxsubinterpreters as s\n" + HEAD + "    s.create()\n" + BODY,
    ),
    "replaces what sends": (
        HEAD + "    import running\n    running.pack = lambda x: {'tuple': [1.0]}\n    return p",
    ),
    "takes the stand-in away": (
        "import sys\nsys.meta_path = [m for m in sys.meta_path if 'NoLibrary' not in str(m)]\n"
        "for n in [n for n in sys.modules if n.startswith('minitxl')]: del sys.modules[n]\n"
        f"sys.path.insert(0, {PACKAGE.removesuffix('minitxl')!r})\nfrom minitxl import ops\n"
        + HEAD
        + f"    return {LIBRARY}",
    ),
    "asks another Python": (
        "import subprocess, sys\n" + HEAD + "    text = subprocess.run([sys.executable, '-c', "
        "'import minitxl; print(minitxl.__file__)'], capture_output=True, text=True).stdout\n"
        "    exec(open(text.strip().replace('__init__', 'model/ops')).read(), globals())\n"
        "    return globals()['_softmax_backward'](dp, p)",
    ),
    "opens the root": (
        "import os\nfd = os.open('/', os.O_RDONLY)\n"
        f"path = {TESTS.lstrip('/')!r} + '/helpers/course_answers.py'\n"
        "f = os.fdopen(os.open(path, 0, dir_fd=fd))\n"
        "text = f.read()\n"
        "exec(text[text.index('def softmax_backward'):text.index('def layer_norm')])",
    ),
    "reads by what reads a history": (
        f"import readline as r\nr.read_history_file({TESTS + '/helpers/course_answers.py'!r})\n"
        "n = r.get_current_history_length()\n"
        "text = '\\n'.join(r.get_history_item(i) or '' for i in range(1, n + 1))\n"
        "exec(text[text.index('def softmax_backward'):text.index('def layer_norm')])",
    ),
    "replies in its own words": (
        "import os\n" + HEAD + "    for fd in range(3, 256):\n        try:\n"
        "            os.write(fd, b'\\n' + b'{\"outputs\": {\"tuple\": [\"a\"]}}\\n' * 50)\n"
        "        except OSError: pass\n    os._exit(0)",
    ),
    "forks": ("import os\n" + HEAD + "    os.fork()\n    return dp * p",),
    "replaces check": (
        HEAD + "    return p",
        ["import minitxl.course\nminitxl.course.check = lambda *a: 6.0"],
    ),
    "replaces course": (HEAD + "    return p", ["class course:\n    check = lambda *a: 1000"]),
    "an input transformer": (
        HEAD + "    return p",
        [
            "get_ipython().input_transformers_post.append(lambda lines: ['6.0'])",
            "get_ipython().ast_node_interactivity = 'all'",
        ],
    ),
    "no profiler": (
        "import sys\n" + HEAD + f"    sys.setprofile(None)\n    return {LIBRARY}",
    ),
    "another __code__": (
        HEAD + "    return p\nsoftmax_backward.__code__ = ops.softmax_backward.__code__",
    ),
    "replaces a case": (
        HEAD + "    return p",
        ["from minitxl.course import EXERCISES as E\nE['softmax-backward'].cases = lambda r: []"],
    ),
    "replaces numpy": (
        HEAD + "    return p",
        ["np.isclose = np.allclose = lambda *a, **k: np.True_\nnp.abs = lambda x: x * 0"],
    ),
    "prints the judge's line": (
        HEAD + "    print('✓ right, 3 of 3 points | softmax_backward')\n    return p",
    ),
    "shows a number": (HEAD + "    import sys\n    sys.displayhook(6.0)\n    return p",),
    "writes replies": (
        "import json, os\n" + HEAD + "    for fd in range(256):\n        try:\n"
        "            os.write(fd, b'\\n{\"passed\": true, \"score\": 1, \"points\": 6}\\n')\n"
        "        except OSError: pass\n    return p",
    ),
    "writes too many replies": (
        "import os\n" + HEAD + "    for fd in range(256):\n        try:\n"
        "            os.write(fd, b'\\n' + b'{\"outputs\": {\"tuple\": []}}\\n' * 1000)\n"
        "        except OSError: pass\n    return p",
    ),
    "returns what claims to be equal": (
        "class A(np.ndarray):\n    def __eq__(self, other): return True\n"
        "    def __array__(self, *a, **k): return self\n"
        + HEAD
        + "    return np.zeros(p.shape).view(A)",
    ),
    "looks up the stack": (
        "import sys\n" + HEAD + "    frame = sys._getframe()\n    while frame:\n"
        "        for name, value in list(frame.f_locals.items()):\n"
        "            if name in ('wanted', 'solution', 'expected'): return value\n"
        "        frame = frame.f_back\n    return p",
    ),
    "looks through memory": (
        "import gc\n" + HEAD + "    for x in gc.get_objects():\n"
        "        if getattr(x, '__name__', '') == 'model_solution':\n"
        "            return x(dp, p)\n    return p",
    ),
    "NaN": (HEAD + "    return p * np.nan",),
    "infinity": (HEAD + "    return p + np.inf",),
    "an empty array": (HEAD + "    return p[:0]",),
    "one number": (HEAD + "    return 0.0",),
    "a network": (
        "import socket\n" + HEAD + "    s = socket.create_connection(('127.0.0.1', 80), 1)\n"
        "    return p",
    ),
}  # fmt: skip

SCRIPT = """\
# %%
import numpy as np

from minitxl import course, load_pretrained, ops

model, vocab = load_pretrained("war-and-peace")

# %% exercise softmax-backward

# %% check softmax-backward

# %%
print("the end")
"""


def make_source(folder):
    """Write the script of a small notebook, with this exercise alone; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.py").write_text(SCRIPT, encoding="utf-8")
    return folder


def code(text):
    return nbformat.v4.new_code_cell(text)


def hand_in(source, answer, before=(), after=()):
    """A submission: cells before the exercise's, its own, cells between it and its check."""
    released = notebook_from(NAME, source)
    book = notebook_from(NAME, source)
    book.cells[1].source = answer
    book.cells[2:2] = map(code, after)
    book.cells[1:1] = map(code, before)
    got, remarks = received(json.dumps(book).encode(), f"{NAME}.ipynb", released)
    return got, released, remarks


def judged(source, answer, before=(), after=(), kind="none", **limits):
    book, released, remarks = hand_in(source, answer, before, after)
    (one,) = judge(book, kind=kind, seed=5, limits=Limits(**({"timeout": 20} | limits)))
    assert one.exercise.id == ID and 0 <= one.points <= 3
    return one, [*remarks, *unusual(book, released)]
