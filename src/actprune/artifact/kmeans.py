"""L4: k-means in one dimension: Lloyd from evenly spread centroids, as published, or the exact optimum."""

from __future__ import annotations

from typing import Literal

import numpy as np

from actprune.artifact.bits import Array

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


def _one_more(best: Array, cost: object, clusters: int, size: int) -> tuple[Array, Array]:
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
        costs = best[tried] + cost(tried, np.repeat(middle, lengths))  # type: ignore[operator]
        least = np.minimum.reduceat(costs, offsets)
        hits = np.flatnonzero(costs == np.repeat(least, lengths))
        place = tried[hits[np.searchsorted(hits, offsets)]]
        found[middle], start[middle] = least, place
        low, high = np.concatenate([low, middle + 1]), np.concatenate([middle - 1, high])
        first, last = np.concatenate([first, place]), np.concatenate([place, last])
        todo = low <= high
        low, high, first, last = low[todo], high[todo], first[todo], last[todo]
    return found, start
