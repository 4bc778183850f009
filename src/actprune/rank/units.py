"""A layer's weights seen as units (weights, neurons, tiles), and a decision per unit seen as a mask again.

A conv weight ``(out, in, *kernel)`` is the matrix ``(out, in * kernel)`` here. A unit of your own within one layer is a
frozen dataclass below ``LayerUnit``; one that spans several layers (coupled channels) has a ``groups`` of its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from actprune.errors import RecipeError
from actprune.rank.candidates import Candidates
from actprune.types import LayerFacts

_AT_ONCE = 1 << 20  # weights turned into float64 together


class LayerUnit(ABC):
    """A unit that lies within one layer: every layer is one set of candidates."""

    @abstractmethod
    def scores(self, scores: Tensor) -> Tensor:
        """One score per unit, any shape, from scores of shape ``(out, in, *kernel)``."""

    @abstractmethod
    def kept_weights(self, shape: Sequence[int], mask: Tensor | None) -> Tensor | int:
        """Kept weights of every unit, int64 shaped like the unit scores; one int when it is the same for all units."""

    @abstractmethod
    def mask(self, keep: Tensor, shape: Sequence[int]) -> Tensor:
        """The bool mask ``(out, in, *kernel)`` of a decision per unit (True = keep)."""

    def groups(self, view: Any, price: Callable[[LayerFacts], int]) -> list[Candidates]:
        """What competes. price: cost of one weight of a layer (1, or its FLOP)."""
        return [self._candidates(layer, price(layer)) for layer in view.facts]

    def _candidates(self, layer: LayerFacts, price: int) -> Candidates:
        """The layer as it stands: units without kept weights do not compete; the others cost their kept weights."""
        mask = None if layer.mask is None else layer.mask.contiguous()
        kept = self.kept_weights(layer.shape, mask)
        alive = None
        if mask is not None:
            alive = mask if isinstance(kept, int) else kept > 0
        return Candidates(
            name=layer.name,
            shape=layer.shape,
            unit=self,
            price=price,
            mask=mask,
            cost=kept * price,
            alive=alive,
            removable=math.prod(layer.shape) * price,
            device=layer.device,
            output=layer.output,
        )


@dataclass(frozen=True)
class Weight(LayerUnit):
    """Unit: every weight on its own (unstructured)."""

    def scores(self, scores: Tensor) -> Tensor:
        """``scores`` itself."""
        return scores

    def kept_weights(self, shape: Sequence[int], mask: Tensor | None) -> int:
        """1."""
        return 1

    def mask(self, keep: Tensor, shape: Sequence[int]) -> Tensor:
        """The decision is its own mask."""
        return keep.view(*shape)


@dataclass(frozen=True)
class Neuron(LayerUnit):
    """Unit: one output unit of a Linear or one output channel of a conv (all its incoming weights)."""

    def scores(self, scores: Tensor) -> Tensor:
        """``(out,)``, the mean of a neuron's scores in float64; a view that is constant along the neuron is taken as it
        is, so exact integer counts stay exact.
        """
        if scores[0].numel() == 1 or all(not scores.stride(axis) for axis in _inner(scores)):
            return scores.as_strided((scores.shape[0],), (scores.stride(0),)).clone()
        return torch.cat([band.double().mean(1) for band in _bands(scores, 1)])

    def kept_weights(self, shape: Sequence[int], mask: Tensor | None) -> Tensor | int:
        """``(out,)``."""
        if mask is None:
            return math.prod(shape[1:])
        return torch.cat([band.sum(1) for band in _bands(mask, 1)])

    def mask(self, keep: Tensor, shape: Sequence[int]) -> Tensor:
        """Whole rows."""
        return keep.view(-1, *(1,) * (len(shape) - 1)).expand(*shape).contiguous()


@dataclass(frozen=True)
class Block(LayerUnit):
    """Unit: a tile of ``rows x cols`` weights of the ``(out, in * kernel)`` matrix; edge tiles may be smaller."""

    rows: int
    cols: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise RecipeError(f"block unit asks for {self.rows} x {self.cols}; both sides must be at least 1")

    def scores(self, scores: Tensor) -> Tensor:
        """``(tiles down, tiles across)``, the mean over the tile in float64, edge tiles over what they have."""
        sums = torch.cat([self._sums(band.double()) for band in _bands(scores, self.rows)])
        return sums / self._sizes(scores.shape).to(sums.device)

    def kept_weights(self, shape: Sequence[int], mask: Tensor | None) -> Tensor:
        """``(tiles down, tiles across)``."""
        if mask is None:
            return self._sizes(shape)
        return torch.cat([self._sums(band.long()) for band in _bands(mask, self.rows)])

    def mask(self, keep: Tensor, shape: Sequence[int]) -> Tensor:
        """Whole tiles."""
        out, across = shape[0], math.prod(shape[1:])
        tall = keep.repeat_interleave(self.rows, 0)[:out]
        return tall.repeat_interleave(self.cols, 1)[:, :across].reshape(*shape)

    def _sums(self, matrix: Tensor) -> Tensor:
        down, across = -matrix.shape[0] % self.rows, -matrix.shape[1] % self.cols
        padded = F.pad(matrix, (0, across, 0, down))
        tiles = padded.view(padded.shape[0] // self.rows, self.rows, padded.shape[1] // self.cols, self.cols)
        return tiles.sum((1, 3))

    def _sizes(self, shape: Sequence[int]) -> Tensor:
        def lengths(total: int, size: int) -> Tensor:
            starts = torch.arange(0, total, size)
            return (total - starts).clamp_(max=size)

        return lengths(shape[0], self.rows)[:, None] * lengths(math.prod(shape[1:]), self.cols)[None, :]


def _inner(scores: Tensor) -> list[int]:
    """The axes along one neuron that have any length."""
    return [axis for axis in range(1, scores.dim()) if scores.shape[axis] > 1]


def _bands(values: Tensor, rows: int) -> Iterator[Tensor]:
    """Bands of whole multiples of ``rows`` rows of the matrix ``(out, in * kernel)``."""
    step = rows * max(1, _AT_ONCE // max(1, rows * values[0].numel()))
    for start in range(0, values.shape[0], step):
        yield values[start : start + step].flatten(1)
