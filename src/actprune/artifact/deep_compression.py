"""L4: Deep Compression's stage 2 and 3 as published, one codec among the others.

S. Han, H. Mao, W. J. Dally. Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and
Huffman Coding. ICLR 2016, arXiv 1510.00149.

Per tensor: k-means over the non-zero weights, centroids evenly spread at first; positions as gaps in flat order of a
fixed width, with a filler zero where a gap does not fit; then Huffman codes, one for the cluster indices and one for
the gaps. Everything is counted: codebooks (fp32), code lengths, filler zeros. Choices the paper leaves open: a filler
is the last of the 2**b codes, so tensors with fillers have 2**b - 1 centroids; the last entry is a weight, never a
filler.

Huffman codes are canonical: only the length of every symbol's code is stored.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from actprune.artifact import values
from actprune.artifact.entropy import Array, Cursor, packed, packed_size, unpacked, varint
from actprune.artifact.tensor import Parts, Spec, row_of, skipped_before, split
from actprune.artifact.values import Kind, Symbols
from actprune.errors import ArtifactError

GAP_BITS = 5


@dataclass(frozen=True)
class LayerSize:
    """A row of the paper's tables: bits per stored weight, and bytes of the tensor all told.

    weights, kept       cells of the tensor; those that are not zero; ``fillers`` more entries are stored
    weight_bits, index_bits                  fixed width, an entry (the paper's P+Q)
    weight_bits_coded, index_bits_coded      after Huffman coding, without its tables (P+Q+H)
    fixed_bytes, coded_bytes                 whole tensor before and after Huffman coding, codebook and tables counted
    """

    name: str
    weights: int
    kept: int
    fillers: int
    weight_bits: float
    weight_bits_coded: float
    index_bits: float
    index_bits_coded: float
    fixed_bytes: int
    coded_bytes: int


@dataclass(frozen=True)
class _Entries:
    """Clusters (the filler is the last code) and gaps, one each for every stored entry."""

    clusters: Array
    gaps: Array
    fillers: int


def prepare(name: str, tensor: Tensor, bits: int, gap_bits: int = GAP_BITS) -> tuple[Spec, Parts]:
    """A tensor with its weights shared, in the encoding "huffman"."""
    if not 1 <= gap_bits <= 8 or not 1 <= bits <= 8:
        raise ArtifactError(f"{bits} bits a weight and {gap_bits} a gap for {name}; both must be 1 to 8")
    kind = Kind.of(f"shared{bits}")
    spec, parts = split(name, tensor, "fp32")
    if parts.symbols is None:
        raise ArtifactError(f"{name} holds {spec.dtype}, which cannot be shared")
    spec = Spec(name, spec.shape, "huffman", kind.name, spec.dtype, gap_bits)
    mask = np.ones(spec.numel, np.bool_) if parts.mask is None else parts.mask
    kept = parts.symbols.values(row_of(spec, mask))
    fillers = int((skipped_before(mask) >> gap_bits).sum())
    count = max(1, (1 << bits) - (fillers > 0))
    return spec, Parts(mask, values.shared(kept, kind, "linear", count))


def _entries(spec: Spec, mask: Array, symbols: Symbols) -> _Entries:
    """A filler zero stands in the last cell that a gap of the fixed width reaches."""
    skipped = skipped_before(mask)
    most = (1 << spec.extent) - 1
    fillers = skipped // (most + 1)
    places = np.cumsum(fillers + 1) - 1
    size = int(places[-1]) + 1 if places.size else 0
    clusters = np.full(size, len(symbols.table), np.int64)
    clusters[places] = symbols.symbols
    gaps = np.full(size, most, np.int64)
    gaps[places] = skipped % (most + 1)
    return _Entries(clusters, gaps, int(fillers.sum()))


def write(spec: Spec, parts: Parts) -> bytes:
    """Bytes of a prepared tensor: codebook, number of entries, clusters, gaps."""
    symbols, entries = _whole(spec, parts)
    table = symbols.table
    head = varint(len(table)) + table.astype("<f4").tobytes() + varint(len(entries.clusters))
    return head + huffman_coded(entries.clusters, len(table) + 1) + huffman_coded(entries.gaps, 1 << spec.extent)


def _whole(spec: Spec, parts: Parts) -> tuple[Symbols, _Entries]:
    if parts.mask is None or parts.symbols is None:
        raise ArtifactError(f"{spec.name} was not prepared for Deep Compression")
    return parts.symbols, _entries(spec, parts.mask, parts.symbols)


def read(cursor: Cursor, spec: Spec) -> Parts:
    """Inverse of ``write``. Raises ArtifactError for gaps that lead out of the tensor and for damaged codes."""
    kind, size = Kind.of(spec.kind), cursor.varint()
    if size > 1 << kind.bits:
        raise ArtifactError(f"{size} centroids in a codebook of {kind.bits} bits")
    table = np.frombuffer(cursor.take(4 * size), "<f4").astype(np.float32)
    count = cursor.varint()
    clusters = read_huffman(cursor, size + 1, count)
    places = np.cumsum(read_huffman(cursor, 1 << spec.extent, count) + 1) - 1
    if not np.isfinite(table).all() or (count and places[-1] >= spec.numel):
        raise ArtifactError(
            f"the tensor {spec.name[:80]!r} is damaged: a gap leads out of it, or a centroid is no number"
        )
    real = clusters < size
    mask = np.zeros(spec.numel, np.bool_)
    mask[places[real]] = True
    return Parts(mask, Symbols(kind, clusters[real].astype(np.uint32), table))


def layer_size(spec: Spec, parts: Parts) -> LayerSize:
    """The row of the paper's table for a prepared tensor."""
    symbols, entries = _whole(spec, parts)
    kind, count = symbols.kind, len(entries.clusters)
    coded = [_mean_length(stream) for stream in (entries.clusters, entries.gaps)]
    fixed = 4 * len(symbols.table) + packed_size(kind.bits, count) + packed_size(spec.extent, count)
    kept = count - entries.fillers
    return LayerSize(
        spec.name, spec.numel, kept, entries.fillers, kind.bits, coded[0], spec.extent, coded[1],
        fixed, len(write(spec, parts)),
    )  # fmt: skip


def _mean_length(stream: Array) -> float:
    return float(code_lengths(np.bincount(stream, minlength=2))[stream].mean()) if stream.size else 0.0


# ---- canonical Huffman codes ----------------------------------------------------------------------------------------


LONGEST = 24
_LENGTH_BITS = 5


def huffman_coded(symbols: Array, size: int) -> bytes:
    """Code lengths of ``size`` symbols, 5 bits each, the number of bits, and the bits."""
    lengths = code_lengths(np.bincount(symbols, minlength=size))
    codes = _codes(lengths)
    each = lengths[symbols]
    ends = np.cumsum(each)
    total = int(ends[-1]) if each.size else 0
    within = np.arange(total) - np.repeat(ends - each, each)  # how far into its symbol's code a bit is
    bits = np.repeat(codes[symbols], each) >> (np.repeat(each, each) - 1 - within) & 1
    return packed(lengths, _LENGTH_BITS) + varint(total) + np.packbits(bits.astype(np.uint8)).tobytes()


def read_huffman(cursor: Cursor, size: int, count: int) -> Array:
    """Inverse of ``huffman_coded``: int64 ``(count,)``. Raises ArtifactError for lengths or bits that no code has."""
    lengths = unpacked(cursor.take(packed_size(_LENGTH_BITS, size)), _LENGTH_BITS, size).astype(np.int64)
    total = cursor.varint()
    data = np.frombuffer(cursor.take((total + 7) // 8), np.uint8)
    longest = int(lengths.max(initial=0))
    if longest > 16 and count < 1 << (longest - 9):  # a deep code needs many symbols; its table would be large
        raise ArtifactError(f"a Huffman code of {longest} bits for {count} symbols; the file is damaged")
    if longest > LONGEST or (1 << longest) != (1 << (longest - lengths[lengths > 0])).sum() + (not longest):
        raise ArtifactError("the lengths of a Huffman code do not make a code")
    if not count and not total:
        return np.zeros(0, np.int64)
    if count > total:
        raise ArtifactError(f"{count} symbols cannot be coded in {total} bits")
    return _walk(np.unpackbits(data, count=total), lengths, longest, count)


def _walk(bits: Array, lengths: Array, longest: int, count: int) -> Array:
    """From symbol to symbol, looking up the next ``longest`` bits at each place."""
    window = np.zeros(len(bits), np.int64)
    padded = np.concatenate([bits, np.zeros(longest, np.uint8)]).astype(np.int64)
    for place in range(longest):
        window = window << 1 | padded[place : place + len(window)]
    symbol_of = np.repeat(order := _order(lengths), 1 << (longest - lengths[order]))
    symbols = symbol_of[window]
    steps, found, at = lengths[symbols].tolist(), [], 0
    for _ in range(count):
        if at >= len(bits):
            raise ArtifactError("a Huffman coded tensor ends too early")
        found.append(at)
        at += steps[at]
    if at != len(bits):
        raise ArtifactError("a Huffman coded tensor does not end where it says")
    return np.asarray(symbols[np.array(found, np.int64)])


def code_lengths(counts: Array) -> Array:
    """Length of every symbol's code, int64, 0 where it does not occur; a lone symbol has a twin."""
    used = np.flatnonzero(counts)
    if len(used) == 1:
        used = np.array([used[0], used[0] + 1 if used[0] + 1 < len(counts) else used[0] - 1])
    floor = max(1, int(counts.sum()) >> 16)  # rarer ones would get codes that are too long
    ticket = itertools.count()
    heap = [(max(int(counts[symbol]), floor), next(ticket), [int(symbol)]) for symbol in used]
    heapq.heapify(heap)
    lengths = np.zeros(len(counts), np.int64)
    while len(heap) > 1:
        (first, _, one), (second, _, other) = heapq.heappop(heap), heapq.heappop(heap)
        lengths[one + other] += 1
        heapq.heappush(heap, (first + second, next(ticket), one + other))
    return lengths


def _order(lengths: Array) -> Array:
    """Symbols that occur, in the order of their canonical codes."""
    order = np.lexsort((np.arange(len(lengths)), lengths))
    return np.asarray(order[lengths[order] > 0])


def _codes(lengths: Array) -> Array:
    codes, code, before = np.zeros(len(lengths), np.int64), 0, 0
    for symbol in _order(lengths):
        code <<= int(lengths[symbol]) - before
        before, codes[symbol] = int(lengths[symbol]), code
        code += 1
    return codes
