"""L4: one example through a sparse network, column by column of the weights, without the columns of zero inputs."""

from __future__ import annotations

from functools import cache
from typing import Any

from actprune.runtime.paths import numba_plan as slot
from actprune.runtime.paths.numba_tools import jit, pointers


@cache
def example() -> Any:
    """(x, out, plan): one example. What a zero input would add is never touched."""
    int64 = pointers().int64
    gather, spread, keep, write = _gather(), _spread(), _keep(), _write()

    def one(x: Any, out: Any, plan: Any) -> None:
        layers = int64(plan)[slot.LAYERS]
        count = gather(x, plan)
        for layer in range(layers):
            record = plan + 8 * (slot.HEAD + slot.RECORD * layer)
            spread(plan, record, count)
            if layer < layers - 1:
                count = keep(plan, record)
            else:
                write(out, plan, record)

    return jit(one)


def _gather() -> Any:
    """(x, plan) -> how many of the inputs are not zero; which and their values go to ACTIVE and VALUES."""
    int64, int32, float32 = pointers()

    def gather(x: Any, plan: Any) -> Any:
        head, image = int64(plan), float32(x)
        columns, active, values = int64(head[slot.GATHER]), int32(head[slot.ACTIVE]), float32(head[slot.VALUES])
        count = 0
        for j in range(head[slot.HEAD + slot.INPUTS]):
            value = image[columns[j]]
            active[count] = j  # without a branch, which would be guessed wrong too often
            values[count] = value
            count += value != 0  # true for NaN
        return count

    return jit(gather)


def _spread() -> Any:
    """(plan, record, count): SUMS = bias + the weights of the active inputs times their values."""
    int64, int32, float32 = pointers()

    def spread(plan: Any, record: Any, count: Any) -> None:
        head, layer = int64(plan), int64(record)
        active, values, sums = int32(head[slot.ACTIVE]), float32(head[slot.VALUES]), float32(head[slot.SUMS])
        start, index, weight = (
            int64(layer[slot.COL_START]),
            int32(layer[slot.COL_INDEX]),
            float32(layer[slot.COL_VALUE]),
        )
        bias = float32(layer[slot.BIAS])
        for i in range(layer[slot.WIDTH]):
            sums[i] = bias[i]
        for a in range(count):
            j, value = active[a], values[a]
            k, stop = start[j], start[j + 1]
            while k < stop:  # "range" with a step works out its length first, 0.2 us in all
                first, second = index[k], index[k + 1]  # never the same, so both may be read before either is written
                left, right = sums[first] + value * weight[k], sums[second] + value * weight[k + 1]
                sums[first], sums[second] = left, right
                k += 2

    return jit(spread)


def _keep() -> Any:
    """(plan, record) -> how many of SUMS are not zero after the activation; left as ``gather`` leaves inputs."""
    int64, int32, float32 = pointers()

    def keep(plan: Any, record: Any) -> Any:
        head, layer = int64(plan), int64(record)
        active, values, sums = int32(head[slot.ACTIVE]), float32(head[slot.VALUES]), float32(head[slot.SUMS])
        count, linear = 0, layer[slot.RELU] == 0
        for j in range(layer[slot.WIDTH]):
            value = sums[j]
            active[count] = j
            values[count] = value
            count += (not value <= 0) | linear  # "not <=" is true for NaN; "or" would be a branch
        return count

    return jit(keep)


def _write() -> Any:
    """(out, plan, record): the last layer's outputs."""
    int64, _, float32 = pointers()

    def write(out: Any, plan: Any, record: Any) -> None:
        layer, sums, scores = int64(record), float32(int64(plan)[slot.SUMS]), float32(out)
        for j in range(layer[slot.WIDTH]):
            value = sums[j]
            scores[j] = 0.0 if layer[slot.RELU] != 0 and value < 0 else value

    return jit(write)
