"""Filters with the smallest L1 norm go, with their feature maps and whatever reads these.

    score(filter o of layer l)   sum over i, kh, kw of |W[o, i, kh, kw]|
    per layer                    the m_l filters with the smallest score; retrain

Source: Li, Kadav, Durdanovic, Samet, Graf. Pruning Filters for Efficient ConvNets. ICLR 2017 (arXiv 1608.08710),
section 3.1. Ranked independently of what is gone already (its first variant; in one shot, nothing is gone yet).

Deviations
  - the paper picks m_l by hand from a scan of each layer's sensitivity; here every layer loses the same share, unless
    ``at_most`` of the unit or ``skip=`` say otherwise;
  - residual blocks: the paper lets the shortcut's layer choose; here the largest of the layers that meet counts.
"""

from __future__ import annotations

from actprune.coupled import Channel
from actprune.criteria import Magnitude
from actprune.ranked import Ranked
from actprune.schedules import OneShot
from actprune.scopes import Scope
from actprune.types import Budget, Schedule, Unit


def l1_filters(
    sparsity: float = 0.5,
    *,
    budget: Budget | None = None,
    scope: Scope = "layer",
    unit: Unit = Channel(members="outputs"),  # noqa: B008  (frozen)
    schedule: Schedule | None = None,
    skip_output: bool = True,
    keep_at_least: int = 1,
    seed: int = 0,
) -> Ranked:
    """Whole coupled channels go, until ``sparsity`` of all parameters is gone, or what ``budget`` says."""
    return Ranked(
        name="l1_filters",
        criterion=Magnitude(),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        unit=unit,
        scope=scope,
        skip_output=skip_output,
        keep_at_least=keep_at_least,
        seed=seed,
    )
