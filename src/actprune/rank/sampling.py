"""Where the answer of a search most likely lies, told from a small sample. It affects the time, never the answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Number = float | int
Weighted = tuple[Tensor, Tensor]  # ascending values, and the cost each stands for (float64)

LIMIT = 1 << 20  # most values sampled or gathered at once; up to 24 bytes each
THINNING = 16  # one in so many stays when there are too many
_DEVIATIONS = 3.5  # half width of the bracket, in standard deviations of the sampled rank


@dataclass(frozen=True)
class Window:
    """The closed interval known to hold the answer, the cost before it and the cost up to its end."""

    low: Number
    high: Number
    before: int
    upto: int
    swept: bool = False


class Sample:
    """A strided sample of the stream: values and the cost that each stands for. It thins itself out when it grows."""

    def __init__(self) -> None:
        self._step, self._count, self._turn = 1, 0, 0
        self._parts: list[tuple[Tensor, Tensor]] = []

    def add(self, values: Tensor, cost: Tensor | int, alive: Tensor | None, stride: int) -> None:
        """Takes one in ``stride`` (or fewer) of the flat ``values``."""
        step, units = stride * self._step, values.numel()
        # The first place wanders, so that a stride that divides the row length does not see a single column.
        first = min(self._turn * (step // 3 + 1) % step, units)
        self._turn += 1
        place = torch.arange(first, units, step, device=values.device)
        if alive is not None:
            place = place[alive[place]]
        weight = torch.full_like(place, cost) if isinstance(cost, int) else cost[place]
        self._parts.append((values[place], weight * stride))
        self._count += place.numel()
        if self._count > LIMIT:
            self._thin()

    def _thin(self) -> None:
        first, parts = 0, []
        for values, weight in self._parts:
            parts.append((values[first::THINNING].clone(), weight[first::THINNING].clone()))
            first = (first - values.numel()) % THINNING
        self._parts, self._step = parts, self._step * THINNING
        self._count = sum(values.numel() for values, _ in parts)

    def sorted(self, dtype: torch.dtype) -> Weighted:
        """Ascending values as ``dtype``, and their weights."""
        device = self._parts[0][0].device
        values = torch.cat([part[0].to(device, dtype) for part in self._parts])
        return weighted(values, torch.cat([part[1].to(device) for part in self._parts]))


def weighted(values: Tensor, weight: Tensor) -> Weighted:
    """Sorts both by value."""
    values, order = values.sort()
    return values, weight[order].double()


def bracket(sample: Weighted, window: Window, need: int) -> tuple[Number, Number]:
    """Two values, within the window, that most likely enclose the answer."""
    values, cost = sample
    inside = (values >= window.low) & (values <= window.high)
    values, cost = values[inside], cost[inside]
    weight = float(cost.sum()) if cost.numel() else 0.0
    if weight == 0 or (values.numel() < THINNING and not window.swept):
        return window.low, window.high
    share = (need - window.before) / max(1, window.upto - window.before)
    effective = weight**2 / float((cost * cost).sum())
    margin = weight * _DEVIATIONS * math.sqrt(share * (1 - share) / effective) + 2 * float(cost.max())
    ranks = cost.cumsum(0)
    probes = torch.tensor(
        [share * weight - margin, share * weight, share * weight + margin], dtype=ranks.dtype, device=ranks.device
    )
    first, middle, last = torch.searchsorted(ranks, probes).tolist()
    low = window.low if share * weight < margin else values[first].item()
    high = window.high if last >= values.numel() else values[last].item()
    if window.swept and (low, high) == (window.low, window.high):  # no progress: decide one value
        low = high = values[min(middle, values.numel() - 1)].item()
    return low, high
