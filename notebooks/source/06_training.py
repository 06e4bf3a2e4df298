# %% [markdown]
# # 6 Train it
#
# **You will be able to** write the gradient that every training step starts from; read a step of
# training line by line; see, while two models learn, what only the one with a memory can learn;
# say, from experiments with several seeds, what recurrence, encoding and the stopped gradient are
# worth, and how sure that is; tell a broken model from a sound one by what it shows.
#
# **You need** notebooks 2 (backward passes) and 4 (memory). **Time:** 40 minutes, of which the
# computer takes one. **Exercises:** 4.

# %%
import numpy as np

from minitxl import (
    Config,
    Stream,
    TrainConfig,
    TransformerXL,
    course,
    load_corpus,
    load_pretrained,
    viz,
)
from minitxl.experiments import draw, stored  # results that are kept with the package
from minitxl.training.optim import Adam, clip_by_norm, learning_rate

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

# %%
course.run_with("cross-entropy-gradient")

# %% [markdown]
# With words in place of characters $V$ is large (267,735 for WikiText-103), and most of it is rare.
# The paper then cuts the words into clusters by how frequent they are (section 4.1): a first
# softmax chooses a frequent word, or the tail as a whole; a second one, in a narrower space, is
# needed only for words of the tail.
#
# **Exercise.** Write the losses for two clusters. (In the library: `model/family/adaptive.py`.)

# %% exercise adaptive-softmax

# %% check adaptive-softmax

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
# in step $n = 1, 2 \ldots$ The rate $\eta_n$ climbs in the first ones, for the averages $m$ and $v$
# are not worth much yet, and then falls along a cosine. With the memory around it, this is all of
# training:

# %%
T, B, STEPS = 16, 16, 1200
corpus = load_corpus("war-and-peace")
config = Config(
    n_token=corpus.vocab.n_token,
    n_layer=2,
    d_model=64,
    n_head=2,
    d_head=32,
    d_inner=256,
    tgt_len=T,
    mem_len=T,
    dropout=0.0,  # no text is read twice here: there is nothing to overfit
    pre_lnorm=True,  # LayerNorm before the blocks: forgives a high learning rate
)
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
        self.norm = clip_by_norm(grads.flat, settings.clip, xp=np)
        self.rate = learning_rate(self.n, settings)
        self.adam.step(self.model.params.flat, grads.flat, self.rate)
        self.mems, self.n = mems, self.n + 1
        return nll


# %% [markdown]
# Sixteen places of the book are read side by side. Row $b$ of the next batch goes on where row $b$
# of this one ended: only then is the memory the past of what is read (notebook 4).

# %%
stream, learner = Stream(corpus.train, batch_size=B, tgt_len=T), Learner(mem_len=T)
for n in range(3):
    nll = learner.step(*stream.next())  # tokens, targets, fresh: the text begins again
    print(
        f"step {n}: {nll.mean():.3f} nats, norm of the gradient {learner.norm:.2f}, "
        f"rate {learner.rate:.1e}, memory {learner.mems[0].shape}"
    )
print(f"{learner.model.n_params:,} parameters; a uniform guess among {config.n_token} characters "
      f"costs ln {config.n_token} = {np.log(config.n_token):.3f} nats")  # fmt: skip

# %% [markdown]
# `minitxl.Trainer` does the same, on several threads or machines, and can be stopped and resumed to
# the same bits.
#
# > **Question 1.** The first loss of a new model is always close to $\ln V$. Why, and what would be
# > wrong with a model for which it is three times as much?
#
# > **Common misconception: “one could as well shuffle the segments.”** Then the memory would hold
# > another page. Training with memory reads the text in order; what is random is only the
# > beginning of the weights (and dropout).

# %% [markdown]
# **Exercise.** Write the loop yourself, with a small model that is given, in NumPy alone: memory,
# clipping and Adam are yours. The check looks at the losses, at $\theta$ and at the memory.

# %% exercise training-loop

# %% check training-loop

# %% [markdown]
# ## 6.3 Watch it learn
#
# Two models that differ in nothing but the memory read the same batches. Every batch is measured
# before it is learned from, and 1,200 of them are a tenth of the text: no character comes twice, so
# these are losses on unseen text. The picture grows while they learn. Interrupt them if you like
# (the square, or `I` `I`) and run the cell again: they go on.

# %%
learners = {"with memory": Learner(mem_len=T), "without memory": Learner(mem_len=0)}
stream = Stream(corpus.train, batch_size=B, tgt_len=T)
live = viz.LiveCurves(learners, steps=STEPS)

# %%
with live:
    while live.done < STEPS:
        batch = stream.next()
        for name, learner in learners.items():
            live.add(name, learner.step(*batch) / np.log(2))  # nats -> bits, (B, T)

# %% [markdown]
# At first all four curves are one: which characters are frequent needs no memory. After a hundred
# steps one of them stays behind and never catches up. The first character of a segment is
# predicted from a single character, and what that tells about the next is soon learned; the rest
# has not been read. With the memory the first character costs no more than any other.
#
# > **Try this.** Make the models anew with a learning rate of `4e-2`, then `4e-4` (in `settings`).
# > Deal the rows out in another order at every step: `tokens, targets, fresh = stream.next()`,
# > `order = np.random.default_rng(live.done).permutation(B)`, `batch = (tokens[order],
# > targets[order], fresh)`. What is the memory of a stranger worth? Where is it worse than none?

# %% [markdown]
# ## 6.4 What is each part worth?
#
# One pair tells little: another seed gives another number, and so does another learning rate. So
# the paper's comparison (table 6) was made anew, small: twelve kinds of model, each with the best
# of three rates on two seeds that are not reported, then five seeds. Models of one seed are
# compared with each other.

# %%
ablation = stored("ablation")
draw("ablation")

# %%
for d in ablation["differences"]:
    low, high = d["interval"]
    print(
        f"{d['question']:52} {d['mean']:+.3f} bits  [{low:+.3f}, {high:+.3f}]"
        f"  p = {d['p_holm']:.3f}"
    )

# %% [markdown]
# Read the brackets before the numbers: they are 95% intervals from five seeds, and $p$ is corrected
# for so many comparisons (Holm). Sure is that the memory helps Transformer-XL, but how much depends
# on how its rival is read: 0.142 bits against fixed chunks, 0.066 against a window that moves on by
# half its length, and nothing against longer segments that take as much memory. Sure is that
# absolute positions make less of a memory than relative ones, and that the naive cache of notebook
# 3 ruins the model. Not sure is that the paper's encoding is better than Shaw's: with the memory it
# may be, without it Shaw's is a little better. Whether that is the small size, the short training
# or characters instead of words, this experiment cannot say. To run it yourself:
# `python -m minitxl experiment ablation --jobs 2` (`--quick` shows in seconds that it works).
#
# > **Question 2.** Absolute positions *with* memory are the cell that the paper leaves out. Here
# > positions count on over memory and segment. But above the first layer a cached state was
# > *computed* under the positions of its own segment, which are the same as this one's (notebook
# > 3). Look at the curves by position: where does this model gain from its memory, and where does
# > it pay?
#
# > **Question 3.** Loss on the recent half alone gives every trained query a long context, and the
# > paper's absolute baselines are trained so. Why does it help nobody here?

# %% [markdown]
# ## 6.5 Stopped, or through the memory?
#
# The models above learned with a gradient that ends at the memory. Does it matter? Here is a task
# that needs the memory and has a loss at one single token: name the marker that you saw up to 24
# tokens ago, three segments of 8. Notebook 4 asks what becomes of the gradient; look now at the
# curves of learning, upper left.

# %%
draw("stop_gradient")

# %% [markdown]
# Let through, the gradient brings the loss near its floor in 80 to 140 updates, with every one of
# 24 seeds. Stopped, the median is 120 instead of 100, four in five are done after 140, and two of
# the 24 have not arrived after 600. The price of the full gradient: the activations of all segments
# that the loss can reach have to be kept, here four times as many. That is what Transformer-XL
# saves, and the seeds say what it gives away, on a task made to show it: seldom much, and now and
# then all. Why the stopped model learns to write its memory at all: notebook 4.

# %% [markdown]
# ## 6.6 Nothing but yours
#
# Thirteen exercises are parts of the model, six forward and seven on the way back. `parts`
# collects those that you have solved, in the notebooks saved beside this one too; `capstone` has a
# small model learn by them, beside the library's, from the same weights and the same text. With all
# of them, only linear maps, ReLU, the embedding and LayerNorm's forward pass are not yours.

# %%
mine = course.parts()

# %%
course.capstone(mine)

# %% [markdown]
# > **Try this.** Spoil one: `course.capstone(mine | {"softmax_backward": lambda dp, p: p * dp})`.
# > Does the model still learn? Would you have noticed without the other curve?

# %% [markdown]
# ## 6.7 A bug hunt
#
# A wrong model seldom stops. It runs, it learns something, and its text looks like text. Here are
# five: each is the shipped model with a mistake that people do make in the code around it.
#
# | word | what is wrong |
# |---|---|
# | `stream` | the batches do not continue: rows get the text's segments in another order |
# | `keys` | keys and values are cached, while in training the weights change |
# | `mask` | the mask ignores $M$: query $i$ is taken to stand in column $i$ of the keys |
# | `zeros` | a memory that is not full yet is filled up with zeros |
# | `positions` | positions restart at every segment |
#
# And here is what they show. (Each reads 16 rows of the test text, $T = 32$, $M = 64$; $dW_k$ is
# the gradient of the last segment, as in notebook 2.)

# %%
text = corpus.test
shown = course.hunt.symptoms(load_pretrained("war-and-peace").model, text)
curves = ("by_segment", "by_place", "seen", "share")
viz.draw_symptoms(*({name: getattr(x, what) for name, x in shown.items()} for what in curves))

# %% [markdown]
# **Exercise.** Which is which? For each one say first what it *must* show: where along the stream,
# where in a segment, in the picture, in the gradient. One of them looks as sound as the sound one.

# %% exercise bug-hunt

# %% check bug-hunt

# %% [markdown]
# When you have found one, look at its code: what it does in place of `Sound` in
# `minitxl/course/hunt.py`.

# %%
course.hunt.reveal()

# %% [markdown]
# > **Question 4.** One of the five pays *less* than the sound model at the stream's start. Is it
# > the better model? (What did the shipped model hardly ever see in training?)
#
# > **Question 5.** Which of the five would you find by the learning curve alone? For the others:
# > write down a test of a few lines that fails for the broken model and passes for the sound one.
#
# ## Where to go
#
# - Notebook 7: what the trained model is worth, and how to measure it without fooling oneself.
# - Train for real: `python -m minitxl train` (five minutes), `--preset small` (an hour).
