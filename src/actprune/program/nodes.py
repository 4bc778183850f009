"""L2: the nouns of a program: references and steps, and their plain JSON form."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from actprune.errors import ArtifactError

DTYPES = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Ref:
    """A value by name: an input, what a step returns, a parameter or a buffer."""

    name: str


@dataclass(frozen=True)
class Step:
    """One call: ``name = op(*args, **kwargs)``. Arguments: numbers, strings, dtypes, None, Refs, or lists of them."""

    name: str
    op: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None

    def refs(self) -> Iterator[Ref]:
        """Every value that is read, in order."""
        yield from refs_in((self.args, dict(self.kwargs or {})))

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """An argument, wherever it was given."""
        if position < len(self.args):
            return self.args[position]
        return (self.kwargs or {}).get(name, default)


def refs_in(item: Any) -> Iterator[Ref]:
    """Every Ref inside nested lists, tuples and dicts."""
    if isinstance(item, Ref):
        yield item
    elif isinstance(item, (list, tuple)):
        for inner in item:
            yield from refs_in(inner)
    elif isinstance(item, Mapping):
        for inner in item.values():
            yield from refs_in(inner)


def encoded(item: Any) -> Any:  # noqa: PLR0911  (one line per kind)
    """Plain JSON: a Ref becomes its bare name; strings, dtypes and odd floats become one-entry objects."""
    if isinstance(item, Ref):
        return item.name
    if isinstance(item, str):
        return {"s": item}
    if isinstance(item, torch.dtype):
        return {"t": _DTYPE_NAMES[item]}
    if isinstance(item, float) and not math.isfinite(item):
        return {"f": str(item)}
    if isinstance(item, (list, tuple)):
        return [encoded(inner) for inner in item]
    if isinstance(item, dict):
        return {"d": {key: encoded(inner) for key, inner in item.items()}}
    return item


def decoded(item: Any) -> Any:  # noqa: PLR0911  (one line per kind)
    """Inverse of ``encoded``. Raises ArtifactError on anything it cannot have written."""
    if isinstance(item, str):
        return Ref(item)
    if item is None or isinstance(item, (bool, int, float)):
        return item
    if isinstance(item, list):
        return [decoded(inner) for inner in item]
    if isinstance(item, dict) and len(item) == 1:
        ((kind, value),) = item.items()
        if kind == "s" and isinstance(value, str):
            return value
        if kind == "t" and value in DTYPES:
            return DTYPES[value]
        if kind == "f" and value in ("inf", "-inf", "nan"):
            return float(value)
        if kind == "d" and isinstance(value, dict):
            return {key: decoded(inner) for key, inner in value.items()}
    raise ArtifactError(f"a program argument cannot be read: {str(item)[:80]!r}")
