"""L4: a tile of examples through a sparse network, row by row of the weights, each weight read once for all."""

from __future__ import annotations

from functools import cache
from typing import Any

from actprune.runtime.paths import numba_plan as slot
from actprune.runtime.paths.numba_tools import jit, pointers, row_sums

ROWS = 8  # rows of the input read together when a tile is transposed: more streams than this outrun the prefetcher


@cache
def tile(lanes: int) -> Any:
    """(x, out, taken, plan): ``taken`` <= lanes examples at once, every weight read once for all of them."""
    int64, int32, float32 = pointers()
    transpose, sums = _transpose(lanes), row_sums(lanes)

    def run(x: Any, out: Any, taken: Any, plan: Any) -> None:
        head, scores = int64(plan), float32(out)
        read, write = head[slot.LEFT], head[slot.RIGHT]
        transpose(x, read, taken, plan)
        for number in range(head[slot.LAYERS]):
            layer = int64(plan + 8 * (slot.HEAD + slot.RECORD * number))
            start, bias, matrix = int64(layer[slot.ROW_START]), float32(layer[slot.BIAS]), float32(read)
            for i in range(layer[slot.WIDTH]):
                at, count = 4 * start[i], start[i + 1] - start[i]
                index, value = int32(layer[slot.ROW_INDEX] + at), float32(layer[slot.ROW_VALUE] + at)
                sums(matrix, index, value, count, bias[i], layer[slot.RELU], float32(write + 4 * i * lanes))
            read, write = write, read
        result = float32(read)
        for e in range(taken):
            for j in range(head[slot.OUTPUTS]):
                scores[e * head[slot.OUTPUTS] + j] = result[j * lanes + e]

    return jit(run)


def _transpose(lanes: int) -> Any:
    """(x, into, taken, plan): the features that the first layer reads, (inputs, lanes). Lanes from ``taken`` on keep
    what an earlier tile left there: nobody reads what comes of them.
    """
    int64, _, float32 = pointers()

    def transpose(x: Any, into: Any, taken: Any, plan: Any) -> None:
        head, images, matrix = int64(plan), float32(x), float32(into)
        columns, features = int64(head[slot.GATHER]), head[slot.FEATURES]
        together = taken - taken % ROWS
        for e in range(0, together, ROWS):
            for j in range(head[slot.HEAD + slot.INPUTS]):
                at, to = e * features + columns[j], j * lanes + e
                for row in range(ROWS):
                    matrix[to + row] = images[at + row * features]
        for e in range(together, taken):
            for j in range(head[slot.HEAD + slot.INPUTS]):
                matrix[j * lanes + e] = images[e * features + columns[j]]

    return jit(transpose)
