"""LAMP: layer-adaptive magnitude pruning.

Source: J. Lee, S. Park, S. Mo, S. Ahn, J. Shin. Layer-adaptive Sparsity for the Magnitude-based Pruning. ICLR 2021
(arXiv 2010.07611).

    score(w) = w^2 / sum of v^2 over the weights v of the same layer with |v| >= |w|
    one global threshold on the scores

Deviation: equal magnitudes share one sum (the authors' code sorts them in some order).
"""

from __future__ import annotations

from actprune.criteria import Lamp
from actprune.ranked import Ranked
from actprune.schedules import OneShot
from actprune.types import Budget, Schedule


def lamp(
    sparsity: float = 0.9,
    *,
    budget: Budget | None = None,
    schedule: Schedule | None = None,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> Ranked:
    """Magnitude, weighed against what its layer keeps; no layer is emptied."""
    return Ranked(
        name="lamp",
        criterion=Lamp(),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        scope="global",
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        skip_output=skip_output,
        seed=seed,
    )
