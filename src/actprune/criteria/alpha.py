"""L1: ranking by what variational dropout has learnt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from actprune.errors import ModelError
from actprune.evidence import Learnt
from actprune.types import Evidence, Layer

_EPS = 1e-8  # as in the penalty that learns log_sigma2


@dataclass(frozen=True)
class LogAlpha:
    """score = -log alpha = log(theta^2 + 1e-8) - log sigma2. Source: Molchanov et al. 2017 (arXiv 1701.05369).

    Alpha is the variance of a weight over its squared mean; where log alpha is above 3 it is mostly noise (a dropout
    rate alpha / (1 + alpha) of 0.95) and may go.
    """

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """``log_sigma2``, learnt by ``penalties.VariationalDropout``."""
        return (Learnt("log_sigma2"),)

    def score(self, layer: Layer) -> Tensor:
        """Shape of the weight, float32 (float64 for float64 weights). Raises ModelError for NaN in ``log_sigma2``."""
        if "log_sigma2" not in layer.evidence:
            raise ModelError(
                f"log alpha of {layer.name} was asked, but its penalty learns {sorted(layer.evidence)} and no "
                "log_sigma2; use penalties.VariationalDropout with this criterion"
            )
        log_sigma2 = layer.evidence["log_sigma2"]
        if bool(torch.isnan(log_sigma2).any()):
            raise ModelError(
                f"log_sigma2 of {layer.name} holds {int(torch.isnan(log_sigma2).sum())} NaN; training has diverged: "
                "use a smaller learning rate"
            )
        return torch.log(layer.weight.to(log_sigma2.dtype).square() + _EPS) - log_sigma2
