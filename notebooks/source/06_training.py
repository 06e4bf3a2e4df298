# %% [markdown]
# # 6 Train it
#
# **You will be able to** write the gradient that every training step starts from; read a step of
# training line by line; say, from experiments with several seeds, what recurrence, encoding and the
# stopped gradient are worth, and how sure that is.
#
# **You need** notebooks 2 (backward passes) and 4 (memory). **Time:** 30 minutes, of which the
# computer takes less than one. **Exercises:** 1.

# %%
import numpy as np

from minitxl import Config, TransformerXL, course
from minitxl.checkpoint import read_json
from minitxl.config import TrainConfig
from minitxl.data import load_corpus
from minitxl.data.stream import Stream
from minitxl.optim import Adam, clip_by_norm, learning_rate
from minitxl.train import Trainer
from minitxl.viz.ablation import draw_ablation
from minitxl.viz.make_figures import DATA  # where stored results of experiments lie
from minitxl.viz.stop_gradient import draw_stop_gradient
from minitxl.viz.training import draw_losses

# %% [markdown]
# ## 6.1 Where the gradient begins
#
# The model gives each of $V$ characters a score $z_v$, and the loss of a token is how surprised it
# is by the true one, in nats:
#
# $$\ell = -\ln p_{\mathrm{target}}, \qquad p = \mathrm{softmax}(z)$$
#
# Its derivative is one of the shortest in the field. A step takes the *mean* of all tokens' losses,
# so each token's share is divided by their number.
#
# **Exercise.** Write it. Mind large scores: `exp(1000)` is infinite, and the softmax of `z` is that
# of `z` minus any number.

# %% exercise cross-entropy-gradient

# %% check cross-entropy-gradient

# %% [markdown]
# ## 6.2 One step, line by line
#
# A small model, and a batch of eight rows of the book. Row $b$ of the next batch goes on where row
# $b$ of this one ended: only then is the memory the past of what is read (notebook 4).

# %%
corpus = load_corpus("war-and-peace")
config = Config(
    n_token=corpus.vocab.n_token,
    n_layer=2,
    d_model=64,
    n_head=2,
    d_head=32,
    d_inner=256,
    tgt_len=32,
    mem_len=32,
    pre_lnorm=True,  # LayerNorm before the blocks: forgives a high learning rate
)
settings = TrainConfig(steps=300, batch_size=8, lr=4e-3, warmup=30, threads=1)
model = TransformerXL(config, device="cpu", seed=0)
stream = Stream(corpus.train, batch_size=8, tgt_len=32)
xp, params = model.backend.xp, model.params
adam = Adam(params.flat, xp=xp)

mems = None  # a stream's start
for n in range(3):
    tokens, targets, fresh = stream.next()  # (B, T) each; fresh: the text begins again
    nll, mems, cache = model.forward(tokens, targets, None if fresh else mems)
    grads = model.backward(cache)  # of nll.mean(): through this segment, and no further
    norm = clip_by_norm(grads.flat, settings.clip, xp=xp)  # all gradients are one flat array
    adam.step(params.flat, grads.flat, learning_rate(n, settings))
    print(
        f"step {n}: {float(nll.mean()):.3f} nats, gradient norm {float(norm):.2f}, "
        f"rate {learning_rate(n, settings):.1e}, memory {mems[0].shape}"
    )
print(f"\n{params.flat.size:,} parameters; a uniform guess costs ln {config.n_token} = "
      f"{np.log(config.n_token):.3f} nats")  # fmt: skip

# %% [markdown]
# That is all of training. The rate climbs from 0 in the first steps, for Adam's averages are not
# worth much yet, and then falls along a cosine. `Trainer` does the same, on several threads, and
# can be stopped and resumed to the same bits.
#
# > **Common misconception: “one could as well shuffle the segments.”** Then the memory would hold
# > another page. Training with memory reads the text in order; what is random is only the
# > beginning of the weights (and dropout).

# %% [markdown]
# ## 6.3 Watch it learn
#
# Two models that differ in nothing but the memory, 300 steps each.

# %%
curves = {}
for name, mem_len in (("with memory", 32), ("without memory", 0)):
    learner = TransformerXL(config.replace(mem_len=mem_len), device="cpu", seed=0)
    trainer = Trainer(learner, settings)
    stream = Stream(corpus.train, batch_size=8, tgt_len=32)
    curves[name] = [float(trainer.step(*stream.next())) for _ in range(settings.steps)]

draw_losses({name: np.array(c) / np.log(2) for name, c in curves.items()}, mean_of=30)

# %% [markdown]
# At first both learn the same: which letters are frequent, and which follow each other. That needs
# no memory. Three hundred steps are one reading of 3% of the book.
#
# > **Try this.** Give both a learning rate of `4e-2`, then `4e-4`. Take `warmup=0`. Put the
# > stream's rows in another order at every step (`order =
# > np.random.default_rng(n).permutation(8)`): what does the model with memory lose?
#
# > **Question 1.** The first point of a new curve is always close to $\ln V$ nats, 6.29 bits here.
# > Why, and what would be wrong with a model for which it is 20?

# %% [markdown]
# ## 6.4 What is each part worth?
#
# One run tells little: another seed gives another number. So the paper's comparison (table 6) was
# made anew, small: twelve kinds of model, three seeds each, two thousand steps. In every pair only
# one thing differs, and models of one seed are compared with each other.

# %%
ablation = read_json(DATA / "ablation.json")
draw_ablation(ablation)

# %%
for d in ablation["differences"]:
    if not d["reference"].endswith("half"):
        low, high = d["bpc"]["interval"]
        print(
            f"{d['question']:20} {d['member']:15} against {d['reference']:10}"
            f" {d['bpc']['mean']:+.3f} bits  [{low:+.3f}, {high:+.3f}]"
        )

# %% [markdown]
# Read the brackets before the numbers: they are 95% intervals from three seeds. What is sure: the
# memory helps every encoding; the relative encoding makes far more of it than absolute positions
# do. What is not what the paper found: without memory Shaw's encoding is a little better than the
# paper's own. Whether that is the small size, the short training or characters instead of words,
# this experiment cannot say. To run it yourself takes over an hour:
# `python -m minitxl experiment ablation` (`--quick` shows in seconds that it works).
#
# > **Question 2.** Absolute positions *with* memory are the cell that the paper leaves out.
# > Position $j$ of the cached segment and position $j$ of this one carry the same sinusoid. Look at
# > the curves by position: where does this model gain from its memory, and where does it pay?
#
# > **Question 3.** Loss on the recent half alone gives every trained query a long context. Why does
# > it help nobody here?

# %% [markdown]
# ## 6.5 Stopped, or through the memory?
#
# The model learns with a gradient that ends at the memory. Does it matter? Here is a task that
# needs the memory and has a loss at one single token: name the marker that you saw up to 24 tokens
# ago. Notebook 4 looks at the same results for the gradients; look now at the curves of learning.

# %%
draw_stop_gradient(read_json(DATA / "stop_gradient.json"))

# %% [markdown]
# Full back-propagation through the segments is quicker and surer. But it has to keep the
# activations of all segments that the loss can reach, here four times as many, and that is what
# Transformer-XL saves. The stopped model learns the same thing in the end, most of the time: what
# its layers learn to gather *within* a segment is also what they leave in the memory.
#
# ## Where to go
#
# - Notebook 7: what the trained model is worth, and how to measure it without fooling oneself.
# - Train for real: `python -m minitxl train` (five minutes), `--preset small` (an hour).
