"""L4: where the kept weights are: an adaptive model for the range coder, and bit masks and gaps without one.

The adaptive model learns, while it codes, how dense every row and every column is and how much likelier a weight is
kept when its neighbours are; nothing of this is transmitted. The tensor is seen as a matrix (rows: neurons), walked by
anti-diagonals: the cells of one are in different rows and columns, so all of them are coded at once, and the cells to
their left and above are known by then.
"""

from __future__ import annotations

import math

import numpy as np

from actprune.artifact.bits import Array, Cursor, packed, packed_size, unpacked, varint
from actprune.artifact.coder import Coder
from actprune.errors import ArtifactError

_ROW_PRIOR, _COLUMN_PRIOR, _CONTEXT_PRIOR = 2.0, 4.0, 1.0  # in kept weights: how soon densities are believed
_WIDEST = 8192
_STEP_COST = 256  # a diagonal costs about as much time as this many cells


def work(shape: tuple[int, ...]) -> int:
    """Time that coding takes, in cells of a matrix."""
    rows, columns = _grid(shape)
    return columns * _STEP_COST + rows * columns


def code_mask(coder: Coder, shape: tuple[int, ...], mask: Array | None) -> Array:
    """Write ``mask`` (bool, ``shape``), or read one: bool ``(numel,)``."""
    rows, columns = _grid(shape)
    cells = np.zeros(rows * columns, np.bool_)
    if mask is not None:
        cells[: mask.size] = mask.ravel()
    model = _Densities(rows, columns)
    row = np.arange(rows)
    for diagonal in range(columns):
        column = (diagonal - row) % columns
        flat = row * columns + column
        found = coder.bernoulli(model.expect(row, column), None if mask is None else cells[flat])
        cells[flat] = found
        model.learn(found)
    return cells[: math.prod(shape)]


def _grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns: a vector is folded into a square; very wide matrices are folded until they are not."""
    numel = math.prod(shape)
    columns = math.prod(shape[1:]) if len(shape) > 1 else math.isqrt(max(numel - 1, 0)) + 1
    while columns > _WIDEST or columns > max(16, 32 * -(-numel // max(columns, 1))):
        columns = -(-columns // 2)
    return (-(-numel // columns), columns) if numel else (0, 0)


class _Densities:
    """Odds that a cell is kept: overall density x row x column x neighbourhood, each learnt from the cells before."""

    def __init__(self, rows: int, columns: int) -> None:
        self._kept, self._seen = 0, 0
        self._row_kept, self._row_seen = np.zeros(rows), np.zeros(rows)
        self._column_kept, self._column_seen = np.zeros(columns), np.zeros(columns)
        self._context_kept, self._context_expected = np.zeros(8), np.zeros(8)
        self._cells = np.zeros((rows, columns), np.intp)

    def expect(self, row: Array, column: Array) -> Array:
        """Probabilities of the cells ``(row, column)``."""
        mean = (self._kept + 0.5) / (self._seen + (1 if self._seen else 5))
        by_row = (self._row_kept + _ROW_PRIOR) / (self._row_seen * mean + _ROW_PRIOR)
        by_column = ((self._column_kept + _COLUMN_PRIOR) / (self._column_seen * mean + _COLUMN_PRIOR))[column]
        context = self._context(row, column)
        odds = by_row * by_column * (mean / (1 - mean))
        by_context = (self._context_kept + _CONTEXT_PRIOR) / (self._context_expected + _CONTEXT_PRIOR)
        self._now = (row, column, by_row, by_column, context, odds / (1 + odds))
        odds = odds * by_context[context]
        return np.asarray(odds / (1 + odds))

    def _context(self, row: Array, column: Array) -> Array:
        """Which of the two cells to the left and of the one above are kept, 0..7; beyond an edge lies its opposite."""
        cells = self._cells
        columns = cells.shape[1]
        left, further = cells[row, (column - 1) % columns], cells[row, (column - 2) % columns]
        above = cells[row - 1, column] if len(cells) > 1 else 0
        return np.asarray(4 * left + 2 * further + above)

    def learn(self, found: Array) -> None:
        """What the cells of the last ``expect`` turned out to be."""
        row, column, by_row, by_column, context, expected = self._now
        columns = self._column_kept.size
        self._row_kept += found
        self._row_seen += by_column  # a row is expected to keep more where columns are dense
        self._column_kept += np.bincount(column, found, columns)
        self._column_seen += np.bincount(column, by_row, columns)
        self._context_kept += np.bincount(context, found, 8)
        self._context_expected += np.bincount(context, expected, 8)
        self._cells[row, column] = found
        self._kept, self._seen = self._kept + int(found.sum()), self._seen + found.size


def bitmask(mask: Array) -> bytes:
    """One bit a cell."""
    return bytes(np.packbits(mask.ravel(), bitorder="little"))


def read_bitmask(cursor: Cursor, numel: int) -> Array:
    """Inverse of ``bitmask``: bool ``(numel,)``."""
    data = np.frombuffer(cursor.take((numel + 7) // 8), np.uint8)
    return np.unpackbits(data, count=numel, bitorder="little").astype(np.bool_)


def gaps(mask: Array) -> bytes:
    """Numbers of skipped cells before every kept one, at the fixed width that takes least; a full code only skips."""
    skipped = np.diff(np.flatnonzero(mask), prepend=-1) - 1
    width = min(range(1, 17), key=lambda width: width * _codes(skipped, width))
    most = (1 << width) - 1
    fillers = skipped // most
    codes = np.full(_codes(skipped, width), most)
    codes[np.cumsum(fillers + 1) - 1] = skipped % most
    return bytes([width]) + varint(len(codes)) + packed(codes, width)


def _codes(skipped: Array, width: int) -> int:
    return int((skipped // ((1 << width) - 1)).sum()) + skipped.size


def read_gaps(cursor: Cursor, numel: int) -> Array:
    """Inverse of ``gaps``: bool ``(numel,)``. Raises ArtifactError when a gap leads out of the tensor."""
    width, count = cursor.take(1)[0], cursor.varint()
    if not 1 <= width <= 16:
        raise ArtifactError(f"gaps of {width} bits; expected 1 to 16")
    codes = unpacked(cursor.take(packed_size(width, count)), width, count).astype(np.int64)
    most = (1 << width) - 1
    places = np.cumsum(np.where(codes == most, most, codes + 1))[codes != most] - 1
    if places.size and places[-1] >= numel:
        raise ArtifactError(f"a gap leads to cell {places[-1]} of a tensor of {numel}")
    mask = np.zeros(numel, np.bool_)
    mask[places] = True
    return mask
