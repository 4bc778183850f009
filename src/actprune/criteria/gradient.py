"""Criteria that need gradients, of the training loss or of an objective."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from actprune.evidence import Gradient, Objective
from actprune.types import Evidence, Layer


@dataclass(frozen=True)
class Saliency:
    """score = |w * dL/dw|: connection sensitivity, synaptic saliency.

    of  the objective L; None: the training loss

    Sources: Lee et al. 2019 (arXiv 1810.02340), eq. 4, for the loss (the paper divides by the sum over all weights; a
    ranking does not change by that, so it is left out); Tanaka et al. 2020 (arXiv 2006.05467), eq. 1, for any other.
    """

    of: Objective | None = None

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """The gradient, summed over batches: its sign counts until then."""
        return (Gradient(self.of),)

    def score(self, layer: Layer) -> Tensor:
        """Shape of the weight, in the wider of float32 and the types of weight and gradient."""
        weight, gradient = layer.weight, layer.evidence["gradient"]
        dtype = torch.promote_types(torch.promote_types(weight.dtype, gradient.dtype), torch.float32)
        return (weight.to(dtype) * gradient.to(dtype)).abs()


@dataclass(frozen=True)
class GradientMagnitude:
    """score = |dL/dw|: where a pruned weight would change the loss most. Source: Evci et al. 2020 (arXiv 1911.11134).

    of  the objective L; None: the training loss
    """

    of: Objective | None = None

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """The gradient, at pruned weights too."""
        return (Gradient(self.of),)

    def score(self, layer: Layer) -> Tensor:
        """Shape and dtype of the gradient."""
        return layer.evidence["gradient"].abs()
