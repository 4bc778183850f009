"""L4: what a file may make its reader do: depth and size of JSON, memory and time relative to the file's length."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from actprune.artifact import encodings
from actprune.artifact.parts import Spec
from actprune.errors import ArtifactError
from actprune.program.nodes import DTYPES

MAX_BYTES = 1 << 31
_DEEPEST = 64
_FREE_BYTES, _BYTES_PER_BYTE = 1 << 26, 1 << 14
_FREE_WORK, _WORK_PER_BYTE = 1 << 20, 1 << 12


def strict_json(text: bytes, what: str) -> Any:
    """Parsed JSON without repeated keys, NaN, or deep nesting. Raises ArtifactError naming ``what``."""
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{what} is not valid JSON ({str(error)[:80]}); the file is damaged") from error
    layer, depth = [value], 0
    while layer:  # by layers, as what is checked here must not recurse either
        depth += 1
        layer = [inner for item in layer for inner in _inner(item)]
        if depth > _DEEPEST:
            raise ArtifactError(f"{what} is nested more than {_DEEPEST} levels deep")
    return value


def _inner(item: Any) -> Sequence[Any]:
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


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
    if sum(encodings.work(spec) for spec in specs) > _FREE_WORK + _WORK_PER_BYTE * file_bytes:
        raise ArtifactError(f"decoding a file of {file_bytes} bytes would take too long; it is damaged or hostile")
