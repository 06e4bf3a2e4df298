"""Foreign weights: the numbers of the released code and of the Hugging Face library, to the digit.

Their outputs are kept in tests/golden, with the scripts that made them; neither is needed here.
Run as a program, this file prints how far apart the numbers are.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.models import config_of
from minitxl import Config, MinitxlError, TransformerXL, interop
from minitxl.config import Released

GOLDEN = Path(__file__).parents[1] / "golden"
RELEASED = sorted((GOLDEN / "released").glob("*.npz"))
HF = GOLDEN / "huggingface"
HF_CASES = ["published", "div_val_1", "pre_lnorm", "no_clusters"]


# --- the released PyTorch code ---


class Golden:
    """One file of tests/golden/make_released.py."""

    def __init__(self, path):
        self.arrays = dict(np.load(path))
        self.arguments = json.loads(str(self.arrays["arguments"]))
        self.state, self.grads = self.group("state/"), self.group("grad/")

    def group(self, prefix):
        return {k.removeprefix(prefix): a for k, a in self.arrays.items() if k.startswith(prefix)}

    def segments(self):
        for k in range(3):
            tokens, targets = (self.arrays[f"{name}/{k}"].T for name in ("data", "target"))
            mems = self.group(f"mems/{k}/")
            mems = [mems[str(n)].transpose(1, 0, 2) for n in range(len(mems))]  # (B, M, D)
            yield tokens, targets, self.arrays[f"loss/{k}"].T, mems


def differences(path):
    """Largest absolute difference in losses, memories and gradients."""
    golden = Golden(path)
    model = interop.load_official(golden.state, golden.arguments)
    mems, loss_error, mems_error = None, 0.0, 0.0
    for tokens, targets, loss, their_mems in golden.segments():
        nll, mems, cache = model.forward(tokens, targets, mems)
        loss_error = max(loss_error, np.abs(nll - loss).max())
        for ours, theirs in zip(mems, their_mems, strict=False):  # their last is never read
            assert ours.shape == theirs.shape
            mems_error = max(mems_error, np.abs(ours - theirs).max(initial=0.0))
    grads = interop.to_official(model.backward(cache), model.config)
    assert set(golden.grads) <= set(grads)
    assert all(grads[name].shape == g.shape for name, g in golden.grads.items())
    grad_error = max(np.abs(grads[name] - g).max() for name, g in golden.grads.items())
    return loss_error, mems_error, grad_error


@pytest.mark.parametrize("path", RELEASED, ids=lambda p: p.stem)
def test_agrees_with_the_released_code(path):
    assert max(differences(path)) < 1e-12


@pytest.mark.parametrize("path", RELEASED, ids=lambda p: p.stem)
def test_official_round_trip(path):
    """There and back: exact; tied arrays come under each of their names."""
    golden = Golden(path)
    model = interop.load_official(golden.state, golden.arguments)
    back = interop.to_official(model.params, model.config)
    for name, array in golden.state.items():
        np.testing.assert_array_equal(back[name], array)
    tied = {n for n in set(back) - set(golden.state) if n.startswith("crit.out_")}
    assert set(back) - set(golden.state) == tied
    arguments = interop.arguments_of(model.config)
    again = interop.load_official(back, arguments)
    assert again.config == model.config
    np.testing.assert_array_equal(again.params.flat, model.params.flat)
    assert set(interop.to_official(model.params.zeros_like(), model.config)) == {
        name for name in back if "inv_freq" not in name
    }


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".safetensors"])
def test_state_from_a_file(suffix, tmp_path):
    from minitxl.storage.checkpoint import save_tensors

    golden = Golden(GOLDEN / "released" / "div_val.npz")
    model = interop.load_official(golden.state, golden.arguments)
    file = tmp_path / f"model{suffix}"
    if suffix == ".pt":
        assert interop.save_official(model, file)["div_val"] == 2
    elif suffix == ".npz":
        np.savez(file, **golden.state)
    else:
        save_tensors(file, golden.state, metadata={})
    again = interop.load_official(file, golden.arguments)
    np.testing.assert_array_equal(again.params.flat, model.params.flat)


def test_a_model_of_ours_keeps_its_meaning_elsewhere():
    """Clusters in natural order become reversed ones, with their columns moved."""
    config = Config(n_token=17, n_layer=1, d_model=8, d_inner=8, cutoffs=(4, 9), div_val=2)
    model = TransformerXL(config, device="cpu", dtype="float64")
    model.params.flat[...] += np.random.default_rng(0).normal(size=model.n_params)
    state = interop.to_official(model.params, config)
    there = interop.load_official(state, interop.arguments_of(config))
    assert there.config.released.cluster_order == "reversed"
    tokens = np.random.default_rng(1).integers(0, 17, (2, 6))
    np.testing.assert_allclose(
        model.predict(tokens)[0], there.predict(tokens)[0], rtol=0, atol=1e-13
    )


def test_a_tied_array_may_have_either_name():
    golden = Golden(GOLDEN / "released" / "projection.npz")
    state = dict(golden.state)
    state["crit.out_projs.0"] = state.pop("word_emb.emb_projs.0")
    state["crit.out_layers.0.weight"] = state.pop("word_emb.emb_layers.0.weight")
    model = interop.load_official(state, golden.arguments)
    expected = interop.load_official(golden.state, golden.arguments)
    np.testing.assert_array_equal(model.params.flat, expected.params.flat)


def changed(name, array=None, **arguments):
    golden = Golden(GOLDEN / "released" / "div_val.npz")
    state = {k: a for k, a in golden.state.items() if k != name}
    if array is not None:
        state[name] = array
    return state, {**golden.arguments, **arguments}


EMB = "word_emb.emb_layers.0.weight"


@pytest.mark.parametrize(
    ("state", "arguments", "words"),
    [
        (*changed(EMB), "lack 'word_emb.emb_layers.0.weight'"),
        (*changed(EMB, np.zeros((4, 9))), r"\(4, 9\) in the weights, \(4, 8\)"),
        (*changed(EMB, np.zeros((4, 8), dtype=int)), "int64; weights must be floats"),
        (*changed("stranger", np.zeros(3)), "no place for, such as 'stranger'"),
        (*changed("crit.out_layers.0.weight", np.zeros((4, 8))), "tied .* differ"),
        (*changed("pos_emb.inv_freq", np.zeros(3)), r"\(3,\), \(4,\) is half of"),
        (*changed("x", n_layer=3), "lack 'layers.2.dec_attn"),
        (*changed("x", n_layer=1), "no place for, such as 'layers.1"),
        (*changed("x", cutoffs=[4, 9]), "no place for|lack|tie_projs"),
        (*changed("x", n_heads=2), "no argument n_heads"),
        (*changed("x", mem_len=None), "lack mem_len"),
        (*changed("x", sample_softmax=10), "sample_softmax"),
        (*changed("x", same_length=True, mem_len=0), "hide every key"),
        (*changed("x", tie_projs=[True] * 5), "5 entries, there are 4 clusters"),
        (*changed("x", d_model="8"), "d_model must be of type int"),
    ],
)
def test_what_does_not_fit_is_named(state, arguments, words):
    with pytest.raises(MinitxlError, match=words) as caught:
        interop.load_official(state, arguments)
    assert "\n" not in str(caught.value)


CANNOT = [
    dict(layer_norm_epsilon=1e-2),
    dict(pre_lnorm=True, raw_queries=True),
    dict(pre_lnorm=True, attn_type=2, mem_len=0),
    dict(attn_type=2),
    dict(attn_type=3),
    dict(attn_type=3, mem_len=0, clamp_len=2),
    dict(ext_len=2),
    dict(same_length=True, same_length_extra=1),
    dict(attn_type=1, max_klen=5),
    dict(attn_type=4),
    dict(attn_type=5),
]


@pytest.mark.parametrize("options", CANNOT, ids=lambda o: "-".join(map(str, o.items())))
def test_what_cannot_be_expressed_is_not_exported(options):
    """Rather no file than one that computes something else."""
    with pytest.raises(MinitxlError, match="would compute something else") as caught:
        interop.arguments_of(config_of(n_token=9, **options))
    assert "\n" not in str(caught.value)
    for allowed in (dict(), dict(attn_type=1), dict(attn_type=3, mem_len=0), dict(untie_r=True)):
        interop.arguments_of(config_of(n_token=9, **allowed))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(cutoffs=5), "cutoffs=5 must be of type list"),
        (dict(tie_projs=True), "tie_projs=True must be of type list"),
        (dict(clamp_len="x"), "clamp_len='x' must be of type int"),
        (dict(d_embed="8"), "d_embed='8' must be of type int"),
        (dict(attn_type=4), "attn_type=4 is minitxl's own"),
        (dict(n_layer=10**9), "n_layer=1000000000 must be at most"),
        (dict(n_layer=10**4), "asks for 10000 parts, the weights hold"),
    ],
)
def test_wrongly_typed_arguments(arguments, words):
    state, all_arguments = changed("x", **arguments)
    with pytest.raises(MinitxlError, match=words):
        interop.load_official(state, all_arguments)


def test_arguments_of_numpy_and_prefixes():
    """What comes out of a .npz or from DataParallel."""
    golden = Golden(GOLDEN / "released" / "div_val.npz")
    arguments = {
        k: np.asarray(v) if v is not None and not isinstance(v, bool) else v
        for k, v in golden.arguments.items()
    }
    state = {f"module.{k}": a for k, a in golden.state.items()}
    model = interop.load_official(state, arguments)
    expected = interop.load_official(golden.state, golden.arguments)
    assert model.config == expected.config
    np.testing.assert_array_equal(model.params.flat, expected.params.flat)
    with pytest.raises(MinitxlError, match="must be a mapping"):
        interop.load_official(golden.state, None)
    with pytest.raises(MinitxlError, match="not of this config"):
        interop.to_official(model.params, model.config.replace(n_layer=1))


# --- Hugging Face ---


def hf_outputs(case, dtype):
    """Run the library's segments; yield (ours, theirs, what)."""
    expected = dict(np.load(HF / case / "expected.npz"))
    model = interop.load_huggingface(HF / case, dtype=dtype)
    assert model.config.start_mems == "zeros" and model.config.released.cluster_order == "natural"
    mems, k = None, 0
    while f"ids_{k}" in expected:
        log_p, mems = model.predict(expected[f"ids_{k}"], mems)
        suffix = "64" if dtype == "float64" else ""
        yield log_p, expected[f"log_probs{suffix}_{k}"], "log-probabilities"
        if dtype == "float32":
            theirs = expected[f"mems_{k}"].transpose(0, 2, 1, 3)  # (N, M, B, D) -> (N, B, M, D)
            yield np.stack(mems), theirs, "memories"
        k += 1
    assert k == 3


@pytest.mark.parametrize("case", HF_CASES)
@pytest.mark.parametrize(("dtype", "atol"), [("float32", 2e-5), ("float64", 1e-12)])
def test_agrees_with_hugging_face(case, dtype, atol):
    for ours, theirs, what in hf_outputs(case, dtype):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=what)


@pytest.mark.parametrize("case", ["published", "div_val_1"])
def test_gradients_agree_with_hugging_face(case):
    from minitxl.interop.names import HUGGING_FACE, to_theirs

    expected = dict(np.load(HF / case / "expected.npz"))
    theirs = dict(np.load(HF / case / "gradients.npz"))
    model = interop.load_huggingface(HF / case, dtype="float64")
    mems = None
    for k in range(3):
        _, mems, cache = model.forward(expected[f"ids_{k}"], expected[f"targets_{k}"], mems)
    ours = to_theirs(model.backward(cache), model.config, HUGGING_FACE)
    assert set(theirs) <= set(ours) and len(theirs) > 25
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[name], gradient, rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("case", ["published", "div_val_1"])
def test_other_names_of_tied_arrays(case, tmp_path):
    """A safetensors file that keeps the softmax's names, with the others as aliases."""
    shutil.copy(HF / case / "config.json", tmp_path)
    shutil.copy(HF / f"{case}_other_names" / "model.safetensors", tmp_path)
    a, b = (interop.load_huggingface(folder) for folder in (HF / case, tmp_path))
    np.testing.assert_array_equal(a.params.flat, b.params.flat)


@pytest.mark.parametrize("case", HF_CASES)
def test_vocabulary(case):
    settings = json.loads((HF / case / "config.json").read_text(encoding="utf-8"))
    vocab = interop.load_huggingface_vocab(HF / case)
    assert vocab.n_token == settings["vocab_size"] and vocab.symbols[0] == "<eos>"


@pytest.mark.parametrize("case", HF_CASES)
def test_hugging_face_round_trip(case, tmp_path):
    model = interop.load_huggingface(HF / case)
    vocab = interop.load_huggingface_vocab(HF / case)
    interop.save_huggingface(model, tmp_path / "out", vocab)
    again = interop.load_huggingface(tmp_path / "out")
    assert again.config == model.config
    np.testing.assert_array_equal(again.params.flat, model.params.flat)
    np.testing.assert_array_equal(
        again.params.constants["inv_freq"], model.params.constants["inv_freq"]
    )
    assert interop.load_huggingface_vocab(tmp_path / "out") == vocab
    settings = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    theirs = json.loads((HF / case / "config.json").read_text(encoding="utf-8"))
    for key in ("cutoffs", "tie_projs", "untie_r", "clamp_len", "same_length", "vocab_size"):
        assert settings[key] == theirs[key]


def test_a_published_folder():
    """The published config.json's fields: `tie_weight` is there and `tie_projs` counts."""
    settings = dict(
        vocab_size=267735, cutoffs=[20000, 40000, 200000], d_model=1024, d_embed=1024, n_head=16,
        d_head=64, d_inner=4096, n_layer=18, div_val=4, mem_len=1600, tgt_len=128, ext_len=0,
        clamp_len=1000, same_length=True, untie_r=True, attn_type=0, pre_lnorm=False,
        tie_weight=True, tie_projs=[False, True, True, True], dropout=0.1, dropatt=0.0,
        layer_norm_epsilon=1e-5, adaptive=True, eos_token_id=0,
    )  # fmt: skip
    import math

    from minitxl.interop.huggingface import config_of
    from minitxl.model.transformer_xl import network_of

    config = config_of(settings)
    shapes = network_of(config).param_shapes(config)
    n_params = sum(math.prod(shape) for shape in shapes.values())
    assert n_params == 285_205_322  # as the published file holds, ties counted once ...
    assert config.d_model // 2 == 512  # ... and its 512 frequencies are no parameters
    assert config_of({"vocab_size": 267735}) == config  # the library's defaults are these


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(attn_type=1), "attn_type=1"),
        (dict(model_type="bert"), "'bert', not of a 'transfo-xl'"),
        (dict(clamp_len=7.5), "clamp_len must be of type int"),
        (dict(n_layer=10**9), "n_layer=1000000000 must be at most"),
        (dict(n_layer=10**4), "asks for 10000 parts"),
        (dict(vocab_size=None), "vocab_size=None"),
        (dict(n_layer=3), "lack"),
        (dict(d_inner=4), "shape"),
        (dict(tie_projs=[True]), "tie_projs"),
        (dict(mem_len=0), "hide every key"),
        (dict(tie_word_embeddings=False), "lack 'crit.out_layers"),
    ],
)
def test_wrong_settings(changes, words, tmp_path):
    settings = json.loads((HF / "published" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(settings | changes), encoding="utf-8")
    shutil.copy(HF / "published" / "model.safetensors", tmp_path)
    with pytest.raises(MinitxlError, match=words) as caught:
        interop.load_huggingface(tmp_path)
    assert "\n" not in str(caught.value)


def test_visible_settings_count(tmp_path):
    """What another program changes in an exported config.json is not overruled by our own key."""
    model = interop.load_huggingface(HF / "published")
    interop.save_huggingface(model, tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    settings |= dict(mem_len=99, same_length=False, clamp_len=50)
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    c = interop.load_huggingface(tmp_path).config
    assert (c.mem_len, c.same_length, c.clamp_len) == (99, False, 50)
    with pytest.raises(MinitxlError, match="raw_queries with pre_lnorm"):
        config = model.config.replace(released=Released(raw_queries=True), pre_lnorm=True)
        interop.save_huggingface(TransformerXL(config, device="cpu"), tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(MinitxlError, match=r"no config\.json"):
        interop.load_huggingface(tmp_path)
    shutil.copy(HF / "published" / "config.json", tmp_path)
    with pytest.raises(MinitxlError, match=r"no model\.safetensors and no pytorch_model\.bin"):
        interop.load_huggingface(tmp_path)
    assert interop.load_huggingface_vocab(tmp_path) is None


if __name__ == "__main__":
    print("| released code, float64 | loss | memories | gradients |\n|---|---:|---:|---:|")
    for path in RELEASED:
        print(f"| {path.stem} |", " | ".join(f"{e:.1e}" for e in differences(path)), "|")
    print("\n| Hugging Face | float32 log p | float32 memories | float64 log p |")
    print("|---|---:|---:|---:|")
    for case in HF_CASES:
        errors = {}
        for dtype in ("float32", "float64"):
            for ours, theirs, what in hf_outputs(case, dtype):
                key = f"{dtype} {what}"
                errors[key] = max(errors.get(key, 0.0), np.abs(ours - theirs).max())
        print(f"| {case} |", " | ".join(f"{e:.1e}" for e in errors.values()), "|")
