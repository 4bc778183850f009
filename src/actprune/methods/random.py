"""Random pruning: the baseline that every criterion must beat."""

from __future__ import annotations

from actprune.criteria import Random
from actprune.recover import Keep
from actprune.schedules import OneShot
from actprune.types import Allocation, Budget, Recipe, Schedule, Scope, Unit, Weight


def random(
    sparsity: float = 0.9,
    *,
    scope: Scope = "layer",
    allocation: Allocation = "uniform",
    unit: Unit = Weight(),  # noqa: B008  (frozen)
    schedule: Schedule | None = None,
    skip_output: bool = False,
    remove_dead: bool = False,
    seed: int = 0,
) -> Recipe:
    """Uniformly random weights, the same fraction in every layer unless ``scope="global"`` or ``allocation="erk"``."""
    return Recipe(
        name="random",
        criterion=Random(),
        budget=Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        recovery=Keep(),
        unit=unit,
        scope=scope,
        allocation=allocation,
        skip_output=skip_output,
        remove_dead=remove_dead,
        seed=seed,
    )
