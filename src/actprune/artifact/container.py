"""L4: the file: valid safetensors, checked byte by byte before anything in it is believed.

    8 bytes  length of what follows      JSON  {"__metadata__": {"actprune": "1", "digest": ...}, entries}      data

Tensors in the plain encoding are ordinary entries. One more entry, "actprune" (U8), holds the deflated header, the
range coded stream and the other encodings. The digest is a 16-byte blake2b over the whole file with the digest itself
as zeros.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actprune.artifact.limits import strict_json
from actprune.errors import ArtifactError

VERSION = "1"
ENTRY = "actprune"
_DIGEST_BYTES = 16
_BLANK = "0" * (2 * _DIGEST_BYTES)
_LONGEST_HEADER = 1 << 22
_SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
NAMES = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}


@dataclass(frozen=True)
class Entry:
    """One tensor of a safetensors file: dtype in safetensors' words, little-endian data."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def assemble(plain: Mapping[str, Entry], blob: bytes) -> bytes:
    """The whole file. Larger element types come first, so that every entry is aligned for readers that map files."""
    order = sorted(plain, key=lambda name: -_SIZES[plain[name].dtype])
    entries = {name: plain[name] for name in order} | {ENTRY: Entry("U8", (len(blob),), memoryview(blob))}
    header: dict[str, Any] = {"__metadata__": {"actprune": VERSION, "digest": _BLANK}}
    at = 0
    for name, entry in entries.items():
        header[name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [at, at + len(entry.data)]}
        at += len(entry.data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8 if plain else 0)
    content = len(text).to_bytes(8, "little") + text + b"".join(entry.data for entry in entries.values())
    return content.replace(_BLANK.encode(), digest(content).encode(), 1)


def digest(content: bytes) -> str:
    """Hexadecimal digest of a file whose own digest is still blank."""
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()


def disassemble(content: bytes) -> tuple[dict[str, Entry], memoryview]:
    """The plain entries, and the contents of the entry "actprune". Raises ArtifactError when anything is amiss."""
    text, data = _halves(content)
    header = strict_json(text, "the safetensors header")
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    _check_metadata(metadata, content)
    entries, at = {}, 0
    rows = sorted(((_entry(name, row), name) for name, row in header.items()), key=lambda item: item[0][2:])
    for (dtype, shape, start, stop), name in rows:
        if start != at or stop - start != math.prod(shape) * _SIZES[dtype] or stop > len(data):
            raise ArtifactError(f"the bytes of {name[:80]!r} are not where its shape says; the file is damaged")
        entries[name], at = Entry(dtype, shape, data[start:stop]), stop
    if at != len(data):
        raise ArtifactError(f"{len(data) - at} bytes at the end of the file belong to no tensor; the file is damaged")
    blob = entries.pop(ENTRY, None)
    if blob is None or blob.dtype != "U8":
        raise ArtifactError(f"the entry {ENTRY!r} is missing; this safetensors file was not written by actprune")
    return entries, blob.data


def _halves(content: bytes) -> tuple[bytes, memoryview]:
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(len(content) - 8, _LONGEST_HEADER):
        raise ArtifactError(
            f"a header of {length} bytes is announced in a file of {len(content)}; the file is truncated or no artifact"
        )
    return content[8 : 8 + length], memoryview(content)[8 + length :]


def _check_metadata(metadata: Any, content: bytes) -> None:
    """Version first: a newer file may well have another digest."""
    if not isinstance(metadata, dict) or "actprune" not in metadata:
        raise ArtifactError("this is not a file written by actprune: its metadata does not say so")
    if metadata["actprune"] != VERSION:
        raise ArtifactError(
            f"the file has format {str(metadata['actprune'])[:20]!r}; this actprune reads {VERSION!r}: upgrade actprune"
        )
    found = str(metadata.get("digest")).encode()
    if len(found) != len(_BLANK) or digest(content.replace(found, _BLANK.encode(), 1)).encode() != found:
        raise ArtifactError(
            "the file's checksum is wrong: it was damaged or changed after it was written; copy it again"
        )


def _entry(name: str, row: Any) -> tuple[str, tuple[int, ...], int, int]:
    try:
        dtype, shape, (start, stop) = row["dtype"], tuple(row["shape"]), row["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"the entry {name[:80]!r} is malformed") from error
    numbers = (*shape, start, stop)
    if dtype not in _SIZES or len(shape) > 16 or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
        raise ArtifactError(f"the entry {name[:80]!r} has an impossible type, shape or offset")
    return dtype, shape, start, stop
