"""The exact cut through the scores of many layers, in bounded memory.

All scores are never joined or sorted. The layers are read one at a time, as often as the search needs (twice as a
rule), in chunks; what is kept between reads is one bool per unit, which is the answer itself, and a bounded buffer.

The order is total, so the answer is unique: ascending score, then ascending tie key (``ties``). It is the answer that
joining everything and sorting by (score, tie key) gives, whatever the chunk size, device or order of the layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from actprune.errors import BudgetError
from actprune.rank import search, ties
from actprune.rank.field import Field, Pieces


@dataclass(frozen=True)
class Cut:
    """Which units go: bool per layer, of the shape of its scores, True = removed. cost: what that removes in all."""

    removed: dict[str, Tensor]
    cost: int


def cut(pieces: Pieces, need: int, seed: int) -> Cut:
    """Removes units in ascending order of (score, tie key) until their cost first reaches ``need``.

    ``pieces()`` is called for every read and yields the same layers, in any order. With unit cost exactly ``need``
    units go, otherwise less than one unit's cost too much. Scores of different dtypes are compared exactly, except
    integers against floats, which are compared as float64. Raises ModelError naming a layer with NaN scores, and
    BudgetError when less than ``need`` competes.
    """
    field = Field(pieces, seed)
    if need > field.total:
        raise BudgetError(f"asked to remove a cost of {need}; only {field.total} may still be removed")
    if need <= 0:
        return Cut(field.removed, 0)
    found = search.find(field.scores, need, field.total, field.dtype, field.sample.sorted(field.dtype))
    rest = need - found.below
    last, at = None, found.at  # last: tie key of the last unit removed among the equal ones, None = all of them go
    if rest < found.at:
        last, at = _last_key(field, found, rest)
    if found.near is None:
        field.mark_ties(found.value, last)
    else:
        field.mark_near(found, last)
    return Cut(field.removed, found.below + at)


def _last_key(field: Field, found: search.Found, rest: int) -> tuple[int, int]:
    """The tie key at which the cost of equal units reaches ``rest``, and the cost up to it."""
    if found.near is None:  # too many equal scores: the same search, on their keys

        def stream() -> Iterator[search.Chunk]:
            return field.tie_keys(found.value)

        key = search.find(stream, rest, found.at, torch.int64, search.survey(stream, torch.int64))
        return int(key.value), key.below + key.at
    values, ids, cost = found.near
    equal = values == found.value
    keys, order = ties.keys(ids[equal], field.seed).sort()
    reached = cost[equal][order].cumsum(0)
    place = int(torch.searchsorted(reached, rest))
    return int(keys[place]), int(reached[place])
