"""Network slimming: channels with the smallest scale in the BatchNorm behind them go.

    train      with an L1 penalty on the scales: loss + strength * sum of |gamma|
    score(c)   |gamma_c|
    prune      the lowest of the whole network; fine-tune

Source: Liu, Li, Shen, Huang, Yan, Zhang. Learning Efficient Convolutional Networks through Network Slimming. ICCV 2017
(arXiv 1708.06519), section 3.

Deviations: the penalty is your loop's (the scales are no weights of layers, which penalties here are of). Channels that
meet in residual sums have several scales, which are averaged; the paper selects behind each norm instead. The scales of
LayerNorm, GroupNorm and RMSNorm count, too. A layer without a norm behind it stays, and the report says so.
"""

from __future__ import annotations

from actprune.coupled import Channel
from actprune.criteria import NormScale
from actprune.ranked import Ranked
from actprune.schedules import OneShot
from actprune.scopes import Scope
from actprune.types import Budget, Schedule, Unit


def slimming(
    sparsity: float = 0.5,
    *,
    budget: Budget | None = None,
    scope: Scope = "global",
    unit: Unit = Channel(normalize=False),  # noqa: B008  (frozen)
    schedule: Schedule | None = None,
    keep_at_least: int = 1,
    seed: int = 0,
) -> Ranked:
    """Whole coupled channels go, until ``sparsity`` of all parameters is gone, or what ``budget`` says."""
    return Ranked(
        name="slimming",
        criterion=NormScale(),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        unit=unit,
        scope=scope,
        skip_output=True,
        keep_at_least=keep_at_least,
        seed=seed,
    )
