# %% [markdown]
# # 2 Attention by hand, forwards and backwards
#
# Softmax, LayerNorm and attention backwards, how to check that, and what the stop stops. **You
# need** matrices, the chain rule, and notebook 0. **Time:** 40 minutes, and about 55 for the
# exercises.
#
# Notation: `dx` is $\partial\,\mathrm{loss}/\partial x$, an array of the shape of $x$; `dy`, the
# *upstream* gradient, is what a backward pass is given. In this library functions come in pairs,
# `y, saved = x_forward(inputs, ..., xp=np)` and `dinputs = x_backward(dy, saved, xp=np)`, where
# `xp` is the array library and `saved` is what the way back needs.

# %%
import numpy as np

from minitxl import course, gradcheck, ops, viz

np.set_printoptions(precision=4, suppress=True)

# %% [markdown]
# ## 2.1 Softmax
#
# Take three scores whose exponentials are easy: $s = (\ln 1, \ln 2, \ln 5)$. Then
# $p_j = e^{s_j} / \sum_k e^{s_k} = (1, 2, 5) / 8$.

# %%
s = np.log([1.0, 2.0, 5.0])
p, softmax_saved = ops.softmax_forward(s, xp=np)
print("8 p =", 8 * p, "   saved:", softmax_saved)

# %% [markdown]
# Raise one score, and *all* probabilities of its row move:
# $\partial p_k / \partial s_j = p_k\,[k = j] - p_k\,p_j$. As a matrix, times 64:

# %%
jacobian = np.diag(p) - np.outer(p, p)
print(64 * jacobian)

# %% [markdown]
# Every row and every column adds up to 0: the probabilities sum to 1 whatever the scores do, and
# the same number added to all scores changes nothing. The backward pass applies this matrix, $ds_j
# = \sum_k dp_k\, \partial p_k / \partial s_j$, without ever writing it down: put the derivative in,
# multiply out, and one sum over $k$ is left. That is your first exercise. By eye, with $dp = (8, 0,
# 0)$: $ds = (7, -2, -5)/8$.

# %%
dp = np.array([8.0, 0.0, 0.0])
print("by eye      ", np.array([7, -2, -5]) / 8)
print("matrix      ", jacobian @ dp)
print("the library ", ops.softmax_backward(dp, softmax_saved, xp=np))

# %% [markdown]
# ### Exercise: softmax backwards
#
# For arrays $(B, T, K)$, along the last axis, without a $K \times K$ matrix. (Once it is right,
# `course.reveal("softmax-backward")` shows the library's own.)

# %% exercise softmax-backward

# %% check softmax-backward

# %% [markdown]
# **Your code runs the model.** The cell below puts your function into a copy, right or wrong, and
# has a small model learn by it. `course.parts()` says which parts are yours.

# %%
course.run_with("softmax-backward")

# %% [markdown]
# **Keep:** one score moves all probabilities of its row; the same for all scores moves none.
#
# ## 2.2 How to check a gradient, and how to be fooled
#
# Pick a random direction $d$ in the space of the input. The loss along it can be differentiated
# with two runs of the forward pass, and the result must be $\langle dx, d \rangle$:
#
# $$\frac{\mathrm{loss}(x + \varepsilon d) - \mathrm{loss}(x - \varepsilon d)}{2 \varepsilon}
# \;=\; \langle dx, d\rangle + O(\varepsilon^2)$$
#
# As the loss take $\langle y, dy \rangle$ with an upstream `dy` of your choice.

# %%
scores, dy, d = np.random.default_rng(0).normal(size=(3, 5))
eps = 1e-5


def loss(scores):
    return ops.softmax_forward(scores, xp=np)[0] @ dy


ds = ops.softmax_backward(dy, ops.softmax_forward(scores, xp=np)[1], xp=np)
print(f"two runs  {(loss(scores + eps * d) - loss(scores - eps * d)) / (2 * eps):.10f}")
print(f"<ds, d>   {ds @ d:.10f}")

# %% [markdown]
# Is any upstream as good? Take ones, that is $\mathrm{loss} = \sum y$, and a random one, for five
# ways to run the softmax backwards, four of them wrong:


# %%
def library(dp, p):
    return ops.softmax_backward(dp, softmax_saved._replace(p=p), xp=np)


versions = {
    "right": library,
    "a factor p is missing": lambda dp, p: library(dp, p) / p,
    "twice as large": lambda dp, p: 2 * library(dp, p),
    "nothing comes back": lambda dp, p: 0 * dp,
    "the sum is missing": lambda dp, p: p * dp,
}
viz.draw_checks(versions)

# %% [markdown]
# The sum of probabilities is 1, whatever the scores: its true gradient is 0, and every version that
# gives 0 for it passes. **Keep:** check with a random upstream, never with ones alone.
#
# > **Question 1.** For which other operation of the model is the gradient of $\sum y$ always 0, if
# > its scale $\gamma$ is all ones? (The next section has it.)

# %% [markdown]
# ## 2.3 LayerNorm
#
# $$\hat x = \frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{var}(x) + \epsilon}}, \qquad
# y = \gamma\, \hat x + \beta$$
#
# With $x = (1, 1, 5, 5)$ the mean is 3, the variance 4, so $\hat x = (-1, -1, 1, 1)$; saved are
# $\hat x$ and $\mathrm{rstd} = 1 / \sqrt{\mathrm{var}(x) + \epsilon} = \tfrac12$ ($\epsilon = 0$
# here).

# %%
x = np.array([1.0, 1.0, 5.0, 5.0])
y, norm_saved = ops.layer_norm_forward(x, np.ones(4), np.zeros(4), eps=0.0, xp=np)
for name, value in norm_saved._asdict().items():
    print(f"{name:6} {value}")

# %% [markdown]
# Mean and variance depend on $x$ as well. Where $y$ does not change as $x$ moves along a direction,
# $dx$ has no part along it. LayerNorm sees no shift of $x$, and no stretch: so of $g = dy\,\gamma$
# the part along the ones is taken out, and the part along $\hat x$; what is left is scaled by
# $\mathrm{rstd}$. By eye, with $dy = g = (4, 0, 0, 0)$: along the ones it has $(1, 1, 1, 1)$, along
# $\hat x$ it has $(1, 1, -1, -1)$, so $dx = \tfrac12 (2, -2, 0, 0) = (1, -1, 0, 0)$.

# %%
dy = np.array([4.0, 0.0, 0.0, 0.0])
dx, dgamma, dbeta = ops.layer_norm_backward(dy, norm_saved, xp=np)
print("dx     ", dx, "  along the ones:", dx.sum(), "  along x^:", dx @ norm_saved.x_hat)
print("dgamma ", dgamma)
print("dbeta  ", dbeta)

# %% [markdown]
# > **Try this.** Give $x = (101, 101, 105, 105)$, then $(2, 2, 10, 10)$, to the first of the two
# > cells above, and run both. Which numbers change? Say it before.
# >
# > <details><summary>Answer</summary>101 is a shift: none changes. Twice $x$ halves
# > $\mathrm{rstd}$, and with it $dx$; all else stays.</details>
#
# ### Exercise: LayerNorm backwards
#
# Usual mistakes: mean and variance taken as constants; a projection that divides by $\hat x \cdot
# \hat x$ instead of $D$ (they differ if $\epsilon > 0$).

# %% exercise layer-norm-backward

# %% check layer-norm-backward

# %%
course.run_with("layer-norm-backward")

# %% [markdown]
# **Keep:** what LayerNorm cannot see, a shift and (but for $\epsilon$) a stretch, gets no gradient.
#
# ## 2.4 Attention with a memory
#
# The smallest case that has everything: two cached states, a new one, one head of width 1. A hidden
# state is (key, value, query), and each weight picks one of the three: $W_k$ the first, $W_v$ the
# second, $W_q$ the third. (Section 3.2 of the paper; positions come in notebook 3.)
#
# $$\tilde h = [\mathrm{SG}(m); h] = \begin{pmatrix} \ln 1 & 8 & 0 \\ \ln 2 & 0 & 0 \\
# \ln 5 & 0 & 1 \end{pmatrix} \begin{matrix} \text{cached} \\ \text{cached} \\ \text{segment}
# \end{matrix} \qquad q = h\,W_q = 1$$
#
# The query is 1, so the scores are the keys and $p = (1, 2, 5)/8$ as above; the values are $(8, 0,
# 0)$, so the output is 1. Backwards, from an upstream of 1, products and softmax are gone through
# in reverse; for a product $Y = A B$ with $dA = dY\,B^\top$ and $dB = A^\top dY$. **Drag the dotted
# numbers**, and see what follows.

# %%
viz.play_attention(keys=np.log([1, 2, 5]), values=(8, 0, 0), query=1, n_mem=2)

# %% [markdown]
# > **Do this**, each from the numbers above (run the cell again). Raise the first value: why does
# > $p$ not answer? Set all three *values* to 4: why is $ds$ now 0, whatever the keys? Set the query
# > to 0: who still gets a gradient? *Let through*: what does the stop keep from the cached states,
# > and what not from $W_k$?
# >
# > <details><summary>Answers</summary>$p$ depends on query and keys alone. Equal values make the
# > output the same for any weights. With $q = 0$ the keys get nothing, the values and the query do.
# > Only the last row changes: the weights get their share of the cached rows in any case.</details>
#
# $dW_k$ has three entries, and each is a sum over the rows of $\tilde h$: the row's number times
# its $dk$. The second numbers are 8, 0 and 0, so the second entry is $8 \cdot \tfrac78 = 7$, **all
# of it from a cached row.**
#
# > **Common misconception: “the memory is a constant, so it has no part in the gradients.”** The
# > memory gets no gradient: the cached rows of $d\tilde h$ are cut off. But $dk$ and $dv$ exist for
# > all $K$ rows, and the weights' gradients sum over all of them: they learn *how to read* the
# > memory. Keep only the segment's rows, and no error tells you; a gradient check does.
#
# **Keep:** the stop cuts the way to the cached states, not the cached rows' share of the weights.
#
# ### Exercise: attention forwards
#
# Now with batch, heads, mask and scale. A masked key gets the score $-\infty$.

# %% exercise attention-forward

# %% check attention-forward

# %% [markdown]
# This one works forward: the trained model now reads and writes by it.

# %%
course.run_with("attention-forward")

# %% [markdown]
# ### Exercise: attention backwards
#
# From the output back to queries, keys and values. You get $p$ from the forward pass, so that
# masked keys need no thought: why not? (What is $ds$ where $p = 0$?)

# %% exercise attention-backward

# %% check attention-backward

# %%
course.run_with("attention-backward")

# %% [markdown]
# ## 2.5 The whole block, checked
#
# All of attention with random numbers in float64: two heads, a memory of 3; `h` is memory and
# segment, the $\tilde h$ above, and `x` the segment. (`w_r`, `u`, `v` are notebook 3's: this `dv`
# is no value's.) Two runs of the forward pass measure the whole gradient, so the stop is off.
# Beside it a planted mistake:

# %%
M = 3
forward, backward, inputs = gradcheck.attention_block(n_mem=M)
_, forgetful, _ = gradcheck.attention_block(n_mem=M, forget=True)  # dW_k lacks the memory's rows

right = gradcheck.check_op(forward, backward, inputs)
wrong = gradcheck.check_op(forward, forgetful, inputs)
print(f"relative error of   as it is   without those rows   (limit {gradcheck.RTOL:g})")
for name in inputs:
    print(f"d{name:17} {right[name]:9.1e} {wrong[name]:13.1e}")

# %% [markdown]
# (0.0e+00: both sides agree within rounding, which the check takes off.)
#
# **Keep:** check the whole, too: a share that is missing is no shape error.
#
# > **Question 2.** At the start of a stream $M = 0$. What do $dW_k$ and $dW_v$ lack there, and why
# > does that not matter for a long text?
#
# > **Question 3.** $W_q$ has no share from the memory at all. Why?
#
# *Answers to the questions: `notebooks/README.md` in the repository, “Model answers”.*
#
# ## What you can do now
#
# - Run softmax, LayerNorm and attention backwards, by hand and in code.
# - Check any backward pass by two runs of the forward pass; never by an upstream of ones alone.
# - Say what the stop stops: keys and values of cached rows have gradients, these go into $W_k$ and
#   $W_v$, and end before the cached states.
#
# **The picture to remember:**

# %%
viz.draw_stop()

# %% [markdown]
# **Where this lives today.** Attention's backward pass runs inside one kernel:
# [FlashAttention](https://arxiv.org/abs/2205.14135) does not even store $p$, but computes it again
# from queries, keys and statistics of each row.
#
# **Next:** notebook 3 adds what is missing here: how a query knows how far away a key stands.
