"""Wanda: |w_ij| times the norm of input j, compared within each output row; no retraining needed.

Source: Sun, Liu, Bair, Kolter. A Simple and Effective Pruning Approach for Large Language Models. 2023
(arXiv 2306.11695), equation 1. ``unit=NM(2, 4)`` gives the paper's 2:4 variant.

Deviation: layers are scored on the dense model's inputs at once, not layer by layer behind already pruned ones.
"""

from __future__ import annotations

from actprune.criteria import Wanda
from actprune.recover import Keep
from actprune.schedules import OneShot
from actprune.types import Budget, Recipe, Schedule, Scope, Unit, Weight


def wanda(
    sparsity: float = 0.5,
    *,
    scope: Scope = "row",
    unit: Unit = Weight(),  # noqa: B008  (frozen)
    schedule: Schedule | None = None,
    skip_output: bool = False,
    seed: int = 0,
) -> Recipe:
    """|w| times the norm of its input; each row (output) loses the same fraction unless another scope is asked for."""
    return Recipe(
        name="wanda",
        criterion=Wanda(),
        budget=Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        recovery=Keep(),
        unit=unit,
        scope=scope,
        skip_output=skip_output,
        seed=seed,
    )
