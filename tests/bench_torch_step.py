"""Times one training step of minitxl against a straightforward PyTorch version, in one process.

python tests/bench_torch_step.py --runs 7
python tests/bench_torch_step.py --runs 7 --dropout 0.1

A step is forward, backward, clipping the gradient to 0.25 and Adam, with the memory full. Both
start from the same weights and must report the same losses before anything is timed. Then single
steps alternate, so that whatever else the machine does meets both; medians and ratio are printed.
"""

import argparse
import math
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

CLIP = 0.25
LEARNING_RATE = 2.5e-4


class Attention(nn.Module):
    """Relative multi-head attention, batch first."""

    def __init__(self, d_model, n_head, d_head, dropout):
        super().__init__()
        self.n_head, self.d_head = n_head, d_head
        self.q = nn.Linear(d_model, n_head * d_head, bias=False)
        self.kv = nn.Linear(d_model, 2 * n_head * d_head, bias=False)
        self.r = nn.Linear(d_model, n_head * d_head, bias=False)
        self.o = nn.Linear(n_head * d_head, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h, mem, positions, u, v, mask):
        n_batch, n_query, _ = h.shape
        context = torch.cat([mem, h], dim=1)
        n_key = context.shape[1]
        q = self.q(h).view(n_batch, n_query, self.n_head, self.d_head)
        kv = self.kv(context).view(n_batch, n_key, 2, self.n_head, self.d_head)
        k, value = kv.permute(2, 0, 3, 1, 4)  # 2 x (B, H, K, Dh)
        r = self.r(positions).view(n_key, self.n_head, self.d_head).transpose(0, 1)  # (H, K, Dh)

        ac = torch.matmul((q + u).transpose(1, 2), k.transpose(-1, -2))  # (B, H, T, K)
        bd = torch.matmul((q + v).transpose(1, 2), r.transpose(-1, -2))
        bd = functional.pad(bd, (1, 0)).view(n_batch, self.n_head, n_key + 1, n_query)
        bd = bd[:, :, 1:].reshape(n_batch, self.n_head, n_query, n_key)
        score = (ac + bd) * self.d_head**-0.5
        probs = torch.softmax(score.masked_fill(mask, float("-inf")), dim=-1)
        out = torch.matmul(probs, value).transpose(1, 2).reshape(n_batch, n_query, -1)
        return self.dropout(self.o(out))


class Layer(nn.Module):
    def __init__(self, d_model, n_head, d_head, d_inner, dropout):
        super().__init__()
        self.attention = Attention(d_model, n_head, d_head, dropout)
        self.attention_norm = nn.LayerNorm(d_model)
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, d_inner),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(d_inner, d_model),
            nn.Dropout(dropout),
        )
        self.feed_forward_norm = nn.LayerNorm(d_model)

    def forward(self, h, mem, positions, u, v, mask):
        h = self.attention_norm(h + self.attention(h, mem, positions, u, v, mask))
        return self.feed_forward_norm(h + self.feed_forward(h))


class TorchTransformerXL(nn.Module):
    """Post-LN Transformer-XL as a PyTorch user would write it: modules, matmul, rel-shift view."""

    def __init__(self, config):
        super().__init__()
        self.d_model, self.mem_len = config.d_model, config.mem_len
        self.embedding = nn.Embedding(config.n_token, config.d_model)
        self.out_bias = nn.Parameter(torch.zeros(config.n_token))
        self.u = nn.Parameter(torch.zeros(config.n_head, config.d_head))
        self.v = nn.Parameter(torch.zeros(config.n_head, config.d_head))
        self.layers = nn.ModuleList(
            Layer(config.d_model, config.n_head, config.d_head, config.d_inner, config.dropout)
            for _ in range(config.n_layer)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer(
            "frequency", 10000.0 ** (-torch.arange(0, config.d_model, 2) / config.d_model)
        )

    def forward(self, tokens, targets, mems):
        h = self.dropout(self.embedding(tokens) * self.d_model**0.5)
        n_query, n_mem = tokens.shape[1], mems[0].shape[1]
        n_key = n_mem + n_query
        angle = torch.outer(torch.arange(n_key - 1, -1, -1.0), self.frequency)
        positions = self.dropout(torch.cat([angle.sin(), angle.cos()], dim=-1))
        mask = torch.ones(n_query, n_key, dtype=torch.bool).triu(1 + n_mem)
        new_mems = []
        for layer, mem in zip(self.layers, mems, strict=True):
            new_mems.append(torch.cat([mem, h.detach()], dim=1)[:, -self.mem_len :])
            h = layer(h, mem, positions, self.u, self.v, mask)
        logits = functional.linear(self.dropout(h), self.embedding.weight, self.out_bias)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten()), new_mems

    @torch.no_grad()
    def load(self, params):
        """Copy the weights of a minitxl model; nn.Linear stores the transpose."""

        def put(parameter, *arrays, transpose=False):
            array = np.concatenate([np.asarray(a) for a in arrays], axis=-1)
            parameter.copy_(torch.from_numpy(array.T.copy() if transpose else array))

        put(self.embedding.weight, params["word_emb"])
        put(self.out_bias, params["out_bias"])
        put(self.u, params["r_w_bias"])
        put(self.v, params["r_r_bias"])
        for n, layer in enumerate(self.layers):
            prefix = f"layers.{n}."
            p = {k.removeprefix(prefix): params[k] for k in params if k.startswith(prefix)}
            put(layer.attention.q.weight, p["attn.w_q"], transpose=True)
            put(layer.attention.kv.weight, p["attn.w_k"], p["attn.w_v"], transpose=True)
            put(layer.attention.r.weight, p["attn.w_r"], transpose=True)
            put(layer.attention.o.weight, p["attn.w_o"], transpose=True)
            put(layer.attention_norm.weight, p["attn_norm.gamma"])
            put(layer.attention_norm.bias, p["attn_norm.beta"])
            put(layer.feed_forward[0].weight, p["ff.w_1"], transpose=True)
            put(layer.feed_forward[0].bias, p["ff.b_1"])
            put(layer.feed_forward[3].weight, p["ff.w_2"], transpose=True)
            put(layer.feed_forward[3].bias, p["ff.b_2"])
            put(layer.feed_forward_norm.weight, p["ff_norm.gamma"])
            put(layer.feed_forward_norm.bias, p["ff_norm.beta"])


class TorchTrainer:
    """Forward, backward, clipping and Adam with the memories carried from step to step."""

    def __init__(self, model, config, batch_size):
        self.model = model.train()
        self.optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
        self.mems = [torch.zeros(batch_size, 0, config.d_model) for _ in range(config.n_layer)]

    def step(self, tokens, targets):
        tokens = torch.from_numpy(tokens).long()
        targets = torch.from_numpy(targets).long()
        self.optimizer.zero_grad(set_to_none=True)
        loss, self.mems = self.model(tokens, targets, self.mems)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        return loss.item()


def dense_products(config, batch_size):
    """Floating-point operations of the matrix products of one step, memory full, nothing wasted.

    Backward costs every product twice, but no gradient flows into the memory's rows or into R.
    """
    b, t, d, f = batch_size, config.tgt_len, config.d_model, config.d_inner
    k, width = config.mem_len + config.tgt_len, config.n_head * config.d_head
    full = 2 * b * t * d * width * 2  # q and o
    full += 3 * 2 * b * t * k * width  # content scores, position scores, values
    full += 2 * 2 * b * t * d * f  # feed-forward
    kv_r = 2 * 2 * b * k * d * width + 2 * k * d * width  # k and v; r
    into_h = 2 * 2 * b * t * d * width  # k's and v's gradient towards this segment's states
    logits = 3 * 2 * b * t * d * config.n_token
    return config.n_layer * (3 * full + 2 * kv_r + into_h) + logits


def random_batches(config, batch_size, count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        text = rng.integers(0, config.n_token, (batch_size, config.tgt_len + 1), dtype=np.int32)
        yield text[:, :-1].copy(), text[:, 1:].copy()


def build(args, dropout):
    """The config, and trainers of minitxl and PyTorch that start from the same weights."""
    from minitxl import Config, TransformerXL
    from minitxl.config import TrainConfig
    from minitxl.train import Trainer

    config = Config(
        n_token=args.n_token,
        n_layer=args.layers,
        d_model=args.d_model,
        n_head=args.n_head,
        d_head=args.d_head,
        d_inner=args.d_inner,
        tgt_len=args.tgt_len,
        mem_len=args.mem_len,
        dropout=dropout,
    )
    ours = TransformerXL(config, device="cpu", dtype="float32", seed=0)
    theirs = TorchTransformerXL(config)
    theirs.load(ours.params)
    settings = TrainConfig(
        lr=LEARNING_RATE,
        clip=CLIP,
        schedule="constant",
        warmup=0,
        batch_size=args.batch,
        threads=args.threads,
    )
    return config, Trainer(ours, settings), TorchTrainer(theirs, config, args.batch)


def check_same_losses(args, steps=4, tolerance=1e-4):
    """Train both for a few steps without dropout and demand the same loss at each."""
    config, ours, theirs = build(args, dropout=0.0)
    for n, (tokens, targets) in enumerate(random_batches(config, args.batch, steps)):
        a, b = float(ours.step(tokens, targets)), theirs.step(tokens, targets)
        print(f"  loss at step {n}: minitxl {a:.6f}, PyTorch {b:.6f} nats")
        if not abs(a - b) <= tolerance:
            raise SystemExit(f"the two models disagree by {abs(a - b):.2e}: nothing was timed")


def processor():
    """The processor's name as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def report_machine(args):
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    print(f"{processor()}, {os.cpu_count()} CPUs, {platform.system()}")
    print(
        f"Python {platform.python_version()}, NumPy {np.__version__} with {blas['name']} "
        f"{blas['version']}, PyTorch {torch.__version__} on {torch.get_num_threads()} threads, "
        f"minitxl on {args.threads} threads"
    )
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        if name in os.environ:
            print(f"  {name}={os.environ[name]} is set: unset it to let both use every core")


def time_steps(args):
    """Alternate single steps of the two; print their medians, spreads and rates, and the ratio."""
    config, ours, theirs = build(args, args.dropout)
    contenders = {"minitxl": ours, "PyTorch": theirs}
    seconds = {name: [] for name in contenders}
    # Until the memory is full and the buffers are warm.
    warmup = 2 + math.ceil(config.mem_len / config.tgt_len)
    for n, batch in enumerate(random_batches(config, args.batch, warmup + args.runs)):
        for name, trainer in contenders.items():
            time.sleep(args.pause)  # idle BLAS threads spin for a while; let them come to rest
            start = time.perf_counter()
            trainer.step(*batch)
            if n >= warmup:
                seconds[name].append(time.perf_counter() - start)

    gflop = dense_products(config, args.batch) / 1e9
    print(f"one step, dropout {args.dropout}, {args.runs} runs each; {gflop:.1f} GFLOP of products")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(
            f"  {name:8} median {median:.3f} s (min {min(times):.3f}, max {max(times):.3f}), "
            f"{gflop / median:.0f} GFLOP/s, {args.batch * config.tgt_len / median:.0f} tokens/s"
        )
    for what, summary in (("medians", statistics.median), ("fastest steps", min)):
        ratio = summary(seconds["minitxl"]) / summary(seconds["PyTorch"])
        print(f"  minitxl / PyTorch, {what}: {ratio:.2f}")
    print("  (Where the two ratios differ much the machine was busy: run again on a quiet one.)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="timed steps of each")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--n-head", type=int, default=8)
    parser.add_argument("--d-head", type=int, default=32)
    parser.add_argument("--d-inner", type=int, default=1024)
    parser.add_argument("--tgt-len", type=int, default=128)
    parser.add_argument("--mem-len", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--n-token", type=int, default=78)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of minitxl")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds of rest before a step")
    args = parser.parse_args()
    report_machine(args)
    check_same_losses(args)
    time_steps(args)


if __name__ == "__main__":
    main()
