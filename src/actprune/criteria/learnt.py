"""Ranking by a score that was trained."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from actprune.evidence import Learnt
from actprune.types import Evidence, Layer


@dataclass(frozen=True)
class LearntScore:
    """score = what the recipe's penalty learns beside each weight under this name."""

    name: str

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """The learnt tensor."""
        return (Learnt(self.name),)

    def score(self, layer: Layer) -> Tensor:
        """Shape of the weight."""
        return layer.evidence[self.name]
