"""How much of each layer is kept, by how many of its weights stand out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from actprune.criteria.magnitude import Wanda
from actprune.errors import RecipeError
from actprune.evidence import InputMoments
from actprune.scopes import Share
from actprune.types import Evidence


@dataclass(frozen=True)
class Outliers:
    """Allocation: layers with more outliers keep more, within ``spread`` of the mean density on either side.

    times   an outlier's |w| ||x|| is more than so many times the mean of its block
    spread  the densities lie in an interval of twice this length, whose mean is the budget's density
    found   share of outliers by block, once all layers have been seen (``fit``)

    Layers of one block (the first number in their names, a transformer's layer) share one density.

    Source: Yin et al., Outlier Weighed Layerwise Sparsity (OWL), ICML 2024 (arXiv 2310.05175), section 3; times 5,
    spread 0.08 for its unstructured results.
    """

    times: float = 5.0
    spread: float = 0.08
    found: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.times > 0 or not 0 <= self.spread < 1:
            raise RecipeError(f"times={self.times!r}, spread={self.spread!r}: expected times > 0 and 0 <= spread < 1")

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """Second moments of every layer's inputs."""
        return (InputMoments(),)

    def fit(self, view: Any) -> Outliers:
        """With the shares of outliers of all blocks of an ``edit.View``."""
        blocks: dict[str, list[str]] = {}
        for name in view.names:
            blocks.setdefault(_block(name), []).append(name)
        return replace(self, found=tuple((block, self._share(view, names)) for block, names in blocks.items()))

    def _share(self, view: Any, names: Sequence[str]) -> float:
        """Of the weights of these layers, those whose score is above ``times`` the mean."""
        total, weights = 0.0, 0
        for name in names:
            score = Wanda().score(view.layer(name))
            total, weights = total + float(score.double().sum()), weights + score.numel()
        limit = self.times * total / weights
        return sum(int((Wanda().score(view.layer(name)) > limit).sum()) for name in names) / weights

    def densities(self, shares: Sequence[Share], target: int) -> list[Fraction]:
        """Kept fraction per layer: d + D_l - mean D, with D the shares of outliers brought to 0 .. 2 spread."""
        known = dict(self.found)
        values = [known[_block(share.name)] for share in shares]
        low, high = min(values), max(values)
        raised = [2 * self.spread * (value - low) / (high - low) if high > low else 0.0 for value in values]
        whole = sum(share.cost for share in shares)
        mean = sum(share.cost * each for share, each in zip(shares, raised, strict=True)) / whole
        return [Fraction(min(1.0, max(0.0, 1 - target / whole + each - mean))) for each in raised]


def _block(name: str) -> str:
    """Up to the first number in a name; all of it where there is none."""
    found = re.match(r"(?:.*?\.)??\d+(?=\.)", name)
    return found.group() if found else name
