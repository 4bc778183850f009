"""Retraining more gently: a lower learning rate, a lower dropout rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from actprune.edit import Edit, View
from actprune.errors import RecipeError


@dataclass(frozen=True)
class LowerRate:
    """A factor on the learning rate from the first pruning step on (Han et al. 2015: 0.1 for the LeNets).

    The loop is the user's: it reads the factor from ``pruner.lr_scale``.
    """

    lr_scale: float = 0.1

    def __post_init__(self) -> None:
        if not self.lr_scale > 0:
            raise RecipeError(f"LowerRate({self.lr_scale!r}): expected a factor above 0, such as 0.1")

    def repair(self, view: View, edit: Edit) -> Edit:
        """The weights stay as they are."""
        return edit


@dataclass(frozen=True)
class RescaleDropout:
    """Dropout rates are multiplied by sqrt(kept weights / all weights). Source: Han et al. 2015, eq. 1 and 2.

    All weights are those of the layers to be pruned, as a dropout module belongs to no one layer.
    """

    def repair(self, view: View, edit: Edit) -> Edit:
        """Every rate, from its original value."""
        total = sum(math.prod(facts.shape) for facts in view.facts)
        removed = sum(mask.numel() - int(mask.sum()) for mask in edit.masks.values())
        factor = math.sqrt(1 - removed / total)
        return edit._replace(dropout={**edit.dropout, **{path: p * factor for path, p in view.dropout.items()}})
