# %% [markdown]
# # 3 Relative positions: four terms and a shift
#
# Why absolute positions and a memory do not go together; a score's four terms; the position terms
# of all pairs from $K$ projections and a shift, forwards and backwards. **You need** notebook 2
# (queries, keys, the mask). **Time:** 40 minutes, and about 60 for the exercises.

# %%
import numpy as np

import minitxl
from minitxl import Inspection, course, load_corpus, ops, viz
from minitxl.experiments import draw, stored  # results that are kept with the package

np.set_printoptions(precision=3, suppress=True, linewidth=110)
pretrained = minitxl.load_pretrained("war-and-peace")
model, vocab = pretrained.model, pretrained.vocab
text = load_corpus("war-and-peace").test

# %% [markdown]
# ## 3.1 Absolute positions collide
#
# Without positions a score is blind to order. The first Transformers add a vector $U_p$ for the
# place $p = 0 \ldots T-1$ in the segment to every embedding. Now cache one segment's states and
# read them from the next: place $j$ of either carries the same $U_j$ (paper, section 3.3).

# %%
T, D = 4, 8
frequencies = ops.inverse_frequencies(d_model=D, dtype=np.float64, device="cpu", xp=np)
places = np.array([0, 1, 2, 3, 0, 1, 2, 3])  # memory's segment, this segment
U = ops.sinusoid(places, frequencies, xp=np)  # (K, D)
print("places of the keys           ", places)
print("distances of query i = 2     ", 2 + T - np.arange(2 * T))

# Keys of the same content and the same place: no query can tell them apart.
rng = np.random.default_rng(0)
q, content, w_k = rng.normal(size=D), rng.normal(size=D), rng.normal(size=(D, D))
scores = ((content + U) @ w_k) @ q
print("scores of keys alike, cached ", scores[:T])
print("             of this segment ", scores[T:])

# %% [markdown]
# > **Common misconception: “then count on over memory and segment.”** Added to the embeddings, that
# > mends the first layer only: above it, cached states were *computed* under other numbers than
# > they are read with. (Numbers that go on for ever bring places that training never saw.)
#
# What does it cost? Three small models, trained alike: Transformer-XL; absolute positions, naive as
# above; and absolute ones that count over memory and segment from the end, $M+T-1 \ldots 0$, anew
# for each segment, with the cached embeddings kept bare. Each beside a model of its kind that was
# trained without memory, read by a window that moves on by half its length.

# %%
names = {"xl": "Transformer-XL", "abs": "absolute, counted on", "abs-naive": "absolute, naive"}
bpc = {cell["member"]: cell["bpc"] for cell in stored("ablation")["cells"]}  # a number per seed
print("bits per character     no memory   memory    saved   (each of five seeds)")
for key, name in names.items():
    alone = np.array(bpc[f"{key.removesuffix('-naive')}-alone"]["stride"])
    own = np.array(bpc[key]["memory"])
    saved = alone - own  # paired: seed s of both read the same text
    print(f"{name:22} {alone.mean():9.3f} {own.mean():8.3f} {saved.mean():8.3f}   {saved.round(3)}")

# %% [markdown]
# Naive places ruin the memory: each key has a double at the same place. Counted on, every seed does
# a little worse with it than with a window. Transformer-XL gains with every seed.
#
# > **Question 1.** In these models the memory is one segment long, at evaluation as in training:
# > absolute positions meet the same pairs again and again. Why is that kind to them, and what would
# > a longer memory at evaluation do?
#
# **Keep:** a place must mean the same from wherever it is read; a distance does.

# %% [markdown]
# ## 3.2 From absolute to relative: four terms
#
# The score of query $i$ on key $j$, with absolute positions and $x$ for the contents, multiplied
# out (section 3.3):
#
# $$A^\mathrm{abs}_{ij} = \underbrace{x_i W_q W_k^\top x_j^\top}_{a}
# + \underbrace{x_i W_q W_k^\top U_j^\top}_{b} + \underbrace{U_i W_q W_k^\top x_j^\top}_{c}
# + \underbrace{U_i W_q W_k^\top U_j^\top}_{d}$$
#
# Three changes. The key's $U_j$ becomes $R_{i-j}$, a sinusoid of the *distance*. The query's place,
# $U_i W_q$, becomes a learned vector, the same for every query: $u$ in c, $v$ in d (no value). And
# positions get a key matrix $W_R$ of their own:
#
# $$A^\mathrm{rel}_{ij} = \underbrace{q_i \cdot k_j}_{a} + \underbrace{q_i \cdot r_{i-j}}_{b}
# + \underbrace{u \cdot k_j}_{c} + \underbrace{v \cdot r_{i-j}}_{d}, \qquad r_p = R_p\, W_R$$
#
# all divided by $\sqrt{d_\mathrm{head}}$. Here $i$ and $j$ are places in the text. In arrays
# queries count from the segment's start and keys from the memory's: the distance is then $i + M -
# j$. In code `ac` $= (q + u)\,k^\top$ and `bd` is the shifted $(q + v)\,r^\top$.
#
# ### Exercise: sinusoids of distances
#
# The rows of $R$ lie as the keys do, oldest first: the farthest distance first, 0 last.

# %% exercise relative-positions

# %% check relative-positions

# %%
course.run_with("relative-positions")

# %% [markdown]
# Now the exclamation mark of notebook 0. Beside the *strongest keys* stand their four terms.
# **Switch terms off** (*terms of the score*), for this one character, in all heads and layers:
# where does the head look then, and what does the model expect?

# %%
T = 64
begin = vocab.decode(text).index('"I could not, on my honor')
passage = text[begin : begin + 420]
viz.live(model, vocab, passage, read=3 * T + 10, layer=5, head=5)

# %% [markdown]
# > **Try this.** Switch off a, then b, c, d, one at a time. Which single loss makes this head miss
# > the quotation marks? Which two together? And which single one turns head 2 of layer 1 from far
# > characters to the last two?
# >
# > <details><summary>What to see</summary>No single one: a mark gets about 6 from a and 6 from c,
# > and either is enough; without both it is missed. (Other heads suffer: without b the closing mark
# > falls from 67 % to 23 %.) In head 2 of layer 1, b gives far keys about 10 and d takes off about
# > 8: without b, near wins.</details>

# %% [markdown]
# Now for *every* character:

# %%
draw("attention_spans", part="terms")

# %% [markdown]
# > **Question 2.** Why is c the term that a could most easily take over? Why is "content only" so
# > bad, worse than “position only”, and worse than knowing the letters' frequencies alone (4.4
# > bits)?
#
# **Keep:** a and b depend on the query, c and d do not; a and c on the key's content, b and d on
# its distance.

# %% [markdown]
# ## 3.3 The shift
#
# There are $T K$ pairs, but only $K$ distances: $R$ is projected once for each distance, and then
# the numbers are moved (appendix B).
#
# `(q + v) r^T` has a column for each *distance*, $K-1 \ldots 0$. The score of query $i$ on key $j$
# stands in column $j + T-1-i$ (all counted from 0): row $i$ must move left by $T-1-i$. Pad a column
# of zeros and cut the same line of numbers differently.

# %%
viz.rel_shift_explorer(tgt_len=3, mem_len=3)

# %% [markdown]
# ### Exercise: rel-shift, by hand

# %% exercise rel-shift

# %% check rel-shift

# %%
course.run_with("rel-shift")

# %% [markdown]
# > **Try this.** Run the model with a shift that shifts nothing:
# > `course.run_with(rel_shift=lambda x: x)`. What is left of its English?
# >
# > <details><summary>What to see</summary>It reads at more than three times the bits, yet still
# > writes words: the next character comes from the segment's last row, which moves by $T-1-i =
# > 0$. All rows before it are wrong, and with them the states that it reads.</details>
#
# **Keep:** $K$ projections and a shift give all $T K$ position scores.
#
# ## 3.4 What is left in the corner
#
# Key $j > i + M$ lies in query $i$'s future; there is no distance for it. Step 5 above shows what
# stands there.
#
# > **Common misconception: “the corner is zeros.”** Every row but the last has one 0; the rest are
# > scores of the *next* query. And zeros would not help: a score of 0 still has weight, and a and c
# > see what comes.
#
# Of 48 characters the first 24 fill the memory. Replace one of the others at a time, in the first
# layer: which outputs change? The mask hides just the corner. Without it two things leak,
# rel-shift's garbage (middle: only a query is replaced) and the later keys and values (right: both
# together).

# %%
viz.draw_leak(model, passage[:48])

# %% [markdown]
# **Keep:** only the mask makes the shift right.
#
# ### Exercise: the four terms

# %% exercise four-terms

# %% check four-terms

# %%
course.run_with("four-terms")

# %% [markdown]
# ## 3.5 The adjoint
#
# The shift is a linear map, a matrix $S$ of zeros and ones. Its backward pass is the transpose:
#
# $$\langle S x,\, y\rangle = \langle x,\, S^\top y\rangle \qquad \text{for all } x, y$$
#
# For $T = 2$, $K = 3$, column by column: feed in a single 1 and look where it comes out.

# %%
T, K = 2, 3
ones = np.eye(T * K).reshape(T * K, T, K)
S = ops.rel_shift_forward(ones, xp=np)[0].reshape(T * K, T * K).T.astype(int)
back = ops.rel_shift_backward(ones, xp=np).reshape(T * K, T * K).T.astype(int)
print("S, rows: where to, columns: where from; and backward")
for forward_row, backward_row in zip(S, back, strict=True):
    print(forward_row, "            ", backward_row)
print("backward is the transpose:", np.array_equal(back, S.T))

# %% [markdown]
# Row 2 of $S$ (from 0) is empty: the padded 0. So is column 0: the first number is dropped, its
# gradient is 0. All others go to one place and come back.
#
# ### Exercise: the adjoint of rel-shift
#
# Put every gradient back where its number came from. In a model the corner's gradients are 0; the
# check has others there. Move them back too: to the next row, or nowhere from a padded 0.

# %% exercise rel-shift-backward

# %% check rel-shift-backward

# %%
course.run_with("rel-shift-backward")

# %% [markdown]
# ### Exercise: the gradients of $u$ and $v$
#
# Each is added to *every* query, so it collects from all of them. Mind where things lie: $ds$ has a
# column for each key, $r$ a row for each distance.

# %% exercise bias-gradients

# %% check bias-gradients

# %%
course.run_with("bias-gradients")

# %% [markdown]
# > **Question 3.** In a model the corner's gradients are exactly 0 before `rel_shift_backward`
# > runs. Which step of the backward pass made them so?
#
# **Keep:** what only moves numbers is differentiated by moving them back.
#
# *Answers to the questions: `notebooks/README.md` in the repository, “Model answers”.*
#
# ## What you can do now
#
# - Say why absolute places fail in a memory, and count distances.
# - Take a score apart into four terms.
# - Shift, shift back, and say what the mask must hide.
#
# **The picture to remember** is the grain of the terms. d: diagonals, as only the distance counts.
# c: columns, the same for every query. b: in each row another curve of the distance. a: what stands
# where, blind to order.

# %%
reader, seen = model.with_options(tgt_len=32, mem_len=32), Inspection()
_, mems = reader.predict(passage[None, :32])
reader.predict(passage[None, 32:64], mems, inspect=seen)
viz.draw_four_terms(seen, layer=1, head=2)

# %% [markdown]
# **Where this lives today.** [RoPE](https://arxiv.org/abs/2104.09864) turns query and key by an
# angle that grows with their place, so that $q_i \cdot k_j$ depends on the places through $i - j$
# alone, without a shift, in [LLaMA](https://arxiv.org/abs/2302.13971) and many models since.
# [ALiBi](https://arxiv.org/abs/2108.12409) keeps a, and of the rest only d, as a straight line with
# a slope for each head. Both run here with this paper's memory. 48 characters in three segments, or
# whole: by how much do the last log-probabilities of untrained models differ?

# %%
vocabulary, tokens = model.config.n_token, text[None, :48]
for name, attn_type in {"this paper": 0, "RoPE": 4, "ALiBi": 5, "counted on": 2}.items():
    sizes = dict(n_token=vocabulary, n_layer=2, tgt_len=16, mem_len=32)
    reader = minitxl.TransformerXL(minitxl.Config(attn_type=attn_type, **sizes), device="cpu")
    whole, mems = reader.predict(tokens)[0], None
    for part in np.split(tokens, 3, axis=1):
        log_p, mems = reader.predict(part, mems)
    print(f"{name:10} {np.abs(log_p - whole[:, -16:]).max():.0e}")

# %% [markdown]
# With distances, as far as rounding; with absolute places, not.
#
# **Next:** notebook 4: what exactly is remembered, and for how long.
