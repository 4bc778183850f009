"""L4: a whole artifact in memory: tensors and header to the bytes of a file, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actprune.artifact import deep_compression, encoding, values
from actprune.artifact.container import ENTRY, NAMES, Entry, Header, assemble, disassemble
from actprune.artifact.entropy import Cursor, Reader, Writer, varint
from actprune.artifact.tensor import Parts, Spec, join, split
from actprune.artifact.values import Kind
from actprune.errors import ArtifactError

_FORMATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_DTYPES = {name: word for word, name in NAMES.items()}


@dataclass(frozen=True)
class Document:
    """What a file holds: its header, and every tensor taken apart."""

    header: Header
    parts: Mapping[str, Parts]

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor, in the stored order."""
        return {spec.name: join(spec, self.parts[spec.name]) for spec in self.header.specs}


def document(
    structure: Mapping[str, Any], tensors: Mapping[str, Tensor], kinds: Mapping[str, str], about: Mapping[str, Any]
) -> Document:
    """Tensors in the asked precisions (``kinds``: name to precision, see ``Kind``), each in its smallest encoding."""
    specs, parts = [], {}
    for name, tensor in tensors.items():
        if name == ENTRY:
            raise ArtifactError(f"a tensor cannot be called {ENTRY!r}: files keep their header under that name")
        spec, parts[name] = split(name, tensor, kinds.get(name, "fp32"))
        specs.append(encoding.chosen(spec, parts[name])[0])
    return Document(Header(structure, specs, about), parts)


def published(
    structure: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    bits: Mapping[str, int],
    about: Mapping[str, Any],
    gap_bits: Mapping[str, int] | None = None,
) -> Document:
    """Deep Compression as published for the tensors named in ``bits``; the others keep their precision.

    bits: of a cluster index, 1 to 8 per tensor; gap_bits: of a gap, 5 where not given.
    """
    doc = document(structure, {name: item for name, item in tensors.items() if name not in bits}, {}, about)
    prepared = {
        name: deep_compression.prepare(
            name, tensors[name], width, (gap_bits or {}).get(name, deep_compression.GAP_BITS)
        )
        for name, width in bits.items()
    }
    own = {spec.name: spec for spec in doc.header.specs} | {name: spec for name, (spec, _) in prepared.items()}
    specs = [own[name] for name in tensors]
    parts = dict(doc.parts) | {name: item for name, (_, item) in prepared.items()}
    return Document(Header(structure, specs, about), parts)


def to_bytes(doc: Document) -> bytes:
    """The file. Deterministic."""
    header, plain, raw = doc.header.deflated(), {}, bytearray()
    coded = [spec for spec in doc.header.specs if spec.encoding.startswith("coded")]
    for spec in doc.header.specs:
        if spec.encoding == "plain":
            plain[spec.name] = _plain(spec, doc.parts[spec.name])
        elif spec not in coded:
            raw += encoding.write_raw(spec, doc.parts[spec.name])
    stream = b""
    if coded:
        writer = Writer()
        for spec in coded:
            encoding.code(writer, spec, doc.parts[spec.name])
        stream = writer.getvalue()
    return assemble(plain, varint(len(header)) + varint(len(stream)) + header + stream + bytes(raw))


def _plain(spec: Spec, parts: Parts) -> Entry:
    tensor = join(spec, parts).to(_FORMATS[spec.kind]).contiguous()
    data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    return Entry(_DTYPES[spec.kind], spec.shape, memoryview(data))


def read(path: str | Path, max_bytes: int = encoding.MAX_BYTES) -> tuple[Document, int]:
    """The document in a file, and the file's length. Raises ArtifactError whatever is wrong with it."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise ArtifactError(
                f"{path} has {size} bytes; the limit is {max_bytes}: pass a larger max_bytes if you trust it"
            )
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    try:
        return from_bytes(content, max_bytes), len(content)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def estimated_size(doc: Document) -> float:
    """About as many bytes as ``to_bytes`` returns, without coding anything that was measured before."""
    return (
        len(doc.header.deflated()) + 150 + sum(encoding.size(spec, doc.parts[spec.name]) for spec in doc.header.specs)
    )


def from_bytes(content: bytes, max_bytes: int = encoding.MAX_BYTES) -> Document:
    """Inverse of ``to_bytes``. Raises ArtifactError for anything else; time and memory are bounded."""
    try:
        return _from_bytes(content, max_bytes)
    except ArtifactError:
        raise
    except Exception as error:  # hostile bytes can go wrong anywhere; to the caller it is one kind of error
        raise ArtifactError(f"the file is damaged ({type(error).__name__}: {str(error)[:80]})") from error


def _from_bytes(content: bytes, max_bytes: int) -> Document:
    plain, blob = disassemble(content)
    cursor = Cursor(blob)
    header_length, stream_length = cursor.varint(), cursor.varint()
    header = Header.inflated(cursor.take(header_length))
    encoding.check(header.specs, len(content), max_bytes)
    coder = _reader(cursor.take(stream_length))
    parts = {}
    for spec in header.specs:
        if spec.encoding == "plain":
            parts[spec.name] = _read_plain(spec, plain)
        elif spec.encoding.startswith("coded"):
            parts[spec.name] = encoding.code(next(coder), spec, None)
        else:
            parts[spec.name] = encoding.read_raw(cursor, spec)
    if cursor.left or plain:
        raise ArtifactError("the file holds data that its header does not mention")
    return Document(header, parts)


def _reader(stream: memoryview) -> Iterator[Reader]:
    """One reader for all coded tensors, made when the first of them comes: others need no range coder installed."""
    reader = Reader(stream)
    while True:
        yield reader


def _read_plain(spec: Spec, plain: dict[str, Entry]) -> Parts:
    entry = plain.pop(spec.name, None)
    if entry is None or entry.shape != spec.shape or NAMES.get(entry.dtype) != spec.kind:
        raise ArtifactError(f"the entry {spec.name[:80]!r} is missing, or not what the header says")
    return Parts(None, values.read(Cursor(entry.data), Kind.of(spec.kind), spec.numel, spec.rows))
