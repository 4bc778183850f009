"""Random pruning: the baseline that every criterion must beat."""

from __future__ import annotations

from actprune.criteria import Random
from actprune.rank.units import Weight
from actprune.ranked import Ranked
from actprune.repair import RemoveDead
from actprune.schedules import OneShot
from actprune.scopes import Allocation, Scope
from actprune.types import Budget, Schedule, Unit


def random(
    sparsity: float = 0.9,
    *,
    budget: Budget | None = None,
    scope: Scope = "layer",
    allocation: Allocation = "uniform",
    unit: Unit = Weight(),  # noqa: B008  (frozen)
    schedule: Schedule | None = None,
    skip_output: bool = False,
    remove_dead: bool = False,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    seed: int = 0,
) -> Ranked:
    """Uniformly random weights, the same fraction in every layer unless ``scope="global"`` or ``allocation="erk"``."""
    return Ranked(
        name="random",
        criterion=Random(),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        unit=unit,
        scope=scope,
        allocation=allocation,
        skip_output=skip_output,
        repairs=(RemoveDead(),) if remove_dead else (),
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        seed=seed,
    )
