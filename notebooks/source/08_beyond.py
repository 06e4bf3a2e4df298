# %% [markdown]
# # 8 Beyond: what would make memory cheaper?
#
# What a long memory costs; what a compressed memory, a matrix and memory tokens keep and give up;
# and which of them to choose, for what. **You need** notebooks 4 and 5, and some linear algebra
# (rank, least squares). **Time:** 60 minutes, and about 90 for the exercises.

# %%
import timeit
from functools import partial

import minitxl
from minitxl import Memory, TransformerXL, evaluate, load_corpus, viz
from minitxl.experiments import draw
from minitxl.inference.cached import CachedReader
from minitxl.training.cost import forward_flops, memory_bytes

pretrained = minitxl.load_pretrained("war-and-peace", device="cpu")
model, text = pretrained.model, load_corpus("war-and-peace").test
shipped = model.config
N, D, F = shipped.n_layer, shipped.d_model, shipped.d_inner

# %% [markdown]
# ## 8.1 What a long memory costs
#
# A layer of width $D$ reads a segment of $T$ tokens with $K = M + T$ keys: $6 K D$ FLOPs a token
# for $q k^\top$, $q r^\top$ and $p v$. If keys (of positions, too) and values are kept, the rest
# does not depend on $M$: $8 D^2$ for projections, $4 D F$ for the feed-forward block of inner width
# $F$. Let the shipped model read with memories of up to 4,096 characters, and take the time.

# %%
T, LENGTHS, ms = 16, (0, 256, 512, 1024, 2048, 4096), []
for m in LENGTHS:
    reader = CachedReader(model, mem_len=m, tgt_len=T)
    for at in range(0, m, 256):  # fill the memory
        reader.read(text[None, at : at + 256], last=1)
    call = partial(reader.read, text[None, :T], last=1)
    seconds = min(timeit.repeat(call, number=1, repeat=40))  # whatever else runs makes it slower
    ms.append(1000 * seconds / T)

attention = [N * 6 * (m + T) * D for m in LENGTHS]  # FLOPs of a token
flops = {"attention": attention, "all else": [N * (8 * D**2 + 4 * D * F)] * len(LENGTHS)}
viz.draw_reading_cost(LENGTHS, ms, flops, segment_len=T)

# %% [markdown]
# **Keep:** a token's cost grows linearly with the memory, in products exactly, in time roughly. A
# text of $n$ tokens takes $n M$, where attention over all of it takes $n^2 / 2$; but whoever lets
# $M$ grow with the text is back at $n^2$. Can what is far away cost less? Transformer-XL leaves
# that open.
#
# **Exercise.** Turn the sum round: a token may cost so many FLOPs in all layers together; how long
# can the memory be?

# %% exercise affordable-memory

# %% check affordable-memory

# %% [markdown]
# ## 8.2 Three ways to keep less
#
# Ask two things of a memory: how much does a token read, and *what teaches it what to write?*
#
# | memory | each token reads | writing is taught by |
# |---|---|---|
# | Transformer-XL | $M$ states a layer | nothing directly (notebook 4) |
# | compressive (8.3) | $n_\mathrm{fine}$ states, $n_\mathrm{coarse}$ rows a layer | its own loss |
# | matrix (8.4) | $d_\mathrm{head}^2$ numbers a head | the rest of its segment |
# | memory tokens (8.5) | $m$ states in all | later segments |
#
# The matrices of $H$ heads are as large as $M = d_\mathrm{head}$ states, as $H d_\mathrm{head} =
# D$; with a divisor for each, as one more. **Keep:** none of the three grows with the text, so each
# loses something.
#
# ## 8.3 Compress what falls out
#
# The [Compressive Transformer](https://arxiv.org/abs/1911.05507) (Rae et al., 2019) keeps the last
# $n_\mathrm{fine}$ states. Of those that leave, every $c$ become one row of a second, coarse memory
# of $n_\mathrm{coarse}$ rows. A layer attends to both: $n_\mathrm{fine} + n_\mathrm{coarse}$ keys
# span $n_\mathrm{fine} + c\,n_\mathrm{coarse}$ tokens, and $N$ layers reach $N$ times as far. For
# distances a coarse row counts as one place, as in the paper.
#
# Let a row be the mean of its $c$ states. That has no parameters, so the shipped model can read
# with it as it is. A box is what one key stands for.

# %%
viz.compression_explorer(model, pretrained.vocab, text[3000:3352])

# %% [markdown]
# > **Do this.** Move the rate $c$ from 1 to 8. How far do the 64 keys reach, and what becomes of
# > the reading? (At 100% it is off by as much as there was to read.) Then keep *every c-th* state
# > in place of the mean: which is nearer?
# >
# > <details><summary>Answer</summary>From 64 characters to 32 + 8 x 32 = 288, and the reading moves
# > past 100%. The last of every $c$ states is nearer than their mean, here and in most
# > layers.</details>
#
# **Exercise.** Write the step after each segment: which states leave, what becomes a row, what
# waits as its group is not whole yet.

# %% exercise compressive-update

# %% check compressive-update

# %% [markdown]
# Is the longer span a gain? Bits per character of the shipped model, on the first 16,384 characters
# (compare within the table):

# %%
N_FINE, N_COARSE, N_READ = 32, 32, 16 * 1024


def bits(rate, compress):
    memory = Memory(kind="compressive", n_coarse=N_COARSE, rate=rate, compress=compress)
    config = shipped.replace(tgt_len=32, mem_len=N_FINE, memory=memory)
    reader = TransformerXL(config, "cpu", params=model.params)
    return evaluate(reader, text, batch_size=16, max_tokens=N_READ).bpc


few = model.with_options(tgt_len=32, mem_len=N_FINE)
alone = evaluate(few, text, batch_size=16, max_tokens=N_READ)
print("rate c    span      mean   every c-th")
for rate in (1, 2, 4, 8):
    mean, every = bits(rate, "mean"), bits(rate, "every")
    print(f"{rate:4} {N_FINE + rate * N_COARSE:9}  {mean:8.3f} {every:11.3f}")
print(f"32 states alone: {alone.bpc:.3f}")

# %% [markdown]
# Rate 1 is Transformer-XL with 64 states, and the best: the longer span does not pay, in a model
# that was not trained for it (8.6 trains some). Means are better than nothing, and cost less than
# every $c$-th: nearer in one layer's reading is not cheaper in bits.
#
# A row can also be a *convolution* over its $c$ states. What teaches it, when later segments send
# no gradient? A loss of its own: the new rows should give each query $q_t$ what the old states
# gave,
#
# $$L = \frac{1}{T} \sum_t \left\lVert \mathrm{attn}(q_t, \mathrm{new}) - \mathrm{attn}(q_t,
# \mathrm{old}) \right\rVert^2 .$$
#
# **Exercise.** Take its gradient as far as the new rows. (From there it goes into the convolution
# alone.)

# %% exercise compression-gradient

# %% check compression-gradient

# %% [markdown]
# **Keep:** compression buys span with blur; what teaches it is at hand when the states leave.
#
# ## 8.4 One matrix for everything
#
# Leave the softmax out of attention, and the order of its products can be changed:
#
# $$\sum_t (q^\top k_t)\, v_t = S^\top q \qquad\text{with}\qquad S = \sum_t k_t v_t^\top .$$
#
# All pairs are now in one matrix, and a token costs the same after a million tokens as after a
# thousand. Two rules to write the next pair, with a strength $\beta_t$ between 0 and 1, computed
# from the token:
#
# $$\text{sum:}\quad S \leftarrow S + \beta_t\, k_t v_t^\top \qquad\qquad
# \text{delta:}\quad S \leftarrow S + \beta_t\, k_t \left(v_t - S^\top k_t\right)^\top$$
#
# The **sum** is linear attention ([Katharopoulos et al., 2020](https://arxiv.org/abs/2006.16236),
# with a divisor, and $\mathrm{elu}(x) + 1$ of keys and queries). The **delta rule** ([Schlag et
# al., 2021](https://arxiv.org/abs/2102.11174)) first asks what $S$ answers to $k_t$, and writes the
# difference: with $\beta = 1$ and a key of length 1, a key that comes again replaces its value.
# **Infini-attention** ([Munkhdalai et al., 2024](https://arxiv.org/abs/2404.07143)) puts such a
# matrix beside the attention within a segment, with a learned gate for each head.
#
# What does it give up? Store $n$ pairs with keys of width $d$, and ask every key.

# %%
viz.overfull_explorer()

# %% [markdown]
# > **Do this.** Sum or delta rule, 24 pairs with keys of 16: which recalls more? And of 64 pairs,
# > *which* does each still know, the first or the last? What would you want of a memory of text?
# > <details><summary>Answer</summary>The sum recalls more, the first as well as the last; but all
# > are blurred, and its error is larger (above 1 it is worse than to answer 0; for a name the
# > direction is enough). The delta rule gives the last pair exactly and disturbs those before it:
# > it forgets from the oldest on, as a text's memory may well do.</details>
#
# **Keep:** the width $d$ bounds what is kept exactly, not what can be told apart. Up to $d$
# independent keys some matrix gives each its value (*least squares*). Of $n > d$ random pairs the
# best one leaves the share $1 - d/n$ of the values' variance as error. To *name* the right value
# among the stored ones less is enough: *trained* for that, a $32 \times 32$ matrix names 128 of
# 128.
#
# **Exercise.** Take the gradient of the delta rule through a segment. Mind that $k_t$ asks *and*
# writes.

# %% exercise delta-backward

# %% check delta-backward

# %% [markdown]
# ## 8.5 Learning to write
#
# So far no *later* segment says what is worth remembering: its gradient stops (`dnew` above is for
# where it does not). The **Recurrent Memory Transformer** ([Bulatov et al.,
# 2022](https://arxiv.org/abs/2207.06881)) lets it through. A few memory tokens stand before the
# segment, to be read, and after it, to be written; what comes out of the latter stands in both
# places of the next segment. **Writing is then learned for those who read, at the price of the full
# gradient** of notebook 4. (In the experiment of 8.6 they did not learn, in as many updates, to
# carry a pair over a segment's end.)
#
# **Exercise.** Take this gradient through two segments.

# %% exercise memory-tokens-gradient

# %% check memory-tokens-gradient

# %% [markdown]
# ## 8.6 Which one, and when?
#
# One task: pairs of a key and a value are shown, later a key is asked. The same small model has
# each time another memory of as many bytes; what was expected was written down before
# (`minitxl/experiments/memory_budget.py`).
#
# A map for each size of memory: rightwards, how far back the pair stands (its lag), upwards, how
# many pairs there are. The letter is the best of four: the last states (X), every fourth state,
# means, and a matrix by the delta rule (D), its gradient let through.
#
# > **Guess first.** With $M = 65$, who answers if there are 8 pairs, and the one asked for is 300
# > tokens back? If there are 128, and it is 50 back? And with 128 and 300?
# >
# > <details><summary>Answer</summary>The matrix; the states; none of the four (left
# > map).</details>

# %%
draw("memory_budget", part="maps")

# %% [markdown]
# - **Up to $M$ back** nothing beats exact states, however many pairs there are.
# - **Beyond $M + T$** they answer nothing, though by notebook 5 two layers reach further: to hand a
#   pair on was not learned. The matrix answers at any distance, if the pairs are few.
# - **A wider head holds more** was predicted, and came from 16 to 32, not from 32 to 64: of 128
#   pairs heads of 32 answer at least as many as heads of 64, with half the bytes.
# - **Means win beyond** was predicted, too: they lead in no field. The mean of four pairs seldom
#   names one of them (a guess is right once in 64).
#
# The task is made for matrices: every key is new, and its value is one symbol. A text is not. Here
# only an earlier mention tells the second letter of a name:

# %%
draw("memory_text")

# %% [markdown]
# Means reach further than the states that they replace, and blur what is near; the delta rule is
# learned by two starts of five, and then reaches furthest. On all of the text means and the last
# $M$ states tie, 2.06 and 2.09 bits in the median; the delta rule pays 2.62, hardly less than no
# memory.
#
# **Keep:** states bound *how far back* one remembers, a matrix *how much*; choose by what will be
# asked.
#
# ## 8.7 What would you build for a million tokens?
#
# The sizes are those of the largest WikiText-103 model, for one text: the bytes of keys and values,
# or of the matrices, in float32, and a token's products with what it reads, its own segment's
# included.

# %%
preset = minitxl.PRESETS["wt103-large"]
shape = {k: preset.model[k] for k in ("n_layer", "d_model", "n_head", "d_head", "d_inner")}
T, MILLION = 128, 1_000_000
coarse = Memory(kind="compressive", n_coarse=800, rate=1249)
plans = {
    "keep all": (dict(mem_len=MILLION), "1,000,000"),
    "the last 1,600": (dict(mem_len=1600), "1,600"),
    "800 states, 800 rows of 1,249": (dict(mem_len=800, memory=coarse), "1,000,000"),
    "one matrix a head": (dict(mem_len=0, memory=Memory(kind="matrix")), "no bound"),
}
print(f"{'':30}{'reaches, a layer':>17}{'GB kept':>10}{'MFLOPs a token':>17}")
for name, (options, span) in plans.items():
    config = minitxl.Config(n_token=1, tgt_len=T, **shape, **options)
    flops = forward_flops(config, rows=1)
    work = (flops["attention"] + flops.get("memory", 0)) / T / 1e6
    kept = memory_bytes(config) * (1 if config.memory.kind == "matrix" else 2) / 1e9
    print(f"{name:30}{span:>17}{kept:10.3f}{work:17,.0f}")

# %% [markdown]
# Keeping all is exact and dear; what a row says of more than a thousand states, nobody has shown;
# the matrix is the cheapest by far, and must choose. **Today's systems go three ways:**
#
# - **Windows, and small exact caches.** [Mistral 7B](https://arxiv.org/abs/2310.06825) attends to
#   the last 4,096 tokens in each layer; [DeepSeek-V2](https://arxiv.org/abs/2405.04434) caches a
#   low-rank vector for keys and values.
# - **Linear memories with some attention.** [Griffin](https://arxiv.org/abs/2402.19427) has two
#   layers of linear recurrence to one of local attention, Qwen3-Next three of
#   [Gated DeltaNet](https://arxiv.org/abs/2412.06464), a delta rule that forgets, to one.
# - **Millions of tokens, by means not published.**
#   [Gemini 1.5](https://arxiv.org/abs/2403.05530) reports more than 99% of single facts found again
#   among 10 million tokens.
#
# ## Questions
#
# 1. With $d_\mathrm{head} = 64$ you can afford $M = 64$ states, or a matrix memory. Which keeps
#    the last 64 tokens exactly? Which has something of the 1,000th before? How would you decide?
# 2. A Compressive Transformer has $n_\mathrm{fine} = n_\mathrm{coarse} = 512$ and $c = 4$. Give the
#    span of a layer and the keys it attends to; then the memory length of a Transformer-XL of equal
#    work, and of equal span.
# 3. The gradient stops at the memory. Why can the compression be trained all the same, and why does
#    its gradient not flow into the states that are compressed?
#
# *Answers: `notebooks/README.md` in the repository, “Model answers”.*
#
# ## What you can do now
#
# - Say what a memory of $M$ states costs, and compress it.
# - Write and read a matrix memory, and take its gradient.
# - Choose between them by what will be asked.
#
# **The picture to remember** is the map of 8.6.
#
# **To go on:** build a memory of your own, a project of this course, with a template, tests, and an
# experiment that ranks it.
