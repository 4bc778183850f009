"""Relative importance: a weight beside those of its own row and column."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from actprune.criteria.magnitude import Wanda
from actprune.errors import RecipeError
from actprune.evidence import InputMoments
from actprune.types import Evidence, Layer


@dataclass(frozen=True)
class RelativeImportance:
    """score(w_ij) = (|w_ij| / sum_j |w_ij| + |w_ij| / sum_i |w_ij|) * ||x_j||_2^power.

    Source: Zhang et al., Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models, ICLR 2024,
    eq. 3 and 4 (RIA); power 0.5. For a conv the sums run over the kernel as well (the paper has linear layers only).
    """

    power: float = 0.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.power) and self.power >= 0):
            raise RecipeError(f"power={self.power!r}: expected a finite number of at least 0; the paper has 0.5")

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """Second moments of the layer's inputs."""
        return (InputMoments(),)

    def score(self, layer: Layer) -> Tensor:
        """Shape of the weight, float64; 0 in rows and columns of nothing but zeros."""
        size = layer.weight.double().abs()
        rest = [axis for axis in range(size.dim()) if axis != 1]
        of_row = size.sum(tuple(range(1, size.dim())), keepdim=True)
        of_column = size.sum(rest, keepdim=True)
        relative = size / of_row.clamp_min(_TINY) + size / of_column.clamp_min(_TINY)
        return relative * Wanda.norms(layer).double() ** self.power


_TINY = 1e-300
