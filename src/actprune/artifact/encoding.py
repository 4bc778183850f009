"""L4: one tensor to bytes and back: every encoding that can hold it is tried, the smallest is kept.

Also what a file may make its reader do: memory and time relative to the file's length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from actprune.artifact import deep_compression, tensor, values
from actprune.artifact.entropy import Coder, Cursor, Meter, available
from actprune.artifact.tensor import Parts, Spec
from actprune.artifact.values import Kind
from actprune.errors import ArtifactError
from actprune.program.nodes import DTYPES

PLAIN_FROM = 1024  # bytes: a smaller entry of its own would cost more in names than it is worth


def candidates(spec: Spec, parts: Parts) -> Iterator[str]:
    """Encodings that can hold a tensor."""
    if spec.kind == "raw":
        yield "all"
        return
    if parts.mask is None:
        if spec.kind in values.FLOATS and Kind.of(spec.kind).bits // 8 * spec.numel >= PLAIN_FROM:
            yield "plain"
            return
        yield "all"
    else:
        yield from ("bits", "gaps")
    if available():
        yield "coded" if parts.mask is not None else "coded-all"


def write_raw(spec: Spec, parts: Parts) -> bytes:
    """Bytes of a tensor that is not range coded."""
    if spec.encoding == "huffman":
        return deep_compression.write(spec, parts)
    if spec.kind == "raw":
        return parts.raw
    where = b"" if parts.mask is None else (tensor.gaps if spec.encoding == "gaps" else tensor.bitmask)(parts.mask)
    return where + (values.write(parts.symbols) if parts.symbols is not None else b"")


def read_raw(cursor: Cursor, spec: Spec) -> Parts:
    """Inverse of ``write_raw``."""
    if spec.encoding == "huffman":
        return deep_compression.read(cursor, spec)
    if spec.kind == "raw":
        return Parts(None, raw=bytes(cursor.take(spec.numel * DTYPES[spec.dtype].itemsize)))
    cells = math.prod(spec.grid)
    readers = {"bits": tensor.read_bitmask, "gaps": tensor.read_gaps}
    mask = readers[spec.encoding](cursor, cells) if spec.encoding in readers else None
    if not spec.has_values:
        return Parts(mask)
    kept = cells if mask is None else int(mask.sum())
    return Parts(mask, values.read(cursor, Kind.of(spec.kind), kept, spec.rows))


def code(coder: Coder, spec: Spec, parts: Parts | None) -> Parts:
    """Write ``parts`` to the range coder, or read them from it (None)."""
    mask = None
    if spec.encoding == "coded":
        mask = tensor.code_mask(coder, spec.grid, None if parts is None else parts.mask)
    if not spec.has_values:
        return Parts(mask)
    given = None if parts is None else parts.symbols
    kept = spec.numel if mask is None else int(mask.sum())
    return Parts(mask, values.code(coder, Kind.of(spec.kind), kept, spec.rows, given))


def chosen(spec: Spec, parts: Parts) -> tuple[Spec, float]:
    """The spec with its smallest encoding, and the bytes that takes (a share of the common stream where coded)."""
    sizes = {name: size(replace(spec, encoding=name), parts) for name in candidates(spec, parts)}
    for name in ("coded", "coded-all"):
        if name in sizes and work(replace(spec, encoding=name)) > max(1 << 16, 2048 * sizes[name]):
            del sizes[name]  # so little to say that it would take long for its length, which readers refuse
    best = min(sizes, key=lambda name: sizes[name])
    return replace(spec, encoding=best), sizes[best]


def work(spec: Spec) -> int:
    """Time that decoding takes, in cells of a mask; 0 where it is in proportion to the bytes stored."""
    if not spec.encoding.startswith("coded"):
        return 0
    where = tensor.work(spec.grid) if spec.encoding == "coded" else 0
    if not spec.has_values:
        return where
    kind = Kind.of(spec.kind)
    return where + spec.numel * max(1, kind.bits // 8) + 2 * kind.tables(spec.rows)


def size(spec: Spec, parts: Parts) -> float:
    """Bytes of a tensor in its encoding."""
    if not spec.encoding.startswith("coded"):
        return len(write_raw(spec, parts))
    where = 0.0 if parts.mask is None else _position_bits(spec.grid, tensor.bitmask(parts.mask))
    meter = Meter()
    if parts.symbols is not None:
        values.code(meter, parts.symbols.kind, parts.symbols.symbols.size, spec.rows, parts.symbols)
    return (where + meter.bits) / 8


@lru_cache(maxsize=256)
def _position_bits(grid: tuple[int, ...], mask: bytes) -> float:
    """Kept, as packing tries many precisions for the same positions."""
    meter = Meter()
    tensor.code_mask(meter, grid, tensor.read_bitmask(Cursor(mask), math.prod(grid)))
    return meter.bits


# ---- limits ---------------------------------------------------------------------------------------------------------


MAX_BYTES = 1 << 31
_FREE_BYTES, _BYTES_PER_BYTE = 1 << 26, 1 << 14
_FREE_WORK, _WORK_PER_BYTE = 1 << 20, 1 << 12


def check(specs: Sequence[Spec], file_bytes: int, max_bytes: int) -> None:
    """Memory and time that the tensors of a file ask for. Raises ArtifactError when it is too much.

    Tensors may take ``max_bytes``, and 64 MiB or 16,384 times the file's length, whichever is more; decoding may take
    about as long as a tensor of average emptiness takes for that many bytes.
    """
    # An axis of length 0 must not hide the others: a scale for every row is read all the same.
    cells = [math.prod(max(length, 1) for length in spec.shape) for spec in specs]
    sizes = (count * DTYPES[spec.dtype].itemsize for spec, count in zip(specs, cells, strict=True))
    declared = sum(max(size, spec.extent) for size, spec in zip(sizes, specs, strict=True))
    if declared > max_bytes:
        raise ArtifactError(
            f"the file declares tensors of {declared} bytes; the limit is {max_bytes}. If you trust it, load it with a "
            "larger max_bytes"
        )
    if declared > max(_FREE_BYTES, _BYTES_PER_BYTE * file_bytes):
        raise ArtifactError(
            f"a file of {file_bytes} bytes declares tensors of {declared} bytes; it is damaged or hostile"
        )
    if sum(work(spec) for spec in specs) > _FREE_WORK + _WORK_PER_BYTE * file_bytes:
        raise ArtifactError(f"decoding a file of {file_bytes} bytes would take too long; it is damaged or hostile")
