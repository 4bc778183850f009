"""Magnitude pruning: remove the smallest |w|.

Source: Han et al. 2015 (arXiv 1506.02626) for the criterion, kept weights continue from their values; Zhu & Gupta 2017
(arXiv 1710.01878) for the gradual schedule (``schedule=Cubic(...)``); ERK allocation: Evci et al. 2020
(arXiv 1911.11134).

Deviation from Han 2015: thresholds come from a budget, not from q x std of a layer.
"""

from __future__ import annotations

from actprune.criteria import Magnitude
from actprune.edit import Repair
from actprune.rank.units import Weight
from actprune.ranked import Ranked
from actprune.repair import RemoveDead
from actprune.schedules import OneShot
from actprune.scopes import Allocation, Scope
from actprune.types import Budget, Schedule, Unit


def magnitude(
    sparsity: float = 0.9,
    *,
    budget: Budget | None = None,
    scope: Scope = "global",
    allocation: Allocation = "uniform",
    unit: Unit = Weight(),  # noqa: B008  (frozen)
    schedule: Schedule | None = None,
    repairs: tuple[Repair, ...] = (),
    skip_output: bool = False,
    remove_dead: bool = False,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    seed: int = 0,
) -> Ranked:
    """|w|, global by default. ``scope="layer", allocation="erk"`` is the layer-wise Erdos-Renyi-kernel variant."""
    return Ranked(
        name="magnitude",
        criterion=Magnitude(),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        repairs=((RemoveDead(),) if remove_dead else ()) + repairs,
        unit=unit,
        scope=scope,
        allocation=allocation,
        skip_output=skip_output,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        seed=seed,
    )
