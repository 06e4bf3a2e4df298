# %% [markdown]
# # 5 Reach: how far back can it look?
#
# How many tokens can influence a prediction, and how many do.
#
# **You need** notebook 4 (what the memory holds, and for how long). **Time:** 25 minutes, and about
# 30 for the exercises.

# %%
import minitxl
from minitxl import load_corpus, viz
from minitxl.experiments import draw, stored  # results that are kept with the package
from minitxl.experiments.reach import changes_by_token, influence_by_distance, perturbed_reach
from minitxl.model.reach import exact_reach

# %% [markdown]
# ## 5.1 Layers times memory
#
# A query of layer 2 reads states in the memory. Layer 1 computed them a segment or more earlier,
# from the memory of *that* time, which holds older tokens: every layer more looks past an earlier
# segment's edge. This is figure 2 of the paper, drawn from the model's masks and memory.

# %%
viz.span_explorer(n_layer=2, tgt_len=4, mem_len=4)

# %% [markdown]
# > **Try this.** Take $T = 4$ and let $M$
# > go from 1 to 8 in steps of one: when does the reach make a leap? Follow the first output, then
# > the last: does the left end move? And with *same length*, when every query sees $M$ keys?
# > <details><summary>What you should have seen</summary>At $M = 5$, one more than $T$: the memory's
# > oldest state is now of the segment two back, and brings all that it saw. The left end is the
# > same for all outputs of a segment; with *same length* it moves with the query.</details>
#
# **Exercise.** How many tokens before the segment's start can change an output in it? Begin at
# layer $N$ and the present segment. In which segment was the oldest state of its memory computed,
# and where does *that* segment begin? Go there, one layer down, and ask again, as far as layer 1,
# which has embeddings in its memory. Try it with $M = T$ and $M = T + 1$.
# (`course.reveal("reach")` shows the way in steps.)

# %% exercise reach

# %% check reach

# %% [markdown]
# ## 5.2 The formula
#
# <details><summary>The rule, and why: open it once you have yours.</summary>
#
# With the memory full, layer 1 reads $M$ cached embeddings, and an embedding has seen its own token
# only: $M$ tokens. Each of the $N - 1$ layers above reads $M$ states, of which the oldest was
# computed in a segment that began $T \lceil M/T \rceil$ tokens before the present one, and passes
# on what that segment could see. So
#
# $$R = (N - 1)\, T\, \lceil M/T \rceil + M$$
#
# | where | the reach is |
# |---|---|
# | $T$ divides $M$ | $N M$ |
# | $0 < M < T$ | $(N - 1) T + M$, more than $N M$ if $N > 1$ |
# | `same_length` | $N (M - 1)$ before the *query*, which sees $M$ keys, its own among them |
#
# </details>
#
# The check: the tokens of a text are changed one by one, and the outputs of an untrained float64
# model compared bit by bit.

# %%
print(" N   T   M   N M   formula   by changing tokens")
for n, t, m in ((3, 8, 0), (1, 8, 8), (2, 8, 8), (3, 8, 8), (3, 8, 4), (3, 8, 1), (2, 8, 12)):
    found = perturbed_reach((n, t, m))
    print(f"{n:2} {t:3} {m:3} {n * m:5} {exact_reach(n, t, m):9} {found:20}")

# %% [markdown]
# One of them whole: a column for each token changed, a row for each output of the last segment.

# %%
viz.draw_changes(changes_by_token((2, 8, 12)), n_layer=2, tgt_len=8, mem_len=12)

# %% [markdown]
# > **Common misconception: “with recurrence it sees everything,” or: “the last $M$ tokens.”** The
# > reach is finite; with more than one layer it is longer than $M$; and a token beyond it changes
# > not one bit.
#
# **Exercise.** Each output also sees its own segment, up to its own token. From how many tokens in
# all is it made?

# %% exercise influence

# %% check influence

# %% [markdown]
# ## 5.3 Does a trained model use it all?
#
# Where it must, yes. In the experiment `reach` a marker, one of 8, stands in the first segment,
# fillers follow, and at every distance the model is asked for the marker:
#
#     reads    . . C . . . . . | . . . . . . . . | . . .
#     answers        C C C C C | C C C C C C C C | C C C
#
# Theory, averaged over the marker's places in its segment: accuracy 1 up to distance $R$; then a
# ramp, as fewer and fewer of a segment's queries see the marker; 1/8 from $R + T$ on.

# %%
draw("reach")

# %% [markdown]
# **Keep:** asked at every distance, all models learned to look to their reach, though the
# gradient stops at the memory. Where each text asks but once, a start may fail (notebook 4).
#
# ## 5.4 Possible is not learned
#
# In a text, nothing forces a model to look far. Change one character before a segment, at 16 places
# of the text: how much do the first 16 predictions of the shipped model in that segment change?
# Measured by the total variation, $\frac12
# \sum_x |p'(x) - p(x)|$: 0 for the same prediction, 1 if the two have nothing in common.

# %%
# float64: what is left at the reach's end is as small as float32's rounding
model = minitxl.load_pretrained("war-and-peace", device="cpu", dtype="float64").model
N, T, M = model.config.n_layer, model.config.tgt_len, model.config.mem_len
R = exact_reach(N, T, M)
distances = [1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 128, 200, 300, 450, 600, R, R + 1]
moved = influence_by_distance(model, load_corpus("war-and-peace").test, distances, places=16)
heads = stored("attention_spans")["heads"]
print(f"moved at R: {moved[-2]:.0e}, at R + 1: {moved[-1]:.0e}")
viz.draw_learned_reach(heads, distances, moved, n_layer=N, tgt_len=T, mem_len=M)

# %% [markdown]
# Above: *one head* reads memory and segment, at most $M + T - 1$ characters back; most of these
# heads are broad, though all put 90% of their weight nearer than an even spread would (dotted).
# Below: *all layers together* reach $R$. To $M$ one reading suffices; what lies beyond is handed on
# from layer to layer, and there the curve breaks.
#
# **Keep:** the influence fades long before it ends; but it ends exactly: at $R$ a little is
# left, at $R + 1$ nothing.
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
# *Answers: `notebooks/README.md` in the repository, “Model answers”.*
#
# ## What you can do now
#
# - Count, for any $N$, $T$ and $M$, what an output can depend on, and check it by changing tokens.
# - Keep apart what a model can reach, what it attends to, and what moves its predictions.
#
# **The picture to remember** is the triangle of 5.1.
#
# **Where this lives today.** [Mistral 7B](https://arxiv.org/abs/2310.06825), 32 layers with a
# sliding window of 4,096, speaks of a theoretical span of 131,000 tokens: $N M$, *possible* as in
# 5.4. [RULER](https://arxiv.org/abs/2404.06654) asked 17 models that claim 32,000 tokens or more:
# half of them do well at 32,000.
#
# **Next:** notebook 6, training.
