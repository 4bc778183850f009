"""Evidence that is summed while data runs through the model: how one is described, accumulated and merged.

It sees ``values`` whose ``units`` lie at ``axis``; all other axes are rows (examples x positions), so any number of
leading token axes, batched and unbatched conv outputs all count the same way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from actprune.nodes import Site
from actprune.types import Sums

SHARED = frozenset({"rows", "in_rows"})
"""Entries that several kinds of evidence of one layer have in common: they count the same rows, so they count once."""

SMALL = 2**16
"""Numbers in an activation up to which the operations themselves cost more than the memory they touch."""


class Accumulator(Protocol):
    """Adds batches; hands over all sums since the last time."""

    def add(self, values: Tensor, axis: int) -> None:
        """Add one batch, units at ``axis``. ``values`` is neither changed nor kept."""
        ...

    def take(self, sums: Sums) -> None:
        """Add what was summed elsewhere."""
        ...

    def flush(self) -> Sums:
        """The sums since the last flush; empty when nothing was added. Starts again from zero."""
        ...


class Scratch:
    """One small buffer that the accumulators of all layers write into in turn, so that it stays in the cache."""

    def __init__(self) -> None:
        self._room: Tensor | None = None

    def view(self, like: Tensor) -> Tensor | None:
        """A buffer of the shape of ``like``; None where a fresh tensor is as good (large, or not float32 on a CPU)."""
        if like.numel() > SMALL or like.dtype is not torch.float32 or like.device.type != "cpu":
            return None
        if self._room is None:
            with torch.inference_mode(False):
                self._room = torch.empty(SMALL)
        return self._room[: like.numel()].view(like.shape)


class OfActivations(ABC):
    """Streaming sums of one layer's inputs or outputs. Subclasses are frozen dataclasses with ``sees``.

    Required are ``init`` and ``update``. The rest has an answer for the ordinary case.
    """

    sees: ClassVar[Literal["input", "output"]]
    needs_data: ClassVar[bool] = True
    everywhere: ClassVar[bool] = True
    """Whether it must see every layer; False: it has an answer for layers that cannot be looked at."""

    @abstractmethod
    def init(self, units: int, like: Tensor) -> Sums:
        """Zero sums on the device of ``like``."""

    @abstractmethod
    def update(self, sums: Sums, values: Tensor, axis: int) -> None:
        """Add one batch in place."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of its entries."""
        return tuple(self.init(1, torch.zeros(1)))

    def accumulator(self, scratch: Scratch) -> Accumulator:
        """What adds it up in the hot path of a training loop."""
        return Running(self)

    def rows(self, layer: nn.Module, values: Tensor, axis: int) -> tuple[Tensor, int]:
        """What of a layer's input is looked at, with the axis of its units (a Gram matrix unfolds convolutions)."""
        return values, axis

    def counted_at(self, site: Site, *, output: bool) -> bool:
        """Whether it says anything at this site. output: of an output layer."""
        return True

    def stand_in(self, rows: Tensor) -> Sums:
        """The entries of a layer where it is not counted, for so many rows."""
        return {}

    def told(self, sites: Mapping[str, Site | None]) -> str:
        """What a report says of how the pruned layers were looked at, in one line; "": nothing."""
        return ""

    def problem(self, site: Site, sums: Sums | None) -> str | None:
        """Why it means nothing at this site, in words with a remedy; None: it does. sums: None before anything came."""
        return None


class Running:
    """Any evidence of activations."""

    def __init__(self, evidence: OfActivations) -> None:
        self._evidence = evidence
        self._sums: Sums = {}

    def add(self, values: Tensor, axis: int) -> None:
        """Add one batch."""
        if not self._sums:
            self._sums = self._evidence.init(values.shape[axis], values)
        self._evidence.update(self._sums, values, axis)

    def take(self, sums: Sums) -> None:
        """Add what was summed elsewhere."""
        merge(self._sums, sums)

    def flush(self) -> Sums:
        """The sums since the last flush."""
        sums, self._sums = self._sums, {}
        return sums


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


def zeros(shape: int | tuple[int, ...], like: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros beside ``like``. Never an inference tensor, which could not be added to later."""
    with torch.inference_mode(False):
        return torch.zeros(shape, dtype=dtype, device=like.device)


def count(like: Tensor) -> Tensor:
    """A zero int64 scalar beside ``like``."""
    return zeros((), like, torch.int64)


def merge(into: Sums, more: Sums) -> None:
    """Add ``more`` to ``into`` in place, entry by entry; entries that ``into`` lacks are taken over as copies."""
    for key, value in more.items():
        if key in into:
            into[key] += value.to(into[key].device)
        else:
            into[key] = value.clone()
