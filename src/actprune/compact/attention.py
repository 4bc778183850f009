"""L4: ``nn.MultiheadAttention`` with fewer heads than its width has room for."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _reshape(x: Tensor, sizes: list[int]) -> Tensor:
    """No size of the model's own code: nothing may rewrite it."""
    made: Tensor = torch.ops.aten.reshape(x, sizes)
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
            query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        query, key, value = self._projected(query, key, value)
        q, k, v = self._heads(query), self._heads(key), self._heads(value)
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.head_dim)
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        weights = F.dropout(weights, self.dropout, self.training)
        mixed = (weights @ v).permute(2, 0, 1, 3)  # (target, batch, heads, head_dim)
        out = self.out_proj(_reshape(mixed, [mixed.shape[0], mixed.shape[1], -1]))
        told: Tensor | None = None
        if need_weights:
            shown = weights.mean(1) if average_attn_weights else weights
            told = shown.squeeze(0) if single else shown
        if single:
            return out.squeeze(1), told
        return out.transpose(0, 1) if self.batch_first else out, told

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Written out, as everything here, in what TorchScript understands."""
        if self.in_proj_weight is not None:
            of_query, of_key, of_value = _thirds(self.in_proj_weight)
        else:
            of_query, of_key, of_value = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight  # type: ignore[unreachable]
        if self.in_proj_bias is not None:
            first, second, third = _thirds(self.in_proj_bias)
            return F.linear(query, of_query, first), F.linear(key, of_key, second), F.linear(value, of_value, third)
        return F.linear(query, of_query), F.linear(key, of_key), F.linear(value, of_value)  # type: ignore[unreachable]

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


def _thirds(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of query, key and value."""
    parts = torch.ops.aten.chunk(packed, 3)
    return parts[0], parts[1], parts[2]


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
