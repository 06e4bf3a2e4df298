# %% [markdown]
# # 3 Relative positions: four terms and a shift
#
# **You will be able to** say why absolute positions and a memory do not go together; take a score
# apart into its four terms and tell what each can express; compute all position terms with $K$
# projections instead of $T K$; run the shift, and its adjoint, by hand.
#
# **You need** notebook 2 (queries, keys, the mask). **Time:** 40 minutes. **Exercises:** 4.

# %%
import numpy as np

import minitxl
from minitxl import Inspection, attention, course, load_corpus, ops, viz
from minitxl.experiments import draw, stored  # results that are kept with the package
from minitxl.model.params import layer_weights

np.set_printoptions(precision=3, suppress=True, linewidth=110)
pretrained = minitxl.load_pretrained("war-and-peace")
model, vocab = pretrained.model, pretrained.vocab
text, c = load_corpus("war-and-peace").test, model.config

# %% [markdown]
# ## 3.1 Absolute positions collide
#
# Without positions attention is blind to order: a key's score depends on its content alone. The
# first Transformers add a vector $U_p$ for the place $p = 0 \ldots T-1$ in the segment to every
# embedding. Now cache the states of one segment and read them from the next. Both have counted from
# 0: place $j$ of the memory's segment and place $j$ of this one carry the same $U_j$ (paper,
# section 3.3).

# %%
T, D = 4, 8
frequencies = ops.inverse_frequencies(d_model=D, dtype=np.float64, device="cpu", xp=np)
places = np.array([0, 1, 2, 3, 0, 1, 2, 3])  # memory's segment, this segment
U = ops.sinusoid(places, frequencies, xp=np)  # (K, D)
query = 2
print("places of the keys          ", places)
print("distances of query 2        ", query + T - np.arange(2 * T))
print("U of twins j and T + j apart:", np.abs(U[:T] - U[T:]).max())

# Two keys of the same content and the same place: no query can tell them apart.
rng = np.random.default_rng(0)
q, content, w_k = rng.normal(size=D), rng.normal(size=D), rng.normal(size=(D, D))
scores = ((content + U) @ w_k) @ q
print("their scores, cached        ", scores[:T])
print("              of this segment", scores[T:])

# %% [markdown]
# > **Common misconception: “add the memory, keep the positions.”** With positions that count inside
# > the segment, yesterday's place 2 and today's place 2 look alike, and the model cannot know which
# > of two equal characters came last. Counting on over memory and segment mends the first layer
# > only: above it, the cached states were *computed* under other numbers than they are read with.
#
# The paper leaves out what this costs. The small models that you met in notebook 1 have the missing
# cell twice: naive, as above, and built as soundly as it can be
# (`minitxl/model/family/absolute.py`: positions count over memory and segment, and nothing is added
# to what is cached). What is the memory worth under each encoding? The models without one are read
# by a window that moves on by half its length, so that no character is predicted from next to
# nothing.

# %%
ablation = stored("ablation")
names = {
    "xl": "Transformer-XL",
    "shaw": "Shaw (relative, learned)",
    "abs": "absolute, sound",
    "abs-naive": "absolute, naive",
}
bpc = {cell["member"]: cell["bpc"] for cell in ablation["cells"]}  # by reading, a number per seed
print("bits per character          no memory   memory    saved   (each seed)")
for key, name in names.items():
    alone = np.array(bpc[f"{key.removesuffix('-naive')}-alone"]["stride"])
    own = np.array(bpc[key]["memory"])
    saved = alone - own  # paired: seed s of both read the same text
    print(f"{name:27} {alone.mean():9.3f} {own.mean():8.3f} {saved.mean():8.3f}   {saved.round(3)}")

# %% [markdown]
# > **Question 1.** In these models the memory is one segment long and read with the same length as
# > in training, so that absolute positions meet the same pairs again and again. Why is that kind to
# > them, and what would a longer memory at evaluation do?

# %% [markdown]
# ## 3.2 From absolute to relative: four terms
#
# Write the score of query $i$ on key $j$ with absolute positions, $x$ for the contents, and
# multiply out (section 3.3):
#
# $$A^\mathrm{abs}_{ij} = \underbrace{x_i W_q W_k^\top x_j^\top}_{a}
# + \underbrace{x_i W_q W_k^\top U_j^\top}_{b} + \underbrace{U_i W_q W_k^\top x_j^\top}_{c}
# + \underbrace{U_i W_q W_k^\top U_j^\top}_{d}$$
#
# Three changes. The key's $U_j$ becomes $R_{i-j}$, a sinusoid of the *distance*. The query's own
# place, $U_i W_q$, should not matter any more: it becomes a learned vector, $u$ in term c and $v$
# in term d, the same for every query. And positions get a key matrix $W_R$ of their own:
#
# $$A^\mathrm{rel}_{ij} = \underbrace{q_i \cdot k_j}_{a} + \underbrace{q_i \cdot r_{i-j}}_{b}
# + \underbrace{u \cdot k_j}_{c} + \underbrace{v \cdot r_{i-j}}_{d}, \qquad r_p = R_p\, W_R$$
#
# all divided by $\sqrt{d_\mathrm{head}}$. In code `ac` $= (q + u)\,k^\top$ and `bd` is the shifted
# $(q + v)\,r^\top$: two products in place of four.
#
# ### Exercise: sinusoids of distances
#
# First $R$: the row for the farthest distance comes first, that for 0 last, so that it lies like
# the keys do, oldest first.

# %% exercise relative-positions

# %% check relative-positions

# %% [markdown]
# Let the trained model read, and write, with your $R$:

# %%
course.run_with("relative-positions")

# %% [markdown]
# Now the trained model. It reads two segments of 32, the first one fills the memory. `Inspection`
# keeps each layer's four terms (scaled, by key, unmasked) and its probabilities.

# %%
T = 32
begin = vocab.decode(text).index('"I could not, on my honor')
tokens = text[begin : begin + 2 * T][None, :]
reader = model.with_options(tgt_len=T, mem_len=T)
seen = Inspection()
_, mems = reader.predict(tokens[:, :T])
reader.predict(tokens[:, T:], mems, inspect=seen)

heads = stored("attention_spans")["heads"]
# Overlap: how much of a head's weights stays with content (a, c) or position (b, d) alone.
by_content = [h["overlap"]["ac"] - h["overlap"]["bd"] for h in heads]


def four(found):
    layer, head = found["layer"], found["head"]
    terms = {x: model.backend.to_numpy(seen.terms[layer - 1][x])[0, head - 1] for x in "abcd"}
    p = model.backend.to_numpy(seen.probs[layer - 1])[0, head - 1]
    return terms, p, seen.mask[layer - 1], f"Layer {layer}, head {head}"


terms, p, hidden, name = four(heads[np.argmin(by_content)])
viz.draw_four_terms(terms, p, hidden, name)

# %% [markdown]
# Each row of a and b is shown less its mean: adding the same number to a whole row changes no
# weight (notebook 2). Read the pictures by their grain. d depends on the distance alone: diagonals,
# the same for every text. c depends on the key alone: columns, the same for every query. b bends
# the diagonals from query to query; a can do anything, but knows no order. This head mostly asks
# *how far back*. The next one mostly asks *what*:

# %%
terms, p, hidden, name = four(heads[np.argmax(by_content)])
viz.draw_four_terms(terms, p, hidden, name)

# %% [markdown]
# In numbers, for all heads: c does not change along a column, d not along a diagonal, and the
# softmax of the sum gives the probabilities.

# %%
worst = dict.fromkeys(("c along columns", "d along diagonals", "softmax of the sum"), 0.0)
for terms, p, hidden in zip(seen.terms, seen.probs, seen.mask, strict=True):
    c_, d_ = terms["c"], terms["d"]
    along = (
        np.abs(c_ - c_[:, :, :1]).max(),
        np.abs(d_[:, :, 1:, 1:] - d_[:, :, :-1, :-1]).max(initial=0.0, where=~hidden[:-1, :-1]),
    )
    total = np.where(hidden, -np.inf, sum(terms.values()))
    again = np.abs(ops.softmax_forward(total, xp=np)[0] - p).max()
    for what, value in zip(worst, (*along, again), strict=True):
        worst[what] = max(worst[what], float(value))
for what, value in worst.items():
    print(f"{what:20} differs by {value:.0e} at most (float32)")

# %% [markdown]
# ### What does the model need them for?
#
# Take terms out of the trained model and read on. (That tells how much *this* model leans on a
# term. One trained without it would find other ways: Shaw's encoding has a and b only in its own
# paper. The released code, and `attn_type=1` here, add c and d to it.)

# %%
draw("attention_spans")

# %% [markdown]
# > **Question 2.** Which single term may be left out at the least cost, and why is it the one that
# > a could most easily take over? Why is "content only" so bad, worse than any single loss?

# %% [markdown]
# ## 3.3 Why not compute $r_{i-j}$ for every pair?
#
# There are $T K$ pairs, but only $K$ distances. Projecting $R$ for every pair costs
# $T K D\,d_\mathrm{head}$ multiplications, for every distance $T$ times fewer. The paper's
# appendix B turns the one into the other.


# %%
def by_pair(q, R, w):
    """(T, Dh), (K, D), (D, Dh): project the distance of every pair (i, j), then multiply."""
    n_query, n_key = len(q), len(R)
    distance = np.arange(n_query)[:, None] + n_key - n_query - np.arange(n_key)  # i + M - j
    r = R[n_key - 1 - np.maximum(distance, 0)] @ w  # (T, K, D) @ (D, Dh) -> (T, K, Dh)
    return np.einsum("td,tkd->tk", q, r)


def by_distance(q, R, w):
    return ops.rel_shift_forward(q @ (R @ w).T, xp=np)[0]  # (T, K) by distance -> by key


D, Dh = 64, 64
frequencies = ops.inverse_frequencies(d_model=D, dtype=np.float64, device="cpu", xp=np)
print(
    "   T    K   products per pair   per distance   times   largest difference where a key is seen"
)
for T in (16, 32, 64, 128):
    K = 2 * T
    q, w = rng.normal(size=(T, Dh)), rng.normal(size=(D, Dh))
    R = ops.sinusoid(np.arange(K - 1, -1, -1), frequencies, xp=np)
    is_seen = np.arange(K) <= np.arange(T)[:, None] + K - T
    apart = np.abs(by_pair(q, R, w) - by_distance(q, R, w))[is_seen].max()
    pairs, distances = T * K * D * Dh, K * D * Dh  # multiplications in the projections
    same = "none to speak of" if apart < 1e-11 else f"{apart:.0e}"
    print(f"{T:4} {K:4} {pairs:19,} {distances:14,} {pairs // distances:7}   {same}")

# %% [markdown]
# ## 3.4 The shift
#
# `(q + v) r^T` has a column for each *distance*, $K-1 \ldots 0$, the same for every row. The score
# of query $i$ on key $j$ stands in column $j + T-1-i$: row $i$ must move left by $T-1-i$. Instead
# of moving rows one by one, pad a column of zeros and cut the same line of numbers differently.
# Step through it; the second direction is the backward pass.

# %%
viz.rel_shift_explorer(tgt_len=3, mem_len=3)

# %% [markdown]
# The library pads behind the rows, drops $T-1$ numbers in place of $T$, and gets the same, in three
# lines. (`course.reveal("rel-shift")` shows them once you have yours.)
#
# ### Exercise: rel-shift, by hand
#
# Write it the paper's way: pad on the left, view, drop a row, view.

# %% exercise rel-shift

# %% check rel-shift

# %% [markdown]
# > **Try this.** Give the model `rel_shift=lambda x: x`, which shifts nothing. What is left of its
# > English, and what not?

# %%
course.run_with("rel-shift")

# %% [markdown]
# ## 3.5 What is left in the corner
#
# Key $j > i + M$ lies in query $i$'s future; there is no distance for it. Shift an array in which
# each number says which query it belongs to:

# %%
T, M = 4, 3
K = M + T
whose = np.repeat(np.arange(1.0, T + 1)[:, None], K, axis=1)  # row i holds i + 1: 0 is the pad
shifted, _ = ops.rel_shift_forward(whose, xp=np)
corner = np.arange(K) > np.arange(T)[:, None] + M
for i, row in enumerate(shifted):
    names = [f"q{x - 1:.0f}" if x else " 0" for x in row]
    cells = (f"[{x}]" if out else f" {x} " for x, out in zip(names, corner[i], strict=True))
    print(f"q{i}: ", " ".join(cells))
print("in brackets: the corner, hidden by the mask")

# %% [markdown]
# > **Common misconception: “the corner is zeros.”** There is one 0 per row; the rest are scores of
# > the *next* query. That query is made from the next character. An implementation that forgets the
# > mask for a moment, or clips instead of masking, lets every position look into its own answer.
#
# Try it on the first layer of the trained model: replace one character of the segment at a time and
# see which outputs change.

# %%
T = M = 24
reader = model.with_options(tgt_len=T, mem_len=M)
segment = text[begin + M : begin + M + T]
batch = np.repeat(
    segment[None, :], T + 1, axis=0
)  # row 0 as it is, row 1 + c: character c replaced
batch[1 + np.arange(T), np.arange(T)] = (segment + 1) % c.n_token
_, mems = reader.predict(np.repeat(text[begin : begin + M][None, :], T + 1, axis=0))
seen = Inspection()
reader.predict(batch, mems, inspect=seen)

w = layer_weights(model.params, 0)
h = np.concatenate([mems[0], seen.hidden[0]], axis=1)  # (B, K, D)
h, _ = ops.layer_norm_forward(h, w.attn_gamma, w.attn_beta, eps=c.layer_norm_epsilon, xp=np)
pos = ops.sinusoid_table(M + T, model.params.constants["inv_freq"], xp=np)
causal = attention.attention_mask(n_query=T, n_mem=M, max_keys=None, device="cpu", xp=np)
changes = []
for mask in (causal, np.zeros_like(causal)):
    mask = attention.additive_mask(mask, dtype=h.dtype, xp=np)
    y, _ = attention.attention_forward(h[:, M:], h, pos, w.attn, mask, dropatt=0.0, rng=None, xp=np)
    changes.append(np.linalg.norm(y[1:] - y[:1], axis=-1).T)  # (output i, replaced c)
viz.draw_leak(*changes)

# %% [markdown]
# > **Try this.** Is the garbage alone enough to leak? Set `mask` to hide nothing, but replace only
# > the *queries* of row 1 + c: pass `h[:, M:]` as it is and `h[:1]` repeated for the keys. Which
# > outputs change now?
#
# ### Exercise: the four terms
#
# Put together what you have: a and c from keys, b and d from distances, shifted.

# %% exercise four-terms

# %% check four-terms

# %%
course.run_with("four-terms")

# %% [markdown]
# ## 3.6 The adjoint
#
# The shift only moves numbers, so it is a linear map, a matrix $S$ of zeros and ones acting on the
# $T K$ numbers in a line. The backward pass of a linear map is its transpose:
#
# $$\langle S x,\, y\rangle = \langle x,\, S^\top y\rangle \qquad \text{for all } x, y$$
#
# For $T = 2$, $K = 3$ both matrices fit on the screen. Column by column: feed in a single 1 and
# look where it comes out.

# %%
T, K = 2, 3
ones = np.eye(T * K).reshape(T * K, T, K)
S = ops.rel_shift_forward(ones, xp=np)[0].reshape(T * K, T * K).T.astype(int)
back = ops.rel_shift_backward(ones, xp=np).reshape(T * K, T * K).T.astype(int)
print("S, rows: where to           backward")
for forward_row, backward_row in zip(S, back, strict=True):
    print(forward_row, "            ", backward_row)
print("backward is the transpose:", np.array_equal(back, S.T))

# %% [markdown]
# Row 2 of $S$ (of 0 ... 5) is empty: that is the padded 0. Column 0 is empty too: the first number
# of the line is dropped, so its gradient is 0. All other numbers go to one place and come back from
# it.

# %%
x, y = rng.normal(size=(2, 2, 3, 5, 9))  # two arrays (B, H, T, K)
print(f"<shift x, y>   = {np.sum(ops.rel_shift_forward(x, xp=np)[0] * y):.12f}")
print(f"<x, unshift y> = {np.sum(x * ops.rel_shift_backward(y, xp=np)):.12f}")
again = ops.rel_shift_backward(ops.rel_shift_forward(x, xp=np)[0], xp=np)
print("unshift(shift(x)) == x:", np.array_equal(again, x), "(the dropped numbers are lost)")

# %% [markdown]
# ### Exercise: the adjoint of rel-shift
#
# Put every gradient back where its number came from. The check tries the equation above, and the
# corner, where a model would have zeros.

# %% exercise rel-shift-backward

# %% check rel-shift-backward

# %%
course.run_with("rel-shift-backward")

# %% [markdown]
# ### Exercise: the gradients of $u$ and $v$
#
# They are trained like every other weight. Each is added to *every* query, so it collects from all
# of them. And mind where things lie: $ds$ has a column for each key, $r$ a row for each distance.

# %% exercise bias-gradients

# %% check bias-gradients

# %%
course.run_with("bias-gradients")

# %% [markdown]
# > **Question 3.** In a model the corner's gradients are exactly 0 before `rel_shift_backward`
# > runs. Which step of the backward pass made them so?
#
# ## What to take along
#
# - With a memory a place must mean the same from wherever it is read: so count distances.
# - a and b depend on the query, c and d do not; a and c on the key's content, b and d on its
#   distance.
# - $K$ projections and a shift give all $T K$ position scores. The shift leaves the next query's
#   scores in the corner; the mask is what makes it right.
#
# **Next:** notebook 4: what exactly is remembered, and for how long.
