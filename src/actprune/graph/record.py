"""What is noted of one forward: values (tensors at one moment), nodes (calls), and what the model returned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from actprune.graph.ops import Op
from actprune.graph.units import Place


@dataclass(eq=False)
class Value:
    """One tensor at one moment; the tensor itself is not kept.

    layout  shape, strides, offset and type
    module  path and call of the innermost module that returned it
    constant  made of the model's own tensors and numbers alone; what reads it does not list it
    places  where the units of a layer may lie here: it is that layer's output, or was made of it
    early   by such a place: what an observer made of it when it was new
    """

    layout: tuple[Any, ...]
    producer: Node | None
    readers: list[Node] = field(default_factory=list)
    module: tuple[str, int] | None = None
    constant: bool = False
    places: frozenset[Place] = frozenset()
    early: dict[Place, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return tuple(self.layout[0])


@dataclass(eq=False)
class Node:
    """One call of a function, or of a layer (then ``layer`` is its clean weight name).

    args, kwargs  numbers, words and lists of them; whatever else was given is ``OPAQUE``
    """

    index: int
    op: Op
    call: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: list[Value]
    outputs: list[Value] = field(default_factory=list)
    layer: str | None = None
    module: nn.Module | None = None
    nested: bool = False  # inside another layer, where functions are not watched


OPAQUE = object()


def plain(item: Any) -> Any:
    """Numbers and words as they are, in lists, tuples and dicts; ``OPAQUE`` for what would hold tensors."""
    if isinstance(item, (list, tuple)):
        return [plain(inner) for inner in item] if isinstance(item, list) else tuple(map(plain, item))
    if isinstance(item, dict):
        return {key: plain(inner) for key, inner in item.items()}
    return item if item is None or isinstance(item, (bool, int, float, str)) else OPAQUE


@dataclass(eq=False)
class Entered:
    """One call of a module under way: what went in, which call it is, and the index of the first node inside."""

    module: nn.Module
    path: str
    call: int
    start: int
    inputs: Any


@dataclass(eq=False)
class Leaf:
    """One call of a module of the user's own that has no children: perhaps an activation we do not know.

    norm  it is none, since it compares neurons or only scales them (an RMSNorm, a LayerScale of the user's own)
    """

    name: str
    inputs: list[Value]
    output: Value
    norm: bool


@dataclass
class Record:
    """All that one forward has shown.

    unseen      index of the last node that reads a tensor of unknown origin
    parameters  identities of those that functions outside of layers have read
    """

    nodes: list[Node] = field(default_factory=list)
    results: list[Value] = field(default_factory=list)
    leaves: list[Leaf] = field(default_factory=list)
    unseen: int = -1
    parameters: set[int] = field(default_factory=set)

    def calls(self) -> dict[str, list[Node]]:
        """Layer calls by weight name, in execution order."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            if node.layer is not None:
                found.setdefault(node.layer, []).append(node)
        return found


def tensors_in(item: Any) -> Iterator[Tensor]:
    """Every tensor inside nested containers, dataclasses and plain objects."""
    return _tensors(item, set())


def _opaque(item: Any) -> bool:
    """Objects that are not containers of a model's values: looking into them would wander off into all of torch."""
    if callable(item) or isinstance(item, (type, nn.Module, ModuleType)):
        return True
    return type(item).__module__.partition(".")[0] == "torch"


def _tensors(item: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(item, Tensor):
        yield item
        return
    inside: Iterable[Any] = ()
    if isinstance(item, Mapping):
        inside = item.values()
    elif isinstance(item, (list, tuple, set, frozenset)):
        inside = item
    elif is_dataclass(item) and not isinstance(item, type):
        inside = [getattr(item, entry.name, None) for entry in fields(item)]
    elif hasattr(item, "__dict__") and not _opaque(item):
        inside = vars(item).values()
    else:
        return
    if id(item) not in seen:
        seen.add(id(item))
        for inner in inside:
            yield from _tensors(inner, seen)
