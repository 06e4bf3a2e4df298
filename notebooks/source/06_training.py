# %% [markdown]
# # 6 Train it
#
# A training step; two models while they learn, one of them with a memory; how sure a comparison is;
# a hunt for bugs.
#
# **You need** notebooks 1 (windows), 2 (backward passes), 3 (naive and counted on) and 4 (memory).
# **Time:** 60 minutes, and about 85 for the exercises.

# %%
import numpy as np

import minitxl
from minitxl import Config, Stream, TrainConfig, TransformerXL, course, load_corpus, viz
from minitxl.experiments import draw  # results that are kept with the package
from minitxl.training.optim import Adam, clip_by_norm, learning_rate

# %% [markdown]
# ## 6.1 Where the gradient begins
#
# The model gives each of $V$ characters a score $z_v$. Its loss on a token is how much the true
# character surprises it, in nats:
#
# $$\ell = -\ln p_{\mathrm{target}}, \qquad p = \mathrm{softmax}(z)$$
#
# A step takes the *mean* of all tokens' losses, so each token's share is divided by their number.
#
# **Exercise.** Write the gradient. Mind large scores: `exp(1000)` is infinite, and the softmax of
# `z` is that of `z` minus any number.

# %% exercise cross-entropy-gradient

# %% check cross-entropy-gradient

# %%
course.run_with("cross-entropy-gradient")

# %% [markdown]
# ## 6.2 One step, line by line
#
# From all gradients, one long vector $g$, to the new weights $\theta$ (`clip_by_norm` and `Adam` in
# `optim.py`; $\beta_1 = 0.9$, $\beta_2 = 0.999$, $c = 0.25$):
#
# $$g \leftarrow g \cdot \min\Big(1, \frac{c}{\lVert g \rVert}\Big) \qquad
# \begin{aligned} m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
# v &\leftarrow \beta_2 v + (1 - \beta_2)\, g^2 \end{aligned} \qquad
# \theta \leftarrow \theta - \eta_n \frac{m / (1 - \beta_1^n)}{\sqrt{v / (1 - \beta_2^n)} +
# \epsilon}$$
#
# in step $n = 1, 2 \ldots$ (in code from 0), with $\epsilon = 10^{-8}$. Here $m$ and $v$ are Adam's
# averages, not memory and values. The rate $\eta_n$ climbs while they are not worth much yet, then
# falls along a cosine. **Keep:** clip, average, divide, step.
#
# The text may be yours: name a file.

# %%
TEXT = "war-and-peace"  # or "/home/me/letters.txt": a few hundred thousand characters do well

# %%
T, B, STEPS = 16, 16, 1200
corpus = load_corpus(TEXT)
sizes = dict(n_layer=2, d_model=64, n_head=2, d_head=32, d_inner=256, tgt_len=T, mem_len=T)
sizes |= dict(dropout=0.0)  # no text is read twice: there is nothing to overfit
sizes |= dict(pre_lnorm=True)  # forgives a high learning rate
config = Config(n_token=corpus.vocab.n_token, **sizes)
settings = TrainConfig(steps=STEPS, batch_size=B, lr=4e-3, warmup=30)


# %%
class Learner:
    """A model, and what training carries from step to step."""

    def __init__(self, mem_len, seed=0):
        self.model = TransformerXL(config.replace(mem_len=mem_len), device="cpu", seed=seed)
        self.adam = Adam(self.model.params.flat, xp=np)
        self.mems, self.n = None, 0  # at a stream's start there is no memory

    def step(self, tokens, targets, fresh):
        """Learn from a batch (B, T); return what its characters cost before, in nats (B, T)."""
        before = None if fresh else self.mems
        nll, mems, cache = self.model.forward(tokens, targets, before)
        grads = self.model.backward(cache)  # of nll.mean(): through this segment, no further
        self.norm = clip_by_norm(grads.flat, settings.clip, xp=np)  # |g| before it is clipped
        self.rate = learning_rate(self.n, settings)
        self.adam.step(self.model.params.flat, grads.flat, self.rate)
        self.mems, self.n = mems, self.n + 1
        return nll


# %% [markdown]
# Sixteen places of the text are read side by side, each row goes on where it ended (notebook 4).

# %%
stream, learner = Stream(corpus.train, batch_size=B, tgt_len=T), Learner(mem_len=T)
for n in range(3):
    nll = learner.step(*stream.next())  # tokens, targets, fresh: the text begins again
    print(f"step {n}: {nll.mean():.3f} nats, |g| = {learner.norm:.2f}, rate {learner.rate:.1e}")
print(f"a uniform guess among {config.n_token} characters: {np.log(config.n_token):.3f} nats")

# %% [markdown]
# These are still the losses of a guess: the rate has only begun to climb.
#
# > **Question 1.** The first loss of a new model is always close to $\ln V$. Why, and what would be
# > wrong with a model for which it is three times as much?
#
# > **Common misconception: “one could as well shuffle the segments.”** Then the memory would hold
# > another page. Only the initial weights are random.

# %% [markdown]
# **Exercise.** Write the loop yourself, with a small model that is given, in NumPy alone: memory,
# clipping and Adam are yours. The check looks at the losses, at $\theta$ and at the memory.

# %% exercise training-loop

# %% check training-loop

# %% [markdown]
# ## 6.3 Watch it learn
#
# Two models, alike but for the memory, read the same 1,200 batches, a tenth of the book. Each batch
# is measured *before* it is learned from, so every loss is one on unseen text. Interrupt them if
# you like (the square, or `I` `I`) and run the cell again: they go on.

# %%
learners = {"with memory": Learner(mem_len=T), "without memory": Learner(mem_len=0)}
stream = Stream(corpus.train, batch_size=B, tgt_len=T)
live = viz.LiveCurves(learners, steps=STEPS)
samples = viz.Samples({n: x.model for n, x in learners.items()}, corpus, at=(0, 100, 400, STEPS))

# %%
with live:
    while live.done < STEPS:
        samples.look(live.done)
        batch = stream.next()
        for name, learner in learners.items():
            live.add(name, learner.step(*batch) / np.log(2))  # nats -> bits, (B, T)
samples.look(live.done)

# %% [markdown]
# For a hundred steps the four curves are one: which characters are frequent, and which follow
# which, needs no memory. Then the dashed one of the model without memory stays behind.
#
# **Keep:** without memory a segment's first prediction is made from a single character, and what
# that tells is soon learned.
#
# Move the slider: what do such losses write?

# %%
samples.album()

# %% [markdown]
# > **Try this.** Make the models anew, and deal the rows out in another order at every step. Below
# > `batch = stream.next()` put `order = np.random.default_rng(live.done).permutation(B)` and
# > `batch = batch[0][order], batch[1][order], batch[2]`. What is a stranger's memory worth?
# > Where is it worse than none?
# >
# > <details><summary>Answer</summary>Less than nothing at a segment's first characters: they are
# > guessed from a past that is not theirs, and cost more than without any memory.</details>
#
# This model is yours, and runs in the page: type, let it write, wipe its memory.

# %%
viz.live(learners["with memory"].model, corpus.vocab, corpus.test[:400], tgt_len=T, mem_len=T)

# %% [markdown]
# ## 6.4 What is each part worth?
#
# The paper's comparison (table 6) made anew, small: twelve kinds of model, each with the best of
# three learning rates, then five seeds. Among them is the encoding of Shaw et al. (2018), with a
# learned vector for each distance in place of the sinusoids.

# %%
ROWS = {
    "XL: no recurrence, in chunks": "1: XL without memory, in chunks",
    "XL: no recurrence, by a window": "2: XL without memory, by a window",
    "XL: no recurrence, equal memory, by a window": "3: the same, segments of 44",
    "with memory: Shaw, not XL": "4: Shaw - XL, with memory",
    "no memory, by a window: Shaw, not XL": "5: Shaw - XL, both without",
    "with memory: naive absolute, not sound": "6: absolute, naive - counted on",
    "lost more with memory: absolute, not XL": "7: gain by memory, XL - absolute",
    "XL: loss on half": "8: XL with half the loss",
}
draw("ablation", part="chosen", questions=ROWS)

# %% [markdown]
# Left: what is paid more, in rows 1 to 4 and 8 than by Transformer-XL. The intervals are of 95%,
# paired by seed; among 24 comparisons about one would look sure by chance, so bold are those that
# hold by Holm's rule, which asks for more. Right: the same by place, dashed without memory.
#
# - **What the memory is worth depends on how its rival is read**: 0.142 bits against fixed chunks
#   (1), 0.066 against a window moved by half its length (2), nothing sure against segments of 44 in
#   place of 32, whose training takes as many bytes as XL's (3).
# - **Shaw's encoding**: XL's lead over it is not sure (4); both without memory, Shaw leads (5).
# - **Absolute positions**: the naive cache of notebook 3 costs 0.67 bits more than counting on (6);
#   counted on, memory costs 0.031 bits, where XL gains 0.066: 0.098 apart (7, a difference of two
#   gains).
#
# **Keep:** a comparison says little until it says how the rival was read.
#
# > **Question 2.** Absolute positions *with* memory are the cell that the paper leaves out. Here
# > positions count on over memory and segment. But above the first layer a cached state was
# > *computed* under the positions of its own segment, which are the same as this one's (notebook
# > 3). Look at the curves by position: where does this model gain from its memory, and where does
# > it pay?
#
# > **Question 3.** Loss on the recent half alone gives every trained query a long context, and the
# > paper's absolute baselines are trained so. Here it costs XL 0.151 bits (8), and absolute
# > positions without memory 0.132. Why does it not help?

# %% [markdown]
# ## 6.5 Nothing but yours
#
# Thirteen exercises are parts of the model. `parts` collects those that you have solved, in the
# notebooks saved beside this one too; `capstone` has a small model learn by them, beside the
# library's. Only linear maps, ReLU, the embedding and LayerNorm's forward pass are never yours.

# %%
mine = course.parts()

# %%
course.capstone(mine)

# %% [markdown]
# > **Try this.** Spoil one: `course.capstone(mine | {"softmax_backward": lambda dp, p: p * dp})`.
# > Would you notice without the other curve?
# >
# > <details><summary>Answer</summary>It learns something, and ends far above the library's curve;
# > alone, it would not say how much is missing.</details>

# %% [markdown]
# ## 6.6 A bug hunt
#
# A wrong model seldom raises an error. Here are five: the shipped model, with a mistake that people
# do make in the code around it.
#
# | word | what is wrong |
# |---|---|
# | `stream` | the batches do not continue: rows get the text's segments in another order |
# | `keys` | keys and values are cached, while in training the weights change (here not) |
# | `mask` | the mask ignores $M$: query $i$ is taken to stand in column $i$ of the keys |
# | `zeros` | a memory that is not full yet is filled up with zeros |
# | `positions` | positions restart at every segment |
#
# What they show (each reads 16 rows of the test text, $T = 32$, $M = 64$; $dW_k$ is the gradient of
# the last segment, as in notebook 2):

# %%
text = load_corpus("war-and-peace").test
shown = course.hunt.symptoms(minitxl.load_pretrained("war-and-peace").model, text)
curves = ("by_segment", "by_place", "seen", "share")
viz.draw_symptoms(*({name: getattr(x, what) for name, x in shown.items()} for what in curves))

# %% [markdown]
# **Exercise.** Which is which? Say first what each *must* show: along the stream, within a segment,
# in the picture, in the gradient. One of them pays exactly what the sound one pays; only its
# gradient tells.

# %% exercise bug-hunt

# %% check bug-hunt

# %% [markdown]
# The code of those that you have found (each changes one method of `Sound`, in
# `minitxl/course/hunt.py`):

# %%
course.hunt.reveal()

# %% [markdown]
# > **Question 4.** One of the five pays *less* than the sound model at the stream's start. Is it
# > the better model? (What did the shipped model hardly ever see in training?)
#
# > **Question 5.** Which of the five would you find by the learning curve alone? For the others:
# > write down a test of a few lines that fails for the broken model and passes for the sound one.
#
# ## 6.7 Many symbols
#
# With words in place of characters $V$ is large (267,735 for WikiText-103). The paper then cuts
# them into clusters by frequency (section 4.1): a first softmax chooses a frequent word, or the
# tail as a whole; a second one, in a narrower space, a word of the tail.
#
# **Exercise.** Write the losses for two clusters. (In the library: `model/family/adaptive.py`.)

# %% exercise adaptive-softmax

# %% check adaptive-softmax

# %% [markdown]
# *Answers: `notebooks/README.md` in the repository, “Model answers”.*
#
# ## What you can do now
#
# - Write a training step with a memory.
# - Doubt a difference of two curves: which seeds, which intervals, how was the rival read?
# - Find a bug that no error message tells.
#
# **The picture to remember** is your own of 6.3.
#
# **Where this lives today.** [XLNet](https://arxiv.org/abs/1906.08237) was pretrained with this
# recurrence; [GTrXL](https://arxiv.org/abs/1910.06764) trains agents with it, whose episodes
# outlast a segment.
#
# **Next:** notebook 7, evaluation; or train for real: `python -m minitxl train` (five minutes),
# `--preset small` (an hour).
