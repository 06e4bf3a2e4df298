# %% [markdown]
# # 8 Beyond: what would make memory cheaper?
#
# **You will be able to** say what a long memory costs, in numbers kept and in work; at which sizes
# a compressed memory or a matrix memory is the smaller one; what such a memory gives up; how other
# encodings of position fit with recurrence.
#
# **You need** notebooks 4 and 5, and some linear algebra (rank, least squares). **Time:** 30
# minutes. **Exercises:** 5.
#
# The later models of this notebook are not part of the library. What is said of them are their
# equations, and what follows from these; what is measured is measured here.

# %%
import time

import numpy as np

import minitxl
from minitxl import load_corpus, ops, viz
from minitxl.inference.cached import CachedReader

pretrained = minitxl.load_pretrained("war-and-peace", device="cpu")
model, text = pretrained.model, load_corpus("war-and-peace").test
c = model.config
D, DH = c.d_model, c.d_head

# %% [markdown]
# ## 8.1 What a long memory costs
#
# Reading $S$ new tokens with $K = M + S$ keys takes, for each token and layer, $6 K D$ FLOPs of
# attention ($q k^\top$, $q r^\top$, $p v$) and a part that does not depend on $M$ if keys and
# values are kept: $8 D^2$ for the projections, $4 D F$ for the feed-forward block, where $F$ is its
# inner width (`d_inner`). Let the shipped
# model read with memories of up to 4,096 characters, and take the time.

# %%
SEGMENT, LENGTHS = 16, (0, 256, 512, 1024, 2048, 4096)
readers = [CachedReader(model, mem_len=m, tgt_len=SEGMENT) for m in LENGTHS]
times = {m: [] for m in LENGTHS}
for m, reader in zip(LENGTHS, readers, strict=True):
    for at in range(0, m, 256):  # fill the memory
        reader.read(text[at : at + 256][None, :], last=1)
for turn in range(30):  # in turns: so that a busy moment of the machine strikes all alike
    part = text[turn * SEGMENT : (turn + 1) * SEGMENT][None, :]
    for m, reader in zip(LENGTHS, readers, strict=True):
        begin = time.perf_counter()
        reader.read(part, last=1)
        times[m].append(1000 * (time.perf_counter() - begin) / SEGMENT)
ms = [min(t) for t in times.values()]

attention = [c.n_layer * 6 * (m + SEGMENT) * D for m in LENGTHS]  # FLOPs of a token
rest = c.n_layer * (8 * D**2 + 4 * D * c.d_inner)
rest += 2 * D * c.n_token / SEGMENT  # the softmax, of the segment's last token only
flops = {"attention": attention, "all else": [rest] * len(LENGTHS)}
viz.draw_reading_cost(LENGTHS, ms, flops, segment_len=SEGMENT)

# %% [markdown]
# The cost of a token is linear in $M$. For a text of $n$ tokens that is $n M$, where attention over
# the whole text would take $n^2 / 2$; but whoever wants $M$ to grow with the text is back at $n^2$.
# This is the question that Transformer-XL leaves open: can what is far away cost less?
#
# Turn the sum round: a token may cost so many FLOPs; how long can the memory be? Whoever wants to
# make memory cheaper has to know this first. The count above is of one layer, and the segment's own
# keys are among the $K$.

# %% exercise affordable-memory

# %% check affordable-memory

# %% [markdown]
# ## 8.2 Two break-evens
#
# **Size.** A layer's memory of $M$ states has $M D$ numbers. The alternative of section 8.4 is one
# $d_\mathrm{head} \times d_\mathrm{head}$ matrix with a vector of $d_\mathrm{head}$ for each of the
# $H = D / d_\mathrm{head}$ heads: $D\,(d_\mathrm{head} + 1)$ numbers, for a text of any length.
# They are equal at
#
# $$M = d_\mathrm{head} + 1$$
#
# **Work.** With a feed-forward width of $4D$ all that does not depend on $M$ is $8 D^2 + 16 D^2$.
# Attention is as much when $6 K D = 24 D^2$, that is at
#
# $$K = 4 D$$

# %%
print("                  equal size at M   equal work at K   M at evaluation")
for name in ("small", "enwik8-base", "enwik8-large", "wt103-base", "wt103-large"):
    preset = minitxl.PRESETS[name]
    p = preset.model
    width = p["n_head"] * p["d_head"]  # E, of all heads together: 8 D E, 4 D F and 6 K E
    even = (8 * p["d_model"] * width + 4 * p["d_model"] * p["d_inner"]) / (6 * width)
    used = preset.evaluation.get("mem_len", p["mem_len"])
    print(f"{name:15} {p['d_head'] + 1:17} {even:17.0f} {used:17}")
viz.draw_break_evens(d_model=D, d_head=DH)

# %% [markdown]
# The published models' memories are many times larger than a matrix memory would be, while their
# work is near its break-even or below. Both are counts: they say nothing of what either kind of
# memory is worth to a model.
#
# ## 8.3 Compress what falls out
#
# The **Compressive Transformer** (Rae et al., 2019) does not drop the oldest states: every $c$ of
# them become one, by a mean, a maximum or a learned convolution, and go into a second memory.
# Layers attend to both. With $n_m$ fine and $n_{cm}$ compressed slots, a layer sees
# $n_m + c\,n_{cm}$ tokens for the work of $n_m + n_{cm}$ keys; all $N$ layers together reach
# $N\,(n_m + c\,n_{cm})$.

# %%
viz.draw_compression(n_fine=24, n_coarse=24, rate=4)

# %% [markdown]
# How is the compression learned, when the gradient stops at the memory? By a loss of its own: what
# attention makes of the compressed states should be what it makes of the states themselves,
#
# $$\lVert\, \mathrm{attn}(h, m_\mathrm{old}) - \mathrm{attn}(h, \mathrm{compressed})\, \rVert^2$$
#
# and its gradient goes into the compression alone.
#
# It spans more tokens with as many slots. What the span is worth depends on what survives: the mean
# of four states is not four states.

# %% exercise compressive-update

# %% check compressive-update

# %% exercise compression-gradient

# %% check compression-gradient

# %% [markdown]
# ## 8.4 One matrix for everything
#
# Take the softmax away. With a map $\phi$ that makes features positive, such as
# $\phi(x) = \mathrm{elu}(x) + 1$, all that was ever stored fits into one matrix $S$ and a vector
# $z$ (Katharopoulos et al., 2020):
#
# $$S \leftarrow S + \phi(K)^\top V \qquad z \leftarrow z + \textstyle\sum_j \phi(k_j)
# \qquad A_\mathrm{mem} = \frac{\phi(Q)\, S}{\phi(Q)\, z}$$
#
# The **delta rule** (Schlag et al., 2021) first looks what the matrix would answer, and stores only
# what is new, token by token and with a learned strength $\eta_t$ between 0 and 1. The features
# are scaled to add up to 1, and there is no $z$:
#
# $$S \leftarrow S + \eta_t\, \phi(k_t)^\top \big(v_t - \phi(k_t)\, S\big)$$
#
# **Infini-attention** (Munkhdalai et al., 2024) writes a whole segment at once, by the sum above or
# by its own variant of the delta rule, which keeps $z$ and has no $\eta$:
# $S \leftarrow S + \phi(K)^\top \big(V - \tfrac{\phi(K) S}{\phi(K) z}\big)$. It puts this memory
# beside the attention within a segment, with a learned gate for each head:
# $A = \sigma(\beta) A_\mathrm{mem} + (1 - \sigma(\beta)) A_\mathrm{dot}$. A token then costs the
# same after a million tokens as after a thousand.
#
# What does it give up? A $d \times d$ matrix is a linear map. It can take $d$ independent keys to
# any values, and no more: of $n > d$ random pairs even the best one leaves the share $1 - d/n$ of
# the values' variance as error. Measure it: keys and values at random, of length 1; store $n$
# pairs; ask for each.
#
# The code has neither $\phi$ nor $z$. The random keys stand for the features $\phi(k)$; and what is
# asked is which value is nearest, which no positive divisor changes. The delta rule is that of
# Schlag et al. with $\eta = 1$: as a key has length 1, the pair just written is then answered
# exactly.


# %%
def unit_rows(rng, n, d):
    x = rng.normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def write_sum(keys, values):
    return keys.T @ values  # (d, n) @ (n, d) -> (d, d)


def write_delta(keys, values):
    s = np.zeros((keys.shape[1], values.shape[1]))
    for k, v in zip(keys, values, strict=True):
        s += np.outer(k, v - k @ s)  # store what is new
    return s


def best_matrix(keys, values):
    return np.linalg.lstsq(keys, values, rcond=None)[0]


def softmax_read(keys, values):
    scores = np.exp(keys.shape[1] * keys @ keys.T)  # all pairs kept, each key asks
    return scores / scores.sum(axis=1, keepdims=True) @ values


WIDTH, PAIRS = DH, (2, 4, 8, 16, 32, 64, 128, 256)
rules = {"sum": write_sum, "delta rule": write_delta, "best matrix": best_matrix}
rng = np.random.default_rng(0)
recall = {name: [] for name in ("softmax over all", *rules)}
for n in PAIRS:
    right = {name: [] for name in recall}
    for _ in range(10):
        keys, values = unit_rows(rng, n, WIDTH), unit_rows(rng, n, WIDTH)
        read = {"softmax over all": softmax_read(keys, values)}
        read |= {name: keys @ write(keys, values) for name, write in rules.items()}
        for name, answer in read.items():
            nearest = (answer @ values.T).argmax(axis=1)  # of all stored values
            right[name].append((nearest == np.arange(n)).mean())
    for name in recall:
        recall[name].append(np.mean(right[name]))

error = {}
loads = np.array([0.125, 0.25, 0.5, 1, 1.5, 2, 3, 4, 8])
for d in (8, 16, 32):
    found = []
    for n in (loads * d).astype(int):
        off, tries = 0.0, 512 // n + 1
        for _ in range(tries):
            keys, values = unit_rows(rng, n, d), unit_rows(rng, n, d)
            off += ((keys @ best_matrix(keys, values) - values) ** 2).sum() / n / tries
        found.append(off)
    error[d] = (loads, found)

viz.draw_recall(PAIRS, recall, error, width=WIDTH)

# %% [markdown]
# Up to the key width there is a matrix that answers every key exactly. Past it no rule of writing
# can help: values come back blurred (right), and with more pairs the wrong ones come back (left).
# Rules that see one pair at a time do worse, as random keys overlap: a new pair disturbs the old
# ones. Attention over all pairs still recalls them, and pays for each.
#
# Keys here are random, and everything is asked for. A trained model chooses its keys and what it
# stores, and text repeats itself; so this says where the room ends, not how well such a model
# reads.
#
# > **Try this.** Send the keys through $\phi$ first: `np.where(x > 0, x + 1, np.exp(np.minimum(x,
# > 0)))`, and divide by their length. Positive features all point the same way: what happens to the
# > sum, and what to the best matrix? And why does the delta rule fall below the sum when the matrix
# > is overfull? (Which pairs does it recall: the first, or the last?)

# %% exercise delta-backward

# %% check delta-backward

# %% [markdown]
# ## 8.5 Learning to write
#
# In most of these, what is far away was written by states that got no gradient for it (notebook 4).
# The **Recurrent Memory Transformer** (Bulatov et al., 2022) takes the other way: a few memory
# tokens stand beside the segment, are written at its end, read in the next one, and trained by
# back-propagation *through* the segments. The memory is small, and its writing is learned; the
# price is that of the full gradient.
#
# | | kept | work for what is far | trained to write? |
# |---|---|---|---|
# | Transformer-XL | $N M D$ | $\propto M$ | no, the gradient stops |
# | Compressive | $N (n_m + n_{cm}) D$ | $\propto n_m + n_{cm}$ | the compression, by its own loss |
# | linear, delta | $N D (d_\mathrm{head} + 1)$ | $\propto d_\mathrm{head}$ | as it is built |
# | Recurrent Memory | its tokens | $\propto$ its tokens | yes, through segments |

# %% exercise memory-tokens-gradient

# %% check memory-tokens-gradient

# %% [markdown]
# ## 8.6 Other encodings that recurrence can use
#
# Reuse needs a score that depends on the distance alone: moved together, query and key must score
# the same, for a cached key will be met from ever further away. Transformer-XL's terms do this
# (notebook 3). **ALiBi** (Press et al., 2022) subtracts a slope times the distance from
# $q \cdot k$. **RoPE** (Su et al., 2021) turns pairs of features by angles proportional to the
# position; the product of two turned vectors depends on the difference of the angles. Move query 9
# and key 4 by a thousand places:


# %%
def turned(x, position):
    """RoPE: rotate the pairs (x_k, x_{k + d/2}) by position * 10000^(-2k/d)."""
    half = len(x) // 2
    angle = position * 10000.0 ** (-np.arange(half) / half)
    a, b = x[:half], x[half:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, a * sin + b * cos])


def wave(position):
    inv_freq = 10000.0 ** (-np.arange(DH // 2) * 2 / DH)
    return ops.sinusoid(np.array([position]), inv_freq, xp=np)[0]


q, k = rng.normal(size=(2, DH))
scores = {
    "absolute sinusoid": lambda i, j: (q + wave(i)) @ (k + wave(j)),
    "Transformer-XL, a + b": lambda i, j: q @ k + q @ wave(i - j),
    "ALiBi, slope 1/4": lambda i, j: q @ k - (i - j) / 4,
    "RoPE": lambda i, j: turned(q, i) @ turned(k, j),
}
print(f"{'':24}{'(9, 4)':>10}{'(1009, 1004)':>15}")
for name, score in scores.items():
    print(f"{name:24}{score(9, 4):10.4f}{score(1009, 1004):15.4f}")

# %% [markdown]
# ## Questions
#
# 1. Your model has $d_\mathrm{head} = 64$, and you can afford a memory of $M = 65$ states, or a
#    matrix memory of the same size. Which keeps the last 65 tokens exactly? Which has something of
#    the 1,000th token before? How would you decide?
# 2. A Compressive Transformer has $n_m = n_{cm} = 512$ and $c = 4$. Give the span of a layer and
#    the keys it attends to; then the memory length of a Transformer-XL of equal work, and of equal
#    span.
# 3. The gradient stops at the memory. Why can the compression be trained all the same, and why does
#    its gradient not flow into the states that are compressed?
#
# **To go on:** a memory of your own. `update_mems` in `minitxl/model/network.py` decides in
# three lines what is kept; notebook 6 trains, and notebook 7 measures.
