"""What competes: one set of units, what they cost, which of them take part, how they are scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from actprune.errors import RecipeError
from actprune.rank.threshold import Scored, competing_cost, lowest
from actprune.scopes import Share

Read = Callable[[str], Tensor]
"""Scores of a layer by its name, ``(out, in, *kernel)``."""


@dataclass(frozen=True)
class Candidates:
    """The units of one layer.

    unit: turns scores into unit scores and decisions into masks. price: cost of one weight. mask: current mask or
    None. cost: of every unit, one int or int64 shaped like the unit scores. alive: bool, units that compete, or None =
    all. removable: cost that may be removed in all, ``gone`` included.
    """

    name: str
    shape: tuple[int, ...]
    unit: Any
    price: int
    mask: Tensor | None
    cost: Tensor | int
    alive: Tensor | None
    removable: int
    device: torch.device
    output: bool = False

    @property
    def total(self) -> int:
        """Cost of all weights."""
        return math.prod(self.shape) * self.price

    @property
    def gone(self) -> int:
        """Cost of the weights that the current mask has removed already."""
        return 0 if self.mask is None else removed_weights(self.mask) * self.price

    @property
    def share(self) -> Share:
        """The candidates as an allocation sees them."""
        return Share(self.name, self.shape, self.total, self.gone, self.removable, self.output)

    def scores(self, read: Read) -> Tensor:
        """Unit scores."""
        scores: Tensor = self.unit.scores(read(self.name))
        return scores

    def scored(self, scores: Tensor) -> Scored:
        """The candidates as the threshold sees them."""
        cost = self.cost if isinstance(self.cost, int) else self.cost.to(scores.device)
        return Scored(self.name, scores, cost, None if self.alive is None else self.alive.to(scores.device))

    def sparing_best(self, units: int, scores: Tensor, seed: int) -> Candidates:
        """The same ones, their ``units`` best out of the ranking."""
        scored = self.scored(scores)._replace(cost=1)
        competing = scores.numel() if self.alive is None else int(torch.count_nonzero(self.alive))
        alive = lowest(lambda: [scored], max(0, competing - units), seed).removed[self.name]
        left = competing_cost(self.scored(scores)._replace(alive=alive))
        return replace(self, alive=alive, removable=self.gone + left)

    def kept_units(self, mask: Tensor) -> int:
        """Units that a new mask leaves."""
        kept = self.unit.kept_weights(self.shape, mask)
        return int(torch.count_nonzero(mask if isinstance(kept, int) else kept))

    def masks(self, removed: Tensor | None) -> dict[str, Tensor]:
        """The new masks by layer, tensors of their own; ``removed`` (bool per unit, None = nothing) is used up."""
        if removed is None:
            kept = torch.ones(self.shape, dtype=torch.bool, device=self.device)
        else:
            kept = self.unit.mask(removed.logical_not_(), self.shape).to(self.device)
        return {self.name: kept if self.mask is None else kept.logical_and_(self.mask.to(self.device))}


_FEW = 16
"""Weights per unit from which on unit scores are few."""


class UnitScores:
    """Unit scores of one set of candidates at a time. Those scored last are held: asking again costs nothing.

    Before others are scored the held ones are let go: at most one layer's scores exist. Scores of units of many weights
    (neurons) are few and are kept for all.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._held: dict[str, Tensor] = {}
        self._large: str | None = None

    def __call__(self, candidates: Candidates) -> Tensor:
        """Raises RecipeError if the criterion returns another shape than the weight's."""
        name = candidates.name
        if name not in self._held:
            if self._large is not None:
                del self._held[self._large]
                self._large = None
            self._held[name] = candidates.scores(lambda layer: self._checked(layer, candidates.shape))
            if self._held[name].numel() * _FEW > math.prod(candidates.shape):
                self._large = name
        return self._held[name]

    def _checked(self, name: str, shape: tuple[int, ...]) -> Tensor:
        scores = self._read(name).detach()
        if tuple(scores.shape) != shape:
            axes = ", ".join(("out", "in", "*kernel")[: 3 if len(shape) > 2 else 2])
            raise RecipeError(f"criterion returned shape {tuple(scores.shape)} for {name!r}; expected {shape} ({axes})")
        return scores


class Reader:
    """Reads all candidates again and again, forth and back: every read starts with those that the last one ended with.

    The layer with the most weights is at one end, so that it is scored once where the others are scored twice.
    """

    def __init__(self, candidates: Sequence[Candidates], scores: UnitScores) -> None:
        self._order = sorted(candidates, key=lambda each: -math.prod(each.shape))
        self._scores = scores

    def __call__(self) -> Iterator[Scored]:
        """One read."""
        self._order.reverse()
        for each in self._order:
            yield each.scored(self._scores(each))


def removed_weights(mask: Tensor) -> int:
    """Number of weights that a mask removes."""
    return mask.numel() - int(torch.count_nonzero(mask))
