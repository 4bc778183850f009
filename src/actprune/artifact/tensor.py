"""L4: a tensor taken apart: which cells are kept (positions), and with which values.

How that can be stored:

    plain    an ordinary safetensors entry, which any safetensors reader opens
    all      every cell is kept: values only
    bits     a bit mask, then values          gaps     skipped cells before each kept one, then values
    huffman  gaps and cluster indices by Huffman codes, as in Deep Compression; only on request
    coded    positions and values by the adaptive range coder; "coded-all": values only

Kinds besides the float precisions: "index" (ascending integers, kept as positions), "bool" (positions only) and "raw"
(anything else, byte for byte).

Positions. The adaptive model learns, while it codes, how dense every row and every column is and how much likelier a
weight is kept when its neighbours are; nothing of this is transmitted. The tensor is seen as a matrix (rows:
neurons), walked by anti-diagonals: the cells of one are in different rows and columns, so all of them are coded at
once, and the cells to their left and above are known by then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actprune.artifact import values
from actprune.artifact.entropy import Array, Coder, Cursor, packed, packed_size, unpacked, varint
from actprune.artifact.values import Init, Kind, Symbols
from actprune.errors import ArtifactError
from actprune.program.nodes import DTYPES

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Spec:
    """How one tensor is stored. extent: one more than an index's largest number; bits of a gap in "huffman"."""

    name: str
    shape: tuple[int, ...]
    encoding: str
    kind: str
    dtype: str = "float32"
    extent: int = 0

    @property
    def numel(self) -> int:
        """Cells of the tensor."""
        return math.prod(self.shape)

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of the mask of its positions."""
        return (self.extent,) if self.kind == "index" else self.shape

    @property
    def rows(self) -> int:
        """Length of the first axis."""
        return self.shape[0] if self.shape else 1

    @property
    def has_values(self) -> bool:
        """Whether values are stored beside the positions."""
        return self.kind not in ("index", "bool")


@dataclass(frozen=True)
class Parts:
    """A tensor taken apart. mask: bool over ``spec.grid``, or None: all kept; symbols: kept values; raw: bytes."""

    mask: Array | None
    symbols: Symbols | None = None
    raw: bytes = b""

    @property
    def kept(self) -> int | None:
        """Kept cells, or None when all are."""
        return None if self.mask is None else int(self.mask.sum())


def split(name: str, tensor: Tensor, kind: str, init: Init = "exact") -> tuple[Spec, Parts]:
    """A tensor in its parts, without an encoding yet. ``kind`` is for floating-point tensors (see ``Kind``)."""
    tensor = tensor.detach().cpu().contiguous()
    shape, dtype = tuple(tensor.shape), _dtype_name(name, tensor)
    if tensor.dtype not in _FLOATS:
        return _split_plain(name, tensor, dtype)
    precise = (
        _DTYPE_NAMES[tensor.dtype].replace("float32", "fp32").replace("bfloat16", "bf16").replace("float16", "fp16")
    )
    if kind in values.FLOATS and values.FLOATS[kind] >= values.FLOATS[precise]:
        kind = precise  # no rounding, and no more bits than there are
    flat = tensor.float().numpy().ravel()
    mask = flat != 0  # a masked weight is often -0.0, which is a zero like any other
    spec = Spec(name, shape, "", kind, dtype)
    kept = flat[mask]
    try:
        symbols = values.quantised(kept, Kind.of(kind), row_of(spec, mask), spec.rows, init)
    except ArtifactError as error:
        raise ArtifactError(f"{name}: {error}") from error
    return spec, Parts(None if mask.all() else mask, symbols)


def _dtype_name(name: str, tensor: Tensor) -> str:
    if tensor.dtype not in _DTYPE_NAMES or tensor.layout != torch.strided:
        raise ArtifactError(f"{name} is a {tensor.layout} tensor of {tensor.dtype}, which cannot be stored")
    return _DTYPE_NAMES[tensor.dtype]


def _split_plain(name: str, tensor: Tensor, dtype: str) -> tuple[Spec, Parts]:
    shape, array = tuple(tensor.shape), tensor.numpy()
    if tensor.dtype == torch.bool:
        return Spec(name, shape, "", "bool", dtype), Parts(array.ravel())
    ascending = tensor.dtype == torch.int64 and len(shape) == 1 and array.size > 0 and bool((np.diff(array) > 0).all())
    if ascending and array[0] >= 0 and array[-1] < 64 * array.size + 1024:
        mask = np.zeros(int(array[-1]) + 1, np.bool_)
        mask[array] = True
        return Spec(name, shape, "", "index", dtype, len(mask)), Parts(mask)
    return Spec(name, shape, "", "raw", dtype), Parts(None, raw=array.tobytes())


def row_of(spec: Spec, mask: Array) -> Array:
    """Row of every kept cell."""
    return np.flatnonzero(mask) // max(1, spec.numel // max(1, spec.rows))


def join(spec: Spec, parts: Parts) -> Tensor:
    """The tensor. Raises ArtifactError when its parts do not fit together."""
    if spec.kind == "index":
        index = np.flatnonzero(parts.mask if parts.mask is not None else np.ones(spec.extent))
        if len(index) != spec.numel:
            raise ArtifactError(f"the index {spec.name[:80]!r} has {len(index)} entries; {spec.numel} expected")
        return torch.from_numpy(index.astype(np.int64))
    if spec.kind == "bool":
        found = np.ones(spec.numel, np.bool_) if parts.mask is None else parts.mask
        return torch.from_numpy(found.reshape(spec.shape).copy())
    if parts.symbols is None:
        raw = np.frombuffer(bytearray(parts.raw), np.uint8)  # torch.frombuffer refuses empty ones
        return torch.from_numpy(raw).view(DTYPES[spec.dtype]).reshape(spec.shape)
    mask = np.ones(spec.numel, np.bool_) if parts.mask is None else parts.mask
    flat = np.zeros(spec.numel, np.float32)
    flat[mask] = parts.symbols.values(row_of(spec, mask))
    return torch.from_numpy(flat.reshape(spec.shape)).to(DTYPES[spec.dtype])


# ---- positions ------------------------------------------------------------------------------------------------------


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


def skipped_before(mask: Array) -> Array:
    """Number of skipped cells before every kept one of a flat mask."""
    return np.asarray(np.diff(np.flatnonzero(mask), prepend=-1) - 1)


def gaps(mask: Array) -> bytes:
    """Numbers of skipped cells before every kept one, at the fixed width that takes least; a full code only skips."""
    skipped = skipped_before(mask)
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
