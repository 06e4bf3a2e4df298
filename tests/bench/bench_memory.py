"""Peak memory and time of training steps and of evaluation, each in a process of its own.

    python tests/bench/bench_memory.py --preset wt103-large --batch-size 4 --set tgt_len=128

prints the high-water mark of the resident set (Linux and macOS), which Python, NumPy and the
parameters are part of. Tokens are drawn by Zipf's law over the vocabulary, as words are.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np


def tokens_of(n_token, shape, seed):
    """Random ids with probability proportional to 1 / (id + 1)."""
    p = 1.0 / np.arange(1, n_token + 1)
    return np.random.default_rng(seed).choice(n_token, shape, p=p / p.sum()).astype(np.int32)


def measure(job):
    """Run one job and print what it took."""
    from minitxl import Config, TrainConfig, TransformerXL
    from minitxl.training.trainer import Trainer

    config = Config.from_dict(job["config"])
    model = TransformerXL(config, device="cpu")
    b, t = job["batch_size"], config.tgt_len
    stream = [tokens_of(config.n_token, (b, t + 1), seed) for seed in range(job["steps"])]
    if job["what"] == "train":
        settings = TrainConfig(steps=100, batch_size=b, accumulate=job["accumulate"], threads=1)
        trainer = Trainer(model, settings)
        step = trainer.step
    else:
        mems = model.start_mems(b)

        def step(x, y):
            nonlocal mems
            nll, mems = model.score(x, y, mems)
            return nll.mean()

    times = []
    for ids in stream:
        began = time.perf_counter()
        loss = float(step(ids[:, :-1], ids[:, 1:]))
        times.append(time.perf_counter() - began)
        assert np.isfinite(loss)
    scale = 1024 if sys.platform == "linux" else 1  # kB there, bytes on macOS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    result = {"n_params": model.n_params, "peak": peak, "seconds": float(np.median(times))}
    print(json.dumps(result))


def main():
    from minitxl.cli.train import read_settings
    from minitxl.training.presets import PRESETS

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="wt103-base", choices=PRESETS)
    parser.add_argument("--n-token", type=int, default=267_735)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        return measure(json.loads(options.job))
    fields = PRESETS[options.preset].model | read_settings(options.set)
    job = vars(options) | {"config": fields | {"n_token": options.n_token}}
    for what in ("train", "evaluate"):
        command = [sys.executable, __file__, "--job", json.dumps(job | {"what": what})]
        result = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        size = 4 * result["n_params"] / 2**30
        print(
            f"{options.preset} {what}: {result['n_params']:,} parameters ({size:.2f} GiB), "
            f"{options.batch_size} x {fields['tgt_len']} tokens: peak {result['peak'] / 2**30:.2f} "
            f"GiB, {result['seconds']:.1f} s"
        )
    return None


if __name__ == "__main__":
    main()
