"""What every statistic needs: which axes are rows, how many rows there are, and how sums merge."""

from __future__ import annotations

import torch
from torch import Tensor

from actprune.types import Sums

SHARED = frozenset({"rows", "in_rows"})
"""Entries that several statistics of one layer have in common: they count the same rows, so they count once."""


def other_axes(values: Tensor, axis: int) -> tuple[int, ...]:
    """All axes but the units' one: examples, tokens, positions. Empty for a single unbatched vector."""
    unit = axis % values.dim()
    return tuple(index for index in range(values.dim()) if index != unit)


def rows_of(values: Tensor, axis: int) -> int:
    """Examples x positions in ``values``."""
    return values.numel() // max(values.shape[axis], 1)


def total(values: Tensor, axis: int, dtype: torch.dtype) -> Tensor:
    """Sum over everything but the units, ``(units,)``; the sum itself runs in ``dtype``."""
    axes = other_axes(values, axis)
    return values.sum(axes, dtype=dtype) if axes else values.to(dtype)  # sum(()) would sum over everything


def zeros(units: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """``(units,)`` zeros beside ``like``. Never an inference tensor, which could not be added to later."""
    with torch.inference_mode(False):
        return torch.zeros(units, dtype=dtype, device=like.device)


def count(like: Tensor) -> Tensor:
    """A zero int64 scalar beside ``like``."""
    with torch.inference_mode(False):
        return torch.zeros((), dtype=torch.int64, device=like.device)


def merge(into: Sums, more: Sums) -> None:
    """Add ``more`` to ``into`` in place, entry by entry; entries that ``into`` lacks are taken over as copies."""
    for key, value in more.items():
        if key in into:
            into[key] += value.to(into[key].device)
        else:
            into[key] = value.clone()
