# %% [markdown]
# # 4 Recurrence: what is kept, and where learning stops
#
# What the memory holds, which keys a query sees, where the gradient stops, and what the stop costs.
# **You need** notebook 2, and the idea of notebook 3 (distances). **Time:** 60 minutes, and about
# 120 for the exercises.

# %%
import numpy as np

import minitxl
from minitxl import Inspection, Stream, attention, course, load_corpus, viz
from minitxl.experiments import draw  # results that are kept with the package
from minitxl.model.through_memory import without_memory_rows

pretrained = minitxl.load_pretrained("war-and-peace")
model, vocab = pretrained.model, pretrained.vocab
corpus = load_corpus("war-and-peace")
N, T = model.config.n_layer, model.config.tgt_len
to_numpy = model.backend.to_numpy

# %% [markdown]
# ## 4.1 What the memory holds
#
# Segments are 16 characters here, the memory 24. Two segments were read, and the first 8
# characters have fallen out at the far end. Press *read*: the row fills, slides up, and becomes
# memory.

# %%
begin = vocab.decode(corpus.test).index('"I could not, on my honor')
viz.live(model, vocab, corpus.test[begin : begin + 420], tgt_len=16, mem_len=24, read=42)

# %% [markdown]
# > **Do this.** Wipe the memory, and read three segments. When is it full, and of how many segments
# > does it hold parts? Then set *segment T* to 32, longer than the memory: what is never kept?
# >
# > <details><summary>Answer</summary>After two segments, of both: all 16 states of the second and
# > the last 8 of the first. With T = 32 the first 8 of each segment.</details>
#
# Layer $n$ reads $\tilde h = [\mathrm{SG}(m)\,;\,h]$, its memory and its inputs for this segment
# (paper, section 3.2): $K = M + T$ rows, where $M$ is the present length of the memory. What it
# leaves for the next segment is the end of the same rows: the last `mem_len` rows of
# $[\,m\,;\,h\,]$, or all of them while there are fewer.
#
# `Inspection` takes notes of the hidden states $h_0$ (the embedding) to $h_N$ (the top). Compare:

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
# > bit for bit; keys and values are made from them when they are read.
#
# > **Common misconception: “layer $n$ reads what layer $n$ computed in the segment before.”** That
# > is $h_n$; its memory is $h_{n-1}$. So each segment back is one layer down, and $h_N$ is never
# > kept.
#
# **Keep:** each layer remembers its inputs, the last `mem_len` of them.
#
# **Exercise.** Write this update for one layer. Think of `mem_len` $< T$, and of no memory at all.

# %% exercise memory-update

# %% check memory-update

# %%
course.run_with("memory-update")

# %% [markdown]
# ## 4.2 A stream, so that the memory is the past
#
# Several rows are read side by side, and each must go on where it ended. `Stream` cuts the text
# into `batch_size` long rows and hands out a segment of each; `fresh` says that the rows begin anew
# and the memory must be dropped.

# %%
small = Stream(corpus.test, batch_size=3, tgt_len=24)
for number in range(3):
    batch, _, fresh = small.next()
    print(f"batch {number}, fresh = {fresh}")
    for b, row in enumerate(batch):
        print(f"   row {b}: {vocab.decode(row)!r}")

# %% [markdown]
# **Keep:** row $b$ of a batch must continue row $b$ of the one before.
#
# **Exercise.** Write `contiguous_batch`, one batch of such a stream. To test it, put `np.arange(L)`
# in for the text.

# %% exercise contiguous-batch

# %% check contiguous-batch

# %% [markdown]
# ## 4.3 The cuts do not show
#
# If *nothing is forgotten*, it must not matter how a text is cut: 12 tokens in one pass are the
# same as $5 + 1 + 6$ with memory. In float64:

# %%
tiny = minitxl.TransformerXL(
    minitxl.Config(n_token=20, n_layer=3, d_model=16, n_head=2, d_head=8, d_inner=32, init_std=0.2),
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
# **Keep:** it is not the cuts that show, but what is forgotten.
#
# **Exercise.** Write this reading: segments, layers, and a memory for each layer. The layer is
# given (it takes means where Transformer-XL attends). To test it: with `mem_len` $= L$ the outputs
# are the same for every $T$.

# %% exercise read-segments

# %% check read-segments

# %% [markdown]
# ## 4.4 How far back a query sees
#
# Query $i$ (from 0) stands in column $i + M$ of the keys and sees columns $0 \ldots i + M$: that is
# $M + 1 + i$ keys, fewest at the segment's start. The option `same_length`, with which the released
# scripts evaluate, hides the oldest ones too: every query sees `mem_len` keys, itself included.


# %%
def mask(n_mem, max_keys):
    lengths = dict(n_query=6, n_mem=n_mem, max_keys=max_keys)
    return attention.attention_mask(**lengths, device="cpu", xp=np)  # True: hidden


masks = {"plain: M + 1 + i keys": mask(6, None), "same_length: mem_len = 6 keys": mask(6, 6)}
viz.draw_masks(masks, n_mem=6)

# %% [markdown]
# > **Common misconception: “every query sees the last $M$ tokens.”** Without `same_length` the
# > oldest key is $M + i$ tokens back: it stands still while the query moves on.
#
# The limit is `mem_len`, whether the memory is full or not. (Here query 5 sees none of the memory:
# its six keys are all of its own segment.)
#
# **Keep:** the oldest key stands still, or moves with the query: `same_length`.
#
# **Exercise.** Write the mask, with and without the limit.

# %% exercise same-length-mask

# %% check same-length-mask

# %%
course.run_with("same-length-mask")

# %% [markdown]
# ## 4.5 Old weights
#
# In training the weights change after every segment; the memory was computed by those before. How
# much does that matter? `stale_memories` trains a small model from scratch. After an update it
# computes the same memory again with the new weights, compares, and reads the next batch with both.

# %%
LOOK = (1, 2, 4, 8, 16, 30, 50, 80, 120, 160, 200)  # updates
viz.draw_stale_states(LOOK, *course.stale_memories(corpus, LOOK))

# %% [markdown]
# The deeper the layer, as a rule, the more its inputs have moved. At evaluation the weights stand
# still, and the memory is exact.
#
# **Keep:** states that are one update old differ, and hardly change the loss, up or down.
#
# ## 4.6 The gradient stops at the memory
#
# The memory is a constant to the loss (section 3.2). The gradients of keys and values exist for all
# $K$ rows. On their way back through $k = \tilde h\,W_k$ and $v = \tilde h\,W_v$ they part: what
# goes to the **weights** is summed over all $K$ rows; what goes to the **states** is cut at the
# memory's edge, and is exactly 0 left of it.

# %%
viz.gradient_explorer(model, corpus.test[begin : begin + 4 * 64 + 1], tgt_len=64)

# %% [markdown]
# > **Try this.** Put the loss on the first character, let the gradient through, and set the memory
# > to 16. Why is the first step of the staircase 16 wide, and the next 64?
# >
# > <details><summary>Answer</summary>The first character reads the 16 states before it. A state
# > inside the segment before has also read its own segment, and 16 states before that.</details>
#
# Now split the weights' sum there: `without_memory_rows` puts zeros for the memory's rows into what
# the forward pass saved; what is then missing, $g_m$, is the memory's. Its share of the whole
# gradient $g$ is $\langle g_m, g\rangle / \langle g, g\rangle$, so that both shares add up to 1.

# %%
third, kept = Stream(corpus.test, batch_size=8, tgt_len=T), None
for _ in range(3):
    *pair, _ = third.next()
    _, kept, cache = model.forward(*pair, kept)

full = model.backward(cache)
segment = model.backward(without_memory_rows(cache, xp=model.backend.xp))
print("share of the gradient that the memory's rows give")
for n in range(N):
    line = f"layer {n + 1}"
    for name in ("w_k", "w_v"):
        whole_dw = full[f"layers.{n}.attn.{name}"]
        memory_dw = whole_dw - segment[f"layers.{n}.attn.{name}"]
        line += f"   d{name}: {(memory_dw * whole_dw).sum() / (whole_dw * whole_dw).sum():6.1%}"
    print(line)

# %% [markdown]
# **Keep:** the memory's rows teach every layer to *read* them, with the largest share in the top
# two; none of it teaches what to *write*.
#
# **Exercise.** Write the backward pass of $k = \tilde h W_k$, $v = \tilde h W_v$, with the stop.

# %% exercise the-stop

# %% check the-stop

# %%
course.run_with("the-stop")

# %% [markdown]
# ## 4.7 A whole layer
#
# All that a layer does, in one function: keys and values of memory and segment, attention, a
# feed-forward block, LayerNorm behind each.
#
# **Exercise.** Forwards. What positions add to the scores comes as an argument. Your functions of
# notebook 2 may stand above it, in the same cell.

# %% exercise layer-forward

# %% check layer-forward

# %% [markdown]
# **Exercise.** And backwards: the longest of this course, and nothing in it is new. Where a result
# goes two ways, what comes back adds up. (Check it along a direction first, as in section 2.2.)

# %% exercise layer-backward

# %% check layer-backward

# %% [markdown]
# ## 4.8 What the stop can cost
#
# The stop is cheap: a backward pass needs what one segment saved, not all of them. What can it
# cost?
#
# - **Task.** A marker, one of 8, stands in a segment of 8 tokens; fillers follow; 1 to 32 tokens
#   later comes one question, the only loss. In `. . C . . . . . | . . . . ? . . .` the answer is
#   `C`.
# - **Hop**: one layer's read from the memory, 8 tokens back from the segment's start.
# - **Floor** of $k$ hops: the best loss for who finds the marker in the question's own segment or
#   up to $8k$ tokens before that, and otherwise guesses one of 8. (Three hops do not reach all 32.)

# %%
draw("stop_gradient", part="learning")

# %% [markdown]
# Stopped, and with the rate that suits it best (0.003 for 0.01, on other seeds), the model usually
# learns to write almost as fast. Of 24 starts 5 have not learned after 140 updates, when all have
# without the stop: three need 200, 300 and 500, one is on its way at 600, and one stays at the
# floor of one hop. No gradient comes *from a later segment*; but the weights that make a state are
# taught wherever it is used in its own segment, and what serves there serves later.
#
# **Keep:** writing gets no gradient of its own; it is learned along with reading, usually, not
# always.
#
# ## Questions
#
# 1. A friend stores keys and values of layer $n$ instead of its inputs, and trains. Which of the
#    gradients of section 4.6 can no longer be computed?
# 2. You train with $T = 64$ and $M = 256$. How many updates old are the oldest states in memory?
# 3. `same_length` makes the numbers independent of the offset in the segment, but the model was
#    trained without it. What did training show it that it no longer sees at evaluation?
#
# *Answers: `notebooks/README.md` in the repository, “Model answers”.*
#
# ## What you can do now
#
# - Say what the memory holds after any segment, feed it a stream, and tell which keys a query sees.
# - Write a whole layer with memory, forward and backward.
# - Say what the stop cuts, and what it can cost.
#
# **The picture to remember:**

# %%
viz.draw_recurrence()

# %% [markdown]
# **Where this lives today.** Served models keep such a memory, of keys and values, in pages
# ([PagedAttention](https://arxiv.org/abs/2309.06180)).
# [DeepSeek-V2](https://arxiv.org/abs/2405.04434) caches one small state a token and layer, and
# makes keys and values from it, as here. The [Recurrent Memory
# Transformer](https://arxiv.org/abs/2207.06881) lets the gradient through a few memory tokens.
#
# **Next:** notebook 5, how far all the layers together can look back.
