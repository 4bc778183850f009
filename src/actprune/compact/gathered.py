"""L4: a Linear that reads only some of its inputs."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from actprune.errors import CompactionError


class GatheredLinear(nn.Linear):
    """``x[..., columns] @ weight.T + bias``: takes the full ``features`` inputs, and reads those in ``columns``.

    The choice is a hook before the layer, so that whoever looks at the layer's input sees what its weight reads.
    """

    columns: Tensor
    features: int

    @classmethod
    def of(cls, layer: nn.Module, columns: Tensor) -> Self:
        """Take the place of ``layer``; its weight is replaced afterwards. Raises CompactionError for other layers."""
        if type(layer) is GatheredLinear and isinstance(layer, cls):
            return layer
        if type(layer) is not nn.Linear:
            raise CompactionError(f"inputs cannot be left out in front of a {type(layer).__name__}; use gather=False")
        new = cls.__new__(cls)
        new.__dict__.update(layer.__dict__)  # with its hooks and whatever else was put on it
        new.features = layer.in_features
        new.register_buffer("columns", columns)
        new.register_forward_pre_hook(_chosen, prepend=True)
        return new

    def extra_repr(self) -> str:
        """As ``nn.Linear``, with the number of inputs read."""
        return f"in_features={self.features} (reads {len(self.columns)}), out_features={self.out_features}"


def _chosen(layer: GatheredLinear, args: tuple[Tensor, ...]) -> Tensor:
    """``(..., features)`` to ``(..., in)``."""
    return torch.index_select(args[0], -1, layer.columns)
