"""L4: the header: structure, tensor table and what the author says about the model, as deflated JSON."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actprune.artifact.dictionary import DICTIONARY
from actprune.artifact.limits import strict_json
from actprune.artifact.parts import Spec
from actprune.artifact.values import Kind
from actprune.errors import ArtifactError
from actprune.program.nodes import DTYPES

_LETTERS = {"plain": "p", "all": "a", "bits": "b", "gaps": "g", "coded": "c", "coded-all": "d",
            "huffman": "h"}  # fmt: skip
_ENCODINGS = {letter: name for name, letter in _LETTERS.items()}
_INFLATED = 1 << 22  # bytes: far above any header that is written


@dataclass(frozen=True)
class Header:
    """structure: of the Program; specs: every tensor in stored order; about: JSON values from whoever saved it."""

    structure: Mapping[str, Any]
    specs: Sequence[Spec]
    about: Mapping[str, Any] = field(default_factory=dict)

    def deflated(self) -> bytes:
        """Bytes for the file. Raises ArtifactError when ``about`` holds anything but JSON values."""
        rows = [_row(spec) for spec in self.specs]
        value = {"structure": self.structure, "tensors": rows, "about": self.about}
        try:
            text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ArtifactError(f"`about` must hold finite JSON values only: {error}") from error
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY)
        return deflate.compress(text) + deflate.flush()

    @classmethod
    def inflated(cls, data: bytes | memoryview, limit: int = _INFLATED) -> Header:
        """Inverse of ``deflated``. Raises ArtifactError for anything it cannot have written."""
        inflate = zlib.decompressobj(-15, zdict=DICTIONARY)
        try:
            text = inflate.decompress(data, min(limit, 4096 + 256 * len(data)))
        except zlib.error as error:
            raise ArtifactError(f"the header cannot be inflated: {error}") from error
        if not inflate.eof or inflate.unused_data:
            raise ArtifactError("the header is longer than it may be, or cut off")
        value = strict_json(text, "the header")
        try:
            structure, rows, about = value["structure"], value["tensors"], value["about"]
        except (TypeError, KeyError) as error:
            raise ArtifactError("the header lacks its structure, tensors or about") from error
        if not (isinstance(structure, dict) and isinstance(rows, list) and isinstance(about, dict)):
            raise ArtifactError("the header's structure, tensors or about is of the wrong type")
        return cls(structure, _specs(rows), about)


def _row(spec: Spec) -> list[Any]:
    row = [spec.name, list(spec.shape), f"{_LETTERS[spec.encoding]}:{spec.kind}"]
    extent = [spec.extent] if spec.extent else []
    return [*row, spec.dtype, *extent] if spec.dtype != "float32" or extent else row


def _specs(rows: list[Any]) -> list[Spec]:
    specs = [_spec(row) for row in rows]
    if len({spec.name for spec in specs}) != len(specs):
        raise ArtifactError("two tensors in the header have the same name")
    return specs


def _spec(row: Any) -> Spec:
    try:
        name, shape, stored, dtype, extent = [*row, "float32", 0][:5] if len(row) == 3 else [*row, 0][:5]
        letter, _, kind = stored.partition(":")
        spec = Spec(name, tuple(shape), _ENCODINGS[letter], kind, dtype, extent)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ArtifactError(f"a row of the tensor table is malformed: {str(row)[:80]}") from error
    sizes = (*spec.shape, extent)
    if not isinstance(name, str) or len(shape) > 16 or not all(type(n) is int and 0 <= n < 1 << 40 for n in sizes):
        raise ArtifactError(f"a row of the tensor table has an impossible name or shape: {str(row)[:80]}")
    _check_kind(spec)
    return spec


def _check_kind(spec: Spec) -> None:
    """Only what is ever written: every other combination of dtype, kind and encoding is refused."""
    fits = {
        "index": spec.dtype == "int64" and len(spec.shape) == 1 and spec.encoding in ("bits", "gaps", "coded"),
        "bool": spec.dtype == "bool" and spec.encoding in ("bits", "gaps", "coded"),
        "raw": spec.dtype in DTYPES and spec.encoding == "all",
    }.get(spec.kind)
    if fits is None:
        kind = Kind.of(spec.kind)
        needed = {"plain": "float", "huffman": "shared"}.get(spec.encoding, kind.family)
        fits = spec.dtype in ("float32", "float16", "bfloat16") and kind.family == needed
    if spec.encoding == "huffman":
        fits = fits and 1 <= spec.extent <= 8
    elif spec.extent and spec.kind != "index":
        fits = False
    if not fits or math.prod(spec.shape) >= 1 << 48:
        raise ArtifactError(f"tensor {spec.name[:80]!r} cannot be {spec.dtype} as {spec.kind[:20]} in {spec.encoding}")
