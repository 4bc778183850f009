"""Wanda: |w_ij| times the norm of input j, compared within each output row; no retraining needed.

Source: Sun, Liu, Bair, Kolter. A Simple and Effective Pruning Approach for Large Language Models. 2023
(arXiv 2306.11695), equation 1. ``scope=NM(2, 4)`` gives the paper's 2:4 variant.

Deviations
  - layers are scored on the dense model's inputs at once, not layer by layer behind already pruned ones;
  - the paper has no structured form. Coupled groups (``Channel()``, ``Head()``) are scored by the columns that read
    them, the mean of |w_ij| times the norm of input j, as the input's norm is that of the group.
"""

from __future__ import annotations

from actprune.criteria import Wanda
from actprune.rank.units import Weight
from actprune.ranked import Ranked
from actprune.schedules import OneShot
from actprune.scopes import Scope
from actprune.types import Budget, Schedule, Unit


def wanda(
    sparsity: float = 0.5,
    *,
    budget: Budget | None = None,
    scope: Scope | None = None,
    unit: Unit = Weight(),  # noqa: B008  (frozen)
    schedule: Schedule | None = None,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> Ranked:
    """|w| times the norm of its input; each row (output) loses the same fraction unless another scope is asked for.

    scope  left out: "row" for single weights, "layer" for units that are whole rows or more
    """
    return Ranked(
        name="wanda",
        criterion=Wanda(),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        unit=unit,
        scope=scope or ("row" if isinstance(unit, Weight) else "layer"),
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        skip_output=skip_output,
        seed=seed,
    )
