# %% [markdown]
# # 8 Beyond: what would make memory cheaper?
#
# **You will be able to** say what a long memory costs, in numbers kept and in work; what a
# compressed memory, a matrix memory and memory tokens keep, and what they give up; which of them to
# build, and for what.
#
# **You need** notebooks 4 and 5, and some linear algebra (rank, least squares). **Time:** 60
# minutes. **Exercises:** 5.
#
# All memories of this notebook are members of the library's family, with backward passes written by
# hand: `Config(memory=Memory(kind=...))`.

# %%
import time

import numpy as np

import minitxl
from minitxl import Memory, TransformerXL, load_corpus, viz
from minitxl.experiments import draw
from minitxl.inference.cached import CachedReader
from minitxl.training.cost import forward_flops, memory_bytes

pretrained = minitxl.load_pretrained("war-and-peace", device="cpu")
model, text = pretrained.model, load_corpus("war-and-peace").test
c = model.config
D, DH = c.d_model, c.d_head

# %% [markdown]
# ## 8.1 What a long memory costs
#
# Reading $S$ new tokens with $K = M + S$ keys takes, for each token and layer, $6 K D$ FLOPs of
# attention ($q k^\top$, $q r^\top$, $p v$) and a part that does not depend on $M$ if keys and
# values are kept: $8 D^2$ for the projections, $4 D F$ for the feed-forward block, where $F$ is its
# inner width (`d_inner`). Let the shipped
# model read with memories of up to 4,096 characters, and take the time.

# %%
SEGMENT, LENGTHS = 16, (0, 256, 512, 1024, 2048, 4096)
readers = [CachedReader(model, mem_len=m, tgt_len=SEGMENT) for m in LENGTHS]
times = {m: [] for m in LENGTHS}
for m, reader in zip(LENGTHS, readers, strict=True):
    for at in range(0, m, 256):  # fill the memory
        reader.read(text[at : at + 256][None, :], last=1)
for turn in range(30):  # in turns: so that a busy moment of the machine strikes all alike
    part = text[turn * SEGMENT : (turn + 1) * SEGMENT][None, :]
    for m, reader in zip(LENGTHS, readers, strict=True):
        begin = time.perf_counter()
        reader.read(part, last=1)
        times[m].append(1000 * (time.perf_counter() - begin) / SEGMENT)
ms = [min(t) for t in times.values()]

attention = [c.n_layer * 6 * (m + SEGMENT) * D for m in LENGTHS]  # FLOPs of a token
rest = c.n_layer * (8 * D**2 + 4 * D * c.d_inner)
rest += 2 * D * c.n_token / SEGMENT  # the softmax, of the segment's last token only
flops = {"attention": attention, "all else": [rest] * len(LENGTHS)}
viz.draw_reading_cost(LENGTHS, ms, flops, segment_len=SEGMENT)

# %% [markdown]
# The cost of a token is linear in $M$. For a text of $n$ tokens that is $n M$, where attention over
# the whole text would take $n^2 / 2$; but whoever wants $M$ to grow with the text is back at $n^2$.
# This is the question that Transformer-XL leaves open: can what is far away cost less?
#
# Turn the sum round: a token may cost so many FLOPs; how long can the memory be? Whoever wants to
# make memory cheaper has to know this first. The count above is of one layer, and the segment's own
# keys are among the $K$.

# %% exercise affordable-memory

# %% check affordable-memory

# %% [markdown]
# ## 8.2 Three ways to keep less
#
# | memory | kept between segments | work for what is far | who teaches it to write? |
# |---|---|---|---|
# | Transformer-XL | $M$ states a layer | $\propto M$ | nobody: it stops |
# | compressive | $n_m$ states, $n_{cm}$ rows of $c$ | $\propto n_m + n_{cm}$ | its own loss |
# | matrix | $d_h \times d_h$ numbers a head | $\propto d_h$ | what its own segment reads |
# | memory tokens | $m$ states in all | $\propto m$ | the gradient, through segments |
#
# With $d_h$ for the width of a head: one matrix a head is as large as $M = d_h$ states. The
# memories of published models are many times larger:

# %%
print("                equal size at M   M at evaluation   memory of one row of text, MB")
for name in ("enwik8-base", "enwik8-large", "wt103-base", "wt103-large"):
    preset = minitxl.PRESETS[name]
    p = preset.model
    used = preset.evaluation.get("mem_len", p["mem_len"])
    megabytes = 4e-6 * p["n_layer"] * used * p["d_model"]
    print(f"{name:15} {p['d_head']:15} {used:17} {megabytes:20.1f}")

# %% [markdown]
# ## 8.3 Compress what falls out
#
# The **Compressive Transformer** (Rae et al., 2019) does not drop the oldest states: every $c$ of
# them become one row of a second, coarse memory. A layer attends to both. With the work of
# $n_m + n_{cm}$ keys it sees $n_m + c\,n_{cm}$ tokens, and $N$ layers together reach
# $N (n_m + c\,n_{cm})$.
#
# A mean has no parameters, so the shipped model can be read with such a memory as it is. Move the
# rate; a box is what one key stands for. Compare what the mean keeps with what the last of every
# $c$ states keeps, and with a random sample of the past.

# %%
viz.compression_explorer(model, pretrained.vocab, text[3000:3352])

# %% [markdown]
# The span grows with the rate, and what is read from the coarse rows moves away from what would
# have been read from the states. Is it a gain? Bits per character of the shipped model, with as
# many slots each time:

# %%
SLOTS, T, ROWS = 64, 32, 16
rows = text[: ROWS * 1025].reshape(ROWS, 1025)  # 16 passages, read side by side


def bits(**memory):
    """Bits per character with half the slots fine, half coarse."""
    config = c.replace(tgt_len=T, mem_len=SLOTS // 2, memory=Memory(kind="compressive", **memory))
    reader, mems, losses = TransformerXL(config, "cpu", params=model.params), None, []
    for start in range(0, 1024, T):
        tokens, targets = rows[:, start : start + T], rows[:, start + 1 : start + T + 1]
        nll, mems = reader.score(tokens, targets, mems)
        losses.append(nll)
    return np.mean(losses) / np.log(2)


print("rate c    span      mean   every c-th")
for rate in (1, 2, 4, 8):
    found = [bits(n_coarse=SLOTS // 2, rate=rate, compress=way) for way in ("mean", "every")]
    print(f"{rate:4} {SLOTS // 2 * (1 + rate):9}  {found[0]:8.3f} {found[1]:11.3f}")

# %% [markdown]
# Rate 1 is Transformer-XL with 64 states, and best: no longer span pays here, in a model that was
# not trained for it, on a few passages. The mean costs less than every $c$-th, though what it reads
# is farther off. Section 8.6 trains models with their memories, on another task.
#
# A convolution in place of the mean has to learn. How, if the gradient stops at the memory? By a
# loss of its own: what attention makes of the coarse rows should be what it made of the states,
#
# $$\lVert\, \mathrm{attn}(h, m_\mathrm{old}) - \mathrm{attn}(h, \mathrm{coarse})\, \rVert^2$$
#
# and its gradient goes into the compression alone.

# %% exercise compressive-update

# %% check compressive-update

# %% exercise compression-gradient

# %% check compression-gradient

# %% [markdown]
# ## 8.4 One matrix for everything
#
# Take the softmax away: a memory that maps keys to values by one matrix $S$ has constant size, for
# a text of any length. Two rules to write a pair $k_t, v_t$ with strength $\beta_t$:
#
# $$\text{sum:}\quad S \leftarrow S + \beta_t\, k_t v_t^\top \qquad\qquad
# \text{delta:}\quad S \leftarrow S + \beta_t\, k_t \big(v_t - S^\top k_t\big)^\top$$
#
# and $S^\top q$ is what a query reads. The sum is linear attention (Katharopoulos et al., 2020,
# with
# $\phi(x) = \mathrm{elu}(x) + 1$ for keys and queries and a divisor); the **delta rule** (Schlag et
# al., 2021) first takes away what the matrix answers already. **Infini-attention** (Munkhdalai et
# al., 2024) puts such a memory beside the attention within a segment, with a learned gate for each
# head. A token costs the same after a million tokens as after a thousand.
#
# What does it give up? Fill it with more pairs than its keys are wide.

# %%
viz.overfull_explorer()

# %% [markdown]
# Up to $d$ independent keys there is a matrix that gives every value *exactly*; of $n > d$ random
# pairs even the best leaves the share $1 - d/n$ of the values' variance as error. To *name* the
# right one among the stored values less is enough: trained for that, a $32 \times 32$ matrix
# answers 128 of 128 keys, far from exactly. So $d$ bounds what is kept exactly, not what can be
# told apart. Rules that see one pair at a time do worse, as random keys overlap.
#
# > **Try this.** Sum or delta rule: which recalls more of an overfull matrix? *Which* pairs does
# > the delta rule still know, the first or the last? What would you want of a memory of text?
#
# <details><summary>Think first, then open</summary>
#
# The sum treats all pairs alike and blurs all of them. The delta rule writes the last pair exactly
# and disturbs those before it: it forgets from the oldest on, as a text's memory may well do.
# </details>

# %% exercise delta-backward

# %% check delta-backward

# %% [markdown]
# ## 8.5 Learning to write
#
# So far no *later segment* tells a state what to be remembered *for*: its gradient stops (notebook
# 4; `dnew` above is for where it does not). The **Recurrent Memory Transformer** (Bulatov et al.,
# 2022) takes the other way. A few memory tokens stand on both sides of the segment; the outputs of
# the last ones are read in the next segment; and back-propagation goes *through* the segments. The
# memory is small, and its writing is learned; the price is the full gradient, which here
# `sequence_gradients( ..., through_memory=True)` takes, for every member of the family.

# %% exercise memory-tokens-gradient

# %% check memory-tokens-gradient

# %% [markdown]
# ## 8.6 Which one, and when?
#
# The question that the paper leaves open, asked of one task: pairs of a key and a value are shown,
# later a key is asked. The small model is always the same, its memory another one of as many
# bytes; rates were chosen on other seeds, and what was expected was written down before
# (`minitxl/experiments/memory_budget.py`).

# %%
draw("memory_budget")

# %% [markdown]
# Rightwards: how far back the pair stands, in memories $M = d_h + 1$; upwards: how many pairs there
# are, in widths of a key. Only the matrix (D) has its gradient let through.
#
# - **Up to $M$ back** nothing beats exact states: they answer however many pairs there are.
# - **Beyond $M + T$** they answer nothing, and a matrix answers at any distance, if the pairs are
#   few. Not the key's width decides here, as was predicted, but the number of pairs: narrower heads
#   are more heads. A bound on *how far* becomes a bound on *how much*.
# - **Compressed rows** reach further than the states that they replace, and lose what stands close
#   together: the mean of four pairs names none of them. At equal bytes they led nowhere here.
# - **The gradient through the memory** helps where something must be learned to be written: the sum
#   most, the delta rule and the compressed rows too. Transformer-XL, which keeps states as they
#   are, hardly gains by it.
#
# The task is made for matrices: every key is new, its value is one symbol, and nothing has to be
# worked out from what is far. Text asks other things, too. That XL with everything kept answers all
# (violet) says what the others give away, and what it costs.
#
# Memory tokens are not in the picture: with as many updates they did not learn to carry a pair over
# a segment's end (`figures/README.md`).

# %% [markdown]
# ## 8.7 What would you build for a million tokens?
#
# The sizes of the largest WikiText-103 model, one row of text. Counted are the bytes of the states
# that stay between segments (keys and values instead: twice as many), and the products of a token
# with what it attends to.

# %%
preset = minitxl.PRESETS["wt103-large"]
shape = {k: preset.model[k] for k in ("n_layer", "d_model", "n_head", "d_head", "d_inner")}
T, MILLION = 128, 1_000_000
half = dict(kind="compressive", n_coarse=800)
plans = {
    "keep all": (dict(mem_len=MILLION), MILLION),
    "the last 1,600": (dict(mem_len=1600), 1600),
    "800 fine, 800 coarse of 4": (dict(mem_len=800, memory=Memory(rate=4, **half)), 4000),
    "800 fine, 800 coarse of 1,249": (dict(mem_len=800, memory=Memory(rate=1249, **half)), MILLION),
    "one matrix a head": (dict(mem_len=0, memory=Memory(kind="matrix")), MILLION),
}
print(f"{'':30}{'reaches, a layer':>17}{'GB kept':>10}{'MFLOPs a token':>17}")
for name, (options, span) in plans.items():
    config = minitxl.Config(n_token=1, tgt_len=T, **shape, **options)
    flops = forward_flops(config, rows=1)
    work = (flops["attention"] + flops.get("memory", 0)) / T / 1e6
    print(f"{name:30}{span:17,}{memory_bytes(config) / 1e9:10.3f}{work:17,.0f}")

# %% [markdown]
# Keeping all is exact and dear. A rate that spans a million tokens in 800 rows makes one row of
# more than a thousand states: nobody has shown that it says much. The matrix is the cheapest by
# far, and must choose what to keep. So real systems *mix*:
#
# - **Windows, and exact caches made small.** Mistral 7B (2023, arXiv:2310.06825) attends to the
#   last 4,096 tokens in each layer and reaches further through its layers, as this course's model
#   does; DeepSeek-V2 (2024, arXiv:2405.04434) caches a low-rank vector in place of keys and values.
# - **Linear memories with a little attention.** Griffin (2024, arXiv:2402.19427) has two layers of
#   linear recurrence to one of local attention; Gated DeltaNet (2024, arXiv:2412.06464) adds
#   forgetting to the delta rule, and Qwen3-Next (2025) has three layers of it to one of full
#   attention.
# - **Everything kept, on much hardware.** Gemini 1.5 (2024, arXiv:2403.05530) reports more than 99%
#   of single facts found again among 10 million tokens. How is not published.
#
# Transformer-XL's question, what to keep of what was computed, is theirs too. What has changed is
# the answer to "is it trained to be kept?": in today's systems it is, within the long windows that
# they are trained on.
#
# ## What you can now do
#
# Say what a memory of $M$ states costs; compress it, and train the compression; write and read a
# matrix memory, and take its gradient by hand; choose between them by what will be asked.
#
# **One picture to remember:** the map of section 8.6.
#
# ## Questions
#
# 1. Your model has $d_\mathrm{head} = 64$, and you can afford a memory of $M = 64$ states, or a
#    matrix memory of the same size. Which keeps the last 64 tokens exactly? Which has something of
#    the 1,000th token before? How would you decide?
# 2. A Compressive Transformer has $n_m = n_{cm} = 512$ and $c = 4$. Give the span of a layer and
#    the keys it attends to; then the memory length of a Transformer-XL of equal work, and of equal
#    span.
# 3. The gradient stops at the memory. Why can the compression be trained all the same, and why does
#    its gradient not flow into the states that are compressed?
#
# **To go on:** a memory of your own is a project of this course: a template, the tests that it must
# pass, and the experiment that ranks it. How RoPE and ALiBi run with recurrence stands in notebook
# 3.
