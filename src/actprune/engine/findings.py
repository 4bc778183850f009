"""What can be wrong with an observation, in words: what was asked, what was found, what to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from actprune.errors import ObservationError, RecipeError
from actprune.graph import Site
from actprune.stats import SHARED
from actprune.types import Statistic

DEAF = (
    "no batch was observed: the loader was empty, or the model itself was not called inside the block (hooks never "
    "fire for a part of it, a copy, or a version compiled inside the block); send at least one batch through the model "
    "that was given to the pruner"
)
FAILED = (
    "a forward pass failed inside the block, which left its batch half counted, so nothing was counted; leave out the "
    "batch that failed"
)


def check_distinct(statistics: Sequence[Statistic]) -> None:
    """Raise RecipeError: two statistics may not write the same sums (firing above two different thresholds)."""
    taken: dict[str, Statistic] = {}
    for statistic in statistics:
        for key in statistic.init(1, torch.zeros(1)).keys() - SHARED:
            if key in taken:
                raise RecipeError(f"{taken[key]} and {statistic} both sum {key!r}; ask for one of them")
            taken[key] = statistic


def raise_unsound(names: Sequence[str]) -> None:
    """Raise ObservationError if there are layers with NaN or Inf, the first in execution order by name."""
    if names:
        raise ObservationError(
            f"activations of {names[0]} are NaN or Inf"
            + (f" (and those of {len(names) - 1} more layers)" if len(names) > 1 else "")
            + "; nothing was counted: check the data for NaN, and whether training has diverged"
        )


def never_reached(names: Sequence[str], batches: int) -> str:
    """The message for layers that no batch went through."""
    paths = [name.removesuffix(".weight") for name in names]
    return (
        f"no data reached {', '.join(names)} in {batches} batches; send data that does through the model, do not "
        f"compile parts of it before counting, or leave the layer out: skip={paths}"
    )


def never_zero(site: Site) -> str:
    """The message for a non-zero count that would be the same for every neuron."""
    what = (
        "no non-linearity that we know follows it"
        if site.operation == "none"
        else f"its activation is {site.operation}"
    )
    return (
        f"{site.layer}: {what}, so it is never exactly zero and every neuron would count as firing on every example; "
        "give a threshold above which a neuron fires, fires_above=0.0 for instance, or leave the layer out: "
        f"skip=[{site.layer.removesuffix('.weight')!r}]"
    )
