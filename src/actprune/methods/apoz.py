"""Network trimming: remove the neurons whose activation is most often zero (APoZ).

Source: Hu, Peng, Tai, Tang. Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep
Architectures. 2016 (arXiv 1607.03250), equation 1; iterate and retrain from the remaining weights.

Deviation: the number of neurons removed comes from a budget, not from a threshold on APoZ set by hand per layer.
"""

from __future__ import annotations

from actprune.criteria import Apoz
from actprune.rank.units import Neuron
from actprune.ranked import Ranked
from actprune.schedules import OneShot
from actprune.scopes import Scope
from actprune.types import Budget, Schedule, Unit


def apoz(
    sparsity: float = 0.5,
    *,
    budget: Budget | None = None,
    scope: Scope = "layer",
    unit: Unit = Neuron(),  # noqa: B008  (frozen)
    schedule: Schedule | None = None,
    fires_above: float | None = None,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    seed: int = 0,
) -> Ranked:
    """Whole neurons or channels with the highest share of zeros go; the output layer is left alone.

    unit  ``Channel()``: with all that can only go together
    """
    return Ranked(
        name="apoz",
        criterion=Apoz(fires_above),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        unit=unit,
        scope=scope,
        skip_output=True,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        seed=seed,
    )
