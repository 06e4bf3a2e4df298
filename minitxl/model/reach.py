"""How far back one output can look, from the model's sizes alone (paper sec. 3.2, figure 2)."""

import math


def exact_reach(n_layer: int, tgt_len: int, mem_len: int) -> int:
    """Return R = (N-1) T ceil(M/T) + M: tokens before a segment's start that can change it.

    Paper sec. 3.2 says O(N L).
    The top layer reads M states of the layer below; the oldest was made in the segment that
    began T ceil(M/T) before, and the same holds for it, down to the first layer's M embeddings.
    With a full memory and none of the options that move its edge: `ext_len` adds its tokens to R;
    with `same_length` it is N (M-1) before each query, wherever it stands.
    """
    return (n_layer - 1) * tgt_len * math.ceil(mem_len / tgt_len) + mem_len
