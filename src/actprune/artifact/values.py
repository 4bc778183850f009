"""L4: the kept values of a tensor as symbols: floats, small integers with a scale, or places in a codebook.

Codebooks are k-means in one dimension: Lloyd from evenly spread centroids, as published, or the exact optimum.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from actprune.artifact.entropy import Array, Coder, Cursor, packed, packed_size, unpacked
from actprune.errors import ArtifactError

FLOATS = {"fp32": 32, "fp16": 16, "bf16": 16}
_LARGEST = float(np.finfo(np.float32).max) / 127  # of a scale: times its largest integer it must not overflow
_KIND = re.compile(r"(fp32|fp16|bf16)|int([2-8])(row)?|shared([1-8])")


@dataclass(frozen=True)
class Kind:
    """How precisely values are held.

    "fp32", "fp16", "bf16"     as they are, or rounded
    "int2" .. "int8"           integers times one scale for the tensor; "int8row": one scale for every row
    "shared1" .. "shared8"     one of at most 2**b centroids (k-means), which are stored in fp16
    """

    name: str
    family: str
    bits: int
    by_row: bool = False

    @classmethod
    def of(cls, name: str) -> Kind:
        """The kind of that name. Raises ArtifactError when there is none."""
        found = _KIND.fullmatch(name)
        if found is None:
            raise ArtifactError(
                f"unknown value precision {name[:40]!r}; use fp32, fp16, bf16, int2 to int8, int8row (a scale "
                "for every row) or shared1 to shared8"
            )
        floating, integer, row, shared = found.groups()
        if floating:
            return cls(name, "float", FLOATS[floating])
        return cls(name, "int", int(integer), bool(row)) if integer else cls(name, "shared", int(shared))

    def tables(self, rows: int) -> int:
        """How many scales there are (0 when the family has none)."""
        return (rows if self.by_row else 1) if self.family == "int" else 0


@dataclass(frozen=True)
class Symbols:
    """Values in a given precision. symbols: uint32 ``(n,)``; table: fp32 scales, or the fp16 codebook, ascending."""

    kind: Kind
    symbols: Array
    table: Array

    def values(self, rows: Array) -> Array:
        """float32 ``(n,)``; ``rows``: the row of every value, int64 ``(n,)``."""
        if self.kind.family == "float":
            return _from_pattern(self.symbols, self.kind.name)
        if self.kind.family == "shared":
            return self.table.astype(np.float32)[self.symbols]
        levels = self.symbols.astype(np.float32) - np.float32(_most(self.kind))
        return np.asarray(levels * (self.table[rows] if self.kind.by_row else self.table[0]))


def quantised(values: Array, kind: Kind, rows: Array, count_rows: int, init: Init = "exact") -> Symbols:
    """Symbols for float32 ``values`` ``(n,)``. Raises ArtifactError when they do not fit (NaN, overflow)."""
    if kind.family == "float":
        symbols = _pattern(values, kind.name)
        if not np.array_equal(np.isfinite(values), np.isfinite(_from_pattern(symbols, kind.name))):
            raise ArtifactError(f"values up to {np.abs(values).max():g} do not fit {kind.name}; use bf16 or fp32")
        return Symbols(kind, symbols, np.zeros(0, np.float32))
    if not np.isfinite(values).all():
        raise ArtifactError(f"NaN or infinite values cannot be stored as {kind.name}; use fp32, or train again")
    if kind.family == "shared":
        return shared(values, kind, init, 1 << kind.bits)
    scales = _scales(values, kind, rows, count_rows)
    levels = np.rint(values / (scales[rows] if kind.by_row else scales[0])) if values.size else values
    return Symbols(kind, (levels + _most(kind)).astype(np.uint32), scales)


def shared(values: Array, kind: Kind, init: Init, count: int) -> Symbols:
    """Symbols for float32 ``values`` in a codebook of at most ``count`` fp16 centroids."""
    with np.errstate(over="ignore"):
        table = np.unique(centroids(values, count, init).astype(np.float16)) if values.size else np.zeros(1, np.float16)
    if not np.isfinite(table).all():
        raise ArtifactError(f"values up to {np.abs(values).max():g} do not fit fp16 centroids; use bf16 or fp32")
    return Symbols(kind, nearest(values, table.astype(np.float64)).astype(np.uint32), table)


def _most(kind: Kind) -> int:
    return int((1 << (kind.bits - 1)) - 1)


def _scales(values: Array, kind: Kind, rows: Array, count_rows: int) -> Array:
    """The largest magnitude becomes the largest integer; a row of zeros gets scale 1."""
    largest = np.zeros(count_rows if kind.by_row else 1, np.float32)
    np.maximum.at(largest, rows if kind.by_row else np.zeros(len(rows), np.int64), np.abs(values))
    scales = np.maximum(largest / np.float32(_most(kind)), np.finfo(np.float32).tiny)
    return np.where(largest > 0, scales, 1).astype(np.float32)


def _pattern(values: Array, name: str) -> Array:
    if name == "fp32":
        return values.astype(np.float32).view(np.uint32)
    if name == "fp16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16).astype(np.uint32)
    rounded = torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(torch.bfloat16).view(torch.int16)
    return rounded.numpy().view(np.uint16).astype(np.uint32)


def _from_pattern(symbols: Array, name: str) -> Array:
    if name == "fp16":
        with np.errstate(invalid="ignore"):  # signalling NaN
            return symbols.astype(np.uint16).view(np.float16).astype(np.float32)
    return (symbols << np.uint32(16 if name == "bf16" else 0)).astype(np.uint32).view(np.float32)


def code(coder: Coder, kind: Kind, count: int, rows: int, given: Symbols | None) -> Symbols:
    """Write ``given``, or read ``count`` symbols: range coded, with an adaptive model; tables as plain bits."""
    table = _code_table(coder, kind, rows, None if given is None else given.table)
    if kind.family == "float":
        low = kind.bits - 8
        top = adaptive(coder, 256, count, None if given is None else given.symbols >> np.uint32(low))
        symbols = top.astype(np.uint32) << np.uint32(low)
        for shift in range(0, low, 8):
            part = None if given is None else (given.symbols >> np.uint32(shift)) & np.uint32(255)
            symbols = symbols | (coder.uniform(256, count, part).astype(np.uint32) << np.uint32(shift))
        return Symbols(kind, symbols, table)
    size = len(table) if kind.family == "shared" else 2 * _most(kind) + 1
    symbols = adaptive(coder, size, count, None if given is None else given.symbols)
    return Symbols(kind, symbols.astype(np.uint32), table)


def adaptive(coder: Coder, size: int, count: int, symbols: Array | None) -> Array:
    """Symbols below ``size`` whose frequencies are learnt on the way, in blocks that grow by a quarter."""
    weights = np.full(size, 0.5)
    blocks, at = [], 0
    while at < count:
        length = min(max(8, at // 4), count - at)
        found = coder.categorical(weights, length, None if symbols is None else symbols[at : at + length])
        weights = weights + np.bincount(found, minlength=size)
        blocks.append(found)
        at += length
    return np.concatenate(blocks) if blocks else np.zeros(0, np.int32)


def _code_table(coder: Coder, kind: Kind, rows: int, table: Array | None) -> Array:
    if kind.family == "shared":
        size = coder.uniform(1 << kind.bits, 1, None if table is None else np.array([len(table) - 1]))[0] + 1
        halves = coder.uniform(1 << 16, int(size), None if table is None else table.view(np.uint16))
        return _checked(halves.astype(np.uint16).view(np.float16))
    pattern = None if table is None else table.view(np.uint16)
    halves = coder.uniform(1 << 16, 2 * kind.tables(rows), pattern)
    return _checked(halves.astype(np.uint16).view(np.float32))


def write(symbols: Symbols) -> bytes:
    """Fixed-width form, for files without the range coder."""
    if symbols.kind.family == "float":
        return symbols.symbols.astype(f"<u{symbols.kind.bits // 8}").tobytes()
    size = bytes([len(symbols.table) - 1]) if symbols.kind.family == "shared" else b""
    table = symbols.table.astype(symbols.table.dtype.newbyteorder("<")).tobytes()
    return size + table + packed(symbols.symbols, symbols.kind.bits)


def read(cursor: Cursor, kind: Kind, count: int, rows: int) -> Symbols:
    """Inverse of ``write``. Raises ArtifactError for symbols that are in no codebook."""
    if kind.family == "float":
        width = kind.bits // 8
        found = np.frombuffer(cursor.take(width * count), f"<u{width}").astype(np.uint32)
        return Symbols(kind, found, np.zeros(0, np.float32))
    if kind.family == "shared":
        table = np.frombuffer(cursor.take(2 * (cursor.take(1)[0] + 1)), "<f2").astype(np.float16)
    else:
        table = np.frombuffer(cursor.take(4 * kind.tables(rows)), "<f4").astype(np.float32)
    symbols = unpacked(cursor.take(packed_size(kind.bits, count)), kind.bits, count)
    limit = len(table) if kind.family == "shared" else 2 * _most(kind) + 1
    if symbols.size and symbols.max() >= limit:
        raise ArtifactError(f"a value refers to entry {symbols.max()} of a table of {limit}")
    return Symbols(kind, symbols, _checked(table))


def _checked(table: Array) -> Array:
    if not np.isfinite(table).all() or float(np.abs(table).max(initial=0)) > _LARGEST:
        raise ArtifactError("a codebook or scale is not a number, or too large")
    return table


# ---- k-means in one dimension ---------------------------------------------------------------------------------------


Init = Literal["linear", "exact"]
EXACT_VALUES, EXACT_CENTROIDS = 5000, 64
_ROUNDS = 300


def centroids(values: Array, count: int, init: Init = "linear") -> Array:
    """At most ``count`` centroids of ``values`` ``(n,)``, ascending, float64; fewer where clusters stay empty.

    "linear": Lloyd's iterations from centroids evenly spaced between minimum and maximum (Han et al. 2016: large
    weights are rare but matter). "exact": the least sum of squares by dynamic programming, for at most 5,000 different
    values and 64 centroids; beyond that it is "linear". Deterministic; when there are at most ``count`` different
    values these are it.
    """
    distinct, weights = np.unique(values.astype(np.float64), return_counts=True)
    if len(distinct) <= count:
        return np.asarray(distinct)
    if init == "exact" and len(distinct) <= EXACT_VALUES and count <= EXACT_CENTROIDS:
        return _exact(distinct, weights, count)
    return _lloyd(distinct, weights, np.linspace(distinct[0], distinct[-1], count))


def nearest(values: Array, centers: Array) -> Array:
    """Index of the nearest of ascending ``centers`` for every value; the lower one on a tie."""
    return np.asarray(np.searchsorted((centers[1:] + centers[:-1]) / 2, values, side="left"))


def _lloyd(distinct: Array, weights: Array, centers: Array) -> Array:
    """Sorted values make a cluster a range, so that one iteration needs only the ranges' ends and running sums."""
    number = np.concatenate([[0], np.cumsum(weights)])
    total = np.concatenate([[0.0], np.cumsum(weights * distinct)])
    ends: Array = np.zeros(0)
    for _ in range(_ROUNDS):
        middles = (centers[1:] + centers[:-1]) / 2
        new = np.concatenate([[0], np.searchsorted(distinct, middles, side="right"), [len(distinct)]])
        if np.array_equal(new, ends):
            break
        ends = new
        counts = np.diff(number[ends])
        with np.errstate(invalid="ignore", divide="ignore"):
            centers = np.where(counts > 0, np.diff(total[ends]) / counts, centers)
    return centers[np.diff(number[ends]) > 0]


def _exact(distinct: Array, weights: Array, count: int) -> Array:
    """best[m] = least cost of the first m values with so many clusters; the best last cluster moves right with m."""
    number = np.concatenate([[0], np.cumsum(weights)]).astype(np.float64)
    shifted = distinct - distinct.mean()  # keeps the differences of squares precise
    total = np.concatenate([[0.0], np.cumsum(weights * shifted)])
    squares = np.concatenate([[0.0], np.cumsum(weights * shifted**2)])

    def cost(start: Array, stop: Array) -> Array:
        spread = squares[stop] - squares[start] - (total[stop] - total[start]) ** 2 / (number[stop] - number[start])
        return np.asarray(np.maximum(spread, 0.0))

    size = len(distinct)
    best = cost(np.zeros(size, np.int64), np.arange(1, size + 1))
    best = np.concatenate([[0.0], best])
    starts = []
    for clusters in range(2, count + 1):
        best, start = _one_more(best, cost, clusters, size)
        starts.append(start)
    ends = [size]
    for start in reversed(starts):
        ends.append(int(start[ends[-1]]))
    edges = np.array([0, *reversed(ends)])
    return np.asarray(np.diff(total[edges]) / np.diff(number[edges]) + distinct.mean())


def _one_more(best: Array, cost: Callable[[Array, Array], Array], clusters: int, size: int) -> tuple[Array, Array]:
    """``best`` with one more cluster, and where the last one starts: divide and conquer, a whole level at a time."""
    found = np.full(size + 1, np.inf)
    start = np.zeros(size + 1, np.int64)
    low, high = np.array([clusters]), np.array([size])  # ranges of m to do
    first, last = np.array([clusters - 1]), np.array([size - 1])  # where their last cluster may start
    while low.size:
        middle = (low + high) // 2
        stop = np.minimum(last, middle - 1)
        lengths = stop - first + 1
        offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        tried = np.arange(lengths.sum()) - np.repeat(offsets - first, lengths)
        costs = best[tried] + cost(tried, np.repeat(middle, lengths))
        least = np.minimum.reduceat(costs, offsets)
        hits = np.flatnonzero(costs == np.repeat(least, lengths))
        place = tried[hits[np.searchsorted(hits, offsets)]]
        found[middle], start[middle] = least, place
        low, high = np.concatenate([low, middle + 1]), np.concatenate([middle - 1, high])
        first, last = np.concatenate([first, place]), np.concatenate([place, last])
        todo = low <= high
        low, high, first, last = low[todo], high[todo], first[todo], last[todo]
    return found, start
