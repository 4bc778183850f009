"""Filter pruning by the geometric median (FPGM): neurons that are most like the others go.

    score(i)   sum over the neurons j of the layer of ||w_i - w_j||_2
    prune      the lowest scores; retrain

Source: He, Liu, Wang, Hu, Yang. Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
Acceleration. CVPR 2019 (arXiv 1811.00250), eq. 6 and algorithm 1.

Deviations: the paper prunes softly, the same share of every layer after each epoch, and lets filters come back; here
what is pruned stays pruned (``schedule=`` prunes in steps), and units that meet in residual sums go together.
"""

from __future__ import annotations

from actprune.coupled import Channel
from actprune.criteria import GeometricMedian
from actprune.ranked import Ranked
from actprune.schedules import OneShot
from actprune.scopes import Scope
from actprune.types import Budget, Schedule, Unit


def geometric_median(
    sparsity: float = 0.5,
    *,
    budget: Budget | None = None,
    scope: Scope = "layer",
    unit: Unit = Channel(),  # noqa: B008  (frozen)
    schedule: Schedule | None = None,
    skip_output: bool = True,
    keep_at_least: int = 1,
    seed: int = 0,
) -> Ranked:
    """Whole coupled channels go, until ``sparsity`` of all parameters is gone, or what ``budget`` says."""
    return Ranked(
        name="geometric_median",
        criterion=GeometricMedian(),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        unit=unit,
        scope=scope,
        skip_output=skip_output,
        keep_at_least=keep_at_least,
        seed=seed,
    )
