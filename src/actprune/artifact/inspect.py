"""L4: what a file holds, without building its model, and how small it could be.

The bound is the entropy of what it stores, under the simplest model of each tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actprune.artifact import encoding
from actprune.artifact.container import VERSION
from actprune.artifact.document import Document, read
from actprune.artifact.encoding import MAX_BYTES
from actprune.artifact.entropy import Array
from actprune.artifact.tensor import Parts, Spec
from actprune.program.nodes import DTYPES


@dataclass(frozen=True)
class Stored:
    """One tensor of a file. bytes: of its encoding; range-coded tensors share a stream, of which this is their part."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    kept: int
    encoding: str
    values: str
    bytes: float


@dataclass(frozen=True)
class Info:
    """A file whose digest was verified.

    about          what its author says, with library versions
    structure      its program, as plain values
    header_bytes   everything that belongs to no tensor
    dense_bytes    what the tensors take in memory
    bound          the entropy bound of what is stored
    """

    path: Path
    format: str
    bytes: int
    header_bytes: float
    dense_bytes: int
    tensors: tuple[Stored, ...]
    about: Mapping[str, Any]
    structure: Mapping[str, Any]
    bound: Bound


def inspect(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Info:
    """What a file holds. Raises ArtifactError as ``load`` does; no model is built."""
    doc, size = read(path, max_bytes)
    stored = tuple(_stored(spec, doc.parts[spec.name]) for spec in doc.header.specs)
    dense = sum(spec.numel * DTYPES[spec.dtype].itemsize for spec in doc.header.specs)
    rest = size - sum(item.bytes for item in stored)
    return Info(Path(path), VERSION, size, rest, dense, stored, doc.header.about, doc.header.structure, bound(doc))


def _stored(spec: Spec, parts: Parts) -> Stored:
    kept = spec.numel if parts.kept is None or spec.kind == "index" else parts.kept
    return Stored(spec.name, spec.shape, spec.dtype, kept, spec.encoding, spec.kind, encoding.size(spec, parts))


# ---- the entropy bound ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorBound:
    """Bytes of one tensor. positions: log2 C(n, k) bits; values: empirical entropy of the symbols, or raw bits."""

    name: str
    cells: int
    kept: int
    positions: float
    values: float


@dataclass(frozen=True)
class Bound:
    """Bytes that positions and values need when every tensor is a random mask and independent symbols.

    tables: codebooks and scales, which the bound does not count; a coder needs them as well. A coder that knows more,
    such as which rows are dense, can stay below the bound for positions.
    """

    positions: float
    values: float
    tables: int
    tensors: tuple[TensorBound, ...]

    @property
    def bytes(self) -> float:
        """Positions and values of all tensors."""
        return self.positions + self.values


def bound(doc: Document) -> Bound:
    """The entropy bound of a document: of the same weights, at the same precision."""
    found = tuple(_of(spec, doc.parts[spec.name]) for spec in doc.header.specs)
    tables = sum(0 if parts.symbols is None else parts.symbols.table.nbytes for parts in doc.parts.values())
    return Bound(sum(item.positions for item in found), sum(item.values for item in found), tables, found)


def _of(spec: Spec, parts: Parts) -> TensorBound:
    cells = math.prod(spec.grid)
    kept = cells if parts.kept is None else parts.kept
    values = len(parts.raw) + (0.0 if parts.symbols is None else _value_bits(parts) / 8)
    return TensorBound(spec.name, cells, kept, log2_choose(cells, kept) / 8, values)


def _value_bits(parts: Parts) -> float:
    assert parts.symbols is not None
    symbols, kind = parts.symbols.symbols, parts.symbols.kind
    return symbols.size * kind.bits if kind.family == "float" else entropy_bits(symbols)


def entropy_bits(symbols: Array) -> float:
    """Empirical entropy of a sequence, in bits all told."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum()) if counts.size else 0.0


def log2_choose(cells: int, kept: int) -> float:
    """Bits that name one of the masks with ``kept`` of ``cells``."""
    log = math.lgamma(cells + 1) - math.lgamma(kept + 1) - math.lgamma(cells - kept + 1)
    return max(0.0, log / math.log(2))
