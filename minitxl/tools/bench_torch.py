"""The model in PyTorch, as fast as we can write it there, to time minitxl against.

Keys and values in one product, positions and mask made once, the scale in the queries, the shift as
a view, fused Adam. `fused_attention` gives the core to scaled_dot_product_attention, with b + d as
its bias; which is faster depends on the shape. Nothing else of minitxl imports this.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

CLIP = 0.25
LEARNING_RATE = 2.5e-4


class Attention(nn.Module):
    """Relative multi-head attention, batch first."""

    def __init__(self, d_model, n_head, d_head, dropout, fused_attention):
        super().__init__()
        self.n_head, self.d_head, self.fused_attention = n_head, d_head, fused_attention
        self.q = nn.Linear(d_model, n_head * d_head, bias=False)
        self.kv = nn.Linear(d_model, 2 * n_head * d_head, bias=False)
        self.r = nn.Linear(d_model, n_head * d_head, bias=False)
        self.o = nn.Linear(n_head * d_head, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h, mem, positions, u, v, mask):
        n_batch, n_query, _ = h.shape
        context = torch.cat([mem, h], dim=1)
        n_key = context.shape[1]
        q = self.q(h).view(n_batch, n_query, self.n_head, self.d_head)
        kv = self.kv(context).view(n_batch, n_key, 2, self.n_head, self.d_head)
        k, value = kv.permute(2, 0, 3, 1, 4)  # 2 x (B, H, K, Dh)
        # One row of zeros behind R: then the shift is a view, rows of K cut from rows of K + 1.
        r = functional.pad(self.r(positions), (0, 0, 0, 1))
        r = r.view(n_key + 1, self.n_head, self.d_head).transpose(0, 1)  # (H, K + 1, Dh)
        q_u, q_v = ((q + bias).transpose(1, 2) for bias in (u, v))  # (B, H, T, Dh)

        scale = self.d_head**-0.5
        bd = torch.matmul(q_v * scale, r.transpose(-1, -2))  # (B, H, T, K + 1)
        bd = bd.reshape(n_batch, self.n_head, -1)[:, :, n_query - 1 :][:, :, : n_query * n_key]
        bd = bd.view(n_batch, self.n_head, n_query, n_key)
        if self.fused_attention:
            out = functional.scaled_dot_product_attention(q_u, k, value, attn_mask=bd + mask)
        else:
            ac = torch.matmul(q_u * scale, k.transpose(-1, -2))
            out = torch.matmul(torch.softmax(ac + bd + mask, dim=-1), value)
        out = out.transpose(1, 2).reshape(n_batch, n_query, -1)
        return self.dropout(self.o(out))


class Layer(nn.Module):
    def __init__(self, d_model, n_head, d_head, d_inner, dropout, fused_attention):
        super().__init__()
        self.attention = Attention(d_model, n_head, d_head, dropout, fused_attention)
        self.attention_norm = nn.LayerNorm(d_model)
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, d_inner),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(d_inner, d_model),
            nn.Dropout(dropout),
        )
        self.feed_forward_norm = nn.LayerNorm(d_model)

    def forward(self, h, mem, positions, u, v, mask):
        h = self.attention_norm(h + self.attention(h, mem, positions, u, v, mask))
        return self.feed_forward_norm(h + self.feed_forward(h))


class TorchTransformerXL(nn.Module):
    """Transformer-XL with LayerNorm after the blocks; `load` gives it the weights of minitxl."""

    def __init__(self, config, fused_attention=False):
        super().__init__()
        sizes = (config.d_model, config.n_head, config.d_head, config.d_inner, config.dropout)
        self.d_model, self.mem_len = config.d_model, config.mem_len
        self.embedding = nn.Embedding(config.n_token, config.d_model)
        self.out_bias = nn.Parameter(torch.zeros(config.n_token))
        self.u = nn.Parameter(torch.zeros(config.n_head, config.d_head))
        self.v = nn.Parameter(torch.zeros(config.n_head, config.d_head))
        self.layers = nn.ModuleList(Layer(*sizes, fused_attention) for _ in range(config.n_layer))
        self.dropout = nn.Dropout(config.dropout)
        self.tables = {}
        self.register_buffer(
            "frequency", 10000.0 ** (-torch.arange(0, config.d_model, 2) / config.d_model)
        )

    def forward(self, tokens, targets, mems):
        h = self.dropout(self.embedding(tokens) * self.d_model**0.5)
        n_query, n_mem = tokens.shape[1], mems[0].shape[1]
        positions, mask = self._tables(n_query, n_mem, h.device)
        positions = self.dropout(positions)
        new_mems = []
        for layer, mem in zip(self.layers, mems, strict=True):
            new_mems.append(torch.cat([mem, h.detach()], dim=1)[:, -self.mem_len :])
            h = layer(h, mem, positions, self.u, self.v, mask)
        logits = functional.linear(self.dropout(h), self.embedding.weight, self.out_bias)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten()), new_mems

    def _tables(self, n_query, n_mem, device):
        """R (K, D) and the additive mask (T, K), made once for each shape."""
        if (n_query, n_mem) not in self.tables:
            n_key = n_mem + n_query
            distance = torch.arange(n_key - 1, -1, -1.0, device=device)
            angle = torch.outer(distance, self.frequency)
            hidden = torch.ones(n_query, n_key, dtype=torch.bool, device=device).triu(1 + n_mem)
            mask = torch.zeros(n_query, n_key, device=device).masked_fill(hidden, float("-inf"))
            self.tables[n_query, n_mem] = torch.cat([angle.sin(), angle.cos()], dim=-1), mask
        return self.tables[n_query, n_mem]

    @torch.no_grad()
    def load(self, params):
        """Copy the weights of a minitxl model; nn.Linear stores the transpose."""

        def put(parameter, *arrays, transpose=False):
            array = np.concatenate([np.asarray(a) for a in arrays], axis=-1)
            parameter.copy_(torch.from_numpy(array.T.copy() if transpose else array))

        put(self.embedding.weight, params["word_emb"])
        put(self.out_bias, params["out_bias"])
        put(self.u, params["r_w_bias"])
        put(self.v, params["r_r_bias"])
        for n, layer in enumerate(self.layers):
            prefix = f"layers.{n}."
            p = {k.removeprefix(prefix): params[k] for k in params if k.startswith(prefix)}
            put(layer.attention.q.weight, p["attn.w_q"], transpose=True)
            put(layer.attention.kv.weight, p["attn.w_k"], p["attn.w_v"], transpose=True)
            put(layer.attention.r.weight, p["attn.w_r"], transpose=True)
            put(layer.attention.o.weight, p["attn.w_o"], transpose=True)
            put(layer.attention_norm.weight, p["attn_norm.gamma"])
            put(layer.attention_norm.bias, p["attn_norm.beta"])
            put(layer.feed_forward[0].weight, p["ff.w_1"], transpose=True)
            put(layer.feed_forward[0].bias, p["ff.b_1"])
            put(layer.feed_forward[3].weight, p["ff.w_2"], transpose=True)
            put(layer.feed_forward[3].bias, p["ff.b_2"])
            put(layer.feed_forward_norm.weight, p["ff_norm.gamma"])
            put(layer.feed_forward_norm.bias, p["ff_norm.beta"])


class TorchTrainer:
    """Forward, backward, clipping and Adam with the memories carried from step to step."""

    def __init__(self, model, config, batch_size, device="cpu"):
        self.model = model.to(device).train()
        self.optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
        shape = (batch_size, 0, config.d_model)
        self.mems = [torch.zeros(shape, device=device) for _ in range(config.n_layer)]
        self.device = device

    def step(self, tokens, targets):
        tokens = torch.from_numpy(tokens).long().to(self.device)
        targets = torch.from_numpy(targets).long().to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        loss, self.mems = self.model(tokens, targets, self.mems)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        return loss.detach()
