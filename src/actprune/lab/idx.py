"""L5: the idx file format of MNIST and its relatives, plain or gzipped, read with numpy only.

Layout: two zero bytes, one byte for the element type, one for the number of dimensions, one big-endian uint32 per
dimension, then the elements in C order, big-endian. Source: http://yann.lecun.com/exdb/mnist/ (section FILE FORMATS).
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from actprune.errors import DataError

Array = np.ndarray[Any, Any]
Stream = BinaryIO | gzip.GzipFile

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
LIMIT = 4 << 30
"""Bytes of uncompressed content that one file may claim; a small gzip file can claim a thousand times its size."""
_CHUNK = 1 << 20
_MAX_DIMENSIONS = 8
_MAX_DEFLATE_RATIO = 1032  # no deflate stream expands further, so a header that claims more is a lie
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: Path, sha256: str | None = None, limit: int = LIMIT) -> Array:
    """Read one idx file (gzip is recognised by content, not by name). Native byte order, writable.

    The header is checked against the file's real size before any memory is taken, and memory then grows with the
    bytes really found, so a hostile header costs nothing. ``sha256`` is that of the *uncompressed* content, which
    survives repackaging; None skips the check.
    Raises DataError, naming the file, the expected and the found bytes, for every kind of damage.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if not packed:
                return _read(raw, path, size, size, limit=limit, sha256=sha256)
            with gzip.GzipFile(fileobj=raw) as stream:
                return _read(stream, path, None, size * _MAX_DEFLATE_RATIO, limit=limit, sha256=sha256)
    except EOFError as error:
        raise DataError(
            f"{path} is truncated: the gzip stream ends early ({size} bytes on disk); copy it again"
        ) from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a corrupted gzip file ({size} bytes on disk): {error}; copy it again") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def write_idx(path: Path, array: Array) -> None:
    """Write ``array`` as an idx file, gzipped when the name ends in ``.gz``. Raises DataError for other dtypes."""
    big_endian = array.dtype.newbyteorder(">")
    codes = {np.dtype(name): code for code, name in DTYPES.items()}
    if big_endian not in codes or not 1 <= array.ndim <= _MAX_DIMENSIONS:
        raise DataError(
            f"idx cannot hold {array.dtype} with {array.ndim} dimensions; use uint8, int8, int16, int32, float32 or "
            f"float64 and 1 to {_MAX_DIMENSIONS} dimensions"
        )
    header = bytes([0, 0, codes[big_endian], array.ndim]) + np.array(array.shape, ">u4").tobytes()
    content = header + array.astype(big_endian).tobytes()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _read(stream: Stream, path: Path, size: int | None, most: int, *, limit: int, sha256: str | None) -> Array:
    """Header, checks, body. ``size`` is the exact content size when known, ``most`` an upper bound of it."""
    header, dtype, shape = _header(stream, path)
    expected = len(header) + dtype.itemsize * math.prod(shape)
    if (size is not None and size != expected) or expected > most:
        found = f"{size} bytes" if size is not None else f"a gzip file that can hold at most {most} bytes"
        raise DataError(
            f"{path}: its header (shape {shape}, {dtype}) needs {expected} bytes, found {found}; copy it again"
        )
    if expected > limit:
        raise DataError(f"{path} claims {expected} bytes of content, more than the {limit} that are read into memory")
    body = _body(stream, path, expected - len(header), len(header))
    if sha256 is not None:
        digest = hashlib.sha256(header)
        digest.update(body)
        if digest.hexdigest() != sha256:
            raise DataError(f"{path}: SHA-256 of the uncompressed content is {digest.hexdigest()}, expected {sha256}")
    array = np.frombuffer(body, dtype).reshape(shape)
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def _header(stream: Stream, path: Path) -> tuple[bytes, np.dtype[Any], tuple[int, ...]]:
    """The header's bytes, element type and shape."""
    magic = stream.read(4)
    if len(magic) < 4:
        raise DataError(f"{path} is truncated: expected at least 4 bytes of idx header, found {len(magic)} bytes")
    zeros, code, dimensions = magic[:2], magic[2], magic[3]
    if zeros != b"\0\0" or code not in DTYPES or not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise DataError(
            f"{path} is not an idx file: it starts with bytes {magic.hex(' ')}, expected 00 00, a type code of "
            f"{', '.join(f'{c:02x}' for c in DTYPES)}, and 1 to {_MAX_DIMENSIONS} dimensions"
        )
    lengths = stream.read(4 * dimensions)
    if len(lengths) < 4 * dimensions:
        raise DataError(
            f"{path} is truncated: expected {4 + 4 * dimensions} bytes of header, found {4 + len(lengths)} bytes"
        )
    shape = tuple(int(n) for n in np.frombuffer(lengths, ">u4"))
    return magic + lengths, np.dtype(DTYPES[code]), shape


def _body(stream: Stream, path: Path, wanted: int, offset: int) -> bytearray:
    """Exactly ``wanted`` bytes. Asking for one more also makes gzip verify its checksum at the end."""
    body = bytearray()
    while chunk := stream.read(min(_CHUNK, wanted + 1 - len(body))):
        body += chunk
        if len(body) > wanted:
            raise DataError(f"{path} is longer than its header says: expected {offset + wanted} bytes, found more")
    if len(body) < wanted:
        raise DataError(f"{path} is truncated: expected {offset + wanted} bytes, found {offset + len(body)} bytes")
    return body
