"""L4: a Linear that reads only some of its inputs."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actprune.errors import CompactionError


class GatheredLinear(nn.Linear):
    """``x[..., columns] @ weight.T + bias``: takes the full ``features`` inputs, and reads those in ``columns``."""

    columns: Tensor
    features: int

    @classmethod
    def of(cls, layer: nn.Module, columns: Tensor) -> Self:
        """Take the place of ``layer``; its weight is replaced afterwards. Raises CompactionError for other layers."""
        if type(layer) is GatheredLinear and isinstance(layer, cls):
            return layer
        if type(layer) is not nn.Linear:
            raise CompactionError(f"inputs cannot be left out in front of a {type(layer).__name__}; use gather=False")
        new = cls(1, 1, bias=layer.bias is not None)
        new.weight, new.bias = layer.weight, layer.bias
        new.features = layer.in_features
        new.register_buffer("columns", columns)
        new.training = layer.training
        return new

    def forward(self, input: Tensor) -> Tensor:
        """``(..., features)`` to ``(..., out)``."""
        return F.linear(torch.index_select(input, -1, self.columns), self.weight, self.bias)

    def extra_repr(self) -> str:
        """As ``nn.Linear``, with the number of inputs read."""
        return f"in_features={self.features} (reads {len(self.columns)}), out_features={self.out_features}"
