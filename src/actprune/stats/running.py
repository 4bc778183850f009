"""Accumulators: a statistic together with what it has summed so far."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from actprune.stats.firing import Firing, Scratch, Tally
from actprune.types import Statistic, Sums


class Accumulator(Protocol):
    """Adds batches; hands over all sums since the last time."""

    def add(self, values: Tensor, axis: int) -> None:
        """Add one batch, units at ``axis``. ``values`` is neither changed nor kept."""
        ...

    def flush(self) -> Sums:
        """The sums since the last flush; empty when nothing was added. Starts again from zero."""
        ...


class Running:
    """Any statistic."""

    def __init__(self, statistic: Statistic) -> None:
        self._statistic = statistic
        self._sums: Sums = {}

    def add(self, values: Tensor, axis: int) -> None:
        """Add one batch."""
        if not self._sums:
            self._sums = self._statistic.init(values.shape[axis], values)
        self._statistic.update(self._sums, values, axis)

    def flush(self) -> Sums:
        """The sums since the last flush."""
        sums, self._sums = self._sums, {}
        return sums


def accumulator(statistic: Statistic, scratch: Scratch | None = None) -> Accumulator:
    """The fastest exact accumulator for a statistic. Those of one model may share a ``scratch`` buffer."""
    return Tally(statistic, scratch) if isinstance(statistic, Firing) else Running(statistic)
