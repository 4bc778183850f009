"""One layer as it enters the selection: what its units cost, which of them compete, how they are scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from actprune.errors import RecipeError
from actprune.rank.allocate import Share
from actprune.rank.exact import cut
from actprune.rank.field import Piece, competing_cost
from actprune.rank.units import kept_weights, unit_scores, weight_mask
from actprune.types import Criterion, Neuron, Signals, Unit


@dataclass(frozen=True)
class Entry:
    """A layer with its units.

    price: cost of one weight. mask: current mask or None. cost: of every unit, one int or int64 shaped like the unit
    scores. alive: bool, units that compete, or None = all. removable: cost that may be removed in all, ``gone``
    included.
    """

    name: str
    shape: tuple[int, ...]
    unit: Unit
    price: int
    mask: Tensor | None
    cost: Tensor | int
    alive: Tensor | None
    removable: int
    device: torch.device
    output: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        shape: tuple[int, ...],
        unit: Unit,
        *,
        price: int,
        mask: Tensor | None,
        device: torch.device,
        output: bool = False,
    ) -> Entry:
        """The layer as it stands: units without kept weights do not compete; the others cost their kept weights."""
        mask = None if mask is None else mask.contiguous()
        kept = kept_weights(unit, shape, mask)
        alive = None
        if mask is not None:
            alive = mask if isinstance(kept, int) else kept > 0
        return cls(name, shape, unit, price, mask, kept * price, alive, math.prod(shape) * price, device, output)

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
        """The layer as ``allocate`` sees it."""
        return Share(self.name, self.shape, self.total, self.gone, self.removable, self.output)

    def piece(self, scores: Tensor) -> Piece:
        """The layer as ``cut`` sees it."""
        cost = self.cost if isinstance(self.cost, int) else self.cost.to(scores.device)
        return Piece(self.name, scores, cost, None if self.alive is None else self.alive.to(scores.device))

    def sparing_best(self, units: int, scores: Tensor, seed: int) -> Entry:
        """The same layer, its ``units`` best units out of the contest."""
        piece = self.piece(scores)._replace(cost=1)
        competing = scores.numel() if self.alive is None else int(torch.count_nonzero(self.alive))
        alive = cut(lambda: [piece], max(0, competing - units), seed).removed[self.name]
        left = competing_cost(self.piece(scores)._replace(alive=alive))
        return replace(self, alive=alive, removable=self.gone + left)

    def mask_without(self, removed: Tensor | None) -> Tensor:
        """The new mask, a tensor of its own; ``removed`` (bool per unit, None = nothing) is used up."""
        if removed is None:
            kept = torch.ones(self.shape, dtype=torch.bool, device=self.device)
        else:
            kept = weight_mask(self.unit, removed.logical_not_(), self.shape).to(self.device)
        return kept if self.mask is None else kept.logical_and_(self.mask.to(self.device))


class Scores:
    """Unit scores of one layer at a time. The layer scored last is held, so that asking again costs nothing.

    Before another layer is scored the held one is let go: at most one layer's scores exist. Scores per neuron are few
    and are kept for all layers.
    """

    def __init__(self, criterion: Criterion, signals: Callable[[str], Signals], unit: Unit) -> None:
        self._criterion, self._signals, self._unit = criterion, signals, unit
        self._held: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Scores of the layer's units. Raises RecipeError if the criterion returns another shape than the weight's."""
        if name not in self._held:
            if not isinstance(self._unit, Neuron):
                self._held.clear()
            scores = self._criterion.score(self._signals(name)).detach()
            if tuple(scores.shape) != shape:
                axes = ", ".join(("out", "in", "*kernel")[: 3 if len(shape) > 2 else 2])
                raise RecipeError(
                    f"criterion returned shape {tuple(scores.shape)} for {name!r}; expected {shape} ({axes})"
                )
            self._held[name] = unit_scores(self._unit, scores)
        return self._held[name]


class Reader:
    """Reads all layers again and again, forth and back: every read starts with the layer that the last one ended with.

    The layer with the most weights is at one end, so that it is scored once where the others are scored twice.
    """

    def __init__(self, entries: Sequence[Entry], scores: Scores) -> None:
        self._order = sorted(entries, key=lambda entry: -math.prod(entry.shape))
        self._scores = scores

    def __call__(self) -> Iterator[Piece]:
        """One read."""
        self._order.reverse()
        for entry in self._order:
            yield entry.piece(self._scores(entry.name, entry.shape))


def removed_weights(mask: Tensor) -> int:
    """Number of weights that a mask removes."""
    return mask.numel() - int(torch.count_nonzero(mask))
