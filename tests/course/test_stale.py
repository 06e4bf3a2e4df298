"""What old weights change: checked by hand for the first update."""

import numpy as np

from minitxl import Config, Stream, TrainConfig, Trainer, TransformerXL, load_corpus
from minitxl.course import stale, stale_memories


def test_the_memory_of_one_update():
    corpus = load_corpus("war-and-peace")
    differences, costs = stale_memories(corpus, (1, 3))
    assert np.shape(differences) == (2, 3) and np.shape(costs) == (2, 2)
    assert np.min(differences) > 0 and np.min(costs) > 1

    config = Config(n_token=corpus.vocab.n_token, **stale.SMALL)
    before, after = (TransformerXL(config, device="cpu") for _ in range(2))
    settings = TrainConfig(steps=3, batch_size=stale.ROWS, lr=3e-3, warmup=20, threads=1)
    stream = Stream(corpus.train, batch_size=stale.ROWS, tgt_len=stale.T)
    first, second = stream.next(), stream.next()
    Trainer(after, settings).step(*first)
    old, new = (model.score(*first[:2])[1] for model in (before, after))
    want = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(old, new, strict=True)]
    np.testing.assert_allclose(differences[0], want, rtol=1e-4)
    want = [after.score(*second[:2], mems)[0].mean() for mems in (old, new)]
    np.testing.assert_allclose(costs[0], want, rtol=1e-5)
