"""L4: what a file holds, without building its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actprune.artifact import encodings
from actprune.artifact.bound import Bound, bound
from actprune.artifact.container import VERSION
from actprune.artifact.document import read
from actprune.artifact.limits import MAX_BYTES
from actprune.artifact.parts import Parts, Spec
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
    return Stored(spec.name, spec.shape, spec.dtype, kept, spec.encoding, spec.kind, encodings.size(spec, parts))
