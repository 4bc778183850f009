"""Criteria with hysteresis: a weight that is there stays more easily than one that is gone comes back."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from actprune.errors import RecipeError
from actprune.evidence import WeightMoments
from actprune.types import Evidence, Layer


@dataclass(frozen=True)
class Hysteresis:
    """score = |w| / b, b = 1 - band for a weight that is kept now and 1 + band for one that is pruned.

    Source: the two thresholds 0.9 t and 1.1 t of dynamic network surgery (Guo et al. 2016, arXiv 1608.04493): cut at t,
    a kept weight goes when |w| <= 0.9 t, a pruned one returns when |w| > 1.1 t. Ranked, it meets an exact budget.
    """

    band: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.band < 1:
            raise RecipeError(f"a band of {self.band!r} cannot be used; expected 0 <= band < 1, such as 0.1")

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """Nothing but the weight and the current mask."""
        return ()

    def score(self, layer: Layer) -> Tensor:
        """Shape of the weight, float32 (float64 for float64 weights)."""
        dtype = torch.float64 if layer.weight.dtype == torch.float64 else torch.float32
        magnitude = layer.weight.abs().to(dtype)
        if layer.mask is None:
            return magnitude
        kept = layer.mask.to(magnitude.device)
        return torch.where(kept, magnitude / (1 - self.band), magnitude / (1 + self.band))


@dataclass(frozen=True)
class HysteresisOverThreshold(Hysteresis):
    """The same in units of the layer's threshold t = max(mu + c * sd, 0), mu and sd the mean and deviation of |w|.

    Both are taken at the first pruning and frozen then, over the layer's weights. Cut at 1, this is the published rule.
    c_rates: pairs of fnmatch pattern of a weight name and c; everything else has ``c_rate``.
    """

    c_rate: float = 1.0
    c_rates: tuple[tuple[str, float], ...] = ()

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """Moments of the weights at the first pruning."""
        return (WeightMoments(),)

    def threshold(self, layer: Layer) -> Tensor:
        """The layer's t, a float64 scalar."""
        count = layer.evidence["weights"].double()
        mean = layer.evidence["weights_abs"].double() / count
        deviation = (layer.evidence["weights_square"].double() / count - mean**2).clamp_min(0).sqrt()
        c = next((c for pattern, c in self.c_rates if fnmatchcase(layer.name, pattern)), self.c_rate)
        return (mean + c * deviation).clamp_min(torch.finfo(torch.float64).tiny)

    def score(self, layer: Layer) -> Tensor:
        """Shape of the weight, float64."""
        return super().score(layer).double() / self.threshold(layer).to(layer.weight.device)
