"""L4: a tensor taken apart: which cells are kept (positions), and with which values.

How that can be stored:

    plain    an ordinary safetensors entry, which any safetensors reader opens
    all      every cell is kept: values only
    bits     a bit mask, then values          gaps     skipped cells before each kept one, then values
    huffman  gaps and cluster indices by Huffman codes, as in Deep Compression; only on request
    coded    positions and values by the adaptive range coder; "coded-all": values only

Kinds besides the float precisions: "index" (ascending integers, kept as positions), "bool" (positions only) and "raw"
(anything else, byte for byte).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actprune.artifact import values
from actprune.artifact.bits import Array
from actprune.artifact.kmeans import Init
from actprune.artifact.values import Kind, Symbols
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
