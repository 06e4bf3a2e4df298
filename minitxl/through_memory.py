"""The gradient by hidden states over several segments: stopped at the memory, or let through."""

from __future__ import annotations

from minitxl.model import TransformerXL


def hidden_gradients(model: TransformerXL, segments, through_memory=False, dnll=None) -> list:
    """Return d loss / d h_n for every segment and layer, with the gradient stopped or not.

    segments: consecutive (tokens, targets), each (B, T). The loss is nll.mean() of the *last* one
    (or sum(nll * dnll)). Returns a list over segments of lists over n = 0 ... N of (B, T, D).
    With through_memory=False (the model as it is trained) everything before the last segment is
    0. With True the gradient also flows through the cached states into the segments they came
    from: full back-propagation through time, which Transformer-XL leaves out.
    """
    xp, n_layer = model.backend.xp, model.config.n_layer
    mems, caches, n_mems = None, [], []
    for tokens, targets in segments:
        n_mems.append(0 if mems is None else mems[0].shape[1])
        _, mems, cache = model.forward(tokens, targets, mems)
        caches.append(cache)

    stops = [0]  # absolute positions at which the segments begin and end
    for cache in caches:
        stops.append(stops[-1] + cache.shape[1])
    b, d = caches[0].shape[0], model.config.d_model
    # into[n]: what later segments send into h_n, by absolute position
    into = [xp.zeros((b, stops[-1], d), dtype=model.backend.dtype, device=model.backend.device)]
    into += [xp.zeros_like(into[0]) for _ in range(n_layer)]
    out = []
    for s in reversed(range(len(caches))):
        start, stop = stops[s], stops[s + 1]
        if s == len(caches) - 1:
            g = model.backward_all(caches[s], dnll, through=through_memory)
        elif through_memory:
            later = [into[n][:, start:stop, :] for n in range(n_layer)]
            none = xp.zeros(caches[s].shape, dtype=model.backend.dtype, device=into[0].device)
            g = model.backward_all(caches[s], none, later=later, through=True)
        else:
            out.append([into[n][:, start:stop, :] for n in range(n_layer + 1)])  # nothing arrived
            continue
        out.append(g.hidden)
        if through_memory:
            for n in range(n_layer):  # the memory's rows are h_n at positions start - M ... start
                into[n][:, start - n_mems[s] : start, :] += g.mems[n]
    return out[::-1]
