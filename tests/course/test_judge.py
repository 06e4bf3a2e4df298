"""What a submission gets: case -> points and remark. The judge is another process.

Right answers get their points whatever harmless thing they do; every way to undeserved marks that
is known ends in 0, in each sandbox that works here.
"""

import json
import time

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("psutil")

from helpers.course_answers import source_of, with_mistake  # noqa: E402
from helpers.hand_ins import (  # noqa: E402
    BODY,
    CHEATS,
    HARMLESS,
    HEAD,
    ID,
    NAME,
    RIGHT,
    WRONG,
    code,
    hand_in,
    judged,
    make_source,
)  # fmt: skip
from minitxl.course import EXERCISES  # noqa: E402
from minitxl.course.grading import judge as judging  # noqa: E402
from minitxl.course.grading import sandbox  # noqa: E402
from minitxl.course.grading.judge import judge  # noqa: E402
from minitxl.course.grading.submissions import received  # noqa: E402
from minitxl.course.notebooks import notebook_from  # noqa: E402

pytestmark = pytest.mark.slow  # each case starts a Python


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source"))


@pytest.mark.parametrize("case", HARMLESS)
def test_right_answers_get_their_points(source, case):
    one, _ = judged(source, *HARMLESS[case])
    assert (one.points, one.remark) == (3, ""), one


def test_torch(source):
    pytest.importorskip("torch")
    answer = (
        "import torch\n" + HEAD + "    s = torch.tensor(np.log(p + 1e-300), requires_grad=True)\n"
        "    torch.softmax(s, -1).backward(torch.tensor(dp))\n    return s.grad"
    )
    assert judged(source, answer)[0].points == 3
    low = HEAD + "    dp, p = (torch.from_numpy(x).float() for x in (dp, p))\n" + BODY
    assert judged(source, low, ["import torch"])[0].points == 3


@pytest.mark.parametrize("case", WRONG)
def test_wrong_answers_get_nothing_and_a_reason(source, case):
    why, *cells = WRONG[case]
    one, _ = judged(source, *cells, memory=2.0)
    assert one.points == 0 and why in one.remark and "\n" not in one.remark, one


@pytest.mark.parametrize(
    "body",
    [
        "    while True: pass",
        "    import time\n    while True:\n        try: time.sleep(9)\n"
        "        except BaseException: pass",
        "    while True: print('x' * 1000)",
        "    import signal\n    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))\n"
        "    while True: pass",
    ],
)
def test_what_takes_too_long_is_ended(source, body):
    began = time.monotonic()
    one, _ = judged(source, HEAD + body, timeout=2)
    assert one.points == 0 and "it took over 2 s, and was ended" in one.remark
    assert time.monotonic() - began < 15


def test_a_notebook_has_its_time(source):
    times = iter([0.0, 1000.0])
    book, _, _ = hand_in(source, RIGHT)
    (one,) = judge(book, kind="none", seed=1, clock=lambda: next(times))
    assert one.points == 0 and one.remark == "not run: the exercises before took over 900 s in all"


def test_a_half_right_answer(source):
    one, _ = judged(source, HEAD + "    assert p.all(), 'zero'\n" + BODY)
    assert (
        one.points == 1.5 and "right, but not for masked keys, p = 0: AssertionError" in one.remark
    )


def test_the_seed_decides(source):
    """A table of what the check asks while learning is worth nothing."""
    table = (
        "import numpy as np\nfrom minitxl.course import EXERCISES\n"
        + HEAD
        + "    return {(8, 9, 4): 1.0}[p.shape] * p * 0 + 3"
    )
    assert judged(source, table)[0].points == 0


# --- undeserved marks -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CHEATS)
def test_undeserved_marks(source, case):
    one, _ = judged(source, *CHEATS[case])
    assert one.points == 0 and one.remark, f"{case}: {one}"


def test_files_elsewhere_are_not_to_be_had(source, tmp_path):
    """Of another checkout, say, which nobody has closed."""
    path = tmp_path / "answers.py"
    path.write_text(RIGHT)
    for call in (f"open({str(path)!r})", f"__import__('os').open({str(tmp_path)!r}, 0)"):
        one, _ = judged(source, f"{HEAD}    {call}\n{BODY}")
        assert one.points == 0 and "not to be had: " + str(tmp_path) in one.remark


def test_points_are_never_above_the_maximum(source):
    """Nor does a notebook's own metadata count, or an exercise of another notebook."""
    released, book = notebook_from(NAME, source), notebook_from(NAME, source)
    book.cells[1].source = RIGHT
    book.cells[2].metadata.nbgrader.points = 1000
    extra = code('course.check("reach")')
    extra.metadata.nbgrader = dict(book.cells[2].metadata.nbgrader, grade_id="reach-check")
    book.cells += [code(source_of("reach")), extra]
    got, _ = received(nbformat.writes(book).encode(), "x.ipynb", released)
    found = judge(got, kind="none", seed=1)
    assert [(one.exercise.id, one.points) for one in found] == [(ID, 3)]
    assert judging.Judged(EXERCISES[ID], judging.Verdict(True, 50.0, "")).points == 3


def test_what_is_unusual_is_told(source):
    long = f"x = {'y' * 2000!r}"
    for text in (
        long,
        "np.loadtxt('x')",
        "import builtins as b",
        "from os import popen",
        "x = getattr(b, 'ex' + 'ec')",
    ):
        assert judged(source, RIGHT, [text])[1], text
    for case, (_, *cells) in {"a": WRONG["exits"], "b": ("", *CHEATS["no profiler"])}.items():
        assert judged(source, *cells)[1] == {"a": [], "b": ["sys.setprofile"]}[case]
    assert judged(source, RIGHT, ["import ctypes"])[1] == ["ctypes"]
    alone = f'"""{"y " * 2000}"""'
    assert not judged(source, RIGHT, ["model.eval()\nx.open()", alone])[1]


# --- replies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "replies",
    [
        [],
        ["nonsense"],
        ["[]", "{}"],
        ['{"there": true}', '{"outputs": 3}'],
        [
            '{"there": true}',
            '{"outputs": {"tuple": [{"dtype": "|O", "shape": [1], "data": "gASVAA=="}]}}',
        ],
        [
            '{"there": true}',
            '{"outputs": {"tuple": [{"dtype": "<f8", "shape": [-1], "data": ""}]}}',
        ],
        [
            '{"there": true}',
            '{"outputs": {"tuple": [{"dtype": "<f8", "shape": [9e99], "data": ""}]}}',
        ],
        ['{"there": true}', '{"outputs": {"tuple": []}}'],
        ['{"there": true}', '{"outputs": {"tuple": ["a"]}}'],
        ['{"there": true}', '{"outputs": {"tuple": [true]}}'],
        ['{"there": true}', '{"failed": ["x"]}'],
        # as many as there are cases
        *(
            ['{"there": true}'] + [f'{{"outputs": {value}}}'] * 9
            for value in (
                '{"tuple": []}',
                '{"tuple": ["a"]}',
                '{"tuple": [null]}',
                '"abc"',
                '{"list": [1]}',
                '{"tuple": [{"tuple": [1, {"tuple": [1, 2]}]}]}',
                '{"tuple": [1, 2]}',
                f'{{"tuple": [1{"0" * 400}]}}',
                '{"tuple": [1.0]}',
            )
        ),
        ['{"there": true, "errors": [[Infinity, "x"]]}'],
        ['{"there": true}', '{"failed": [{}, 1, 2]}'],
        ['{"there": true, "errors": [[{}, "x"]]}'],
        ['{"there": true, "printed": 3}', "[" * 10**5],
    ],
)
def test_whatever_is_replied_is_a_verdict(source, replies, monkeypatch):
    book, _, _ = hand_in(source, RIGHT)
    monkeypatch.setattr(sandbox, "run", lambda *a, **k: sandbox.Ended(replies, 0))
    (one,) = judge(book, kind="none", seed=1)
    assert one.points == 0 and one.remark


def test_requests_hold_no_results(source, monkeypatch):
    asked = []
    monkeypatch.setattr(
        sandbox, "run", lambda kind, request, **k: asked.append(request) or sandbox.Ended([], 0)
    )
    book, _, _ = hand_in(source, RIGHT)
    judge(book, kind="none", seed=1)
    keys = {"cells", "name", "until", "arguments", "outputs", "cases"}
    assert set(asked[0]) == keys
    assert len(json.dumps(asked[0]["cases"])) < 100_000


@pytest.mark.slow
@pytest.mark.parametrize("exercise_id", sorted(EXERCISES))
def test_every_exercise_by_process(exercise_id):
    """All exercises, in their notebooks: right, wrong, not begun."""
    exercise = EXERCISES[exercise_id]
    released = notebook_from(exercise.notebook)
    for text, low, high in (
        (source_of(exercise_id), exercise.points, exercise.points),
        (with_mistake(exercise_id), 0, exercise.points - 0.5),
    ):
        book = notebook_from(exercise.notebook)
        for cell in book.cells:
            if cell.metadata.get("nbgrader", {}).get("grade_id") == exercise_id:
                cell.source = text
        got, _ = received(nbformat.writes(book).encode(), "x.ipynb", released)
        kept = {exercise_id, f"{exercise_id}-check"}
        got.cells = [
            c
            for c in got.cells
            if c.metadata.get("nbgrader", {}).get("grade_id", exercise_id) in kept
        ]
        (one,) = judge(got, kind="none", seed=2)
        assert low <= one.points <= high
