"""The gradient by hidden states over several segments: stopped at the memory, or let through."""

from __future__ import annotations

from minitxl.model import TransformerXL, kept_rows


def hidden_gradients(model: TransformerXL, segments, through_memory=False, dnll=None) -> list:
    """Return d loss / d h_n for every segment and layer, with the gradient stopped or not.

    segments: consecutive (tokens, targets), (B, T) and (B, S). The loss is nll.mean() of the *last*
    one (or sum(nll * dnll)). Returns a list over segments of lists over n = 0 ... N of (B, T, D).
    With through_memory=False (the model as it is trained) everything before the last segment is
    0. With True the gradient also flows through the cached states into the segments they came
    from: full back-propagation through time, which Transformer-XL leaves out.
    """
    xp, n_layer = model.backend.xp, model.config.n_layer
    mems, passes = None, []
    for tokens, targets in segments:
        mems = model.start_mems(len(tokens)) if mems is None else mems
        n_mem = mems[0].shape[1]
        _, mems, cache = model.forward(tokens, targets, mems)
        passes.append((cache, n_mem))
    where = dict(dtype=model.backend.dtype, device=model.backend.device)

    out, dmems = [], None  # dmems: what the later segments send into the memory that this one left
    for cache, n_mem in reversed(passes):
        b, t = cache.shape
        if dmems is None:  # the last segment
            g = model.backward_all(cache, dnll, through=through_memory)
            hidden, dmems = g.hidden, g.mems
        elif through_memory:
            # undo: memory left = rows first ... stop of [memory found ; h]
            first, stop = kept_rows(n_mem=n_mem, n_new=t, config=model.config)
            before = xp.zeros((b, first, model.config.d_model), **where)
            after = xp.zeros((b, n_mem + t - stop, model.config.d_model), **where)
            both = [xp.concat([before, d, after], axis=1) for d in dmems]  # N of (B, M + T, D)
            later = [d[:, n_mem:, :] for d in both]
            none = xp.zeros((b, cache.n_target), **where)
            g = model.backward_all(cache, none, later=later, through=True)
            hidden = g.hidden
            dmems = [g.mems[n] + both[n][:, :n_mem, :] for n in range(n_layer)]
        else:
            shape = (b, t, model.config.d_model)
            hidden = [xp.zeros(shape, **where) for _ in range(n_layer + 1)]  # nothing arrives
        out.append(hidden)
    return out[::-1]
