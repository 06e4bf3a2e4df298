# %% [markdown]
# # Start here: a Transformer that remembers
#
# This model has read most of *War and Peace*. The cell below lets it read on, in segments of 64
# characters. Run it (Shift+Enter), and touch it.

# %%
import numpy as np

import minitxl
from minitxl import Inspection, load_corpus, viz
from minitxl.model.through_memory import hidden_gradients

pretrained = minitxl.load_pretrained("war-and-peace")
model, vocab = pretrained.model, pretrained.vocab
corpus = load_corpus("war-and-peace")
novel = vocab.decode(corpus.test)  # the last 5 %, which the model has never seen
begin = novel.index('"I could not, on my honor')  # Pierre comes home, late
passage = corpus.test[begin : begin + 420]
after = 3 * 64 + novel[begin + 3 * 64 :].index("!") + 1  # read as far as "ome, come!"
viz.live(model, vocab, passage, read=after, layer=5, head=5)

# %% [markdown]
# The lowest row is the segment that is read now: `ome, come!` Is a closing quotation mark due? This
# row cannot tell. But above the thick line lies the **memory**: the states of the characters
# before, a box for each layer. This head looks for quotation marks, most for the nearest, which
# opened this speech.
#
# > **Do this**, about five minutes. *Next* says how likely a closing mark is, with the memory and
# > without. **Wipe the memory**, and see that the model no longer knows; `↺` brings it back.
# > **Type** until the row is full: its states slide up, and what is older than the memory falls
# > out. Let it **write**. Last, **learn from this segment**: reading crosses the memory's edge;
# > does the gradient?
#
# That is **Transformer-XL** (Dai et al., 2019). A plain Transformer starts each segment blank. This
# one keeps the hidden states of the last $M$ tokens, and two rules make that work. The cached
# states are constants: **the gradient stops at the memory**, so a backward pass covers one segment.
# And a token is addressed by its **distance**: places in the segment would clash, as a cached and a
# new token can both be number 3.
#
# *About 20 minutes in all. You need matrices, the softmax and a first idea of attention.*

# %% [markdown]
# ## 1 The same in code
#
# Let $m$ be what layer $n$ cached: its own *inputs* for the last $M$ tokens. The layer joins them
# to the inputs $h$ of the present segment. Queries come from the segment only, keys and values from
# both (paper, section 3.2; SG stands for stop-gradient):
#
# $$\tilde h = [\,\mathrm{SG}(m)\,;\,h\,] \qquad q = h\,W_q \qquad k = \tilde h\,W_k
# \qquad v = \tilde h\,W_v$$
#

# %%
c = model.config
print(f"{model.n_params:,} parameters: {c.n_layer} layers, D = {c.d_model}, {c.n_head} heads")
T = 64
reader = model.with_options(tgt_len=T, mem_len=3 * T)

mems, pieces = None, []  # at the start of a stream there is no memory
for start in range(0, 4 * T, T):
    tokens = passage[start : start + T][None, :]  # (B = 1, T)
    targets = passage[start + 1 : start + T + 1][None, :]  # the same, one character later
    before = mems  # what the memory holds while this segment is read
    inspection = Inspection()  # takes notes: hidden states and attention probabilities
    nll, mems, _ = reader.forward(tokens, targets, mems, inspect=inspection)
    pieces.append((tokens, targets))
    n_keys = inspection.probs[0].shape[-1]  # K = M + T
    print(f"{n_keys - T:3} cached + {T} new = {n_keys:3} keys   {vocab.decode(tokens[0])!r}")
print(f"\nthe memory now: {len(mems)} arrays, one per layer, of shape (B, M, D) = {mems[0].shape}")

# %%
at, mark = vocab.decode(tokens[0]).index("!"), vocab.encode('"')[0]
for name, memory in (("with memory", before), ("without memory", None)):
    log_probs, _ = reader.predict(tokens, memory)  # (B, T, V): the next character, after each
    print(f"{name:15} {np.exp(float(log_probs[0, at, mark])):5.1%}: the next character closes it")

# %% [markdown]
# Each query turns its scores on the keys up to its own place into probabilities; later keys are
# masked. How much of them falls on cached characters, and how much on quotation marks?

# %%
probs = [model.backend.to_numpy(p)[0] for p in inspection.probs]  # per layer (H, T, K), K = M + T
wanted = np.array(list(vocab.decode(passage[: 4 * T]))) == '"'  # (K,) which keys are marks
on_marks = np.stack([p[:, :, wanted].sum(axis=-1).mean(axis=-1) for p in probs])  # (N, H)


def show(title, values):
    print(title + "\n        " + "".join(f"  head {h + 1}" for h in range(c.n_head)))
    for n, row in enumerate(values):
        print(f"layer {n + 1} " + "".join(f"{x:8.0%}" for x in row))


even = np.mean(3 * T / (3 * T + 1 + np.arange(T)))  # query i (from 0) sees M + 1 + i keys
show(f"attention that crosses the memory's edge, {even:.0%} if even", viz.memory_share(probs))
show(f"\nattention to quotation marks, {wanted.mean():.0%} of the keys", on_marks)

# %% [markdown]
# All heads but one prefer what is near. On the marks one stands out, the one that you saw.
#
# > **Try this.** Put `"\n"` for the quotation mark in this cell, and choose the head that then
# > stands out in the component above.
# >
# > <details><summary>Which head is it, and why would a model of this book want to know where a line
# > began?</summary>Layer 4, head 5. The book's lines break at about 70 characters: how long the
# > line is by now says when a break is due.</details>

# %% [markdown]
# ## 2 Where does the gradient stop?
#
# The pulse that you saw, in numbers: $\partial\,\mathrm{loss} / \partial h_n$ of the last segment's
# loss, with the stop, as the model is trained, and without; at every position of the segments
# before it, and at seven levels, the embedding $h_0$ and the outputs $h_1 \ldots h_6$ of the
# layers. The memory is one segment long here, so that what is older is reached through it alone.

# %%
short = model.with_options(tgt_len=T, mem_len=T)
for name, through in (("stopped", False), ("full", True)):
    gradients = hidden_gradients(short, pieces, through_memory=through)  # S of N + 1 of (B, T, D)
    earlier = np.stack([model.backend.to_numpy(g) for s in gradients[:-1] for g in s])
    print(f"{name:8} {np.count_nonzero(earlier):8,} of {earlier.size:,} numbers are not zero")
    for back in (1, 2, 3):
        reached = [f"h_{n}" for n, g in enumerate(gradients[-1 - back]) if model.backend.xp.any(g)]
        print(f"{'':8} {back} back: {' '.join(reached) or 'nothing'}")

# %% [markdown]
# Layer $n$ reads the cached $h_{n-1}$, its *input*: so without the stop the gradient loses a level
# at each edge.
#
# > **Common misconception: “no gradient, so the memory teaches nothing.”** The model learns to read
# > its memory; it is not taught to write it. [Notebook 2](02_attention_by_hand.ipynb), section 2.4,
# > has the numbers, [notebook 4](04_memory.ipynb) the pictures.

# %% [markdown]
# ## 3 What is the memory worth?
#
# Small models were trained alike, with a memory and without, in segments of 32 characters. Without,
# they lose 1.29 bits at a segment's first character, and 0.14 on average: *context
# fragmentation*. [Notebook 1](01_fragmentation.ipynb) looks at it closely, and at other cures.

# %% [markdown]
# ## What you can do now
#
# You can say what a Transformer-XL keeps (each layer's inputs for the last $M$ tokens), what it
# reads with them (keys and values of memory and segment), where its gradient ends, and what that is
# worth in bits. **The picture to remember:**

# %%
viz.draw_idea()

# %% [markdown]
# **Where this lives today.** Served models keep keys and values of all that was said
# ([PagedAttention](https://arxiv.org/abs/2309.06180)). Contexts reach millions of tokens ([Gemini
# 1.5](https://arxiv.org/abs/2403.05530)); a memory of fixed size for any length is still sought
# ([Infini-attention](https://arxiv.org/abs/2404.07143)).
#
# **Next:** [1 what fixed segments cost](01_fragmentation.ipynb), [2 attention, forwards and
# backwards](02_attention_by_hand.ipynb), [3 relative positions](03_relative_positions.ipynb), [4
# the memory](04_memory.ipynb), [5 reach](05_reach.ipynb), [6 training](06_training.ipynb), [7
# evaluation](07_evaluation.ipynb), [8 what came after](08_beyond.ipynb): about six hours, and eight
# more with the exercises, which are checked in place. Short of time? Section 2.4, notebooks 4 and
# 5, sections 7.1 and 7.2. The paper: [Transformer-XL](https://arxiv.org/abs/1901.02860).
