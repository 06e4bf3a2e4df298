# %% [markdown]
# # 5 Reach: how far back can it look?
#
# **You will be able to** derive how many tokens can influence a prediction, from layers, segment
# and memory; check it by changing tokens one by one; tell what a model *could* use from what it
# *learned* to use.
#
# **You need** notebook 4 (what the memory holds, and for how long). **Time:** 25 minutes.
# **Exercises:** 2.

# %%
import numpy as np

import minitxl
from minitxl import Config, TransformerXL, load_corpus, viz
from minitxl.experiments import draw, stored  # results that are kept with the package
from minitxl.experiments.reach import perturbed_reach
from minitxl.model.reach import exact_reach

# %% [markdown]
# ## 5.1 Layers times memory
#
# One layer sees the memory and its segment. But what it finds in the memory are states, and these
# have seen a memory of their own. Each layer down, one looks one memory further back: this is the
# shaded triangle in figure 2 of the paper. Here it is, drawn from the masks and the memory update
# that the model uses.

# %%
viz.span_explorer(n_layer=2, tgt_len=4, mem_len=4)

# %% [markdown]
# > **Try this.** Switch recurrence off and add layers: what happens to the vanilla model's reach?
# > With recurrence on, take $T = 4$ and let $M$ go from 4 to 8 in steps of one. When does the reach
# > make a leap? Follow the first output, then the last: does the left end move?
#
# **Exercise.** How many tokens before the segment's start can change an output in it? The picture
# counts; find the rule. Begin at layer $N$ and the present segment. In which segment was the oldest
# state of its memory computed, and where does *that* segment begin? Go there, one layer down, and
# ask again, as far as layer 1, which has embeddings in its memory: a loop over the layers. Try it
# with $M = T$ and $M = T + 1$. (`course.reveal("reach")` shows the way in steps.)

# %% exercise reach

# %% check reach

# %% [markdown]
# ## 5.2 The formula
#
# <details><summary>The rule, and why: open it once you have yours.</summary>
#
# With the memory full, and without options that move its edge (`same_length`, `ext_len`): layer 1
# reads $M$ cached embeddings, and an embedding has seen its own token only: that is $M$ tokens.
# Each of the $N - 1$ layers above reads $M$ states, of which the oldest was computed in a segment
# that began $T \lceil M/T \rceil$ tokens before the present one; whatever that segment could see,
# it passes on. So
#
# $$R = (N - 1)\, T\, \lceil M/T \rceil + M$$
#
# If $T$ divides $M$, this is $N M$. If not, it is more, and with $M$ far below $T$ far more: a
# segment of which the memory holds a part has still read the whole of *its* memory.
#
# </details>
#
# Do not take our word. Below, the tokens of a text are changed one by one, and the outputs of an
# untrained float64 model compared bit by bit (`perturbed_reach`).

# %%
print(" N   T   M   N M   formula   by changing tokens")
for n, t, m in ((1, 8, 0), (3, 8, 0), (1, 8, 8), (2, 8, 8), (3, 8, 8), (3, 8, 4), (2, 8, 12)):
    found = perturbed_reach((n, t, m))
    print(f"{n:2} {t:3} {m:3} {n * m:5} {exact_reach(n, t, m):9} {found:20}")

# %% [markdown]
# Look at one of them whole: two layers, $T = 8$, $M = 12$. Every column is a token that was
# changed, every row an output of the last segment.

# %%
N, T, M, V = 2, 8, 12, 10
sizes = dict(n_layer=N, d_model=32, n_head=2, d_head=16, d_inner=64, tgt_len=T, mem_len=M)
config = Config(n_token=V, **sizes, pre_lnorm=True, init_std=0.1)
model = TransformerXL(config, device="cpu", dtype="float64")
before = -(-(exact_reach(N, T, M) + T) // T) * T  # whole segments, one more than is reached
length = before + T
text = np.random.default_rng(0).integers(0, V, length)
same = np.tile(text, (length, 1))  # (B = L, L): as many copies as tokens
changed = same.copy()
at = np.arange(length)
changed[at, at] = (changed[at, at] + 1) % V  # in copy i the token i is another


def last_segment(tokens):
    mems = None
    for part in np.split(tokens, length // T, axis=1):
        log_probs, mems = model.predict(part, mems)
    return log_probs  # (B, T, V)


changes = np.abs(last_segment(changed) - last_segment(same)).max(axis=2)  # -> (B = L, T)
viz.draw_changes(changes.T, n_layer=N, tgt_len=T, mem_len=M)

# %% [markdown]
# > **Common misconception: “with recurrence it sees everything,” or: “it sees the last $M$
# > tokens.”** Neither. The reach is finite, and $N$ times as long as a memory of whole segments.
# > One token beyond it is as if it had never been: not a bit changes.
#
# The left end is the same for all outputs of a segment: what counts is where the *segment* began.
# To the tokens before it come those of the segment itself, up to the output's own.
#
# **Exercise.** So from how many tokens in all is one output made?

# %% exercise influence

# %% check influence

# %% [markdown]
# ## 5.3 Does a trained model use it all?
#
# Where it must, yes. In the experiment `reach` a marker, one of 8, stands in the first segment;
# then come fillers, and at every distance the model is asked for the marker. With `C` for the
# marker, `.` for a filler and a bar at a segment's end:
#
#     reads    . . C . . . . . | . . . . . . . . | . . .
#     answers        C C C C C | C C C C C C C C | C C C
#
# Theory leaves no freedom: an output that sees the marker can be right, one that does not has to
# guess. A query at offset $o$ of its segment sees the distance $d$ if $d \le R + o$. Offsets are
# equally frequent, so that the best accuracy is
#
# $$s + \frac{1 - s}{8} \qquad s = 1 - \frac{d - R}{T}, \text{ within } 0 \ldots 1$$
#
# that is 1 up to $R$, a straight ramp, and 1/8 from $R + T$ on. Nobody tells the model how far to
# look.

# %%
results = stored("reach")
draw("reach")

# %%
print("                 accuracy falls below 0.9 at distance")
print(" N   T   M    R   theory    found")
for m in results["models"]:
    edge, low, high = m["edge"]["theory"], m["edge"]["min"], m["edge"]["max"]
    found = f"{low}" if low == high else f"{low} to {high}"
    shape = f"{m['n_layer']:2} {m['tgt_len']:3} {m['mem_len']:3} {m['reach']['formula']:4}"
    print(f"{shape} {edge:8} {found:>8}")

# %% [markdown]
# > **Try this.** `python -m minitxl experiment reach --quick` trains three models in some seconds,
# > and prints this table with the losses beside their lower bounds.
#
# ## 5.4 Possible is not learned
#
# In a text, nothing forces a model to look far. Take the model of *War and Peace*: change a single
# character at some distance before a segment, and see how much its next 16 predictions change. The
# measure is the total variation of the distributions, $\frac12 \sum_x |p'(x) - p(x)|$: 0 for the
# same prediction, 1 for a quite different one.

# %%
# float64: what is left at the reach's end is as small as float32's rounding
pretrained = minitxl.load_pretrained("war-and-peace", device="cpu", dtype="float64")
model, text = pretrained.model, load_corpus("war-and-peace").test
N, T, M = model.config.n_layer, model.config.tgt_len, model.config.mem_len
R, V = exact_reach(N, T, M), model.config.n_token
PLACES, ASKED = 4, 16
n_before = -(-(R + 1) // T)  # segments before the last
start = n_before * T
begins = np.arange(PLACES) * (len(text) - start - ASKED) // PLACES
tokens = text[begins[:, None] + np.arange(start + ASKED)]  # (PLACES, L)


def read_on(tokens, first, mems):
    """Read from segment `first` on; return the memory before each, and the last predictions."""
    met = [mems]
    for s in range(first, n_before):
        met.append(model.predict(tokens[:, s * T : (s + 1) * T], met[-1], last=1)[1])
    return met, np.exp(model.predict(tokens[:, start:], met[-1])[0])


met, base = read_on(tokens, 0, model.start_mems(PLACES))
distances = [1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 128, 200, 300, 450, 600, R, R + 1]
rng, moved = np.random.default_rng(0), []
for d in distances:
    changed = tokens.copy()
    changed[:, start - d] = (changed[:, start - d] + rng.integers(1, V, PLACES)) % V
    first = (start - d) // T  # what was read before is as it was
    _, p = read_on(changed, first, met[first])
    moved.append(float(np.abs(p - base).sum(axis=2).mean() / 2))

heads = stored("attention_spans")["heads"]
viz.draw_learned_reach(heads, distances, moved, n_layer=N, tgt_len=T, mem_len=M)

# %% [markdown]
# Two things keep the learned reach below the possible one. A layer could put all its weight on the
# far end of its keys, up to $M + T$ away, but most heads put it nearer (the upper picture; measured
# by `python -m minitxl experiment attention`). And what comes from beyond one memory has to pass
# through several layers, of which each passes on a part. So the influence fades long before it
# ends. Where it ends is exact: at $R$ a little of it is left, at $R + 1$ it is 0.
#
# How far a model looks *with profit* is another question: the paper's RECL, in notebook 7.
#
# ## Questions
#
# 1. A model has 12 layers and $T = 512$. What is its reach with $M = 512$, and with $M = 513$? Why
#    is the second number no reason to use $M = 513$?
# 2. You halve $T$ and leave $M$ as it is ($T$ divides $M$ before and after). What becomes of the
#    reach, of the number of segments, and of the work per token when the memory's keys and values
#    are computed anew for each segment?
# 3. The influence fades with the distance. Does that show that far characters are useless to the
#    model? Think of a single character on which much depends, and of the mean over places.
#
# **Next:** notebook 6, training.
