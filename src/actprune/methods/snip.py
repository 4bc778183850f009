"""SNIP: prune once by connection sensitivity |w dL/dw|, normally before training.

Source: Lee, Ajanthan, Torr. SNIP: Single-Shot Network Pruning based on Connection Sensitivity. ICLR 2019
(arXiv 1810.02340), algorithm 1: one mini-batch, global ranking.

Deviations: the gradient is taken in evaluation mode (batch statistics and dropout are not disturbed), and may be
summed over as many batches as are shown; biases are not pruned (the authors' code prunes them).
"""

from __future__ import annotations

from actprune.criteria import Saliency
from actprune.ranked import Ranked
from actprune.schedules import OneShot
from actprune.scopes import Scope
from actprune.types import Budget, Schedule


def snip(
    sparsity: float = 0.9,
    *,
    budget: Budget | None = None,
    scope: Scope = "global",
    schedule: Schedule | None = None,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> Ranked:
    """Connection sensitivity |w dL/dw|, one global ranking, normally before training.

    Call ``loss.backward()`` inside ``pruner.observe()``; the engine keeps the gradients away from your optimizer.
    """
    return Ranked(
        name="snip",
        criterion=Saliency(),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        scope=scope,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        skip_output=skip_output,
        seed=seed,
    )
