"""The kernels of CuPy's twins: they compile for GPUs, and they compute what the plain code does.

Most of it needs no GPU: the same text is compiled for the CPU, where the threads of a block take
turns at every barrier (`host_cuda.py`). What is marked `gpu` runs on a real one, where one is.
"""

import re
import shutil
import subprocess

import numpy as np
import pytest

from helpers import host_cuda
from helpers.models import make_model, make_tokens
from minitxl import TrainConfig
from minitxl.backend import cublas, cupy_launch, get_backend
from minitxl.model import attention, layers, ops
from minitxl.training import optim
from minitxl.training.trainer import Trainer

SIZES = {  # B, H, T, M, Dh: all different; M = 0, M > T, M < T, T = 1; the last takes several warps
    "first segment": (2, 3, 5, 0, 4),
    "long memory": (2, 3, 5, 6, 4),
    "short memory": (3, 2, 5, 4, 7),
    "one query": (2, 3, 1, 6, 4),
    "one key": (2, 3, 1, 0, 4),
    "several warps": (1, 2, 3, 290, 5),
}


@pytest.fixture(params=["upwards", "backwards"])
def gpu(request):
    """A GPU whose threads run in this order between two barriers."""
    gpu = host_cuda.Gpu(backwards=request.param == "backwards")
    yield gpu
    gpu.check_guards()


def on(backend, operation, undo, inputs, upstream, **options):
    """Run an operation and its backward on a backend; return all results as host arrays."""
    xp = backend.xp
    inputs = [backend.asarray(a) for a in inputs]
    before = [backend.to_numpy(a) for a in inputs]
    y, cache = operation(*inputs, **options, xp=xp)
    results = [y, *_tuple(undo(backend.asarray(upstream), cache, xp=xp))]
    for a, b in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(a), b)  # nothing passed in was changed
    return [backend.to_numpy(a) for a in results]


def _tuple(x):
    return x if isinstance(x, tuple) else (x,)


def same(got, expected, dtype="float64"):
    assert len(got) == len(expected)
    for g, e in zip(got, expected, strict=True):
        assert g.dtype == e.dtype == dtype and g.shape == e.shape
        scale = np.abs(e).max() + 1e-30
        np.testing.assert_allclose(g / scale, e / scale, rtol=0, atol=tolerance(dtype))


def tolerance(dtype):
    return 1e-12 if dtype == "float64" else 3e-6


def numbers(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def heads(b, h, length, dh, dtype, seed):
    """(B, H, L, Dh) as the model makes it: a view of (B, L, H*Dh)."""
    return numbers(b, length, h, dh, dtype=dtype, seed=seed).transpose(0, 2, 1, 3)


def core_inputs(size, dtype="float64", max_keys=None, documents=False):
    """All that the core reads, and an upstream gradient."""
    b, h, t, m, dh = size
    k = m + t
    bool_mask = attention.attention_mask(n_query=t, n_mem=m, max_keys=max_keys, device="cpu", xp=np)
    if documents:  # the rows of the batch see back to their own
        seen = np.arange(1, b * t + 1).reshape(b, 1, t, 1)
        own = attention.attention_mask(n_query=t, n_mem=m, max_keys=seen, device="cpu", xp=np)
        bool_mask = bool_mask | own
    mask = attention.additive_mask(bool_mask, dtype=np.dtype(dtype), xp=np)
    q, key, value = (heads(b, h, n, dh, dtype, i) for i, n in enumerate((t, k, k)))
    r = heads(1, h, k, dh, dtype, 3)[0]
    biases = [numbers(h, dh, dtype=dtype, seed=s) for s in (4, 5)]
    return [q, key, value, r, *biases, mask], heads(b, h, t, dh, dtype, 6)


class Uniform:
    """Random numbers that are the same for every backend."""

    def __init__(self, backend):
        self._backend, self._rng = backend, np.random.default_rng(11)

    def uniform(self, shape):
        return self._backend.asarray(self._rng.random(shape, dtype=np.float32))


def compare(backend, operation, undo, inputs, upstream, dtype="float64", drops=False, **options):
    """The twin on `backend` against the plain operation on NumPy."""
    plain = get_backend("cpu", dtype, fused=False)
    results = []
    for b in (backend, plain):
        rng = {"rng": Uniform(b) if drops else None} if "rng" in options else {}
        results.append(on(b, operation, undo, inputs, upstream, **{**options, **rng}))
    same(*results, dtype)


def cases(check):
    """Every operation with a twin, as calls of check(operation, undo, inputs, upstream, ...)."""
    core = (attention.core_forward, attention.core_backward)
    for size in SIZES.values():
        for drops in (False, True):
            rate = 0.3 if drops else 0.0
            check(*core, *core_inputs(size), drops=drops, dropatt=rate, rng=None)
    check(*core, *core_inputs((2, 3, 5, 6, 4), max_keys=3), dropatt=0.0, rng=None)
    check(*core, *core_inputs((2, 3, 5, 6, 4), documents=True), dropatt=0.0, rng=None)

    norm = (ops.layer_norm_forward, ops.layer_norm_backward)
    for shape in ((2, 5, 14), (3, 300), (1, 601, 3)):  # one warp, several, several chunks of rows
        gamma, beta = (numbers(shape[-1], seed=s) for s in (1, 2))
        check(*norm, [numbers(*shape) + 3, gamma, beta], numbers(*shape, seed=3), eps=1e-5)

    feed = (layers.feed_forward_forward, layers.feed_forward_backward)
    for b, t, d, f in ((2, 5, 14, 9), (1, 601, 3, 150)):
        weights = [numbers(*s, seed=i) for i, s in enumerate(((d, f), (f,), (f, d), (d,)), 1)]
        for drops in (False, True):
            inputs, dy = [numbers(b, t, d), *weights], numbers(b, t, d, seed=9)
            check(*feed, inputs, dy, drops=drops, dropout=0.3 if drops else 0.0, rng=None)

    drop = (ops.dropout_forward, ops.dropout_backward)
    check(*drop, [numbers(2, 5, 41)], numbers(2, 5, 41, seed=1), drops=True, rate=0.3, rng=None)

    entropy = (ops.cross_entropy_forward, ops.cross_entropy_backward)
    for n, v in ((10, 11), (3, 300)):
        targets = np.random.default_rng(0).integers(0, v, n).astype(np.int32)
        check(*entropy, [numbers(n, v) * 5 + 50, targets], numbers(n, seed=1))


# --- without a GPU ------------------------------------------------------------------------------


def test_kernels_are_the_list():
    """Each kernel of the source is listed, and takes only what CuPy can hand over as it is."""
    kernels = host_cuda.signatures()
    assert tuple(kernels) == cupy_launch.KERNELS
    allowed = {"T*", "float*", "Size", "double"}
    allowed |= {f"const {t}*" for t in ("T", "float", "double", "int", "unsigned")}
    assert {kind for kinds in kernels.values() for kind in kinds} <= allowed
    assert "#include" not in re.sub("//.*", "", cupy_launch.source())


def test_kernels_compile_for_a_gpu(tmp_path):
    """With nvcc, for both types, a warning being an error; the oldest GPU is that of CUDA 13."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    lines = [cupy_launch.source()]
    for name, kinds in host_cuda.signatures().items():
        for t in cupy_launch.TYPES.values():
            parameters = ", ".join(re.sub(r"\bT\b", t, kind) for kind in kinds)
            lines.append(f"template __global__ void {name}<{t}>({parameters});")
    (tmp_path / "kernels.cu").write_text("\n".join(lines), encoding="utf-8")
    command = [nvcc, "-std=c++17", "-Werror", "all-warnings", "-arch=sm_75", "-cubin"]
    command += ["-o", "kernels.cubin", "kernels.cu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[:3000]
    assert (tmp_path / "kernels.cubin").stat().st_size > 10_000


def test_twins_are_the_plain_operations(gpu, monkeypatch):
    backend = host_cuda.backend(monkeypatch, gpu)
    cases(lambda *args, **options: compare(backend, *args, **options))
    used = set(gpu.kernels)
    others = {"square_sums", "clip_by_norm", "adam", "uniform"}
    assert used == {*cupy_launch.KERNELS, "gemm"} - others
    assert backend.library.compute_types == {cublas.COMPUTE["float64"]}


@pytest.mark.parametrize("tf32", [None, "1", "0", "yes"])
def test_float32(tf32, monkeypatch):
    """The other type of every kernel; TF32 is asked for by CuPy's own switch and by no other."""
    monkeypatch.delenv("CUPY_TF32", raising=False)
    if tf32 is not None:
        monkeypatch.setenv("CUPY_TF32", tf32)
    backend = host_cuda.backend(monkeypatch, host_cuda.Gpu(), "float32")

    def check(operation, undo, inputs, upstream, **options):
        inputs = [a.astype("float32") if a.dtype == "float64" else a for a in inputs]
        upstream = upstream.astype("float32")
        compare(backend, operation, undo, inputs, upstream, "float32", **options)

    cases(check)
    exact, fast = cublas.COMPUTE["float32"], cublas.COMPUTE_TF32
    assert backend.library.compute_types == {fast if tf32 == "1" else exact}


@pytest.mark.parametrize("n", [7, 5000])
def test_flat_buffer(gpu, n, monkeypatch):
    """Clipping and three updates of Adam."""
    results = []
    for backend in (
        host_cuda.backend(monkeypatch, gpu),
        get_backend("cpu", "float64", fused=False),
    ):
        flat = backend.asarray(numbers(n))
        adam, xp = optim.Adam(flat, xp=backend.xp), backend.xp
        for step, limit in enumerate((0.9, 0.0, 1.1)):  # in units of the norm
            grad = numbers(n, seed=step + 1)
            limit *= float(np.linalg.norm(grad))
            grad = backend.asarray(grad)
            norm = optim.clip_by_norm(grad, limit, xp=xp)
            adam.step(flat, grad, 0.1)
            results.append([backend.to_numpy(a) for a in (norm, grad, flat, adam.m, adam.v)])
    for got, expected in zip(results[:3], results[3:], strict=True):
        same(got, expected)


def test_random_numbers_are_philox(monkeypatch, gpu):
    """The known answer of Philox4x32-10 for key 0, and the same numbers whatever the launch."""
    backend = host_cuda.backend(monkeypatch, gpu)
    rng = backend.rng_of(np.zeros(2, dtype=np.uint32))
    first = backend.to_numpy(rng.uniform((1, 5)))
    words = np.array([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8])
    np.testing.assert_array_equal(first[0, :4], (words >> 8) / np.float32(1 << 24))
    again = backend.to_numpy(backend.rng_of(np.zeros(2, dtype=np.uint32)).uniform((3000, 7)))
    np.testing.assert_array_equal(again.ravel()[:5], first[0])
    assert again.dtype == np.float32 and 0 <= again.min() and again.max() < 1
    assert abs(again.mean() - 0.5) < 0.01 and abs(again.var() - 1 / 12) < 0.002
    second = backend.to_numpy(rng.uniform((3000, 7)))
    other = backend.to_numpy(backend.rng(1, 2).uniform((3000, 7)))
    for a, b in ((again, second), (again, other), (second, other)):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.03


def test_not_a_number_is_not_hidden(monkeypatch):
    """A NaN comes through reductions and clipping; a target that is no token gives a NaN."""
    backend = host_cuda.backend(monkeypatch, host_cuda.Gpu())
    xp = backend.xp
    inputs, _ = core_inputs(SIZES["long memory"])
    inputs[0] = inputs[0].copy()
    inputs[0][0, 0, 0, 0] = np.nan
    inputs = [backend.asarray(a) for a in inputs]
    o = backend.to_numpy(attention.core_forward(*inputs, dropatt=0.0, rng=None, xp=xp)[0])
    assert np.isnan(o[0, 0, 0]).all() and np.isfinite(o[1]).all() and np.isfinite(o[0, 1]).all()
    grad = backend.asarray(np.array([3.0, np.nan]))
    assert np.isnan(backend.to_numpy(optim.clip_by_norm(grad, 1.0, xp=xp)))
    assert np.isnan(backend.to_numpy(grad)).all()
    targets = backend.asarray(np.array([1, 11, -1], dtype=np.int32))
    nll, _ = ops.cross_entropy_forward(backend.asarray(numbers(3, 11)), targets, xp=xp)
    assert list(np.isnan(backend.to_numpy(nll))) == [False, True, True]


def test_strides_of_every_kind(monkeypatch):
    """Keys from a cache, queries cut out of a longer array, a last dim that is strided."""
    backend = host_cuda.backend(monkeypatch, host_cuda.Gpu())
    (q, k, v, r, *rest), do = core_inputs(SIZES["long memory"])
    xp, core = backend.xp, (attention.core_forward, attention.core_backward)
    expected = on(get_backend("cpu", "float64", fused=False), *core, [q, k, v, r, *rest], do,
                  dropatt=0.0, rng=None)  # fmt: skip
    wide = backend.asarray(np.concatenate([k.transpose(0, 2, 1, 3)] * 2, axis=2))
    inputs = [
        backend.asarray(np.concatenate([q, q], axis=2))[:, :, :5, :],
        wide[:, :, :3, :].transpose(0, 2, 1, 3),  # keys and values of different strides
        backend.asarray(np.ascontiguousarray(v)),
        backend.asarray(np.ascontiguousarray(r.swapaxes(1, 2))).swapaxes(1, 2),
        *(backend.asarray(a) for a in rest),
    ]
    o, cache = attention.core_forward(*inputs, dropatt=0.0, rng=None, xp=xp)
    results = [o, *attention.core_backward(backend.asarray(do), cache, xp=xp)]
    same([backend.to_numpy(a) for a in results], expected)


def test_cache_of_the_plain_operation(monkeypatch):
    """`inspect` runs the plain core forward; backward then must know it."""
    backend = host_cuda.backend(monkeypatch, host_cuda.Gpu())
    inputs, do = core_inputs(SIZES["long memory"])
    core = (attention.core_forward.plain, attention.core_backward)
    plain = get_backend("cpu", "float64", fused=False)
    results = [on(b, *core, inputs, do, dropatt=0.0, rng=None) for b in (backend, plain)]
    same(*results)


@pytest.mark.parametrize(
    ("good", "bad", "status"),
    [
        ("n_query - 1 - i;\n  mask", "n_query - i;\n  mask", None),  # the shift, one off
        ("__syncthreads();  // an earlier", "// an earlier", None),  # a race of two reductions
        ("if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;\n  __syncthreads();",
         "if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;", None),
        ("if (!uniform) return;", "if (threadIdx.x) return;\n  __syncthreads();", "barrier"),
    ],
)  # fmt: skip
def test_planted_bugs_are_seen(good, bad, status, monkeypatch):
    """The emulation is no rubber stamp: wrong indices and missing barriers show."""
    seen = []
    for backwards in (False, True):
        gpu = host_cuda.Gpu(replacements=((good, bad),), backwards=backwards)
        backend = host_cuda.backend(monkeypatch, gpu)
        core = (attention.core_forward, attention.core_backward)
        norm = (ops.layer_norm_forward, ops.layer_norm_backward)
        vectors = [numbers(300, seed=s) for s in (1, 2)]
        try:
            inputs, do = core_inputs(SIZES["several warps"])
            compare(backend, *core, inputs, do, dropatt=0.0, rng=None)
            compare(backend, *norm, [numbers(3, 300), *vectors], numbers(3, 300, seed=3), eps=1e-5)
        except AssertionError as error:
            seen.append(str(error))
    assert seen and (status is None or status in seen[0])


# --- with a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
def test_twins_on_a_gpu():
    backend = get_backend("cuda", "float64")
    cases(lambda *args, **options: compare(backend, *args, **options))


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-10), ("float32", 2e-5)])
def test_training_on_a_gpu(dtype, atol):
    """Five steps with clipping give the CPU's losses, norms and parameters."""
    results = []
    for backend in (get_backend("cuda", dtype), get_backend("cpu", dtype, fused=False)):
        trainer = Trainer(make_model(backend), TrainConfig(batch_size=4, threads=1, clip=0.25))
        for seed in range(5):
            loss = trainer.step(make_tokens(4, 5, seed=seed), make_tokens(4, 5, seed=seed + 9))
            results.append([backend.to_numpy(a) for a in (loss, trainer.grad_norm)])
        results.append([backend.to_numpy(trainer.model.params.flat)])
    for got, expected in zip(results[:6], results[6:], strict=True):
        for g, e in zip(got, expected, strict=True):
            np.testing.assert_allclose(g, e, rtol=0, atol=atol)
