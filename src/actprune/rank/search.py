"""Weighted order statistic of a stream: the smallest value up to which at least ``need`` of cost has gone by.

The stream is read several times in small chunks and never stored. A strided sample brackets the answer; one sweep
counts the cost below the bracket and gathers what lies inside; few enough, they are sorted and the answer is exact. A
bracket that misses, or holds too much, narrows the search and the sweep is repeated. Every sweep decides at least one
value, so heavy ties end as well; the sample only affects the time, never the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from actprune.rank import sampling
from actprune.rank.sampling import Number, Sample, Weighted, Window


@dataclass(frozen=True)
class Chunk:
    """Some values of the stream.

    ids      int64 per value, or the id of the first of consecutive ones
    cost     per value, one int for all or int64 each
    alive    bool: which values count; None = all
    mark     bool, written by a sweep: True = surely below the answer
    stride   how thinly a first sample may be taken
    """

    values: Tensor
    ids: Tensor | int
    cost: Tensor | int
    alive: Tensor | None = None
    mark: Tensor | None = None
    stride: int = 1


Stream = Callable[[], Iterator[Chunk]]


@dataclass
class Gathered:
    """Values picked from the stream with their ids and costs: all of them, or those at every ``step``-th place."""

    step: int = 1
    count: int = 0
    first: int = 0
    parts: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def add(self, chunk: Chunk, within: Tensor) -> None:
        """Adds the values of ``chunk`` where ``within`` is True; thins itself out when there are too many."""
        picked = within[self.first :: self.step].nonzero().squeeze(1) * self.step + self.first
        self.first = (self.first - within.numel()) % self.step
        ids = picked + chunk.ids if isinstance(chunk.ids, int) else chunk.ids[picked]
        cost = torch.full_like(ids, chunk.cost) if isinstance(chunk.cost, int) else chunk.cost[picked]
        self.parts.append((chunk.values[picked], ids, cost))
        self.count += picked.numel()
        if self.count > sampling.LIMIT:
            values, ids, cost = (part[:: sampling.THINNING].clone() for part in self.joined())
            self.parts, self.count, self.step = [(values, ids, cost)], values.numel(), self.step * sampling.THINNING

    def joined(self) -> tuple[Tensor, Tensor, Tensor]:
        """values, ids, costs."""
        device = self.parts[0][0].device
        columns = zip(*self.parts, strict=True)
        values, ids, cost = (torch.cat([part.to(device) for part in column]) for column in columns)
        return values, ids, cost


@dataclass(frozen=True)
class Found:
    """The answer: ``below`` = cost of values < value, ``at`` = cost of values == value.

    near: values, ids and costs around the answer; whatever lies lower is marked, whatever lies higher is not.
    None when too many values equal the answer; then exactly the values below it are marked.
    """

    value: Number
    below: int
    at: int
    near: tuple[Tensor, Tensor, Tensor] | None


def find(stream: Stream, need: int, total: int, dtype: torch.dtype, sample: Weighted) -> Found:
    """Smallest value whose cumulative cost reaches ``need`` (1 <= need <= total); ``dtype`` is that of the values."""
    window = Window(*_limits(dtype), before=0, upto=total)
    while True:
        low, high = sampling.bracket(sample, window, need)
        below, inside, gathered = _sweep(stream, low, high)
        if need <= below:
            window = Window(window.low, _next(low, dtype, up=False), window.before, below)
        elif need > below + inside:
            window = Window(_next(high, dtype, up=True), window.high, below + inside, window.upto)
        elif gathered.step == 1:
            return _resolved(gathered, below, need)
        elif low == high:
            return Found(low, below, inside, None)
        else:
            values, _, cost = gathered.joined()
            window, sample = Window(low, high, below, below + inside, swept=True), sampling.weighted(values, cost)


def survey(stream: Stream, dtype: torch.dtype) -> Weighted:
    """The first sample, where none was taken on the way."""
    sample = Sample()
    for chunk in stream():
        sample.add(chunk.values, chunk.cost, chunk.alive, chunk.stride)
    return sample.sorted(dtype)


def _sweep(stream: Stream, low: Number, high: Number) -> tuple[int, int, Gathered]:
    """Cost below ``low``, cost within [low, high], and the values within. Marks what is below."""
    below = inside = 0
    gathered = Gathered()
    for chunk in stream():
        under = torch.lt(chunk.values, low, out=chunk.mark) if chunk.mark is not None else chunk.values < low
        within = (chunk.values <= high).logical_xor_(under)
        if chunk.alive is not None:
            under &= chunk.alive
            within &= chunk.alive
        below += _cost(chunk.cost, under)
        part = _cost(chunk.cost, within)
        inside += part
        if part:
            gathered.add(chunk, within)
        del chunk, under, within
    return below, inside, gathered


def _cost(cost: Tensor | int, chosen: Tensor) -> int:
    if isinstance(cost, int):
        return cost * int(torch.count_nonzero(chosen))
    return int((cost * chosen).sum())


def _resolved(gathered: Gathered, below: int, need: int) -> Found:
    values, ids, cost = gathered.joined()
    ordered, order = values.sort()
    reached = cost[order].cumsum(0)
    place = int(torch.searchsorted(reached, need - below))
    value = ordered[place].item()
    under, at = _cost(cost, values < value), _cost(cost, values == value)
    return Found(value, below + under, at, (values, ids, cost))


def _limits(dtype: torch.dtype) -> tuple[Number, Number]:
    if dtype == torch.int64:
        return torch.iinfo(dtype).min, torch.iinfo(dtype).max
    return -math.inf, math.inf


def _next(value: Number, dtype: torch.dtype, *, up: bool) -> Number:
    if dtype == torch.int64:
        return int(value) + (1 if up else -1)
    return torch.nextafter(
        torch.tensor(value, dtype=dtype), torch.tensor(math.inf if up else -math.inf, dtype=dtype)
    ).item()
