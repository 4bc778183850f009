"""A layer's weights seen as units (weights, neurons, tiles), and a decision per unit seen as a mask again.

A conv weight ``(out, in, *kernel)`` is the matrix ``(out, in * kernel)`` here. n:m patterns are in ``groups``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from actprune.types import Block, Neuron, Unit

_AT_ONCE = 1 << 20  # weights turned into float64 together


def unit_scores(unit: Unit, scores: Tensor) -> Tensor:
    """One score per unit, from scores of shape ``(out, in, *kernel)``.

    Weight: ``scores`` itself. Neuron: ``(out,)``, the mean of its weights' scores in float64; a view that is constant
    along the neuron is taken as is, so exact integer counts stay exact. Block: ``(tiles down, tiles across)``, the mean
    over the tile in float64, edge tiles over what they have.
    """
    if isinstance(unit, Neuron):
        if scores[0].numel() == 1 or all(not scores.stride(axis) for axis in _inner(scores)):
            return scores.as_strided((scores.shape[0],), (scores.stride(0),)).clone()
        return torch.cat([band.double().mean(1) for band in _bands(scores, 1)])
    if isinstance(unit, Block):
        sums = torch.cat([_tile_sums(unit, band.double()) for band in _bands(scores, unit.rows)])
        return sums / _tile_sizes(unit, scores.shape).to(sums.device)
    return scores


def kept_weights(unit: Unit, shape: Sequence[int], mask: Tensor | None) -> Tensor | int:
    """Kept weights of every unit, int64 shaped like the unit scores; one int when it is the same for all units."""
    if isinstance(unit, Neuron):
        if mask is None:
            return math.prod(shape[1:])
        return torch.cat([band.sum(1) for band in _bands(mask, 1)])
    if isinstance(unit, Block):
        if mask is None:
            return _tile_sizes(unit, shape)
        return torch.cat([_tile_sums(unit, band.long()) for band in _bands(mask, unit.rows)])
    return 1


def weight_mask(unit: Unit, keep: Tensor, shape: Sequence[int]) -> Tensor:
    """The bool mask ``(out, in, *kernel)`` of a decision per unit (True = keep). A Weight decision is its own mask."""
    if isinstance(unit, Neuron):
        return keep.view(-1, *(1,) * (len(shape) - 1)).expand(*shape).contiguous()
    if isinstance(unit, Block):
        out, across = shape[0], math.prod(shape[1:])
        tall = keep.repeat_interleave(unit.rows, 0)[:out]
        return tall.repeat_interleave(unit.cols, 1)[:, :across].reshape(*shape)
    return keep.view(*shape)


def _inner(scores: Tensor) -> list[int]:
    """The axes along one neuron that have any length."""
    return [axis for axis in range(1, scores.dim()) if scores.shape[axis] > 1]


def _bands(values: Tensor, rows: int) -> Iterator[Tensor]:
    """Bands of whole multiples of ``rows`` rows of the matrix ``(out, in * kernel)``."""
    step = rows * max(1, _AT_ONCE // max(1, rows * values[0].numel()))
    for start in range(0, values.shape[0], step):
        yield values[start : start + step].flatten(1)


def _tile_sums(unit: Block, matrix: Tensor) -> Tensor:
    down, across = -matrix.shape[0] % unit.rows, -matrix.shape[1] % unit.cols
    padded = F.pad(matrix, (0, across, 0, down))
    tiles = padded.view(padded.shape[0] // unit.rows, unit.rows, padded.shape[1] // unit.cols, unit.cols)
    return tiles.sum((1, 3))


def _tile_sizes(unit: Block, shape: Sequence[int]) -> Tensor:
    def lengths(total: int, size: int) -> Tensor:
        starts = torch.arange(0, total, size)
        return (total - starts).clamp_(max=size)

    return lengths(shape[0], unit.rows)[:, None] * lengths(math.prod(shape[1:]), unit.cols)[None, :]
