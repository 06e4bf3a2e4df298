# %% [markdown]
# # 1 Fixed segments: what is lost at every cut
#
# What a prediction is made from when a text is cut, what that costs, and what each cure costs.
# **You need** notebook 0, and logarithms: a character that was predicted with probability $p$ costs
# $-\log_2 p$ bits. **Time:** 25 minutes, and about 10 for the exercises.

# %%
import numpy as np

import minitxl
from minitxl import load_corpus, viz
from minitxl.data import segments
from minitxl.experiments import stored  # results that are kept with the package
from minitxl.inference.sliding import evaluate_sliding, windows

pretrained = minitxl.load_pretrained("war-and-peace")
model, vocab = pretrained.model, pretrained.vocab
text = load_corpus("war-and-peace").test  # ids of characters that the model has never seen

# %% [markdown]
# ## 1.1 The cut
#
# Attention costs as the square of the length, so a long text is cut into segments of $T$
# characters. A vanilla Transformer reads each on its own (paper, section 3.1). With
# $s = \lfloor t / T \rfloor\, T$, the place where the segment of character $t$ begins, what it
# computes is
#
# $$P(x_{t+1} \mid x_s \ldots x_t) \qquad\text{in place of}\qquad P(x_{t+1} \mid x_0 \ldots x_t)$$
#
# `segments` does the cutting. It hands out pairs (tokens, targets); a target is the character that
# follows in the text.

# %%
T = 8
for tokens, targets in segments(text[: 4 * T + 1], batch_size=1, tgt_len=T):
    print(f"read {vocab.decode(tokens[0])!r:12} predict {vocab.decode(targets[0])!r}")

# %% [markdown]
# **Keep:** no target is lost, but each segment's first prediction is made from one character.
#
# ### Exercise: what a fixed segment knows
#
# How many characters is each prediction made from? Their mean tells why a model "with a context of
# $T$" has about half of that. (Below, a check says whether your answer is right. If you are stuck,
# `course.reveal("context-lengths")` shows the way in steps: one more for each try.)

# %% exercise context-lengths

# %% check context-lengths

# %% [markdown]
# ## 1.2 What it costs: drag the cuts
#
# The shipped model reads a passage from nothing in each segment, or with the memory of what came
# before. **Drag a cut**: the guesses right after it grow dear, and cheap again when it has passed.
# (The character just left of a cut belongs to the new segment: with it the reading begins.) **Point
# at a character**: from what was it guessed, and what did each reader expect?

# %%
begin = vocab.decode(text).index('"I could not, on my honor')
viz.play_cut(model, vocab, text[begin - 192 : begin + 321])

# %% [markdown]
# Now press *with a memory*: most of these places turn pale. What stays deep is hard for this model,
# mostly the first letters of words, and punctuation.
#
# **Keep:** after a cut the model must find out anew which word it is in, and who is speaking.

# %% [markdown]
# ## 1.3 Is this fair? Models that were trained without memory
#
# The shipped model learned to rely on its memory, so taking it away is hard on it. A fair rival has
# never had one. Three small models were trained alike: a **vanilla** one (absolute positions, no
# memory), one with **relative positions and no memory**, and a **Transformer-XL**.

# %%
ablation = stored("ablation")
viz.draw_group_by_position(ablation)

# %% [markdown]
# Relative positions gain 0.08 bits over vanilla, and the memory another 0.14, over half of it at a
# segment's first four characters (*context fragmentation*, section 1), the rest at every place.
# **Keep:** no training can supply characters that were not read.

# %% [markdown]
# > **Question 1.** The gap at the last characters of a segment is not zero either. What do they
# > lack that the model with memory has?

# %% [markdown]
# ## 1.4 First cure: longer segments
#
# The shipped model reads 12,000 characters in segments of 16,
# 32, 64 and 128, from nothing in each; and again with its memory of 128. (Here and in 1.5 look at
# the shapes: without memory this model pays more than a fair rival would.)


# %%
def bits_of(tokens, *, t, remember, rows=1, mem_len=128):
    """Bits of every character: (rows, characters of a row), read in segments of t."""
    reader, mems, bits = model.with_options(tgt_len=t, mem_len=mem_len), None, []
    for x, y in segments(tokens, batch_size=rows, tgt_len=t):  # (rows, t) each
        nll, mems = reader.score(x, y, mems if remember else None)  # nats, -ln p
        bits.append(model.backend.to_numpy(nll) / np.log(2))
    return np.concatenate(bits, axis=1)


n = 12 * 1024  # characters
without = {
    t: bits_of(text[: n + 1], t=t, remember=False, rows=n // t) for t in (16, 32, 64, 128)
}  # (n / T, T): every row is one segment
with_memory = {
    t: float(bits_of(text[: n + 1], t=t, remember=True, rows=8)[:, 128:].mean()) for t in without
}
viz.draw_segment_lengths(without, with_memory)

# %% [markdown]
# On the left all lengths lie on one curve $c(n)$, up to chance: what a prediction costs depends on
# how many characters it is made from, not on $T$. A model without memory then pays
#
# $$\mathrm{bpc}(T) = \frac1T \sum_{n=1}^{T} c(n),$$
#
# which falls towards the level where the curve ends, slowly: for long segments what lies above it
# shrinks as $1/T$. **Keep:** with a memory the length of the segment hardly matters for reading, as
# every prediction has at least 128 characters before it.

# %% [markdown]
# ## 1.5 Second cure: a sliding window
#
# Read a window of $W$ characters, keep only its last predictions, move it on by a stride, read it
# again. With stride 1 every prediction after the first window has $W$ characters, as with the
# paper's vanilla baseline (section 3.1). `windows` shows how:

# %%
for tokens, targets in windows(text[:17], window=8, stride=2, batch_size=1):
    ahead = vocab.decode(targets[0])
    print(f"read {vocab.decode(tokens[0])!r:12} keep the predictions of {ahead!r}")

# %%
W, P, size = 64, 6, 256  # the window; P passages of 256 characters, for an error bar
passages = [text[p * size : (p + 1) * size + 1] for p in range(P)]
rows = []
for stride in (64, 32, 16, 8, 4, 2, 1):
    options = dict(window=W, stride=stride, batch_size=64)
    bits = [evaluate_sliding(model, one, **options).bpc for one in passages]
    rows.append((stride, W / stride, np.array(bits)))
remembered = bits_of(text[: P * size + 1], t=W, remember=True, rows=P, mem_len=W).mean(axis=1)
viz.draw_sliding(rows, remembered)  # (P,)

# %% [markdown]
# **Keep:** the window buys back what the cut took by reading every character $W$ / stride times;
# segments of $W$ with a memory of $W$ give $W + 1$ to $2W$ characters directly, more through
# layers, and read each once.
#
# > **Question 2.** Windows of $W = 64$, stride 32. From how many characters is a prediction made,
# > at least and at most (after the first window)? Read off the picture: of the bits saved from
# > stride 64 to stride 1, what share is already saved at stride 32?

# %% [markdown]
# ## 1.6 A memory is only as good as its stream
#
# Several rows are read side by side. The memory of row $b$ is what row $b$ read before, so the next
# batch must go on in every row where it ended. Here 32 rows read with the right memory, with none,
# and with that of the row next door.

# %%
reader = model.with_options(tgt_len=32, mem_len=128)
cost = {"its own past": [], "no memory": [], "another row's past": []}
mems = None
for number, (x, y) in enumerate(segments(text[: 32 * 960 + 1], batch_size=32, tgt_len=32)):
    if number >= 4:  # the memory is full
        swapped = [np.roll(mem, 1, axis=0) for mem in mems]  # row b gets the memory of row b - 1
        for name, given in zip(cost, (mems, None, swapped), strict=True):
            cost[name].append(reader.score(x, y, given)[0].mean() / np.log(2))
    _, mems = reader.score(x, y, mems)
for name, bits in cost.items():
    print(f"{name:20} {np.mean(bits):.2f} bits per character, {len(bits)} batches")
more = np.subtract(cost["another row's past"], cost["no memory"])  # paired by batch
print(f"another's less none: {more.mean():.3f} +- {2 * more.std() / len(more) ** 0.5:.3f} bits")

# %% [markdown]
# Another row's past is worse than none.
#
# > **Common misconception: “any batches will do, the memory sorts it out.”** The model does
# > not know where a cached state came from. At a document's end, reset the memory.
#
# At a text's start there is no past, and the memory is empty. (Not zeros: a row of zeros is a key
# like any other, and takes weight from real characters. Notebook 6 shows what that costs.)
#
# **Keep:** a memory must be this row's own past, and empty where there is none.
#
# > **Question 3.** Here another row's past is a page of the same book. Suppose that each row read a
# > book in another language, one the model knows as well as this one. Which of the three numbers
# > would change, up or down, and why?
#
# *Answers to the questions: `notebooks/README.md` in the repository, “Model answers”.*
#
# ## What you can do now
#
# - Say what a prediction of a fixed segment is made from: 1 to $T$ characters, $(T + 1)/2$ on
#   average.
# - Say what a cut costs, place by place, and what makes a rival fair.
# - Weigh the cures: longer segments pay less often, a sliding window reads again, a memory reads
#   once.
#
# **The picture to remember** is the saw: each cut starts it anew, and the memory takes its teeth.

# %%
viz.draw_saw(ablation)

# %% [markdown]
# **Where this lives today.** The sliding window went into the model itself: in [Mistral
# 7B](https://arxiv.org/abs/2310.06825) each layer sees a window of kept keys, and the window of a
# window reaches further, as in notebook 5.
#
# **Next:** notebook 2 takes attention apart, forwards and backwards, with numbers to check by eye.
