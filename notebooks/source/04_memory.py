# %% [markdown]
# # 4 Recurrence: what is kept, and where learning stops
#
# **You will be able to** say what the memory holds, for any segment and memory length; feed it a
# text so that it is truly the past; tell which keys a query sees; explain where the gradient stops,
# what it still reaches, and what the stop costs.
#
# **You need** notebook 2 (attention, forward and backward) and the idea of notebook 3 (distances
# instead of positions). **Time:** 40 minutes. **Exercises:** 4.

# %%
import numpy as np

import minitxl
from minitxl import (
    Config,
    Inspection,
    Stream,
    TrainConfig,
    Trainer,
    TransformerXL,
    attention,
    course,
    load_corpus,
    ops,
    viz,
)
from minitxl.experiments import draw  # results that are kept with the package
from minitxl.model.through_memory import sequence_gradients, without_memory_rows

pretrained = minitxl.load_pretrained("war-and-peace")
model, vocab = pretrained.model, pretrained.vocab
corpus = load_corpus("war-and-peace")
N, T = model.config.n_layer, model.config.tgt_len
to_numpy = model.backend.to_numpy

# %% [markdown]
# ## 4.1 What the memory holds
#
# Layer $n$ reads $\tilde h = [\mathrm{SG}(m)\,;\,h]$, its memory and its inputs for this segment
# (paper, section 3.2): $K = M + T$ rows, where $M$ is the present length of the memory. What it
# leaves for the next segment is the end of the same rows: the last `mem_len` rows of
# $[\,m\,;\,h\,]$, or all of them while there are fewer.
#
# `Inspection` takes notes of the hidden states $h_0$ (the embedding) to $h_N$ (the top). Compare
# them with the memory that comes out.

# %%
stream = Stream(corpus.test, batch_size=8, tgt_len=T)
tokens, targets, _ = stream.next()
seen = Inspection()
nll, mems, _ = model.forward(tokens, targets, inspect=seen)

print(
    f"{len(seen.hidden)} hidden states h_0 ... h_{N}, but {len(mems)} memories of {mems[0].shape}"
)
for n, memory in enumerate(mems):
    same = [f"h_{i}" for i, h in enumerate(seen.hidden) if np.array_equal(memory, h)]
    print(f"memory of layer {n + 1} equals {' '.join(same)}")

# %% [markdown]
# > **Common misconception: “the memory holds keys and values.”** It holds each layer's *inputs*,
# > bit for bit. Keys and values are made from them when they are read. (A reader whose weights stay
# > as they are may keep keys and values beside them, to save work: `minitxl.inference.cached` does,
# > and gets the same numbers.)
#
# > **Common misconception: “layer $n$ reads what layer $n$ computed in the segment before.”** What
# > layer $n$ computed is $h_n$; what it reads there is its memory, $h_{n-1}$: the output of the
# > layer *below*. The reuse shifts down by one layer for each segment, and $h_N$ is never kept.
#
# `mem_len` and $T$ need not be equal. If the memory is longer than a segment, it holds parts of
# several; if it is shorter, the oldest tokens of a segment are dropped at once. At a stream's start
# it is short, and is used short: rows of zeros in its place would be keys like any other, and take
# weight in the softmax.

# %%
viz.draw_kept_rows(tgt_len=4, mem_len=6)

# %% [markdown]
# **Exercise.** Write this update for one layer. The first three rows of the picture are the cases
# to get right; then think of `mem_len` $< T$, and of no memory at all.

# %% exercise memory-update

# %% check memory-update

# %% [markdown]
# Let the trained model remember by your update. (Then keep half as many rows: who would notice?)

# %%
course.run_with("memory-update")

# %% [markdown]
# ## 4.2 A stream, so that the memory is the past
#
# Several pieces of text are read side by side. The memory of row $b$ was left by row $b$ of the
# batch before: so row $b$ has to go on there. `Stream` cuts the text into `batch_size` long rows
# and hands out a segment of each; `fresh` says that the rows begin anew and the memory must be
# dropped.

# %%
small = Stream(corpus.test, batch_size=3, tgt_len=24)
for number in range(3):
    batch, _, fresh = small.next()
    print(f"batch {number}, fresh = {fresh}")
    for b, row in enumerate(batch):
        print(f"   row {b}: {vocab.decode(row)!r}")

# %% [markdown]
# What if it does not go on? Read the same eight rows with their own memory, with that of the row
# beside, and with none.

# %%
losses = {"its own": [], "of the row beside": [], "none": []}
for _ in range(4):
    tokens, targets, _ = stream.next()
    strangers = [np.roll(to_numpy(m), 1, axis=0) for m in mems]  # row b gets that of row b - 1
    for name, memory in zip(losses, (mems, strangers, None), strict=True):
        losses[name].append(to_numpy(model.score(tokens, targets, memory)[0]).mean())
    _, mems = model.score(tokens, targets, mems)
for name, values in losses.items():
    print(f"memory: {name:18} {np.mean(values) / np.log(2):.2f} bits per character")

# %% [markdown]
# **Exercise.** Write `contiguous_batch`, one batch of such a stream. A good test of your own: put
# `np.arange(L)` in for the text, and look at the numbers.

# %% exercise contiguous-batch

# %% check contiguous-batch

# %% [markdown]
# ## 4.3 The cuts do not show
#
# A state depends on what came before it, and on distances; nothing in it knows where a segment
# began. So if *nothing is forgotten*, it must not matter how a text is cut: 12 tokens in one pass
# are the same as $5 + 1 + 6$ with memory. In float64 we can see how exactly.

# %%
tiny = TransformerXL(
    Config(n_token=20, n_layer=3, d_model=16, n_head=2, d_head=8, d_inner=32, init_std=0.2),
    device="cpu",
    dtype="float64",
)
twelve = np.random.default_rng(0).integers(0, 20, (1, 12))


def read(cuts, mem_len):
    reader, memory, found = tiny.with_options(mem_len=mem_len), None, []
    for part in np.split(twelve, cuts, axis=1):
        log_probs, memory = reader.predict(part, memory)
        found.append(log_probs)
    return np.concatenate(found, axis=1)


whole = read([], mem_len=12)
for mem_len in (12, 4, 0):
    off = np.abs(read([5, 6], mem_len) - whole).max()
    print(f"5 + 1 + 6 with mem_len = {mem_len:2}: log-probabilities differ by {off:.1e} at most")

# %% [markdown]
# With the full memory the difference is rounding. With less, what is forgotten shows.
#
# **Exercise.** Write this reading: segments, layers, and a memory for each layer. The layer is
# given and small, it takes means where Transformer-XL attends; what goes from segment to segment is
# yours. A test of your own: with `mem_len` $= L$ the outputs are the same for every $T$.

# %% exercise read-segments

# %% check read-segments

# %% [markdown]
# ## 4.4 The edge moves
#
# Query $i$ stands in column $i + M$ of the keys and sees columns $0 \ldots i + M$: that is
# $M + 1 + i$ keys, fewest at the segment's start. The option `same_length` hides also the oldest
# ones, so that every query sees `mem_len` keys, itself included. The released scripts evaluate with
# it.


# %%
def mask(n_mem, max_keys):
    lengths = dict(n_query=6, n_mem=n_mem, max_keys=max_keys)
    return attention.attention_mask(**lengths, device="cpu", xp=np)  # True: hidden


masks = {"plain: M + 1 + i keys": mask(6, None), "same_length: mem_len = 6 keys": mask(6, 6)}
viz.draw_masks(masks, n_mem=6)

# %% [markdown]
# > **Common misconception: “every query sees the last $M$ tokens.”** Without `same_length` the
# > memory's far edge lies $M + 1 + i$ tokens back: it stands still in the text while the query
# > moves on. The last query of a segment with $T = M$ sees nearly twice as many keys as the first.
#
# And at a stream's start, when there is no memory at all? The limit is `mem_len`, the length that
# the memory *may* have. Whoever takes the length that it *has* hides everything at $M = 0$, the
# query's own key too.

# %%
for name, limit in (("mem_len = 6", 6), ("the present M = 0", 0)):
    hidden = mask(0, limit)
    scores = np.zeros((6, 6)) + attention.additive_mask(hidden, dtype=np.float64, xp=np)
    with np.errstate(invalid="ignore"):
        p, _ = ops.softmax_forward(scores, xp=np)
    print(f"at most {name:17} keys: {(~hidden).sum(axis=1)}, first softmax row {p[0, :3].round(2)}")

# %% [markdown]
# > **Common misconception: “with `same_length` and an empty memory nothing can be seen.”** The
# > segment's own tokens count too: the first query sees itself, the second two keys, and so on.
#
# **Exercise.** Write the mask, with and without the limit.

# %% exercise same-length-mask

# %% check same-length-mask

# %%
course.run_with("same-length-mask")

# %% [markdown]
# ## 4.5 Old weights
#
# In training, the weights change after every segment, and the memory does not: it was computed by
# the weights before the update. How much does that matter? Train a small model from scratch. After
# an update, compute the same memory again with the new weights, compare, and read the next batch
# with both.

# %%
STEPS, LOOK = 200, (1, 2, 4, 8, 16, 30, 50, 80, 120, 160, 200)
sizes = dict(n_layer=3, d_model=64, n_head=2, d_head=32, d_inner=128, tgt_len=32, mem_len=32)
sizes |= dict(pre_lnorm=True, dropout=0.0)  # without dropout: the weights alone make a difference
pupil = TransformerXL(Config(n_token=vocab.n_token, **sizes), device="cpu")
trainer = Trainer(pupil, TrainConfig(steps=STEPS, batch_size=16, lr=3e-3, warmup=20, threads=1))
lessons = Stream(corpus.train, batch_size=16, tgt_len=32)
differences, costs = [], []
lesson, past = lessons.next(), None  # tokens, targets, fresh
for step in range(1, STEPS + 1):
    following = lessons.next()
    trainer.step(*lesson)
    old = trainer.mems[0]  # left by the weights before this update
    if step in LOOK:
        _, new = pupil.score(*lesson[:2], past)  # the same, by the weights after it
        off = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(old, new, strict=True)]
        differences.append(off)
        costs.append([float(pupil.score(*following[:2], m)[0].mean()) for m in (old, new)])
    lesson, past = following, old

viz.draw_stale_states(LOOK, differences, costs)

# %% [markdown]
# > **Common misconception: “the cached states are what the model would compute now.”** In training
# > they are one update old, in a memory of several segments up to as many updates old. As a rule,
# > the deeper the layer, the more its inputs have moved, as all the layers below moved too. The
# > difference is largest while the model learns fastest, and costs little even then. At evaluation
# > the weights stand still, and it is exact.
#
# > **Try this.** Take five times the learning rate, or end the schedule's decline (`lr_end=1.0` in
# > `TrainConfig`). What happens to the difference at the end?
#
# ## 4.6 The gradient stops at the memory
#
# The memory is a constant to the loss. Let $g_k = \partial\,\mathrm{loss}/\partial k$ and $g_v$
# likewise, for all $K$ rows. Then (section 3.2, and `heads_backward` in `attention.py`):
#
# $$\frac{\partial\,\mathrm{loss}}{\partial W_k} = \sum_{j=0}^{K-1} \tilde h_j^\top g_{k,j}
# \qquad\qquad
# \frac{\partial\,\mathrm{loss}}{\partial h_{j-M}} \mathrel{+}= g_{k,j} W_k^\top + g_{v,j} W_v^\top
# \quad \text{for } j \ge M \text{ only}$$
#
# For $j \ge M$ row $j$ of $\tilde h$ and row $j - M$ of $h$ are the same row, of the segment. The
# left sum runs over all $K$ rows, the right one is cut. The picture shows what the cut does to the
# hidden states; the numbers to the left of the memory's edge are not small, they are 0.

# %%
begin = vocab.decode(corpus.test).index('"I could not, on my honor')
viz.gradient_explorer(model, corpus.test[begin : begin + 4 * 64 + 1], tgt_len=64)

# %% [markdown]
# Now the left sum, split at the memory's edge. The cache of a layer holds the rows that its $W_k$
# and $W_v$ multiplied. `without_memory_rows` puts zeros there for the memory's rows: `backward`
# then gives the sum over the segment's rows alone, and all else unchanged. What is missing came
# from the memory; its share is measured along the whole gradient: the two shares add up to 1.

# %%
third, kept = Stream(corpus.test, batch_size=8, tgt_len=T), None
for _ in range(3):
    *pair, _ = third.next()
    _, kept, cache = model.forward(*pair, kept)

full = model.backward(cache)
segment = model.backward(without_memory_rows(cache, xp=model.backend.xp))
print("how much of the gradient the memory's rows give: <memory, whole> / <whole, whole>")
for n in range(N):
    line = f"layer {n + 1}"
    for name in ("w_k", "w_v"):
        whole_dw = full[f"layers.{n}.attn.{name}"]
        memory_dw = whole_dw - segment[f"layers.{n}.attn.{name}"]
        line += f"   d{name}: {(memory_dw * whole_dw).sum() / (whole_dw * whole_dw).sum():6.1%}"
    print(line)

# %% [markdown]
# > **Common misconception: “no gradient, so the memory teaches nothing.”** What is held fixed are
# > the states, not how they are read: [notebook 2](02_attention_by_hand.ipynb), section 2.4.
#
# **Exercise.** Write the backward pass of $k = \tilde h W_k$, $v = \tilde h W_v$, with the stop.

# %% exercise the-stop

# %% check the-stop

# %%
course.run_with("the-stop")

# %% [markdown]
# **Exercise.** A whole layer, now that you have all its pieces. What positions add to the scores
# comes as an argument. Your functions of notebook 2 may stand above it, in the same cell.

# %% exercise layer-forward

# %% check layer-forward

# %% [markdown]
# **Exercise.** And backwards: the longest of this course, and nothing in it is new. Where a result
# goes two ways, what comes back adds up. (Do check it along a direction first, as in section 2.2.)

# %% exercise layer-backward

# %% check layer-backward

# %% [markdown]
# ## 4.7 Stopped against full
#
# `sequence_gradients` takes a sequence of segments and lets the gradient through, or not. Which of
# the two is the derivative of the sequence's loss? Move the weights of the tiny model by
# $\pm\epsilon$ in some direction $d$ and see (central difference, as in notebook 2): first as it
# is, then with the memories held at what they were.

# %%
rng = np.random.default_rng(1)
reader = tiny.with_options(tgt_len=6, mem_len=6)
text = rng.integers(0, 20, (2, 25))
pieces = [(text[:, s : s + 6], text[:, s + 1 : s + 7]) for s in range(0, 24, 6)]
upstream = [np.full((2, 6), 1 / 48)] * 4  # the mean over all 48 predictions
gradient = {
    name: sequence_gradients(reader, pieces, upstream, name == "full").params.flat
    for name in ("stopped", "full")
}


def loss(held=None):
    """The sequence's mean loss, and the memories met; held: memories to use instead."""
    memory, met, total = None, [], 0.0
    for s, (inputs, outputs) in enumerate(pieces):
        met.append(memory)
        nll, memory = reader.score(inputs, outputs, memory if held is None else held[s])
        total += float(nll.sum()) / 48
    return total, met


weights, eps = reader.params.flat, 1e-5
start, (_, held) = weights.copy(), loss()
direction = gradient["full"] / np.linalg.norm(gradient["full"])
slopes = {}
for name, fixed in (("memories as they follow", None), ("memories held fixed", held)):
    sides = []
    for sign in (1, -1):
        weights[:] = start + sign * eps * direction
        sides.append(loss(fixed)[0])
    slopes[name] = (sides[0] - sides[1]) / (2 * eps)
weights[:] = start
for name, value in slopes.items():
    print(f"numeric slope, {name:24} {value:.9f}")
for name, g in gradient.items():
    print(f"{name:7} gradient along d {'':14} {g @ direction:.9f}")

# %% [markdown]
# Both are derivatives: the full one of the loss as it is, the stopped one of a loss in which the
# memory is given. The stop is no approximation of rounding size, and it is cheap: `backward` needs
# one segment's cache, where the full gradient keeps those of all segments until the end.
#
# How different are they in the trained model?

# %%
short = model.with_options(tgt_len=64, mem_len=64)
pages = Stream(corpus.test, batch_size=8, tgt_len=64)
four = [pages.next()[:2] for _ in range(4)]
mean = [np.full((8, 64), 1 / (4 * 8 * 64), dtype=np.float32)] * 4
a, b = (sequence_gradients(short, four, mean, way).params.flat for way in (False, True))
print(f"norm: stopped {np.linalg.norm(a):.3f}, full {np.linalg.norm(b):.3f}")
print(f"cosine of the angle between them: {a @ b / np.linalg.norm(a) / np.linalg.norm(b):.3f}")

# %% [markdown]
# Nearly the same direction, at least for this model, which was trained with the stop. A task in
# which everything hangs on what is written for later shows what the stop can cost: a marker, then
# fillers, then one question for the marker, up to three segments later, and no other loss. In
# `C . . . . ?` the right answer to `?` is `C`.
# `python -m minitxl experiment stop-gradient` trains models on it with the stop and without; here
# are its results.

# %%
draw("stop_gradient")

# %% [markdown]
# The stopped model *can* learn to write its memory, usually almost as fast; two starts of 24 stall.
# No gradient asks it to; but a layer has one set of weights, for what is read now and for what will
# be read later, and within a segment the gradient does flow. What is useful now is then found in
# the memory.
#
# > **Common misconception: “the stop makes it impossible to learn dependencies longer than a
# > segment.”** Reading is trained across the edge. Writing is not, but is learned as a by-product.
#
# ## Questions
#
# 1. A friend stores keys and values of layer $n$ instead of its inputs, and trains. Which of the
#    gradients of section 4.6 can no longer be computed?
# 2. You train with $T = 64$ and $M = 256$. How many updates old are the oldest states in memory?
# 3. `same_length` makes the numbers independent of the offset in the segment, but the model was
#    trained without it. What did training show it that it no longer sees at evaluation?
#
# **Next:** notebook 5, how far all the layers together can look back.
