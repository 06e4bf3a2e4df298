"""The token explorer: its script computes the model's own probabilities, its page needs nothing."""

import base64
import json
import re
import shutil
import subprocess
import sys
from itertools import combinations, pairwise

import numpy as np
import pytest

import minitxl
from helpers.colours import DEFICIENCIES, contrast, lab, luminance
from helpers.models import Letters, make_model
from minitxl import Inspection, MinitxlError, viz
from minitxl.backend import get_backend
from minitxl.data import load_corpus
from minitxl.viz import Reading, explorer
from minitxl.viz.explorer import data as packing
from minitxl.viz.explorer import token_explorer

T, SEGMENTS = 8, 4

# For each state every row of attention and what the page writes of one, with the script alone.
PROGRAM = """
const model = await unpack(data);
const answers = states.map((given) => {
  const all = model.memories.at(-1);
  const state = { layer: 1, head: 0, query: model.n - 1, memory: all, terms: "abcd", ...given };
  const rows = Array.from({ length: model.n }, (_, query) => attend(model, { ...state, query }));
  const { layer, head, query } = state;
  return {
    probs: rows.map((row) => [...row]),
    terms: scoreTerms(model, layer, Math.max(head, 1) - 1, query, query - 5),
    spans: spans(model, query, rows[query]),
    means: [...meanByDistance(model, state)],
  };
});
console.log(JSON.stringify(answers));
"""


def small(tokens=None, mem_len=None, **options):
    """A float64 model of known oddities, and its explorer."""
    model = make_model(get_backend("cpu", "float64"), tgt_len=T, **options)
    tokens = np.random.default_rng(0).integers(0, 11, SEGMENTS * T + 1)
    return model, tokens, token_explorer(model, Letters(), tokens, tgt_len=T, mem_len=mem_len)


def model_says(model, tokens, mem_len):
    """Probabilities of the model itself, read segment by segment: per layer (H, n, n)."""
    n = SEGMENTS * T
    model = model.with_options(mem_len=mem_len, tgt_len=T)
    mems = None
    found = [np.zeros((model.config.n_head, n, n)) for _ in range(model.config.n_layer)]
    for start in range(0, n, T):
        seen = Inspection()
        _, mems = model.predict(tokens[None, start : start + T], mems, inspect=seen)
        for whole, p in zip(found, seen.probs, strict=True):
            p = model.backend.to_numpy(p)[0]
            whole[:, start : start + T, start + T - p.shape[2] : start + T] = p
    return found


def by_terms(layer, *, head, terms, mem_len, max_keys=None):
    """Attention (n, n) of one head, written anew from the layer's arrays with a double loop."""
    n = layer.q.shape[1]
    out = np.zeros((n, n))
    for i in range(n):
        first = max(0, i - i % T - mem_len, i + 1 - (max_keys or n))
        keys = range(first, i + 1)
        parts = {
            "a": [layer.q[head, i] @ layer.k[head, j] for j in keys],
            "b": [layer.q[head, i] @ layer.r[head, i - j] for j in keys],
            "c": [layer.c[head, j] for j in keys],
            "d": [layer.d[head, i - j] for j in keys],
        }
        scores = sum((np.array(parts[t]) for t in terms), start=np.zeros(len(keys)))
        p = np.exp(scores - scores.max())
        out[i, first : i + 1] = p / p.sum()
    return out


VARIANTS = {
    "paper": {},
    "pre_lnorm": dict(pre_lnorm=True),
    "raw queries": dict(pre_lnorm=True, raw_queries=True),
    "clamped": dict(clamp_len=6),
    "untied": dict(untie_r=True),
    "learned": dict(attn_type=1, max_klen=20),
    "same length": dict(same_length=True, same_length_extra=1),
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("mem_len", [3 * T, T + 3])
def test_the_layers_arrays_make_the_models_probabilities(options, mem_len):
    model, tokens, _ = small(**options)
    reading = Reading(model, tokens, tgt_len=T)
    layers = packing.layer_inputs(model, reading, mem_len)
    extra = mem_len + model.config.released.same_length_extra if model.config.same_length else None
    for layer, want in zip(layers, model_says(model, tokens, mem_len), strict=True):
        for head in range(model.config.n_head):
            got = by_terms(layer, head=head, terms="abcd", mem_len=mem_len, max_keys=extra)
            np.testing.assert_allclose(got, want[head], atol=1e-12)


# --- the script ---------------------------------------------------------------------------------

node = pytest.mark.skipif(shutil.which("node") is None, reason="no node to run the script in")


def run_script(tmp_path, data, *states):
    """PROGRAM's answer to each state, from node."""
    inputs = f"const data = {json.dumps(data)}, states = {json.dumps(states)};\n"
    path = tmp_path / "explorer.mjs"
    path.write_text(explorer._script() + inputs + PROGRAM, encoding="utf-8")
    done = subprocess.run(["node", path], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@node
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_the_script_computes_the_models_probabilities(tmp_path, options):
    model, tokens, shown = small(**options)
    want = model_says(model, tokens, 3 * T)
    one, mean = run_script(tmp_path, shown.data, dict(layer=2, head=3), dict(layer=1, head=0))
    np.testing.assert_allclose(one["probs"], want[1][2], atol=1e-4)
    np.testing.assert_allclose(mean["probs"], want[0].mean(axis=0), atol=1e-4)


@node
def test_the_script_leaves_out_terms_and_memory(tmp_path):
    model, tokens, shown = small()
    layer = packing.layer_inputs(model, Reading(model, tokens, tgt_len=T), 3 * T)[1]
    states = [
        dict(layer=2, head=1, terms=terms, memory=mem_len)
        for terms in ("", "a", "b", "c", "d", "ad", "bcd")
        for mem_len in (0, 2 * T)
    ]
    for state, got in zip(states, run_script(tmp_path, shown.data, *states), strict=True):
        want = by_terms(layer, head=0, terms=state["terms"], mem_len=state["memory"])
        np.testing.assert_allclose(got["probs"], want, atol=1e-4, err_msg=str(state))


@node
def test_the_scripts_numbers_are_those_of_the_trained_model(tmp_path):
    """Real keys have outliers; 16 bits must do for them. Terms, spans and means as well."""
    trained = minitxl.load_pretrained("war-and-peace")
    tokens = load_corpus("war-and-peace").test[5000 : 5000 + 4 * 64 + 1]
    shown = token_explorer(trained.model, trained.vocab, tokens, tgt_len=64)
    assert len(shown.html().encode("utf-8")) < 2_000_000
    reading = Reading(trained.model, tokens, tgt_len=64)
    reader, mems = trained.model.with_options(tgt_len=64, mem_len=192), None
    for row, _ in reading.segments:
        seen = Inspection()
        _, mems = reader.predict(row, mems, inspect=seen)
    c = trained.model.config
    states = [dict(layer=n, head=n % c.n_head + 1, query=192 + 40) for n in range(1, 7)]
    worst = 0.0
    for state, got in zip(states, run_script(tmp_path, shown.data, *states), strict=True):
        layer, head = state["layer"] - 1, state["head"] - 1
        p = seen.probs[layer][0, head].astype(np.float64)
        worst = max(worst, np.abs(np.array(got["probs"])[192:] - p).max())
        far = viz.nearest_first(p, 40) @ np.arange(233)
        assert got["spans"]["span"] == viz.span(p, 40)
        assert got["spans"]["expected"] == pytest.approx(far, abs=0.02)
        assert got["spans"]["memory"] == pytest.approx(p[40, :192].sum(), abs=1e-4)
        np.testing.assert_allclose(got["means"], viz.weight_by_distance(p), atol=1e-4)
        want = [seen.terms[layer][t][0, head, 40, 192 + 35] for t in "abcd"]
        np.testing.assert_allclose(got["terms"], want, atol=1e-2)
    print(f"largest difference of a probability: {worst:.1e}")
    assert worst < 1e-4


# --- the page, the notebook ---------------------------------------------------------------------


def test_the_page_loads_nothing(tmp_path):
    _, _, shown = small()
    path = shown.save(tmp_path / "sub" / "page.html", title="a <b> & c")
    page = path.read_text(encoding="utf-8")
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^\s"'>]*)""", page)
    assert links == ["data:,"]  # the page's icon: none
    assert set(re.findall(r"\w+://[^\s\"'`)]*", page)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|\bimport\b[ ({]", page)
    assert "@@" not in page and "<title>a &lt;b&gt; &amp; c</title>" in page
    script = page.index('<script type="module">')
    assert page.index("Loading") < page.index('id="data"') < script  # not blank until all is read
    inside = re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1)
    assert json.loads(inside) == json.loads(json.dumps(shown.data))
    assert "<" not in inside  # no text of the passage ends the element


def test_a_notebook_gets_picture_caption_and_widget():
    _, _, shown = small()
    pytest.importorskip("anywidget")
    data, _ = shown._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert "memory's edge" in data["text/plain"]
    assert data[explorer.VIEW]["model_id"] == shown.widget().model_id
    state = shown.widget().get_state()
    assert "export default" in state["_esm"] and state["data"]["unit"] == "character"


def test_without_anywidget_the_picture_remains(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    explorer._widget_class.cache_clear()
    _, _, shown = small()
    with pytest.warns(UserWarning, match="pip install anywidget"):
        data, _ = shown._repr_mimebundle_()
    assert set(data) == {"image/png", "text/plain"}


def test_words_are_shown_as_they_are():
    class Words:
        def decode(self, ids):
            return "".join(["peace", "\n", "war"][i % 3] for i in ids)

    model, tokens, _ = small()
    data = token_explorer(model, Words(), tokens, tgt_len=T).data
    assert {"peace", "war", "↵"} == set(data["shown"])
    assert {"“peace”", "“war”", "the line break"} == set(data["spoken"])
    assert data["unit"] == "token"


def test_same_length_is_never_left_without_a_key():
    _, _, shown = small(same_length=True)
    assert shown.data["memories"] == [T, 2 * T, 3 * T]
    _, _, shown = small(same_length=True, same_length_extra=1)
    assert shown.data["memories"] == [0, T, 2 * T, 3 * T]


def test_wrong_arguments_are_named():
    model, tokens, _ = small()
    for wrong in (dict(layer=3), dict(head=4), dict(query=T), dict(mem_len=3 * T + 1)):
        name, value = next(iter(wrong.items()))
        with pytest.raises(MinitxlError, match=rf"^{name}={value} must be \d+ \.\.\. \d+"):
            token_explorer(model, Letters(), tokens, tgt_len=T, **wrong)
    with pytest.raises(MinitxlError, match=r"^attn_type=2 has absolute positions"):
        small(attn_type=2)


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_segments_differ_on_dark_paper_for_every_kind_of_eye(kind):
    colours = packing.DARK_SEGMENT_COLOURS[:5]
    seen = [lab(np.asarray(DEFICIENCIES[kind]) @ luminance(colour)[1]) for colour in colours]
    assert min(np.linalg.norm(a - b) for a, b in pairwise(seen)) > 20
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen[:4], 2)) > 14


def test_text_is_legible_on_dark_paper():
    for colour in (packing.DARK_INK, packing.DARK_MUTED, *packing.DARK_SEGMENT_COLOURS):
        assert contrast(colour, packing.DARK_PAPER) > 4.5
    assert contrast(packing.DARK_MUTED, packing.DARK_HIDDEN) > 4.5
