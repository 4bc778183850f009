"""L4: a chain of sparse layers laid out for the numba kernels, and the table of addresses through which they read it.

One integer per call instead of a dozen arrays: unpacking an array costs about 0.04 us a call, as much as sixty weights.
The table holds addresses of arrays that the plan keeps alive and that never move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from actprune.program import Dense

TILE = 32  # examples that the widest kernel takes at once

# Slots of the table's head (int64 each), then of one record per layer.
LAYERS, FEATURES, OUTPUTS, GATHER, BATCH, OUT, ACTIVE, VALUES, SUMS, LEFT, RIGHT, HEAD = range(12)
INPUTS, WIDTH, RELU, BIAS, COL_START, COL_INDEX, COL_VALUE, ROW_START, ROW_INDEX, ROW_VALUE, RECORD = range(11)

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class _Layer:
    weight: Array  # (out, in) float32
    bias: Array  # (out,) float32
    relu: bool


class Plan:
    """Packed weights, scratch memory for one thread, where the result goes, and the ``address`` that a kernel is given.

    The inputs of every layer are put in the order of how many weights read them, so that the inner loop of the kernel
    for single examples runs for ever longer, which branch prediction loves (1.1x to 1.6x); no sum changes but in its
    order. ``layers`` must fit together and read at most ``features`` numbers an example: that is not checked here.

    Memory: the non-zeros twice, by column and by row (12 bytes each time at most), and 256 bytes per unit of the widest
    layer for each thread.
    """

    def __init__(self, layers: Sequence[Dense], features: int) -> None:
        gather, ordered = _ordered(layers)
        self._out: Array | None = None
        self.outputs = len(ordered[-1].bias)
        self._keep: list[Array] = []
        self._table = np.zeros(HEAD + RECORD * len(ordered), np.int64)
        self._table[[LAYERS, FEATURES, OUTPUTS]] = len(ordered), features, self.outputs
        self._table[GATHER] = self._hold(gather.astype(np.int64))
        for index, layer in enumerate(ordered):
            self._table[HEAD + RECORD * index :][:RECORD] = self._record(layer)
        self._scratch_size = max(max(layer.weight.shape) for layer in ordered)
        self._add_scratch()

    @property
    def address(self) -> int:
        """Where the table is; valid as long as the plan lives."""
        return int(self._table.ctypes.data)

    def for_another_thread(self) -> Self:
        """The same weights with scratch memory of their own."""
        other = object.__new__(type(self))
        other.outputs, other._scratch_size = self.outputs, self._scratch_size
        other._keep, other._table, other._out = list(self._keep), self._table.copy(), None
        other._add_scratch()
        return other

    def write_to(self, out: Array) -> None:
        """From now on take batches of ``len(out)`` and write to ``out``: float32 (batch, outputs), C-contiguous."""
        self._out = out
        self._table[[BATCH, OUT]] = len(out), out.ctypes.data

    def _add_scratch(self) -> None:
        size = self._scratch_size
        self._table[ACTIVE] = self._hold(np.zeros(size, np.int32))
        self._table[VALUES] = self._hold(np.zeros(size, np.float32))
        self._table[SUMS] = self._hold(np.zeros(size + 1, np.float32))  # the last one takes what padding adds
        for slot in (LEFT, RIGHT):
            start = self._hold(np.zeros(size * TILE + 16, np.float32))
            self._table[slot] = start + -start % 64  # vectors that cross cache lines take twice as long

    def _hold(self, array: Array) -> int:
        """Address of a copy: the model's own memory may change or go."""
        self._keep.append(np.array(array, order="C"))
        return int(self._keep[-1].ctypes.data)

    def _record(self, layer: _Layer) -> list[int]:
        width, inputs = layer.weight.shape
        arrays = [layer.bias, *_by_column(layer.weight), *_by_row(layer.weight)]
        return [inputs, width, int(layer.relu), *map(self._hold, arrays)]


def _ordered(layers: Sequence[Dense]) -> tuple[Array, list[_Layer]]:
    """Which features the first layer reads, and the layers, both with every layer's inputs in the plan's order."""
    first = layers[0]
    gather = np.arange(first.weight.shape[1]) if first.columns is None else first.columns.numpy(force=True)
    found: list[_Layer] = []
    for layer in layers:
        weight = layer.weight.numpy(force=True)
        bias = np.zeros(len(weight), np.float32) if layer.bias is None else layer.bias.numpy(force=True)
        order = np.argsort((np.count_nonzero(weight, axis=0) + 1) // 2, kind="stable")
        if found:
            before = found.pop()
            found.append(_Layer(before.weight[order], before.bias[order], before.relu))
        else:
            gather = gather[order]
        found.append(_Layer(weight[:, order], bias, layer.activation == "relu"))
    return gather, found


def _by_column(weight: Array) -> tuple[Array, Array, Array]:
    """Starts, rows and values of each column's non-zeros, an odd number made even by a zero for the row after the last.

    The kernel takes two at a time, which measured fastest (1, 4 and 8 are 2 to 25 % slower).
    """
    count = np.count_nonzero(weight, axis=0)
    start = _starts(count + count % 2)
    column, row = np.nonzero(weight.T)
    place = start[column] + np.arange(len(column)) - _starts(count)[column]
    index, value = np.full(start[-1], len(weight), np.int32), np.zeros(start[-1], np.float32)
    index[place], value[place] = row, weight[row, column]
    return start, index, value


def _by_row(weight: Array) -> tuple[Array, Array, Array]:
    """Starts, columns and values of each row's non-zeros."""
    row, column = np.nonzero(weight)
    return _starts(np.count_nonzero(weight, axis=1)), column.astype(np.int32), weight[row, column]


def _starts(count: Array) -> Array:
    return np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
