"""Memory, live: what Python packs for the component, and that its page needs nothing else."""

import base64
import hashlib
import html
import json
import re
import sys
import types
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

from helpers.colours import DEFICIENCIES, contrast, lab, luminance
from helpers.models import Letters, make_model
from minitxl import MinitxlError, cli
from minitxl.backend import get_backend
from minitxl.model.through_memory import hidden_gradients
from minitxl.storage.checkpoint import load_tensors
from minitxl.viz import live, span_explorer, theme
from minitxl.viz.in_browser import pack
from minitxl.viz.in_browser.gradient import gradient_numbers
from minitxl.viz.in_browser.pack import looking_far, weights_of
from minitxl.viz.reading import Reading

ROOT = Path(__file__).parents[2]
T = 6
TOKENS = np.random.default_rng(1).integers(0, 11, 5 * T + 3).astype(np.int32)
MODULE = sys.modules["minitxl.viz.in_browser"]


def model_of(**options):
    return make_model(get_backend("cpu", "float64"), tgt_len=T, **options)


def shown_of(model=None, text=TOKENS, **options):
    return live(model or model_of(), Letters(), text, tgt_len=T, **options)


# --- what is packed -----------------------------------------------------------------------------


def test_it_begins_where_one_key_far_back_weighs_most():
    """Checked against a loop over the rows; and that a layer or head once chosen stays."""
    reading = Reading(model_of(), TOKENS[:25], tgt_len=T)
    rows = {
        (layer, head, query): p[head, query, :12].max()
        for layer, p in enumerate(reading.attention(18))
        for head in range(p.shape[0])
        for query in range(6)
    }
    best = max(rows, key=rows.get)
    assert tuple(looking_far(reading, 18).values()) == best
    found = looking_far(reading, 18, layer=2, head=1)
    assert (found["layer"], found["head"]) == (1, 0)
    assert found["query"] == max(range(6), key=lambda q: rows[1, 0, q])
    data = shown_of(mem_len=18).data
    assert data["start"] == {"layer": best[0], "head": best[1]}
    assert data["passages"][0]["read"] == 3 * T + best[2] + 1


def test_the_opening_shows_the_models_own_bits():
    """What stands there before the worker has read is what the model says, with and without."""
    model = model_of()
    passage = shown_of(model, mem_len=T, read=2 * T + 3).data["passages"][0]
    for name, mem_len in (("bits", T), ("otherBits", 0)):
        reader, mems, want = model.with_options(mem_len=mem_len), None, [None]
        for start in range(0, 3 * T, T):
            x, y = TOKENS[None, start : start + T], TOKENS[None, start + 1 : start + T + 1]
            nll, mems, _ = reader.forward(x, y, mems)
            want += list(np.asarray(nll)[0] / np.log(2))
        assert passage[name] == [None, *(pytest.approx(x, abs=6e-4) for x in want[1 : 2 * T + 3])]


def test_weights_are_packed_without_loss(tmp_path):
    model = model_of()
    halves = {n: np.asarray(a, np.float16).astype(np.float64) for n, a in model.params.items()}
    for name, array in halves.items():
        if name != "out_bias":
            model.params[name] = array
    (tmp_path / "a.safetensors").write_bytes(weights_of(model))
    packed = load_tensors(tmp_path / "a.safetensors")
    for name, array in model.params.items():
        got = packed[f"params.{name}"]
        assert got.dtype == (np.float32 if name == "out_bias" and got.any() else np.float16)
        np.testing.assert_allclose(got, array, rtol=1e-7)


def test_words_are_shown_as_they_are():
    class Words:
        def decode(self, ids):
            return "".join(["peace", "\n", "war"][i % 3] for i in ids)

    data = live(model_of(), Words(), TOKENS, tgt_len=T).data
    assert {"peace", "war", "↵"} == set(data["shown"])
    assert {"“peace”", "“war”", "the line break"} == set(data["spoken"])
    assert data["unit"] == "token"


def test_texts_to_choose_from_keep_their_titles():
    data = shown_of(text=[("one", TOKENS), ("two", TOKENS[::-1])]).data
    assert [p["title"] for p in data["passages"]] == ["one", "two", "your own text"]
    assert data["passages"][1]["tokens"] == TOKENS[::-1].tolist()


@pytest.mark.parametrize(
    "options, why",
    [
        (dict(attn_type=2), "attn_type=2, and a page knows types 0 and 1"),
        (dict(cutoffs=(5,), div_val=2), "its softmax is adaptive"),
        (dict(start_mems="zeros"), "start_mems='zeros'"),
    ],
)
def test_models_that_a_page_cannot_read_are_refused(options, why):
    with pytest.raises(MinitxlError, match=why):
        shown_of(model_of(**options))


def test_wrong_arguments_are_named():
    for wrong in (dict(layer=3), dict(head=4), dict(read=99)):
        name, value = next(iter(wrong.items()))
        with pytest.raises(MinitxlError, match=rf"{name}={value} must be \d+ \.\.\. \d+"):
            shown_of(**wrong)
    with pytest.raises(MinitxlError, match="two segments of 6 and the token after them are 13"):
        shown_of(text=TOKENS[:12])


# --- the gradient -------------------------------------------------------------------------------


def test_the_gradient_is_the_librarys_and_exactly_zero_beyond_the_edge():
    model = model_of()
    segments = [[0, 6], [6, 12], [12, 17]]
    found = gradient_numbers(model, TOKENS[:17], segments, T)
    pairs = [(TOKENS[None, a:b], TOKENS[None, a + 1 : b + 1]) for a, b in segments]
    dnll = np.array([[0.25] * 4 + [0]])  # the last token's successor is not known
    for name, through in (("stopped", False), ("through", True)):
        reader = model.with_options(mem_len=T)
        want = hidden_gradients(reader, pairs, through_memory=through, dnll=dnll)
        for n, row in enumerate(found[name]["norms"]):
            norms = np.concatenate([np.linalg.norm(g[n][0], axis=-1) for g in want])
            np.testing.assert_allclose(row, norms, rtol=6e-3, atol=1e-300)
    before = np.array(found["stopped"]["norms"])[:, :12]
    assert (before == 0).all() and found["stopped"]["zeros"] == (24, 24)
    assert "24 of 24 states before it get a gradient of exactly 0" in found["stopped"]["sentence"]
    assert np.count_nonzero(np.array(found["through"]["norms"])[:, :12]) > 12


def test_the_memorys_part_of_the_keys_gradient_is_a_projection():
    """By hand: the whole gradient less the one from the segment's rows, along the whole."""
    from minitxl.model.through_memory import without_memory_rows
    from minitxl.viz.in_browser.gradient import memory_part_of_keys

    model, parts = model_of().with_options(mem_len=T), []
    pairs = [(TOKENS[None, a : a + T], TOKENS[None, a + 1 : a + T + 1]) for a in (0, T)]
    dnll = np.full((1, T), 1 / T)
    _, mems, _ = model.forward(*pairs[0])
    _, _, cache = model.forward(*pairs[1], mems)
    whole, alone = (
        model.backward(c, dnll) for c in (cache, without_memory_rows(cache, xp=model.backend.xp))
    )
    for n in range(model.config.n_layer):
        g, s = (np.asarray(x[f"layers.{n}.attn.w_k"]).ravel() for x in (whole, alone))
        parts.append(1 - g @ s / (g @ g))
    assert memory_part_of_keys(model, pairs, dnll) == pytest.approx(np.mean(parts), rel=1e-9)
    assert memory_part_of_keys(model, pairs[:1], dnll) is None


@pytest.mark.parametrize(
    "segments", [[], [[0, 6], [7, 12]], [[0, 99]], [[0, 6], [6, 7]], [[-3, 6]]]
)
def test_segments_that_make_no_sense_are_refused(segments):
    with pytest.raises(MinitxlError, match="segments"):
        gradient_numbers(model_of(), TOKENS[:17], segments, T)


# --- the page, the notebook ---------------------------------------------------------------------


def test_the_page_loads_nothing(tmp_path):
    shown = shown_of()
    page = shown.save(tmp_path / "sub" / "page.html", title="a <b> & c").read_text("utf-8")
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^\s"'>]*)""", page)
    assert links == ["data:,"]  # the page's icon: none
    assert set(re.findall(r"\w+://[^\s\"'`)]*", page)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|eval\(", page)
    assert "@@" not in page and "<title>a &lt;b&gt; &amp; c</title>" in page
    inside = re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1)
    assert json.loads(inside) == json.loads(json.dumps(shown.data))
    assert "<" not in inside  # no text of the passage ends the element


def test_the_policy_names_this_script_and_this_style_alone():
    page = shown_of().html()
    policy = html.unescape(re.search(r'Policy" content="(.*?)"', page).group(1))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for tag, rule in (('<script type="module">', "script-src"), ("<style>", "style-src")):
        text = page.split(tag, 1)[1].split("</", 1)[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules[rule]
    assert "unsafe" not in policy and "http" not in policy


def test_a_hostile_vocabulary_stays_text():
    class Hostile:
        def decode(self, ids):
            words = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>"]
            return "".join(words[i % 2] for i in ids)

    page = live(model_of(), Hostile(), TOKENS, tgt_len=T).html()
    assert "</script><script>alert" not in page and "<img" not in page


def test_a_notebook_gets_picture_words_and_widget():
    pytest.importorskip("anywidget")
    shown = shown_of()
    data, metadata = shown._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert "memory's edge" in data["text/plain"]
    assert metadata["image/png"]["alt"] == data["text/plain"]
    assert data[MODULE.VIEW]["model_id"] == shown.widget().model_id
    state = shown.widget().get_state()
    assert "export default" in state["_esm"] and state["data"]["unit"] == "character"
    assert bytes(state["weights"]) == weights_of(shown._model)


def test_colab_is_told_what_shows_the_widget(monkeypatch):
    """Its own manager shows such widgets alone, and finds it by an output's metadata."""
    pytest.importorskip("anywidget")
    enabled, url = [], "https://example.org/manager.js"
    colab = types.ModuleType("google.colab.output")
    colab.enable_custom_widget_manager = lambda: enabled.append(True)
    colab._widgets = types.SimpleNamespace(_installed_url=url)
    assert MODULE.VIEW not in shown_of()._repr_mimebundle_()[1]
    monkeypatch.setitem(sys.modules, colab.__name__, colab)
    for shown in (shown_of(), span_explorer(n_layer=2, tgt_len=4, mem_len=4)):
        about = shown._repr_mimebundle_()[1]
        assert about[MODULE.VIEW]["colab"]["custom_widget_manager"]["url"] == url
        assert "alt" in about["image/png"]
    assert enabled


def test_a_widget_is_answered_with_numbers_or_with_a_line():
    pytest.importorskip("anywidget")
    shown, said = shown_of(), []
    shown.widget().send = said.append
    question = {"id": 7, "tokens": TOKENS[:17].tolist(), "segments": [[0, 6], [6, 17]], "M": T}
    shown._answer(shown.widget(), question, [])
    shown._answer(shown.widget(), question | {"segments": []}, [])
    assert said[0]["id"] == 7 and said[0]["gradient"]["M"] == T
    assert "segments [] do not follow" in said[1]["error"]


def test_without_anywidget_the_picture_remains(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    MODULE._widget_class.cache_clear()
    with pytest.warns(UserWarning, match="pip install anywidget"):
        data, _ = shown_of()._repr_mimebundle_()
    assert set(data) == {"image/png", "text/plain"}
    MODULE._widget_class.cache_clear()


DARK = pack.THEMES[1]


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_segments_differ_on_dark_paper_for_every_kind_of_eye(kind):
    colours = DARK["segments"][:5]
    seen = [lab(np.asarray(DEFICIENCIES[kind]) @ luminance(colour)[1]) for colour in colours]
    assert min(np.linalg.norm(a - b) for a, b in pairwise(seen)) > 20
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen[:4], 2)) > 14


def test_text_is_legible_on_dark_paper():
    for colour in (DARK["ink"], DARK["muted"], *DARK["segments"]):
        assert contrast(colour, DARK["paper"]) > 4.5
    assert contrast(DARK["muted"], DARK["hidden"]) > 4.5
    assert pack.THEMES[0]["paper"] == theme.PAPER


def test_the_page_that_the_readme_links_is_the_one_that_the_command_writes(tmp_path):
    """Rebuild it with `python -m minitxl explore --out docs/memory_live.html`."""
    assert cli.main(["explore", "--out", str(tmp_path / "page.html")]) == 0
    pages = [ROOT / "docs" / "memory_live.html", tmp_path / "page.html"]
    parts = [re.split(r'(?<=id="data">)(.*?)(?=</script>)', p.read_text("utf-8")) for p in pages]
    (head, stored, tail), (made_head, made, made_tail) = parts
    assert (head, tail) == (made_head, made_tail)  # script, style and weights
    stored, made = (json.loads(data)["passages"] for data in (stored, made))
    for mine, fresh in zip(stored, made, strict=True):
        assert mine["tokens"] == fresh["tokens"] and mine["read"] == fresh["read"]
        np.testing.assert_allclose(mine["bits"][1:], fresh["bits"][1:], atol=2e-3)
