"""L4: ``nn.MultiheadAttention`` with fewer heads than its width has room for."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _reshape(x: Tensor, sizes: list[int]) -> Tensor:
    """No size of the model's own code: nothing may rewrite it."""
    made: Tensor = torch.ops.aten.reshape.default(x, sizes)
    return made


class WidthAttention(nn.MultiheadAttention):
    """What PyTorch's attention computes, with ``num_heads`` heads of ``head_dim`` whatever the width of its input."""

    def forward(  # noqa: PLR0917  (the arguments of nn.MultiheadAttention)
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention``: the attended values, and the weights if they are needed."""
        single = query.dim() == 2
        if single:
            query, key, value = (each.unsqueeze(1) for each in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif self.batch_first:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        q, k, v = (self._heads(each) for each in self._projected(query, key, value))
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.head_dim)
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        weights = F.dropout(weights, self.dropout, self.training)
        mixed = (weights @ v).permute(2, 0, 1, 3)  # (target, batch, heads, head_dim)
        out = self.out_proj(_reshape(mixed, [mixed.shape[0], mixed.shape[1], -1]))
        if not need_weights:
            told = None
        else:
            told = weights.mean(1) if average_attn_weights else weights
            told = told.squeeze(0) if single else told
        if single:
            return out.squeeze(1), told
        return out.transpose(0, 1) if self.batch_first else out, told

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        weights: list[Tensor] = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        if self.in_proj_weight is not None:
            weights = _thirds(self.in_proj_weight)
        biases = [None, None, None] if self.in_proj_bias is None else _thirds(self.in_proj_bias)
        return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]

    def _heads(self, x: Tensor) -> Tensor:
        """``(length, batch, heads * head_dim)`` to ``(batch, heads, length, head_dim)``."""
        return _reshape(x, [x.shape[0], x.shape[1], self.num_heads, self.head_dim]).permute(1, 2, 0, 3)

    def _mask(self, q: Tensor, k: Tensor, padding: Tensor | None, attn_mask: Tensor | None) -> Tensor | None:
        found: Tensor | None = None
        if attn_mask is not None:
            found = _additive(attn_mask, q)
            if found.dim() == 3:  # (batch * heads, target, source)
                found = _reshape(found, [q.shape[0], -1, found.shape[1], found.shape[2]])
        if padding is not None:
            more = _additive(padding, q).unsqueeze(1).unsqueeze(1)
            found = more if found is None else found + more
        return found


def _thirds(packed: Tensor) -> list[Tensor]:
    """Of query, key and value."""
    return list(torch.ops.aten.chunk.default(packed, 3))


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """Minus infinity where a mask of booleans says so."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


def widen(module: Any) -> None:
    """Make an attention, whose tensors are smaller now, compute with them."""
    rows = module.q_proj_weight if module.in_proj_weight is None else module.in_proj_weight
    inner = rows.shape[0] if module.in_proj_weight is None else rows.shape[0] // 3
    if (inner, rows.shape[1]) == (module.num_heads * module.head_dim, module.embed_dim):
        return
    module.num_heads, module.embed_dim = inner // module.head_dim, rows.shape[1]
    module._qkv_same_embed_dim = False  # PyTorch's own layers would hand the tensors to a fused kernel otherwise
    if type(module) is nn.MultiheadAttention:
        module.__class__ = WidthAttention
