"""L4: which rank each layer gets.

Two factors of rank k hold k (m + n) weights instead of m n: they pay only if k < m n / (m + n).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from actprune.analysis import matrix, singular_values
from actprune.errors import BudgetError, RecipeError


def largest_rank(weight: Tensor) -> int:
    """The largest rank whose factors hold fewer weights than the weight ``(m, n)`` itself; 0 when none does."""
    rows, columns = matrix(weight).shape
    return max((rows * columns - 1) // (rows + columns), 0) if rows and columns else 0


def energy_ranks(model: nn.Module, names: Sequence[str], energy: float) -> dict[str, int]:
    """By weight name the least k with ``sum_{i<=k} s_i^2 >= energy * sum s_i^2``, at least 1.

    energy: 0 < energy <= 1. Raises RecipeError otherwise.
    """
    if not 0 < energy <= 1:
        raise RecipeError(f"energy={energy} cannot be used; expected a fraction 0 < energy <= 1, such as 0.9")
    return {name: _rank(_shares(model.get_parameter(name)), energy) for name in names}


def ranks_within(model: nn.Module, names: Sequence[str], budget: int) -> dict[str, int]:
    """Ranks by weight name whose factors together hold at most ``budget`` weights: the same energy for every layer.

    The energy is the largest that fits (to within 1e-6); what is left then goes, rank by rank, to the layer that has
    lost most of its energy. Raises BudgetError when even rank 1 everywhere is too much.
    """
    shares = {name: _shares(model.get_parameter(name)) for name in names}
    sides = {name: sum(matrix(model.get_parameter(name)).shape) for name in names}
    least = sum(sides.values())
    if least > budget:
        raise BudgetError(f"{budget} weights for factors of {list(names)}; rank 1 in each already takes {least}")
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        taken = sum(sides[name] * _rank(shares[name], middle) for name in names)
        low, high = (middle, high) if taken <= budget else (low, middle)
    ranks = {name: _rank(shares[name], low) for name in names}
    return _spend(ranks, shares, sides, budget - sum(sides[name] * ranks[name] for name in names))


def _spend(ranks: dict[str, int], shares: Mapping[str, Tensor], sides: Mapping[str, int], left: int) -> dict[str, int]:
    """One more rank where most is lost, as long as anything fits."""
    while True:
        fits = [name for name in ranks if sides[name] <= left and ranks[name] < len(shares[name])]
        if not fits:
            return ranks
        neediest = max(fits, key=lambda name: 1 - float(shares[name][ranks[name] - 1]))
        ranks[neediest] += 1
        left -= sides[neediest]


def _shares(weight: Tensor) -> Tensor:
    """Share of the energy in the first k singular values, k = 1, 2, ..; float64."""
    energies = singular_values(weight).square()
    total = energies.sum()
    return energies.cumsum(0) / total if total > 0 else torch.ones_like(energies)


def _rank(shares: Tensor, energy: float) -> int:
    return min(int((shares < energy - 1e-12).sum()) + 1, len(shares))
