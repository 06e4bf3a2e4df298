"""The second opinion on memories: row by row and token by token from the papers, with autograd.

A layer's state is a dict. The layer itself is that of `torch_reference.py`.
"""

import torch

from helpers.torch_reference import Masks, decoder_layer, layer_norm
from helpers.torch_words import embed, log_probabilities

TINY = 1e-6


# --- compressive (Rae et al. 2019): lists of rows (B, D) ------------------------------------------


def priority(place):
    """Of a place in the text, for the random sample."""
    x = (place ^ place >> 16) * 747796405 % 2**32
    x = (x ^ x >> 15) * 1103515245 % 2**32
    return x ^ x >> 16


def one_of(config, params, layer, block):
    """The coarse row of c states."""
    how = config.memory.compress
    if how == "every":
        return block[-1]
    if how == "max":
        best = block[0]
        for row in block[1:]:  # of equal ones the first stays
            best = torch.where(row > best, row, best)
        return best
    mean = sum(block) / len(block)
    if how == "mean":
        return mean
    kernel = params[f"layers.{layer}.memory.w_c"]
    return mean + sum(h @ kernel[i] for i, h in enumerate(block))


def content_attention(config, params, layer, queries, rows):
    """What every query (B, D) reads from rows (B, D), by content alone: lists -> (B, T, H, Dh)."""
    name = f"layers.{layer}.attn"
    weights = {n: p.detach() for n, p in params.items() if n.startswith(name)}

    def heads(x, which):
        if config.pre_lnorm:
            gamma, beta = (weights[f"{name}_norm.{n}"] for n in ("gamma", "beta"))
            x = layer_norm(x, gamma, beta, config.layer_norm_epsilon)
        return (x @ weights[f"{name}.{which}"]).reshape(-1, config.n_head, config.d_head)

    out = []
    for query in queries:
        q = heads(query, "w_q")
        score = torch.stack([(q * heads(row, "w_k")).sum(-1) for row in rows])  # (m, B, H)
        p = torch.softmax(score / config.d_head**0.5, dim=0)
        out.append(sum(a[..., None] * heads(row, "w_v") for a, row in zip(p, rows, strict=True)))
    return torch.stack(out, dim=1)


def reconstruction(config, params, layer, queries, blocks, made):
    """The loss that trains the compression; all but that is cut off."""
    old = [[row.detach() for row in block] for block in blocks]
    new = [one_of(config, params, layer, block) for block in old]
    n_batch = queries[0].shape[0]
    if config.memory.loss == "attention":
        queries = [q.detach() for q in queries]
        read = [
            content_attention(config, params, layer, queries, rows)
            for rows in ([row for block in old for row in block], new)
        ]
        return ((read[0] - read[1]) ** 2).sum() / (n_batch * len(queries))
    decoder = params[f"layers.{layer}.memory.w_a"]
    total = 0.0
    for block, row in zip(old, new, strict=True):
        for i, h in enumerate(block):
            total = total + ((h - row - row @ decoder[i]) ** 2).sum()
    return total / (n_batch * len(old) * config.memory.rate)


class Compressive:
    def start(self, config, n_batch, params):
        return [dict(coarse=[], born=[], fine=[], first=0) for _ in range(config.n_layer)]

    def layer(self, config, params, n, state, h, masks):
        segment = list(h.unbind(1))
        rows = torch.stack([*state["coarse"], *state["fine"], *segment], dim=1)
        y, *_ = decoder_layer(config, params, n, rows, len(segment), masks)
        coarse, born = list(state["coarse"]), list(state["born"])
        fine, first, m = state["fine"] + segment, state["first"], config.memory
        rate = 1 if m.compress == "random" else m.rate
        blocks = []
        while len(fine) >= config.mem_len + rate:
            blocks.append(fine[:rate])
            born.append(first)
            fine, first = fine[rate:], first + rate
        if m.compress == "random":
            coarse += [block[0] for block in blocks]
            best = sorted(range(len(born)), key=lambda i: -priority(born[i]))[: m.n_coarse]
            coarse, born = ([x[i] for i in sorted(best)] for x in (coarse, born))
        else:
            coarse += [one_of(config, params, n, block) for block in blocks]
            drop = max(0, len(coarse) - m.n_coarse)
            coarse, born = coarse[drop:], born[drop:]
        loss = 0.0
        if blocks and m.loss != "none":
            loss = reconstruction(config, params, n, segment, blocks, coarse)
        return y, dict(coarse=coarse, born=born, fine=fine, first=first), loss

    def arrays(self, state, like):
        """As minitxl's: coarse, fine, born."""
        b, d = like
        empty = torch.zeros((b, 0, d), dtype=torch.float64)
        rows = [torch.stack(x, dim=1) if x else empty for x in (state["coarse"], state["fine"])]
        return [*rows, torch.tensor([*state["born"], state["first"]])]


# --- a matrix a head (Katharopoulos 2020, Schlag 2021, Munkhdalai 2024) ---------------------------


def phi(m, x):
    if m.feature == "elu":
        x = torch.nn.functional.elu(x) + 1
    if m.rule == "delta" or m.feature == "unit":
        x = x / torch.sqrt((x**2).sum(-1, keepdim=True) + TINY**2)
    return x


class Matrix:
    def start(self, config, n_batch, params):
        c, f = config, torch.float64
        s = torch.zeros((n_batch, c.n_head, c.d_head, c.d_head), dtype=f)
        rows = torch.zeros((n_batch, 0, c.d_model), dtype=f)
        return [dict(rows=rows, s=s, z=s[..., 0])] * c.n_layer

    def layer(self, config, params, n, state, h, masks):
        m, name, left = config.memory, f"layers.{n}.attn.", {}

        def mix(out, queries_in, q, k, value):
            s, z, t = state["s"], state["z"], q.shape[1]  # (B, H, Dh, Dh), (B, H, Dh)
            k, value = k[:, k.shape[1] - t :], value[:, value.shape[1] - t :]
            strength = torch.sigmoid(queries_in @ params[name + "w_b"])  # (B, T, H)
            found, read = (s, z), []
            for i in range(t):
                key, b = phi(m, k[:, i]), strength[:, i, :, None]  # (B, H, Dh), (B, H, 1)
                new = value[:, i]
                if m.rule == "delta":
                    new = new - torch.einsum("bhkv,bhk->bhv", s, key)
                s = s + torch.einsum("bhk,bhv->bhkv", key, b * new)
                z = z + b * key
                from_s, from_z = found if m.reads == "past" else (s, z)
                query = phi(m, q[:, i])
                o = torch.einsum("bhkv,bhk->bhv", from_s, query)
                if m.rule == "sum" and m.feature == "elu":
                    o = o / ((from_z * query).sum(-1, keepdim=True) + TINY)
                read.append(o)
            left.update(s=s, z=z)
            g = torch.sigmoid(params[name + "gate"])[:, None]  # (H, 1)
            return g * torch.stack(read, dim=1) + (1 - g) * out

        context = torch.cat([state["rows"], h], dim=1)
        y, *_ = decoder_layer(config, params, n, context, h.shape[1], masks, mix)
        rows = context[:, max(0, context.shape[1] - config.mem_len) :]
        return y, dict(rows=rows, **left), 0.0

    def arrays(self, state, like):
        return [state["rows"], state["s"], state["z"]]


# --- memory tokens (Bulatov et al. 2022) ----------------------------------------------------------


class Tokens:
    """The state of the whole model is layer 0's."""

    def start(self, config, n_batch, params):
        return [dict(memory=params["memory.start"][None].expand(n_batch, -1, -1))] + [
            {} for _ in range(config.n_layer - 1)
        ]

    def layer(self, config, params, n, state, h, masks):
        return decoder_layer(config, params, n, h, h.shape[1], masks)[0], {}, 0.0

    def arrays(self, state, like):
        b, d = like
        return [state.get("memory", torch.zeros((b, 0, d), dtype=torch.float64))]


KINDS = {"compressive": Compressive(), "matrix": Matrix(), "tokens": Tokens()}


# --- the model ------------------------------------------------------------------------------------


def detached(x):
    if isinstance(x, dict):
        return {name: detached(a) for name, a in x.items()}
    if isinstance(x, list):
        return [detached(a) for a in x]
    return x.detach() if isinstance(x, torch.Tensor) else x


def run_segment(config, params, tokens, targets, states, masks):
    """nll (B, T), the states left, the losses of compressions, and h_0 ... h_N (B, T, D).

    Of memory tokens h_1 ... h_N have m rows more at both ends.
    """
    kind, masks = KINDS[config.memory.kind], Masks(masks)
    tokens, targets = (torch.as_tensor(x, dtype=torch.long) for x in (tokens, targets))
    t = tokens.shape[1]
    h = masks.apply("embedding", embed(config, params, tokens) * config.d_model**0.5)
    hidden, left, losses, m = [h], [], 0.0, 0
    if config.memory.kind == "tokens":
        m = config.memory.n_slot
        memory = states[0]["memory"]
        h = torch.cat([memory, h, memory], dim=1)
    for n in range(config.n_layer):
        h, state, loss = kind.layer(config, params, n, states[n], h, masks)
        hidden.append(h)
        left.append(state)
        losses = losses + loss
    if m:
        left[0] = dict(memory=h[:, m + t :])
        h = h[:, m : m + t]
    h = masks.apply("output", h)
    nll = -log_probabilities(config, params, h).gather(-1, targets[..., None])[..., 0]
    return nll, left, losses, hidden


def reference_sequence(config, params, segments, upstream, through, masks):
    """nll and states of every segment, gradients of parameters and hidden states; NumPy arrays.

    upstream: dLoss/dnll of each segment, or None; masks: of dropout, a dict for every segment.
    """
    tensors = {n: torch.tensor(params[n], requires_grad=True) for n in params}
    kind, b = KINDS[config.memory.kind], segments[0][0].shape[0]
    states = kind.start(config, b, tensors)
    nlls, all_states, all_hidden, total = [], [], [], 0.0
    for n, ((tokens, targets), dnll) in enumerate(zip(segments, upstream, strict=True)):
        if n and not through:
            states = detached(states)
        nll, states, losses, hidden = run_segment(
            config, tensors, tokens, targets, states, masks[n]
        )
        if through or dnll is not None:  # else nothing leads back into this segment
            total = total + losses
        if dnll is not None:
            total = total + (nll * torch.as_tensor(dnll)).sum()
        nlls.append(nll.detach().numpy())
        like = (b, config.d_model)
        all_states.append([[a.detach().numpy() for a in kind.arrays(s, like)] for s in states])
        all_hidden += hidden
    leaves = [*tensors.values(), *all_hidden]
    grads = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    grads = [g.numpy() for g in grads]
    n_param, per = len(tensors), config.n_layer + 1
    hidden = [grads[i : i + per] for i in range(n_param, len(grads), per)]
    m = config.memory.n_slot
    for states in hidden:
        states[1:] = [dh[:, m : dh.shape[1] - m] for dh in states[1:]]
    return nlls, all_states, dict(zip(tensors, grads, strict=False)), hidden
