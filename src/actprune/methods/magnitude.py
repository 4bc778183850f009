"""Magnitude pruning: remove the smallest |w|.

Source: Han et al. 2015 (arXiv 1506.02626) for the criterion, kept weights continue from their values; Zhu & Gupta 2017
(arXiv 1710.01878) for the gradual schedule (``schedule=Cubic(...)``); ERK allocation: Evci et al. 2020
(arXiv 1911.11134).

Deviation from Han 2015: thresholds come from a budget, not from q x std of a layer.
"""

from __future__ import annotations

from actprune.criteria import Magnitude
from actprune.recover import Keep
from actprune.schedules import OneShot
from actprune.types import Allocation, Budget, Recipe, Recovery, Schedule, Scope, Unit, Weight


def magnitude(
    sparsity: float = 0.9,
    *,
    scope: Scope = "global",
    allocation: Allocation = "uniform",
    unit: Unit = Weight(),  # noqa: B008  (frozen)
    schedule: Schedule | None = None,
    recovery: Recovery | None = None,
    skip_output: bool = False,
    remove_dead: bool = False,
    seed: int = 0,
) -> Recipe:
    """|w|, global by default. ``scope="layer", allocation="erk"`` is the layer-wise Erdos-Renyi-kernel variant."""
    return Recipe(
        name="magnitude",
        criterion=Magnitude(),
        budget=Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        recovery=recovery or Keep(),
        unit=unit,
        scope=scope,
        allocation=allocation,
        skip_output=skip_output,
        remove_dead=remove_dead,
        seed=seed,
    )
