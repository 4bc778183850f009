"""Criteria that need gradients of the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from actprune.types import Need, Signals


@dataclass(frozen=True)
class Snip:
    """score = |w * dL/dw|, connection sensitivity. Source: Lee et al. 2019 (arXiv 1810.02340), eq. 4.

    The paper divides by the sum over all weights; a ranking does not change by that, so it is left out.
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        """The gradient of the loss, summed over the batches of ``observe()``."""
        return (Need("gradient"),)

    def score(self, signals: Signals) -> Tensor:
        """Shape of the weight, float32 (float64 for float64 weights)."""
        assert signals.gradient is not None  # the engine has checked the need
        dtype = torch.float64 if signals.weight.dtype == torch.float64 else torch.float32
        return (signals.weight.to(dtype) * signals.gradient.to(dtype)).abs()
