"""L4: streams of symbols: fixed-width bits, a reader that cannot overrun, and the adaptive range coder.

A function that models data calls ``bernoulli``, ``categorical`` and ``uniform`` with what it knows so far. With a
``Writer`` it passes the true values, which are coded; with a ``Reader`` it passes None. Both return the true values, so
the two sides cannot drift apart. Range coding is constriction's. Probabilities come from integers by IEEE operations
only, and those of positions are multiples of 2**-16, so every machine decodes the same.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Protocol

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


# ---- the range coder ------------------------------------------------------------------------------------------------


_ONE = 1 << 16
_LEAST, _MOST = 4, _ONE - 256  # of 2**16: what a bit may cost at most is bounded by it


class Coder(Protocol):
    """Writes or reads symbols under given probabilities."""

    def bernoulli(self, p: Array, values: Array | None) -> Array:
        """Bits ``(n,)`` (int32), each 1 with its own probability: float64 ``(n,)``, clipped to 2**-14 .. 1 - 2**-8."""

    def categorical(self, weights: Array, count: int, values: Array | None) -> Array:
        """``count`` symbols below ``len(weights)``, all with probabilities proportional to ``weights`` (positive)."""

    def uniform(self, size: int, count: int, values: Array | None) -> Array:
        """``count`` symbols below ``size`` (at most 65,536), all equally likely."""


def available() -> bool:
    """Whether constriction, which does the coding, can be imported."""
    return importlib.util.find_spec("constriction") is not None


def _constriction() -> Any:
    try:
        constriction: Any = importlib.import_module("constriction")
    except ImportError as error:
        raise ArtifactError(
            "this file holds entropy-coded tensors; install the extra that decodes them: pip install constriction"
        ) from error
    return constriction.stream


class _Models:
    """The probability models that both sides use."""

    def __init__(self) -> None:
        self._stream = _constriction()
        self._bernoulli = self._stream.model.Bernoulli(perfect=False)

    def _categorical(self, weights: Array) -> Any:
        return self._stream.model.Categorical(weights.astype(np.float64), perfect=False)


def _quantised(p: Array) -> Array:
    return np.asarray(np.clip(np.floor(p * _ONE), _LEAST, _MOST) / _ONE)


class Meter:
    """Codes nothing: ``bits`` is what a Writer would need. Works without constriction."""

    def __init__(self) -> None:
        self.bits = 0.0

    def bernoulli(self, p: Array, values: Array | None) -> Array:
        """See Coder."""
        found, sure = _given(values), _quantised(p)
        self.bits -= float(np.log2(np.where(found, sure, 1 - sure)).sum())
        return found

    def categorical(self, weights: Array, count: int, values: Array | None) -> Array:
        """See Coder."""
        found = _given(values)
        self.bits -= float(np.log2(weights / weights.sum())[found].sum())
        return found

    def uniform(self, size: int, count: int, values: Array | None) -> Array:
        """See Coder."""
        self.bits += count * float(np.log2(size))
        return _given(values)


class Writer(_Models):
    """Codes values into one stream."""

    def __init__(self) -> None:
        super().__init__()
        self._queue = self._stream.queue.RangeEncoder()

    def bernoulli(self, p: Array, values: Array | None) -> Array:
        """See Coder."""
        found = _given(values)
        if found.size:
            self._queue.encode(found, self._bernoulli, _quantised(p))
        return found

    def categorical(self, weights: Array, count: int, values: Array | None) -> Array:
        """See Coder."""
        found = _given(values)
        if count and len(weights) > 1:
            self._queue.encode(found, self._categorical(weights))
        return found

    def uniform(self, size: int, count: int, values: Array | None) -> Array:
        """See Coder."""
        found = _given(values)
        if count and size > 1:
            self._queue.encode(found, self._stream.model.Uniform(size))
        return found

    def getvalue(self) -> bytes:
        """The stream: little-endian 32-bit words, of which zeros at the end are left out (readers put them back)."""
        return bytes(self._queue.get_compressed().astype("<u4").tobytes().rstrip(b"\0"))


def _given(values: Array | None) -> Array:
    if values is None:
        raise TypeError("values are needed to write")
    return np.ascontiguousarray(values, np.int32)


class Reader(_Models):
    """Decodes what a Writer coded. Bytes that no Writer wrote give other symbols, or an ArtifactError."""

    def __init__(self, data: bytes | memoryview) -> None:
        super().__init__()
        padded = bytes(data) + b"\0" * (8 - len(data) % 4)
        self._queue = self._stream.queue.RangeDecoder(np.frombuffer(padded, "<u4").astype(np.uint32))

    def bernoulli(self, p: Array, values: Array | None) -> Array:
        """See Coder."""
        return self._decode(self._bernoulli, _quantised(p)) if p.size else np.zeros(0, np.int32)

    def categorical(self, weights: Array, count: int, values: Array | None) -> Array:
        """See Coder."""
        if not count or len(weights) == 1:
            return np.zeros(count, np.int32)
        return self._decode(self._categorical(weights), count)

    def uniform(self, size: int, count: int, values: Array | None) -> Array:
        """See Coder."""
        if not count or size == 1:
            return np.zeros(count, np.int32)
        return self._decode(self._stream.model.Uniform(size), count)

    def _decode(self, model: Any, parameters: Any) -> Array:
        try:
            found: Array = self._queue.decode(model, parameters)
        except AssertionError as error:  # constriction's word for a stream that no encoder can have made
            raise ArtifactError("an entropy-coded tensor is damaged") from error
        return found
