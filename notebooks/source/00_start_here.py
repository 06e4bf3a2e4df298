# %% [markdown]
# # Start here: a Transformer that remembers
#
# A Transformer reads text in segments. A plain one starts each segment blank: what stood in the
# segment before is gone. **Transformer-XL** (Dai et al., 2019) keeps the hidden states of the last
# $M$ tokens and lets every new token attend to them as well. Two rules make this work. The cached
# states are constants: **the gradient stops at the memory**, so the backward pass covers one
# segment only. And a token is addressed by its **distance**, not by its place in the segment, so a
# cached state means the same wherever it is read from.
#
# You will look into a small model that has read most of *War and Peace*: what it attends to across
# segments, where its gradient stops, what the memory is worth in bits, and what it writes.
#
# *About 20 minutes. You need matrices, the softmax and a first idea of attention. Run the cells
# from top to bottom with Shift+Enter. The sliders also follow the keyboard: Tab to reach one, arrow
# keys to move it. (Shift+Enter on a slider runs its cell again: the widget starts anew.)*

# %%
import numpy as np

import minitxl
from minitxl import Inspection, Stream, generate, load_corpus, viz
from minitxl.model.through_memory import hidden_gradients

pretrained = minitxl.load_pretrained("war-and-peace")
model, vocab = pretrained.model, pretrained.vocab
corpus = load_corpus("war-and-peace")
novel = vocab.decode(corpus.test)  # the last 5 %, which the model has never seen
begin = novel.index('Then listen:\n\n"Louis XIV')
viz.live(model, vocab, corpus.test[begin : begin + 420])

# %% [markdown]
# **This is the model; touch it.** It reads characters, one after the other. Over each stand the
# states that it keeps, one box for each of its layers. The lowest row is the segment that is read
# now; above the thick line lies the memory.
#
# > **Do this.** Type a few words into the box. Go on until the row is full: its states slide up
# > into the memory, and what is older than $M$ falls out. Then *wipe the memory*: which character
# > does it expect now, and what did the memory save here, in bits? Press *write* and let it go on.
# > Last, *learn from this segment*: how far does the gradient go?

# %% [markdown]
# ## 1 What you have seen
#
# The same once more, as a drawing: above, what is read in which order; below, what the boxes are.

# %%
viz.draw_idea()

# %%
c = model.config
print(f"{model.n_params:,} parameters: {c.n_layer} layers, D = {c.d_model}, {c.n_head} heads")
print(f"trained with segments of T = {c.tgt_len} and a memory of M = {c.mem_len} characters")
print(f"vocabulary: {vocab.n_token} characters; unseen text: {len(corpus.test):,} characters")

# %% [markdown]
# ## 2 Read a passage, segment after segment
#
# Let $m$ be what layer $n$ cached: its own *inputs* for the last $M$ tokens. The layer joins them
# to the inputs $h$ of the present segment. Queries come from the segment only, keys and values from
# both (paper, section 3.2; SG stands for stop-gradient):
#
# $$\tilde h = [\,\mathrm{SG}(m)\,;\,h\,] \qquad q = h\,W_q \qquad k = \tilde h\,W_k
# \qquad v = \tilde h\,W_v$$
#
# In code the memory goes in, and comes out again, moved on by one segment. Segments of $T = 64$ and
# a memory of three segments fit on a page; the parameters are those of the trained model.

# %%
T = 64
begin = novel.index('"I could not, on my honor')  # Pierre comes home, late
passage = corpus.test[begin : begin + 4 * T + 1]
reader = model.with_options(tgt_len=T, mem_len=3 * T)

mems, pieces = None, []  # at the start of a stream there is no memory
for start in range(0, 4 * T, T):
    tokens = passage[start : start + T][None, :]  # (B = 1, T)
    targets = passage[start + 1 : start + T + 1][None, :]  # the same, one character later
    before = mems  # what the memory holds while this segment is read
    inspection = Inspection()  # takes notes: hidden states and attention probabilities
    nll, mems, _ = reader.forward(tokens, targets, mems, inspect=inspection)
    pieces.append((tokens, targets))
    n_keys = inspection.probs[0].shape[-1]  # K = M + T
    print(
        f"segment {len(pieces)}: {n_keys - T:3} cached + {T} new = {n_keys:3} keys,"
        f" {float(nll.mean()) / np.log(2):.2f} bits per character   {vocab.decode(tokens[0])!r}"
    )
print(f"\nthe memory now: {len(mems)} arrays, one per layer, of shape (B, M, D) = {mems[0].shape}")

# %% [markdown]
# > **Common misconception: “the memory holds keys and values.”** It holds hidden states, one
# > $(M, D)$ array per layer: the layer's inputs. Keys and values are computed from them anew in
# > every segment, with the present $W_k$ and $W_v$.

# %% [markdown]
# ## 3 A quotation left open
#
# The third segment ends inside a quotation: `"C`. The fourth goes on `ome, come!` Is a closing mark
# due after the exclamation mark? Nothing in the fourth segment can tell; the memory can.

# %%
at = vocab.decode(tokens[0]).index("!")
mark = vocab.encode('"')[0]
for name, memory in (("with memory", before), ("without memory", None)):
    log_probs, _ = reader.predict(tokens, memory)  # (B, T, V): the next character, after each
    print(f"{name:15} {np.exp(float(log_probs[0, at, mark])):5.1%}: the next character closes it")

# %% [markdown]
# How does it know? The score of query $i$ on key $j$ asks what is there, and how far back it is.
# The row $R_{i-j}$ is a fixed sinusoid of the distance; $u$ and $v$ are learned (section 3.3):
#
# $$A_{ij} = \frac{(q_i + u)\cdot k_j \;+\; (q_i + v)\cdot (W_R R_{i-j})}{\sqrt{d_\mathrm{head}}}
# \qquad p_i = \mathrm{softmax}_j\, A_{ij}$$
#
# No absolute position enters. Now take the probabilities $p$ of the last segment, and see for every
# layer and head how much of them falls on cached characters, and how much on quotation marks.

# %%
probs = [model.backend.to_numpy(p)[0] for p in inspection.probs]  # per layer (H, T, K), K = M + T
wanted = np.array(list(vocab.decode(passage[: 4 * T]))) == '"'  # (K,) which keys are marks
on_marks = np.stack([p[:, :, wanted].sum(axis=-1).mean(axis=-1) for p in probs])  # (N, H)
across = viz.memory_share(probs)  # (N, H)


def show(title, values):
    print(title + "\n        " + "".join(f"  head {h + 1}" for h in range(c.n_head)))
    for n, row in enumerate(values):
        print(f"layer {n + 1} " + "".join(f"{x:8.0%}" for x in row))


show("attention that crosses the memory's edge", across)
show(f"\nattention to quotation marks, {wanted.mean():.0%} of the keys", on_marks)

# %% [markdown]
# One head stands out. Look at it, from the exclamation mark: the boxed character attends, and the
# deeper a cell, the more weight it gets. All above the thick line comes out of the cache.

# %%
layer, head = np.argwhere(on_marks == on_marks.max())[0]
where = dict(layer=int(layer) + 1, head=int(head) + 1)
viz.live(model, vocab, passage, tgt_len=T, read=3 * T + at + 1, **where)

# %% [markdown]
# > **Try this.** Take the memory away (0): where does the head look now? Give it back and read on,
# > over the closing mark: what happens to the weight? In the cell with the two tables put
# > `"\n"` for the quotation mark, and look at the head that stands out then: why would a model of
# > this book want to know where a line began?

# %% [markdown]
# ## 4 Where does the gradient stop?
#
# Reading crosses the memory's edge; learning does not. Take the loss of the last segment and ask
# for $\partial\,\mathrm{loss} / \partial h_n$ at every layer and every position, back through the
# segments before: once with the stop, as the model is trained, and once without it. The memory is
# one segment long here.

# %%
short = model.with_options(tgt_len=T, mem_len=T)
stopped = hidden_gradients(short, pieces)  # over segments, over n = 0 ... N: (B, T, D)
full = hidden_gradients(short, pieces, through_memory=True)

for name, gradients in (("stopped", stopped), ("full", full)):
    earlier = np.stack([model.backend.to_numpy(g) for s in gradients[:-1] for g in s])
    print(f"{name:8} {np.count_nonzero(earlier):8,} of {earlier.size:,} numbers are not zero")

# %%
viz.gradient_explorer(model, passage, tgt_len=T)

# %% [markdown]
# The hatched part is no small number: it is exactly 0. Let the gradient through, and a staircase
# appears. Layer $n$ reads what it cached from the layer *below*, so each layer down the picture
# lies one memory further back.
#
# > **Try this.** Put the loss on the first character, let the gradient through, and set the memory
# > to 16. The first step of the staircase is 16 characters wide, the next are 64: why? (What had a
# > state of the segment before read?) All $N$ layers together reach
# > $(N-1)\,T\,\lceil M/T \rceil + M$ characters back. How many is that here?
#
# > **Common misconception: “no gradient, so the memory teaches nothing.”** The model learns to read
# > its memory; it is not taught to write it: [notebook 2](02_attention_by_hand.ipynb), section 2.4.

# %% [markdown]
# ## 5 What is the memory worth?
#
# The same model reads the same unseen text twice: with its memory, and with `mems=None` before each
# segment. A loss of $\ell$ nats is $\ell / \ln 2$ bits per character.

# %%
text = corpus.test[: 32 * 9 * T + 1]  # 32 rows side by side, nine segments each


def bits_per_character(remember, t=T):
    reader = model.with_options(tgt_len=t, mem_len=3 * T)
    stream = Stream(text, batch_size=32, tgt_len=t)
    mems, bits = None, []
    for _ in range(stream.batches_per_epoch):
        tokens, targets, _ = stream.next()  # (32, t) each
        nll, mems, _ = reader.forward(tokens, targets, mems if remember else None)
        bits.append(model.backend.to_numpy(nll) / np.log(2))
    return np.concatenate(bits[1:])  # the first segment had no memory yet: leave it out


viz.bits_by_position(bits_per_character(remember=True), bits_per_character(remember=False))

# %% [markdown]
# Without memory the first characters of a segment are guesses: this is *context fragmentation*. The
# orange curve is a little unfair, as this model was trained with a memory; one trained without it
# guesses better, but it cannot know what it has not read.
#
# > **Try this.** Cut the same text into segments of 16: give `t=16` to both calls in the last line.
# > What happens to the gain, and why?

# %% [markdown]
# ## 6 It writes
#
# One character at a time, each drawn from the model's prediction and fed back. Only the memory
# carries the story on; a step costs the same after ten thousand characters.

# %%
decoder = vocab.decoder()
prompt = "Natasha looked at "
print(prompt, end="")
for token in generate(model, vocab, prompt, length=500, temperature=0.8, seed=7):
    print(decoder.feed(token), end="")

# %% [markdown]
# ## Where to go
#
# - **On through the course**, about four hours, with exercises that are checked in place:
#   [1 what fixed segments cost](01_fragmentation.ipynb),
#   [2 attention, forwards and backwards](02_attention_by_hand.ipynb),
#   [3 relative positions](03_relative_positions.ipynb),
#   [4 the memory and the stopped gradient](04_memory.ipynb), [5 reach](05_reach.ipynb),
#   [6 training](06_training.ipynb), [7 evaluation](07_evaluation.ipynb) with a text to point at,
#   [8 what came after](08_beyond.ipynb). Short of time? Read 4, 5 and the first half of 7.
# - **Train your own** on two cores in about five minutes: `python -m minitxl train`, on your text
#   with `--data book.txt`. Then `python -m minitxl generate RUN` and `python -m minitxl eval RUN`.
# - **See every gradient proven**: `python -m pytest`.
# - **Read the code** from the bottom up: `ops.py`, `attention.py`, `layers.py`, `network.py`
#   in `minitxl/model/`. Each forward function stands next to its backward.
# - **Read the paper**: [Transformer-XL: Attentive Language Models Beyond a Fixed-Length
#   Context](https://arxiv.org/abs/1901.02860).
