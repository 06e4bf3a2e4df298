# %% [markdown]
# # 7 Evaluation: what the memory is worth, how far, how fast
#
# **You will be able to** turn losses into bits and compare them with compressors; say what a longer
# memory than in training does to a model; look at its attention over cached segments; compute the
# Relative Effective Context Length (RECL), and distrust it; derive why evaluation with a memory is
# a thousand times faster than with a sliding window.
#
# **You need** notebooks 4 and 5. **Time:** 40 minutes. **Exercises:** 3.

# %%
import time

import numpy as np

import minitxl
from minitxl import course, viz
from minitxl.cached import CachedReader
from minitxl.checkpoint import read_json
from minitxl.data import load_corpus
from minitxl.data.baselines import PPMD, compression_bpc
from minitxl.evaluate import evaluate
from minitxl.viz.evaluation_speed import draw_evaluation_speed
from minitxl.viz.longer_memory import draw_longer_memory
from minitxl.viz.make_figures import DATA  # where stored results of experiments lie
from minitxl.viz.recl import draw_recl
from minitxl.workers import one_blas_thread

pretrained = minitxl.load_pretrained("war-and-peace")
model, vocab = pretrained.model, pretrained.vocab
corpus = load_corpus("war-and-peace")
text = vocab.decode(corpus.test)

# %% [markdown]
# ## 7.1 Bits
#
# A loss of $\ell$ nats per character is $\ell / \ln 2$ bits: that many would an arithmetic coder,
# driven by the model's predictions, write to a file. So a language model can be compared with
# compressors, on one condition: the same text to learn from, and none of the text that is measured.

# %%
test_text = corpus.test[:40_001]
measured = evaluate(model, test_text, batch_size=8)
print(f"the model   {measured.bpc:.3f} bits per character ({measured.n_tokens:,} characters)")
known = corpus.vocab.to_bytes(corpus.train)
for name, bits in compression_bpc(known, corpus.vocab.to_bytes(test_text)).items():
    print(f"{name:11} {bits:.3f}")
print(f"PPMd        {PPMD['war-and-peace', 'test']:.3f} (on all of the test text)")

# %% [markdown]
# **Exercise.** A text is read in segments, the last of which may be shorter. Return the mean bits
# per character; every *character* counts the same.

# %% exercise bits-per-character

# %% check bits-per-character

# %% [markdown]
# ## 7.2 A memory of another length
#
# The memory's length is no parameter of the model: it can be another one at evaluation. Here the
# model reads a passage in short segments of 16; move the slider.

# %%
at = text.index("tasha", text.index("Ever since that leave of absence had expired"))
viz.memory_length_explorer(model, vocab, corpus.test[: at + 60], position=300)

# %% [markdown]
# With the trained memory of 128 the model expects `Nap`oleon; give it 256 characters or more, and
# it knows that the talk is of `Nat`asha. But look at the upper curve: on the average of the passage
# nothing is gained beyond 128. A long memory pays at few places.
#
# > **Question 1.** For this character no memory at all is better than one of 16 to 128. How can
# > less knowledge be better?
#
# What does a *longer* memory than in training do, on the whole? The paper reports a small gain
# (27.02 to 26.77 perplexity). Three encodings, three seeds, and the shipped model:

# %%
draw_longer_memory(read_json(DATA / "longer_memory.json"))

# %% [markdown]
# The small models lose by it, in the order in which their encodings know what a distance is:
# Transformer-XL least, absolute positions most. `same_length` at twice the memory is the exception:
# there every query sees 64 keys, as the last query of a training segment did. The larger model is
# indifferent. A model has to *learn* to use a distance; sinusoids only make it possible that what
# it learned of one distance holds for the next.
#
# > **Common misconception: “memory is free at evaluation, so take as much as fits.”** Measure it.

# %% [markdown]
# ## 7.3 Attention over cached segments
#
# Four segments of 64, three of them in the memory. Point at a character (or move by the arrow keys)
# and see what it attends to; choose layer and head in the small map, whose numbers say how much of
# the weight falls on the memory. With `.save("attention.html")` behind it the same is written as
# one page that opens without a kernel.

# %%
begin = text.index('"I could not, on my honor')
passage = corpus.test[begin : begin + 4 * 64 + 1]
viz.token_explorer(model, vocab, passage, tgt_len=64, layer=4, head=5, query=45)

# %% [markdown]
# > **Try this.** Take the terms b and d away: what is left has no notion of distance. Where does
# > the weight go? Take a and c away instead. Then find a head that looks for the line's beginning.

# %% [markdown]
# ## 7.4 How far does it really look? RECL
#
# A longer context helps even a model that cannot use it well. So the paper (appendix C) compares
# within a group of models: does more context gain over the *best that any of them* makes of less?
#
# $$b(c,t) = \min_i \ell_i(c,t) \qquad f_i(c,c') = \mathrm{mean}_{t \in T} \min(b(c,t),
# \ell_i(c',t)) \qquad g_i = \frac{e^{f_i(c,c)} - e^{f_i(c,c')}}{e^{f_i(c,c)}}$$
#
# $T$ are the tokens that are hardest by $b$. From a short $c$ on, the context grows by steps of
# $\Delta$ until a step gains less than 1%: there is the model's RECL.
#
# **Exercise.** Write one step: the gain of each model.

# %% exercise recl-gain

# %% check recl-gain

# %%
draw_recl(read_json(DATA / "recl.json"))

# %% [markdown]
# The hollow marks are a control: the farthest characters come from elsewhere in the book. They can
# tell the model nothing, and RECL hardly notices. The reason is in the formula: the minimum keeps
# whatever *happens* to be better and forgets what is worse, so $g$ is never negative.
#
# > **Question 2.** Take two models whose losses with the longer context are those with the shorter
# > one plus noise of mean 0. Is $g$ zero? What does a larger $r$ do?
#
# > **Question 3.** The paper says "450% longer than vanilla Transformers". Which two numbers is
# > this made of, and why can the lower one not be more than 128?

# %% [markdown]
# ## 7.5 A thousand times faster
#
# A vanilla Transformer that is to predict every token from $A$ tokens has to read its window anew
# for every token. With a memory, a token is computed once.
#
# **Exercise.** Count the products.

# %% exercise speed-up

# %% check speed-up

# %% [markdown]
# On this machine, now, with the shipped model and an attention length of 512, on one thread:

# %%
A, S = 512, 64
stream = corpus.test[None, :2000]
reader = CachedReader(model, mem_len=A - S, tgt_len=S)
window = model.with_options(mem_len=0, tgt_len=A)


def seconds(call, times):
    """The median of so many calls, the first of which makes buffers and does not count."""
    taken = []
    for n in range(times + 1):
        began = time.perf_counter()
        call(n)
        taken.append(time.perf_counter() - began)
    return np.median(taken[1:])


with one_blas_thread():
    reader.read(stream[:, : A - S])  # fills the memory
    memory = seconds(lambda n: reader.read(stream[:, A + n * S : A + (n + 1) * S]), 8) / S
    sliding = seconds(lambda n: window.predict(stream[:, n : n + A], last=1), 8)
print(f"sliding window: {1e3 * sliding:.1f} ms a token; memory: {1e3 * memory:.3f} ms a token")
print(f"ratio: about {sliding / memory:.0f}")

# %%
draw_evaluation_speed(read_json(DATA / "evaluation_speed.json"))

# %% [markdown]
# The ratio grows with the attention length and hangs on the segment's length, which the paper does
# not state. One token at a time, as in generation, the gain is a tenth of that with segments of
# 128.
#
# > **Question 4.** The two do not predict the same: after how many tokens do the memory's states
# > know more than a window of the same attention length? (Notebook 5.)
