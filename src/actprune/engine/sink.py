"""What is counted of one layer, and whether it is fit to be counted."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from actprune.errors import ObservationError
from actprune.stats import SHARED, Accumulator, Firing, Scratch, accumulator, rows_of
from actprune.types import Statistic, Sums

OFF, COUNT, CHECK = range(3)


class Switch:
    """What all hooks share: what to do now (nothing, count, or count and look for NaN and Inf), and where to write."""

    def __init__(self) -> None:
        self.level = OFF
        self.scratch = Scratch()


class Sink:
    """All that is counted of one layer."""

    def __init__(self, name: str, statistics: Iterable[Statistic], switch: Switch) -> None:
        self.name = name
        self._statistics = tuple(statistics)
        self._switch = switch
        self._units = -1
        self._unsound: Tensor | None = None
        self._prepare()

    def _prepare(self) -> None:
        self.outputs: list[Accumulator] = [
            accumulator(each, self._switch.scratch) for each in self._statistics if each.sees == "output"
        ]
        self.inputs: list[Accumulator] = [accumulator(each) for each in self._statistics if each.sees == "input"]
        self._first = self.outputs[0].add if len(self.outputs) == 1 else self._every

    def forget_firing(self) -> None:
        """Do not count ``!= 0`` here: nothing is ever zero. Called before anything was counted."""
        if Firing(None) in self._statistics and self._units == -1:
            self._statistics = tuple(each for each in self._statistics if each != Firing(None))
            self._prepare()

    def output(self, values: Tensor, axis: int) -> None:
        """Count activations, units at ``axis``."""
        if values.shape[axis] != self._units:
            self._check_units(values, axis)
        if self._switch.level == CHECK:
            self._check(values, axis)
        self._first(values, axis)

    def input(self, values: Tensor, axis: int) -> None:
        """Count a layer's inputs, units at ``axis``."""
        self._check(values, axis)
        for each in self.inputs:
            each.add(values, axis)

    def flush(self) -> Sums:
        """All sums since the last flush. Entries that statistics share (``rows``) are the same in each."""
        sums: Sums = {}
        for each in (*self.outputs, *self.inputs):
            for key, value in each.flush().items():
                assert key not in sums or key in SHARED
                sums[key] = value
        return sums

    def sound(self) -> bool:
        """False when a NaN or Inf was seen."""
        return self._unsound is None or not bool(self._unsound.isnan())

    def _every(self, values: Tensor, axis: int) -> None:
        for each in self.outputs:
            each.add(values, axis)

    def _check(self, values: Tensor, axis: int) -> None:
        if rows_of(values, axis) == 0:
            raise ObservationError(f"{self.name} received a batch of 0 examples; leave empty batches out of the data")
        finite = values.detach().sum(dtype=torch.float64).mul_(0)  # 0, or NaN; read at the end: no sync per batch
        self._unsound = finite if self._unsound is None else self._unsound + finite

    def _check_units(self, values: Tensor, axis: int) -> None:
        if self._units != -1:
            raise ObservationError(
                f"{self.name} has {self._units} neurons, but its site now gives {tuple(values.shape)}; the model "
                "takes another path than in its first forward: skip this layer, or observe it by modules (nn.ReLU)"
            )
        self._units = values.shape[axis]
