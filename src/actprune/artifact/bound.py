"""L4: how small a file could be: the entropy of what it stores, under the simplest model of each tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from actprune.artifact.bits import Array
from actprune.artifact.document import Document
from actprune.artifact.parts import Parts, Spec


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
