"""APoZ: average percentage of zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from actprune.evidence import Firing
from actprune.types import Evidence, Layer


def apoz(layer: Layer) -> Tensor:
    """Share of zero activations per neuron, ``(out,)`` float64 in 0..1, over examples and positions.

    Source: Hu et al. 2016 (arXiv 1607.03250), eq. 1.
    """
    rows = layer.evidence["rows"].double()
    return (rows - layer.evidence["fired"]) / rows


@dataclass(frozen=True)
class Apoz:
    """score = 1 - APoZ of the neuron, the same for all its weights. Meant for whole neurons (``unit=Neuron()``).

    fires_above: count |activations| > this, for activations that are never exactly zero.
    """

    fires_above: float | None = None

    members: ClassVar[tuple[str, ...]] = ("outputs",)
    """It says nothing of the weights that read a neuron."""

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """The firing counts."""
        return (Firing(self.fires_above),)

    def score(self, layer: Layer) -> Tensor:
        """``(out, in, *kernel)``, an expanded view."""
        weight = layer.weight
        keep = 1.0 - apoz(layer).to(weight.device)
        return keep.view(-1, *[1] * (weight.dim() - 1)).expand(weight.shape)
