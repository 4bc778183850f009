"""SNIP: prune once by connection sensitivity |w dL/dw|, normally before training.

Source: Lee, Ajanthan, Torr. SNIP: Single-Shot Network Pruning based on Connection Sensitivity. ICLR 2019
(arXiv 1810.02340), algorithm 1: one mini-batch, global ranking.

Deviations: the gradient is taken in evaluation mode (batch statistics and dropout are not disturbed), and may be
summed over as many batches as are shown; biases are not pruned (the authors' code prunes them).
"""

from __future__ import annotations

from actprune.criteria import Snip
from actprune.recover import Keep
from actprune.schedules import OneShot
from actprune.types import Budget, Recipe, Schedule, Scope


def snip(
    sparsity: float = 0.9,
    *,
    scope: Scope = "global",
    schedule: Schedule | None = None,
    skip_output: bool = False,
    seed: int = 0,
) -> Recipe:
    """Connection sensitivity |w dL/dw|, one global ranking, normally before training.

    Call ``loss.backward()`` inside ``pruner.observe()``; the engine keeps the gradients away from your optimizer.
    """
    return Recipe(
        name="snip",
        criterion=Snip(),
        budget=Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        recovery=Keep(),
        scope=scope,
        skip_output=skip_output,
        seed=seed,
    )
