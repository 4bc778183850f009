"""L4: canonical Huffman codes: only the length of every symbol's code is stored."""

from __future__ import annotations

import heapq
import itertools

import numpy as np

from actprune.artifact.bits import Array, Cursor, packed, packed_size, unpacked, varint
from actprune.errors import ArtifactError

LONGEST = 24
_LENGTH_BITS = 5


def write(symbols: Array, size: int) -> bytes:
    """Code lengths of ``size`` symbols, 5 bits each, the number of bits, and the bits."""
    lengths = code_lengths(np.bincount(symbols, minlength=size))
    codes = _codes(lengths)
    each = lengths[symbols]
    ends = np.cumsum(each)
    total = int(ends[-1]) if each.size else 0
    within = np.arange(total) - np.repeat(ends - each, each)  # how far into its symbol's code a bit is
    bits = np.repeat(codes[symbols], each) >> (np.repeat(each, each) - 1 - within) & 1
    return packed(lengths, _LENGTH_BITS) + varint(total) + np.packbits(bits.astype(np.uint8)).tobytes()


def read(cursor: Cursor, size: int, count: int) -> Array:
    """Inverse of ``write``: int64 ``(count,)``. Raises ArtifactError for lengths or bits that no code has."""
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
