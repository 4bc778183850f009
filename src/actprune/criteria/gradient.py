"""Criteria that need gradients, of the training loss or of an objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from actprune.evidence import Gradient, HessianGradient, Objective, SquaredGradient
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


@dataclass(frozen=True)
class GradientFlow:
    """score = w * (H g), signed: what the squared norm of the gradient would lose without the weight, halved.

    Source: Wang, Zhang, Grosse 2020 (arXiv 2002.07376), eq. 8: the largest S = -w H g go, here the
    smallest w H g.
    """

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """The Hessian of the training loss times its gradient."""
        return (HessianGradient(),)

    def score(self, layer: Layer) -> Tensor:
        """Shape of the weight, in the wider of float32 and the types of weight and product."""
        weight, product = layer.weight, layer.evidence["hessian_gradient"]
        dtype = torch.promote_types(torch.promote_types(weight.dtype, product.dtype), torch.float32)
        return weight.to(dtype) * product.to(dtype)


@dataclass(frozen=True)
class Fisher:
    """score = w^2 * sum of (dL/dw)^2 over backward passes: what the loss gains without the weight, to second order.

    Sources: LeCun, Denker, Solla 1989, eq. 5 (s = h w^2 / 2), with the diagonal of the empirical Fisher matrix for h.
    """

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """Squares of the training loss's gradient."""
        return (SquaredGradient(),)

    def score(self, layer: Layer) -> Tensor:
        """Shape of the weight, float64."""
        return layer.weight.double().square() * layer.evidence["gradient_square"].double()


@dataclass(frozen=True)
class Taylor:
    """score = (sum over the neuron of w dL/dw)^2, the same for all its weights. Meant for whole neurons (``Neuron()``).

    Source: Molchanov et al. 2019 (arXiv 1906.10771), eq. 8, on the gradient summed over batches.
    """

    members: ClassVar[tuple[str, ...]] = ("inputs", "outputs", "all")
    """Over the weights that read a neuron, the sum is the loss's change when its activation is 0, with norm and bias.
    A norm behind a neuron's own weights makes their sum next to nothing: the loss hardly depends on their scale.
    """

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """The gradient of the training loss."""
        return (Gradient(),)

    def score(self, layer: Layer) -> Tensor:
        """``(out, in, *kernel)`` float64, an expanded view."""
        weight = layer.weight
        return self.lines(layer, 0).view(-1, *[1] * (weight.dim() - 1)).expand(weight.shape)

    def lines(self, layer: Layer, axis: int) -> Tensor:
        """The same of each line along ``axis``: a neuron's own weights or those that read it. Float64 ``(length,)``."""
        change = layer.weight.double() * layer.evidence["gradient"].double()
        return change.movedim(axis, 0).flatten(1).sum(1).square()
