"""The second opinion's two ends: ids to vectors, and vectors to probabilities of words.

The vocabulary is cut at the cutoffs into clusters: the head of the frequent words, and the tails.
With div_val > 1 every cluster has a table of its own, the i-th of width E // div_val^i, else one
table serves them all; in either case each word has one row. Names: "word_emb" and "out_bias" where
that table is embedding and softmax at once and nothing else is asked for; else "word_emb.i",
"out_emb.i" (where not tied), "out_bias.i", "emb_proj.i" (E_i, D), "out_proj.i" (D, E_i).
"""

import itertools

import torch


def clusters(config):
    """The ids of each cluster, the head's first: a list of ranges."""
    edges = [0, *config.cutoffs, config.n_token]
    return [range(first, stop) for first, stop in itertools.pairwise(edges)]


def cluster_of(config, word):
    return next(i for i, words in enumerate(clusters(config)) if word in words)


def row(config, params, name, word):
    """The word's row of a table."""
    if name in params:
        return params[name][word]
    if config.div_val == 1:
        return params[name + ".0"][word]
    i = cluster_of(config, word)
    return params[f"{name}.{i}"][word - clusters(config)[i].start]


def projected(config):
    """Whether there are projections: for another width than D, and wherever widths differ."""
    return config.div_val != 1 or config.d_embed not in (0, config.d_model)


def embed(config, params, tokens):
    """x = the word's row, projected to the model's width; (B, T) -> (B, T, D), one by one."""
    vectors = []
    for word in tokens.flatten().tolist():
        x = row(config, params, "word_emb", word)
        if projected(config):
            own = cluster_of(config, word) if config.div_val > 1 else 0
            x = x @ params[f"emb_proj.{own}"]
        vectors.append(x)
    return torch.stack(vectors).reshape(*tokens.shape, -1)


def to_width(config, params, cluster, h):
    """h (..., D) in the width of a cluster's vectors."""
    if not projected(config):
        return h
    tied = config.tie_projs[cluster] if config.tie_projs else cluster > 0
    if not tied:
        return h @ params[f"out_proj.{cluster}"]
    own = cluster if config.div_val > 1 else 0
    return h @ params[f"emb_proj.{own}"].T


def log_sum(scores):
    return torch.log(torch.exp(scores).sum(-1, keepdim=True))


def log_probabilities(config, params, h):
    """log p of every word: (..., D) -> (..., V).

    log p(word) = log p_head(word), or log p_head(tail) + log p_tail(word): the head chooses among
    its own words and the tails, a tail among its words.
    """
    table = "word_emb" if config.tie_weight else "out_emb"
    scores = []
    for i, words in enumerate(clusters(config)):
        weight = torch.stack([row(config, params, table, word) for word in words])
        bias = torch.stack([row(config, params, "out_bias", word) for word in words])
        scores.append(to_width(config, params, i, h) @ weight.T + bias)
    if not config.cutoffs:
        return scores[0] - log_sum(scores[0])

    z = to_width(config, params, 0, h)
    n_tail = len(config.cutoffs)
    for_tails = []  # for_tails[i]: the head's score of tail i, as the head's choice
    for i in range(n_tail):
        column = n_tail - 1 - i if config.released.cluster_order == "reversed" else i
        score = z @ params["cluster_weight"][column] + params["cluster_bias"][column]
        for_tails.append(score[..., None])
    of_head = log_sum(torch.cat([scores[0], *for_tails], dim=-1))
    log_p = [scores[0] - of_head]
    for tail, inside in zip(for_tails, scores[1:], strict=True):
        log_p.append((tail - of_head) + (inside - log_sum(inside)))
    return torch.cat(log_p, dim=-1)
