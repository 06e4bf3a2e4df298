# %% [markdown]
# # 2 Attention by hand, forwards and backwards
#
# **You will be able to** run softmax, LayerNorm and attention backwards on paper; check any
# backward pass with two runs of its forward pass; say which gradients the memory's rows take part
# in, and where the gradient stops.
#
# **You need** matrices, the chain rule, and notebook 0. **Time:** 40 minutes. **Exercises:** 4.
#
# A word on notation: `dx` is $\partial\,\mathrm{loss}/\partial x$, an array of the shape of $x$.
# The *upstream* gradient `dy` is what a backward pass is given. In this library each `x_forward` is
# followed by its `x_backward`:
#
#     y, cache = x_forward(inputs, ..., xp=np)
#     dinputs  = x_backward(dy, cache, xp=np)
#
# `xp` is the array library, here NumPy; the cache holds what the way back needs, and no more.

# %%
import numpy as np

import minitxl
from minitxl import attention, course, gradcheck, load_corpus, ops, viz
from minitxl.model.through_memory import without_memory_rows

np.set_printoptions(precision=4, suppress=True)

# %% [markdown]
# ## 2.1 Softmax
#
# Take three scores whose exponentials are easy: $s = (\ln 1, \ln 2, \ln 5)$. Then
# $p_j = e^{s_j} / \sum_k e^{s_k} = (1, 2, 5) / 8$.

# %%
s = np.log([1.0, 2.0, 5.0])
p, softmax_cache = ops.softmax_forward(s, xp=np)
print("8 p =", 8 * p, "   the cache:", softmax_cache)

# %% [markdown]
# Raise one score, and *all* probabilities of its row move:
# $\partial p_k / \partial s_j = p_k\,[k = j] - p_k\,p_j$. As a matrix, times 64:

# %%
jacobian = np.diag(p) - np.outer(p, p)
print(64 * jacobian)

# %% [markdown]
# Every row and every column adds up to 0: the probabilities sum to 1 whatever the scores do, and
# the same number added to all scores changes nothing. The backward pass applies this matrix,
# $ds_j = \sum_k dp_k\, \partial p_k / \partial s_j$, without ever writing it down (a row of $K$
# keys would need $K^2$ numbers): put the derivative in, multiply out, and one sum over $k$ is left.
# That is your first exercise. By eye, with $dp = (8, 0, 0)$: $ds = (7, -2, -5)/8$.

# %%
dp = np.array([8.0, 0.0, 0.0])
print("by eye      ", np.array([7, -2, -5]) / 8)
print("matrix      ", jacobian @ dp)
print("the library ", ops.softmax_backward(dp, softmax_cache, xp=np))

# %% [markdown]
# ### Exercise: softmax backwards
#
# Write it for arrays $(B, T, K)$, a softmax along the last axis, without a $K \times K$ matrix. It
# is the heart of attention's backward pass, and of the loss's. If you are stuck,
# `course.reveal("softmax-backward")` shows the way in steps: one more for each try.

# %% exercise softmax-backward

# %% check softmax-backward

# %% [markdown]
# **Your code runs the model.** Twelve exercises of this course are parts of Transformer-XL. The
# cell below puts your function into a copy of the model, right or wrong, and has a small one learn
# by it; the library's stays as it is. `course.parts()` says which of the twelve you have.

# %%
course.run_with("softmax-backward")

# %% [markdown]
# ## 2.2 How to check a gradient, and how to be fooled
#
# Pick a random direction $d$ in the space of the input. The loss along it can be differentiated
# with two runs of the forward pass, and the result must be $\langle dx, d \rangle$:
#
# $$\frac{\mathrm{loss}(x + \varepsilon d) - \mathrm{loss}(x - \varepsilon d)}{2 \varepsilon}
# \;=\; \langle dx, d\rangle + O(\varepsilon^2)$$
#
# As the loss take $\langle y, dy \rangle$ with an upstream `dy` of your choice. `check_op` does all
# this with a random `dy`, in float64. Many people take ones for `dy`, that is $\mathrm{loss} =
# \sum y$. Here are five ways to run the softmax backwards, four of them wrong:


# %%
def library(dp, p):
    return ops.softmax_backward(dp, softmax_cache._replace(p=p), xp=np)


versions = {
    "right": library,
    "a factor p is missing": lambda dp, p: library(dp, p) / p,
    "twice as large": lambda dp, p: 2 * library(dp, p),
    "nothing comes back": lambda dp, p: 0 * dp,
    "the sum is missing": lambda dp, p: p * dp,
}
x = np.random.default_rng(0).normal(size=(2, 3, 5))
direction = np.random.default_rng(1).normal(size=x.shape)


def error_with_ones(backward):
    """|numeric - analytic| along one direction, for the loss sum(y)."""
    step = 1e-5
    up, down = (np.sum(ops.softmax_forward(x + e * direction, xp=np)[0]) for e in (step, -step))
    _, (p,) = ops.softmax_forward(x, xp=np)
    return abs((up - down) / (2 * step) - np.sum(backward(np.ones_like(p), p) * direction))


def error_with_random(backward):
    return gradcheck.check_op(
        lambda x: ops.softmax_forward(x, xp=np), lambda dp, c: backward(dp, c.p), {"x": x}
    )["x"]


rows = [(name, error_with_ones(f), error_with_random(f)) for name, f in versions.items()]
viz.draw_checks(rows, passes=1e-6)

# %% [markdown]
# The sum of probabilities is 1, whatever the scores: its true gradient is 0, and every version that
# gives 0 for it passes. An upstream of ones asks the one question to which the wrong answers are
# right. All gradient checks of this library use random upstreams.
#
# > **Question 1.** For which other operation of the model is the gradient of $\sum y$ always 0, if
# > its scale $\gamma$ is all ones? (The next section has it.)

# %% [markdown]
# ## 2.3 LayerNorm
#
# $$\hat x = \frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{var}(x) + \epsilon}}, \qquad
# y = \gamma\, \hat x + \beta$$
#
# With $x = (1, 1, 5, 5)$ the mean is 3, the variance 4, so $\hat x = (-1, -1, 1, 1)$, and the cache
# keeps $\hat x$ and $\mathrm{rstd} = \tfrac12$.

# %%
x = np.array([1.0, 1.0, 5.0, 5.0])
y, norm_cache = ops.layer_norm_forward(x, np.ones(4), np.zeros(4), eps=0.0, xp=np)
for name, value in norm_cache._asdict().items():
    print(f"{name:6} {value}")

# %% [markdown]
# Mean and variance depend on $x$ as well. The result is a projection: of $g = dy\,\gamma$ all is
# taken out that LayerNorm cannot see, a shift of $x$ (the part along the ones) and a stretch of $x$
# (the part along $\hat x$); what is left is scaled by $\mathrm{rstd}$. By eye, with
# $dy = g = (4, 0, 0, 0)$: along the ones it has $(1, 1, 1, 1)$, along $\hat x$ it has
# $(1, 1, -1, -1)$, so $dx = \tfrac12 (2, -2, 0, 0) = (1, -1, 0, 0)$.

# %%
dy = np.array([4.0, 0.0, 0.0, 0.0])
dx, dgamma, dbeta = ops.layer_norm_backward(dy, norm_cache, xp=np)
print("dx     ", dx, "  along the ones:", dx.sum(), "  along x^:", dx @ norm_cache.x_hat)
print("dgamma ", dgamma)
print("dbeta  ", dbeta)

# %% [markdown]
# > **Try this.** Give $x = (101, 101, 105, 105)$ and $x = (2, 2, 10, 10)$ to the two cells above.
# > Which numbers change? Say it before you run them.
#
# ### Exercise: LayerNorm backwards
#
# The usual mistake is to treat mean and variance as constants. The check knows what comes out then.

# %% exercise layer-norm-backward

# %% check layer-norm-backward

# %%
course.run_with("layer-norm-backward")

# %% [markdown]
# ## 2.4 Attention with a memory
#
# The smallest case that has everything: two cached states, one new one, one head of width 1. Let a
# hidden state have three features, and let each weight pick one of them: $W_k$ the first, $W_v$ the
# second, $W_q$ the third. (Section 3.2 of the paper; positions come in notebook 3.)
#
# $$\tilde h = [\mathrm{SG}(m); h] = \begin{pmatrix} \ln 1 & 8 & 0 \\ \ln 2 & 0 & 0 \\
# \ln 5 & 0 & 1 \end{pmatrix} \begin{matrix} \text{cached} \\ \text{cached} \\ \text{segment}
# \end{matrix} \qquad q = h\,W_q = 1$$
#
# The query is 1, so the scores are the keys, $(\ln 1, \ln 2, \ln 5)$, and $p = (1, 2, 5)/8$ as
# above. The values are $(8, 0, 0)$, so the output is $o = \tfrac18 \cdot 8 = 1$.

# %%
h = np.array([[[np.log(1), 8, 0], [np.log(2), 0, 0], [np.log(5), 0, 1]]])  # (B, K, D) = (1, 3, 3)
w_k, w_v, w_q = np.eye(3)[:, :1], np.eye(3)[:, 1:2], np.eye(3)[:, 2:]  # (D, H*Dh) = (3, 1)
n_mem = 2
q, k, v, heads = attention.heads_forward(h[:, n_mem:], h, w_q, w_k, w_v, n_head=1, xp=np)
scores = q @ np.swapaxes(k, -1, -2)  # (B, H, T, K); sqrt(Dh) = 1
o, attended = attention.attend_forward(scores, v, dropatt=0.0, rng=None, xp=np)
print("8 p =", 8 * attended.p.ravel(), "  o =", o.ravel())

# %% [markdown]
# Backwards, line by line from the end. Let $do = 1$.
#
# | forward | backward |
# |---|---|
# | $o = p\,v$ | $dv = p^\top do$, $\quad dp = do\,v^\top$ |
# | $p = \mathrm{softmax}(s)$ | $ds$: the softmax backwards, of $dp$ |
# | $s = c\,q\,k^\top$, $c = d_\mathrm{head}^{-1/2}$ | $dq = c\,ds\,k$, $\quad dk = c\,ds^\top q$ |
# | $k = \tilde h\,W_k$ | $dW_k = \tilde h^\top dk$, $\quad d\tilde h \mathrel{+}= dk\,W_k^\top$ |
# | $v = \tilde h\,W_v$ | $dW_v = \tilde h^\top dv$, $\quad d\tilde h \mathrel{+}= dv\,W_v^\top$ |
#
# $dp = (8, 0, 0)$: the example from above once more. The library does the same in three functions.

# %%
do = np.ones_like(o)
ds, dv = attention.attend_backward(do, attended, xp=np)
dq, dk = ds @ k, np.swapaxes(ds, -1, -2) @ q
stopped = attention.heads_backward(dq, dk, dv, heads, memory_rows=False, xp=np)
full = attention.heads_backward(dq, dk, dv, heads, memory_rows=True, xp=np)
dx, dh, dw_q, dw_k, dw_v = stopped
print("dh with the stop   ", dh.shape, "the segment's row alone:", dh.ravel())
print("dh without the stop", full[1].shape, "memory's rows:", full[1][0, :n_mem].tolist())

# %%
forward = [
    ("$k$", r"$\tilde h\, W_k$", k.ravel()),
    ("$p$", r"softmax$(q\, k^T)$", attended.p.ravel()),
    ("$v$", r"$\tilde h\, W_v$", v.ravel()),
    ("$p\\,v$", "what each key gives to o", (attended.p.ravel() * v.ravel())),
]
backward = [
    ("$dv$", r"$p^T\, do$", dv.ravel()),
    ("$dp$", r"$do\; v^T$", (do @ np.swapaxes(v, -1, -2)).ravel()),
    ("$ds$", "softmax backwards of dp", ds.ravel()),
    ("$dk$", r"$ds^T q$", dk.ravel()),
    ("$dW_k$", r"its share, 2nd entry: $\tilde h_{j2}\, dk_j$", h[0, :, 1] * dk.ravel()),
    ("$dW_v$", r"its share, 2nd entry: $\tilde h_{j2}\, dv_j$", h[0, :, 1] * dv.ravel()),
    (r"$d\tilde h$", r"1st entry, through $W_k$: $dk_j$", [None, None, float(dh[0, 0, 0])]),
]
viz.draw_ledger(forward, backward, n_mem)

# %% [markdown]
# The first cached key holds the value that matters, so the loss asks for more weight on it: $ds$ is
# $+\tfrac78$ there and negative elsewhere. Its share of $dW_k$ is the only one in the second
# entry, $8 \cdot \tfrac78 = 7$: **the largest number in $dW_k$ comes from a cached row.**

# %%
parts = h[0] * dk.reshape(-1, 1)  # (K, D): row j's share of dW_k
print("dW_k of the library   ", dw_k.ravel())
print("memory's rows, summed ", parts[:n_mem].sum(axis=0))
print("segment's row         ", parts[n_mem:].sum(axis=0))

# %% [markdown]
# > **Common misconception: “the memory is a constant, so it has no part in the gradients.”** The
# > memory gets no gradient: that would be $d\tilde h$, and its cached rows are cut off. But $dk$
# > and $dv$ exist for all $K$ rows, and $dW_k = \tilde h^\top dk$ sums over all of them. The
# > weights learn *how to read* the memory. Keep only the segment's rows of $dW_k$, and your model
# > still trains; nothing but a gradient check tells you what is missing.
#
# > **Common misconception: “keys and values are cached.”** The rows of $\tilde h$ are hidden
# > states. That is why $k = \tilde h\,W_k$ stands inside the differentiated part: $W_k$ meets the
# > cached states anew in every segment. (A cache of keys would make $W_k$'s share from the memory
# > disappear. At evaluation, where nobody differentiates, one may keep keys:
# > `minitxl.inference.cached`.)
#
# ### Exercise: attention forwards
#
# Now with batch, heads, mask and scale. A hidden key gets the score $-\infty$.

# %% exercise attention-forward

# %% check attention-forward

# %% [markdown]
# This one works forward: the trained model now reads by it, and writes a page.

# %%
course.run_with("attention-forward")

# %% [markdown]
# ### Exercise: attention backwards
#
# The first three lines of the table. You get $p$ from the forward pass, so that masked keys need no
# thought: why not? (What is $ds$ where $p = 0$?)

# %% exercise attention-backward

# %% check attention-backward

# %%
course.run_with("attention-backward")

# %% [markdown]
# ## 2.5 The library's own
#
# A hidden key comes in with the score $-\infty$, so its $p$ is 0, and the softmax's backward pass
# needs no mask to give $ds = 0$. Once your answers are right, the library's are shown here:

# %%
for exercise in ("softmax-backward", "attention-forward", "attention-backward"):
    course.reveal(exercise)

# %% [markdown]
# ## 2.6 The whole block, checked
#
# All of `attention_forward` with random numbers in float64: two heads, a memory of 3, relative
# positions, $u$ and $v$ (notebook 3). `check_op` compares every gradient with finite differences.

# %%
rng = np.random.default_rng(0)
B, T, M, D, H, Dh = 2, 4, 3, 6, 2, 5
inputs = {"x": rng.normal(size=(B, T, D)), "h": rng.normal(size=(B, M + T, D))}
shapes = dict.fromkeys(("w_q", "w_k", "w_v", "w_r"), (D, H * Dh)) | {"w_o": (H * Dh, D)}
shapes |= {"u": (H, Dh), "v": (H, Dh)}
inputs |= {name: rng.normal(size=shape) for name, shape in shapes.items()}
pos = rng.normal(size=(M + T, D))
hidden = attention.attention_mask(n_query=T, n_mem=M, max_keys=None, device="cpu", xp=np)
mask = attention.additive_mask(hidden, dtype=np.float64, xp=np)


def block_forward(x, h, **weights):
    w = attention.AttentionWeights(*weights.values())
    return attention.attention_forward(x, h, pos, w, mask, dropatt=0.0, rng=None, xp=np)


def block_backward(dy, cache):
    dx, dh, dw = attention.attention_backward(dy, cache, memory_rows=True, xp=np)
    return dx, dh, *dw


def forgetful_backward(dy, cache):
    """The planted mistake: dW_k lacks the memory's rows."""
    rows = cache.heads.k.x.reshape(B, M + T, D).copy()
    rows[:, :M] = 0.0
    heads = cache.heads._replace(k=cache.heads.k._replace(x=rows.reshape(-1, D)))
    return block_backward(dy, cache._replace(heads=heads))


right = gradcheck.check_op(block_forward, block_backward, inputs)
wrong = gradcheck.check_op(block_forward, forgetful_backward, inputs)
print("relative error of   as it is   without the memory's rows in dW_k")
for name in inputs:
    print(f"d{name:17} {right[name]:9.1e} {wrong[name]:13.1e}")

# %% [markdown]
# > **Try this.** In `block_backward` return `0 * dw.r_w_bias` for $u$'s gradient, or give
# > `dx + 0.01`: which line shows it?

# %% [markdown]
# ## 2.7 In the trained model
#
# How much of $dW_k$ and $dW_v$ comes from cached rows in a real model? Read two segments, take the
# loss of the second, and run the backward pass twice: as it is, and with the memory's rows of
# $\tilde h$ set to 0 where $dW$ is formed (`without_memory_rows`). The difference is the memory's
# part.

# %%
pretrained = minitxl.load_pretrained("war-and-peace")
model, text = pretrained.model, load_corpus("war-and-peace").test
T, B = 128, 4
tokens = np.stack([text[i * 5000 : i * 5000 + 2 * T + 1] for i in range(B)])  # (B, 2T + 1)
_, mems = model.score(tokens[:, :T], tokens[:, 1 : T + 1])
_, _, cache = model.forward(tokens[:, T:-1], tokens[:, T + 1 :], mems)
whole = model.backward(cache)
part = model.backward(without_memory_rows(cache, xp=model.backend.xp))
shares = {}
for name in ("w_k", "w_v"):
    keys = [f"layers.{n}.attn.{name}" for n in range(model.config.n_layer)]
    pairs = [(whole[key], part[key]) for key in keys]
    lengths = [(np.linalg.norm(all_ - own), np.linalg.norm(own)) for all_, own in pairs]
    shares[rf"$W_{name[-1]}$"] = np.array([a / (a + b) for a, b in lengths])
others = [n for n in whole if not n.endswith(("w_k", "w_v"))]
same = all(np.array_equal(whole[n], part[n]) for n in others)
print(f"the gradients of all {len(others)} other parameters are the same: {same}")

# %%
viz.draw_memory_rows(shares)

# %% [markdown]
# > **Question 2.** At the start of a stream $M = 0$. What do $dW_k$ and $dW_v$ lack there, and why
# > does that not matter for a long text?
#
# > **Question 3.** $W_q$ has no share from the memory at all. Why?
#
# ## What to take along
#
# - Softmax and LayerNorm send back what they can see: no part along the ones, for LayerNorm none
#   along $\hat x$ either. So never check with an upstream of ones.
# - Keys and values of cached rows have gradients. They go into $W_k$ and $W_v$, and stop before the
#   cached states.
#
# **Next:** notebook 3 adds what is missing here: how a query knows how far away a key stands.
