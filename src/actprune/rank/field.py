"""Many layers' scores as streams of small chunks, read one layer at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from actprune.errors import ModelError
from actprune.rank import search, ties
from actprune.rank.sampling import Number, Sample

CHUNK = 1 << 17  # values looked at together: they stay in the processor's cache
_CHUNK_ON_ACCELERATOR = 1 << 24  # every chunk costs a synchronisation there


class Piece(NamedTuple):
    """One layer that competes.

    scores: any shape, read in row-major order (an expanded view is never materialised); float or integer, larger =
    keep. cost: of removing one unit, a positive int or int64 of the shape of ``scores``. alive: bool, units that
    compete; None = all. cost and alive are contiguous.
    """

    name: str
    scores: Tensor
    cost: Tensor | int
    alive: Tensor | None = None


Pieces = Callable[[], Iterable[Piece]]


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


class Field:
    """All layers as streams of chunks, and the bools that a sweep writes."""

    def __init__(self, pieces: Pieces, seed: int) -> None:
        self.pieces, self.seed = pieces, seed
        self.removed: dict[str, Tensor] = {}
        self.total = 0
        dtypes: set[torch.dtype] = set()
        self.sample = Sample()
        for piece in pieces():
            self._read(piece)
            dtypes.add(piece.scores.dtype)
            self.total += competing_cost(piece)
            self.removed[piece.name] = torch.zeros(piece.scores.shape, dtype=torch.bool, device=piece.scores.device)
            del piece  # a generator that is about to score the next layer must find the last one gone
        self.dtype = _common(dtypes)
        self.slots = ties.slots(self.removed)

    def _read(self, piece: Piece) -> None:
        """The first read of a layer: refuses NaN and takes the sample that the search starts from."""
        unranked = 0
        for part, values in _chunks(piece.scores):
            unranked += _nans(values)
            self.sample.add(values, *_part(piece, part), _stride(piece))
        _raise_if_unranked(piece.name, unranked, piece.scores.numel())

    def scores(self) -> Iterator[search.Chunk]:
        """Every unit, marked as the sweep goes."""
        for piece in self.pieces():
            first = self.slots[piece.name] << ties.INDEX_BITS
            marks = self.removed[piece.name].view(-1)
            for part, values in _chunks(piece.scores):
                cost, alive = _part(piece, part)
                yield search.Chunk(values.to(self.dtype), first + part.start, cost, alive, marks[part], _stride(piece))
                del values
            del piece

    def tie_keys(self, value: Number) -> Iterator[search.Chunk]:
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
            yield search.Chunk(ties.keys(ids, self.seed), ids, cost, stride=stride)

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

    def mark_near(self, found: search.Found, last: int | None) -> None:
        """Marks the units gathered around the cut that go as well."""
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


def _part(piece: Piece, part: slice) -> tuple[Tensor | int, Tensor | None]:
    """Cost and alive of one flat slice."""
    cost = piece.cost if isinstance(piece.cost, int) else piece.cost.reshape(-1)[part]
    return cost, None if piece.alive is None else piece.alive.reshape(-1)[part]


def _stride(piece: Piece) -> int:
    # n^(2/3) samples leave about as many candidates between two of them as there are samples.
    return round(math.cbrt(piece.scores.numel())) | 1


def _common(dtypes: set[torch.dtype]) -> torch.dtype:
    """The dtype in which all scores are compared: int64, float32 (also for half precision) or float64."""
    if not any(dtype.is_floating_point for dtype in dtypes):
        return torch.int64
    narrow = dtypes <= {torch.float16, torch.bfloat16, torch.float32}
    return torch.float32 if narrow else torch.float64


def competing_cost(piece: Piece) -> int:
    """Cost of everything in the layer that competes."""
    if isinstance(piece.cost, int):
        units = piece.scores.numel() if piece.alive is None else int(torch.count_nonzero(piece.alive))
        return int(units * piece.cost)
    costs: Tensor = piece.cost if piece.alive is None else piece.cost * piece.alive
    return int(costs.sum())
