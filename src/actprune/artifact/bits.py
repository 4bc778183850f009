"""L4: bits and bytes: fixed-width packing, variable-length integers, and a reader that cannot overrun."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actprune.errors import ArtifactError

Array = NDArray[Any]


def packed(symbols: Array, width: int) -> bytes:
    """Non-negative integers below ``2**width`` as ``width`` bits each, lowest bit first, padded to whole bytes."""
    bits = (symbols.astype(np.uint32)[:, None] >> np.arange(width, dtype=np.uint32)) & np.uint32(1)
    return np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes()


def unpacked(data: memoryview, width: int, count: int) -> Array:
    """Inverse of ``packed``: uint32 ``(count,)``. ``data`` must be exactly as long as ``packed_size`` says."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=width * count, bitorder="little").reshape(count, width)
    found: Array = (bits.astype(np.uint32) << np.arange(width, dtype=np.uint32)).sum(1, dtype=np.uint32)
    return found


def packed_size(width: int, count: int) -> int:
    """Bytes that ``packed`` returns."""
    return (width * count + 7) // 8


def varint(value: int) -> bytes:
    """A non-negative integer in groups of seven bits, lowest first; the top bit of a byte says that more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


class Cursor:
    """Reads a byte string from its beginning. Raises ArtifactError instead of reading past the end."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data, self._at = memoryview(data), 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes."""
        if not 0 <= count <= self.left:
            raise ArtifactError(f"the file ends too early: {count} bytes expected, {self.left} left")
        self._at += count
        return self._data[self._at - count : self._at]

    def varint(self) -> int:
        """The next variable-length integer, below 2**42."""
        value = 0
        for shift in range(0, 42, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ArtifactError("a length in the file is longer than any that is ever written")
