"""The exact threshold through the scores of many layers, in bounded memory.

All scores are never joined or sorted. The layers are read one at a time, as often as the search needs (twice as a
rule), in chunks; what is kept between reads is one bool per unit, which is the answer itself, and a bounded buffer.

The order is total, so the answer is unique: ascending score, then ascending tie key (``ties``). It is the answer that
joining everything and sorting by (score, tie key) gives, whatever the chunk size, device or order of the layers.

    lowest      the public function: which units go
    _Streams    many layers' scores as streams of small chunks
    _find       the threshold of a stream: sweeps between two brackets
    _Sample     where the threshold most likely lies; it affects the time, never the answer
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from actprune.errors import BudgetError, ModelError
from actprune.rank import ties

CHUNK = 1 << 17  # values looked at together: they stay in the processor's cache
_CHUNK_ON_ACCELERATOR = 1 << 24  # every chunk costs a synchronisation there
LIMIT = 1 << 20  # most values sampled or gathered at once; up to 24 bytes each
THINNING = 16  # one in so many stays when there are too many
_DEVIATIONS = 3.5  # half width of the _bracket, in standard deviations of the sampled rank

Number = float | int
_Weighted = tuple[Tensor, Tensor]  # ascending values, and the cost each stands for (float64)


class Scored(NamedTuple):
    """One layer that competes.

    scores: any shape, read in row-major order (an expanded view is never materialised); float or integer, larger =
    keep. cost: of removing one unit, a positive int or int64 of the shape of ``scores``. alive: bool, units that
    compete; None = all. cost and alive are contiguous.
    """

    name: str
    scores: Tensor
    cost: Tensor | int
    alive: Tensor | None = None


Read = Callable[[], Iterable[Scored]]


@dataclass(frozen=True)
class Lowest:
    """Which units go: bool per layer, of the shape of its scores, True = removed. cost: what that removes in all."""

    removed: dict[str, Tensor]
    cost: int


def lowest(read: Read, need: int, seed: int) -> Lowest:
    """Removes units in ascending order of (score, tie key) until their cost first reaches ``need``.

    ``read()`` is called for every read and yields the same layers, in any order. With unit cost exactly ``need``
    units go, otherwise less than one unit's cost too much. Scores of different dtypes are compared exactly, except
    integers against floats, which are compared as float64. Raises ModelError naming a layer with NaN scores, and
    BudgetError when less than ``need`` competes.
    """
    streams = _Streams(read, seed)
    if need > streams.total:
        raise BudgetError(f"asked to remove a cost of {need}; only {streams.total} may still be removed")
    if need <= 0:
        return Lowest(streams.removed, 0)
    found = _find(streams.scores, need, streams.total, streams.dtype, streams.sample.sorted(streams.dtype))
    rest = need - found.below
    last, at = None, found.at  # last: tie key of the last unit removed among the equal ones, None = all of them go
    if rest < found.at:
        last, at = _last_key(streams, found, rest)
    if found.near is None:
        streams.mark_ties(found.value, last)
    else:
        streams.mark_near(found, last)
    return Lowest(streams.removed, found.below + at)


def _last_key(streams: _Streams, found: _Found, rest: int) -> tuple[int, int]:
    """The tie key at which the cost of equal units reaches ``rest``, and the cost up to it."""
    if found.near is None:  # too many equal scores: the same search, on their keys

        def stream() -> Iterator[_Chunk]:
            return streams.tie_keys(found.value)

        key = _find(stream, rest, found.at, torch.int64, _survey(stream, torch.int64))
        return int(key.value), key.below + key.at
    values, ids, cost = found.near
    equal = values == found.value
    tied, order = ties.keys(ids[equal], streams.seed).sort()
    reached = cost[equal][order].cumsum(0)
    place = int(torch.searchsorted(reached, rest))
    return int(tied[place]), int(reached[place])


def refuse_nan(name: str, scores: Tensor) -> None:
    """Raises ModelError naming the layer if a score is NaN."""
    _raise_if_unranked(name, sum(_nans(values) for _, values in _chunks(scores)), scores.numel())


def _raise_if_unranked(name: str, unranked: int, total: int) -> None:
    if unranked:
        raise ModelError(
            f"{unranked} of {total} scores of {name!r} are NaN and cannot be ranked; "
            "check this layer's weights, activations and gradients for NaN or infinite values"
        )


def _nans(values: Tensor) -> int:
    # A sum is the cheapest test; inf - inf gives NaN too, so a NaN sum is looked at again.
    if not values.is_floating_point() or not torch.isnan(values.sum()):
        return 0
    return int(torch.isnan(values).sum())


def competing_cost(scored: Scored) -> int:
    """Cost of everything in the layer that competes."""
    if isinstance(scored.cost, int):
        units = scored.scores.numel() if scored.alive is None else int(torch.count_nonzero(scored.alive))
        return int(units * scored.cost)
    costs: Tensor = scored.cost if scored.alive is None else scored.cost * scored.alive
    return int(costs.sum())


# ---- layers as streams of chunks ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chunk:
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


_Stream = Callable[[], Iterator[_Chunk]]


class _Streams:
    """All layers as streams of chunks, and the bools that a sweep writes."""

    def __init__(self, read: Read, seed: int) -> None:
        self.read, self.seed = read, seed
        self.removed: dict[str, Tensor] = {}
        self.total = 0
        dtypes: set[torch.dtype] = set()
        self.sample = _Sample()
        for scored in read():
            self._read(scored)
            dtypes.add(scored.scores.dtype)
            self.total += competing_cost(scored)
            self.removed[scored.name] = torch.zeros(scored.scores.shape, dtype=torch.bool, device=scored.scores.device)
            del scored  # a generator that is about to score the next layer must _find the last one gone
        self.dtype = common(dtypes)
        self.slots = ties.slots(self.removed)

    def _read(self, scored: Scored) -> None:
        """The first read of a layer: refuses NaN and takes the sample that the search starts from."""
        unranked = 0
        for part, values in _chunks(scored.scores):
            unranked += _nans(values)
            self.sample.add(values, *_part(scored, part), _stride(scored))
        _raise_if_unranked(scored.name, unranked, scored.scores.numel())

    def scores(self) -> Iterator[_Chunk]:
        """Every unit, marked as the sweep goes."""
        for scored in self.read():
            first = self.slots[scored.name] << ties.INDEX_BITS
            marks = self.removed[scored.name].view(-1)
            for part, values in _chunks(scored.scores):
                cost, alive = _part(scored, part)
                yield _Chunk(values.to(self.dtype), first + part.start, cost, alive, marks[part], _stride(scored))
                del values
            del scored

    def tie_keys(self, value: Number) -> Iterator[_Chunk]:
        """The units whose score is ``value``: their tie keys as values."""
        for chunk in self.scores():
            equal = chunk.values == value
            if chunk.alive is not None:
                equal &= chunk.alive
            place = equal.nonzero().squeeze(1)
            ids = place + int(chunk.ids)
            cost = chunk.cost if isinstance(chunk.cost, int) else chunk.cost[place]
            stride = chunk.stride
            del chunk
            yield _Chunk(ties.keys(ids, self.seed), ids, cost, stride=stride)

    def mark_ties(self, value: Number, last: int | None) -> None:
        """Marks the units that have this very score, up to the tie key ``last``."""
        for chunk in self.scores():
            equal = chunk.values == value
            if chunk.alive is not None:
                equal &= chunk.alive
            place = equal.nonzero().squeeze(1)
            if last is not None:
                place = place[ties.keys(place + int(chunk.ids), self.seed) <= last]
            assert chunk.mark is not None
            chunk.mark[place] = True
            del chunk

    def mark_near(self, found: _Found, last: int | None) -> None:
        """Marks the units gathered around the threshold that go as well."""
        assert found.near is not None
        values, ids, _ = found.near
        goes = values <= found.value
        if last is not None:
            goes &= (values < found.value) | (ties.keys(ids, self.seed) <= last)
        ids = ids[goes]
        slot, place = ids >> ties.INDEX_BITS, ids & ((1 << ties.INDEX_BITS) - 1)
        for name, marks in self.removed.items():
            marks.view(-1)[place[slot == self.slots[name]].to(marks.device)] = True


def _chunks(scores: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Flat slices and their values, row-major; of a view that is not contiguous only one chunk is ever copied."""
    size = CHUNK if scores.device.type == "cpu" else _CHUNK_ON_ACCELERATOR
    if scores.is_contiguous():
        flat = scores.view(-1)
        for start in range(0, flat.numel(), size):
            part = slice(start, min(start + size, flat.numel()))
            yield part, flat[part]
        return
    width = scores[0].numel()
    if width > size:
        for row in range(scores.shape[0]):
            for part, values in _chunks(scores[row]):
                yield slice(row * width + part.start, row * width + part.stop), values
        return
    rows = max(1, size // max(1, width))
    for row in range(0, scores.shape[0], rows):
        values = scores[row : row + rows].reshape(-1)
        yield slice(row * width, row * width + values.numel()), values
        del values


def _part(scored: Scored, part: slice) -> tuple[Tensor | int, Tensor | None]:
    """Cost and alive of one flat slice."""
    cost = scored.cost if isinstance(scored.cost, int) else scored.cost.reshape(-1)[part]
    return cost, None if scored.alive is None else scored.alive.reshape(-1)[part]


def _stride(scored: Scored) -> int:
    # n^(2/3) samples leave about as many candidates between two of them as there are samples.
    return round(math.cbrt(scored.scores.numel())) | 1


def common(dtypes: set[torch.dtype]) -> torch.dtype:
    """The dtype in which all scores are compared: int64, float32 (also for half precision) or float64."""
    if not any(dtype.is_floating_point for dtype in dtypes):
        return torch.int64
    narrow = dtypes <= {torch.float16, torch.bfloat16, torch.float32}
    return torch.float32 if narrow else torch.float64


# ---- the search --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Window:
    """The closed interval known to hold the answer, the cost before it and the cost up to its end."""

    low: Number
    high: Number
    before: int
    upto: int
    swept: bool = False


@dataclass
class _Gathered:
    """Values picked from the stream with their ids and costs: all of them, or those at every ``step``-th place."""

    step: int = 1
    count: int = 0
    first: int = 0
    parts: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def add(self, chunk: _Chunk, within: Tensor) -> None:
        """Adds the values of ``chunk`` where ``within`` is True; thins itself out when there are too many."""
        picked = within[self.first :: self.step].nonzero().squeeze(1) * self.step + self.first
        self.first = (self.first - within.numel()) % self.step
        ids = picked + chunk.ids if isinstance(chunk.ids, int) else chunk.ids[picked]
        cost = torch.full_like(ids, chunk.cost) if isinstance(chunk.cost, int) else chunk.cost[picked]
        self.parts.append((chunk.values[picked], ids, cost))
        self.count += picked.numel()
        if self.count > LIMIT:
            values, ids, cost = (part[::THINNING].clone() for part in self.joined())
            self.parts, self.count, self.step = [(values, ids, cost)], values.numel(), self.step * THINNING

    def joined(self) -> tuple[Tensor, Tensor, Tensor]:
        """values, ids, costs."""
        device = self.parts[0][0].device
        columns = zip(*self.parts, strict=True)
        values, ids, cost = (torch.cat([part.to(device) for part in column]) for column in columns)
        return values, ids, cost


@dataclass(frozen=True)
class _Found:
    """The answer: ``below`` = cost of values < value, ``at`` = cost of values == value.

    near: values, ids and costs around the answer; whatever lies lower is marked, whatever lies higher is not.
    None when too many values equal the answer; then exactly the values below it are marked.
    """

    value: Number
    below: int
    at: int
    near: tuple[Tensor, Tensor, Tensor] | None


def _find(stream: _Stream, need: int, total: int, dtype: torch.dtype, sample: _Weighted) -> _Found:
    """Smallest value whose cumulative cost reaches ``need`` (1 <= need <= total); ``dtype`` is that of the values."""
    window = _Window(*_limits(dtype), before=0, upto=total)
    while True:
        low, high = _bracket(sample, window, need)
        below, inside, gathered = _sweep(stream, low, high)
        if need <= below:
            window = _Window(window.low, _next(low, dtype, up=False), window.before, below)
        elif need > below + inside:
            window = _Window(_next(high, dtype, up=True), window.high, below + inside, window.upto)
        elif gathered.step == 1:
            return _resolved(gathered, below, need)
        elif low == high:
            return _Found(low, below, inside, None)
        else:
            values, _, cost = gathered.joined()
            window, sample = _Window(low, high, below, below + inside, swept=True), _weighted(values, cost)


def _survey(stream: _Stream, dtype: torch.dtype) -> _Weighted:
    """The first sample, where none was taken on the way."""
    sample = _Sample()
    for chunk in stream():
        sample.add(chunk.values, chunk.cost, chunk.alive, chunk.stride)
    return sample.sorted(dtype)


def _sweep(stream: _Stream, low: Number, high: Number) -> tuple[int, int, _Gathered]:
    """Cost below ``low``, cost within [low, high], and the values within. Marks what is below."""
    below = inside = 0
    gathered = _Gathered()
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


def _resolved(gathered: _Gathered, below: int, need: int) -> _Found:
    values, ids, cost = gathered.joined()
    ordered, order = values.sort()
    reached = cost[order].cumsum(0)
    place = int(torch.searchsorted(reached, need - below))
    value = ordered[place].item()
    under, at = _cost(cost, values < value), _cost(cost, values == value)
    return _Found(value, below + under, at, (values, ids, cost))


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


# ---- where the answer most likely lies, told from a small sample -------------------------------------------------


class _Sample:
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

    def sorted(self, dtype: torch.dtype) -> _Weighted:
        """Ascending values as ``dtype``, and their weights."""
        device = self._parts[0][0].device
        values = torch.cat([part[0].to(device, dtype) for part in self._parts])
        return _weighted(values, torch.cat([part[1].to(device) for part in self._parts]))


def _weighted(values: Tensor, weight: Tensor) -> _Weighted:
    """Sorts both by value."""
    values, order = values.sort()
    return values, weight[order].double()


def _bracket(sample: _Weighted, window: _Window, need: int) -> tuple[Number, Number]:
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
