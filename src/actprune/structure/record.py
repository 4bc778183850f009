"""L2: one eager forward, noted operation by operation: plain data that is independent of masks and of the values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from actprune.structure.frames import Key
from actprune.structure.values import Shape


def mapped(item: Any, change: Callable[[Any], Any]) -> Any:
    """The arguments of an operation with every leaf changed: they are nested in lists, tuples and dicts alone.

    (The pytrees of PyTorch know more containers, and take ten times as long, which is half of an analysis.)
    """
    if isinstance(item, Slot):
        return change(item)
    if isinstance(item, tuple):
        return tuple([mapped(each, change) for each in item])
    if isinstance(item, list):
        return [mapped(each, change) for each in item]
    if isinstance(item, dict):
        return {key: mapped(each, change) for key, each in item.items()}
    return change(item)


def flat(item: Any) -> list[Any]:
    """Its leaves, in order."""
    found: list[Any] = []
    mapped(item, found.append)
    return found


class Slot(NamedTuple):
    """Stands for a tensor in arguments and results."""

    number: int


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    op        ATen name without overload: "mm", "relu_"
    function  the operation itself
    args      as they were given, tensors as slots
    outs      slots of the tensors that it returned or overwrote, in order
    module    path of the innermost module that was running
    spoils    slots of values that share memory with what it overwrote: their values are not known any more
    """

    op: str
    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outs: tuple[int, ...]
    module: str
    spoils: tuple[int, ...] = ()

    def slots(self) -> Iterator[int]:
        """Every tensor that it reads."""
        for leaf in flat((self.args, self.kwargs)):
            if isinstance(leaf, Slot):
                yield leaf.number

    def filled(self, values: Mapping[int, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments and keywords with something in the place of every slot."""

        def fill(leaf: Any) -> Any:
            return values[leaf.number] if isinstance(leaf, Slot) else leaf

        args, kwargs = mapped((self.args, self.kwargs), fill)
        return args, kwargs

    def later(self, by: int) -> Node:
        """The same behind ``by`` slots of another forward."""

        def moved(leaf: Any) -> Any:
            return Slot(leaf.number + by) if isinstance(leaf, Slot) else leaf

        args, kwargs = mapped((self.args, self.kwargs), moved)
        return replace(self, args=args, kwargs=kwargs, outs=_later(self.outs, by), spoils=_later(self.spoils, by))


SIZED = frozenset({
    "view", "reshape", "expand", "unflatten", "split", "split_with_sizes", "chunk", "narrow", "repeat", "__getitem__",
    "zeros", "ones", "empty", "full", "new_zeros", "new_ones", "new_empty", "new_full", "randn", "rand", "arange",
    "tensor_split", "unsafe_split", "unsafe_chunk", "pad", "resize", "view_as", "broadcast_to", "fold", "pixel_shuffle",
    "repeat_interleave", "tile", "flatten", "linspace", "mean",
})  # fmt: skip
"""Functions that may have sizes written in their arguments, or divide by one (a mean)."""

_BY_NUMBER = frozenset({
    "mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply", "div", "div_", "__truediv__", "__rtruediv__",
    "__itruediv__", "__rdiv__", "true_divide", "divide",
})  # fmt: skip


def factor(name: str, args: Any, kwargs: Mapping[str, Any]) -> float | None:
    """The number that a call multiplies or divides a tensor by: it may be made of sizes. None: by no number."""
    if name not in _BY_NUMBER:
        return None
    given = args[-1] if len(args) > 1 else kwargs.get("other")
    return float(given) if isinstance(given, (int, float)) and not isinstance(given, bool) else None


CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
"""Functions whose seventh argument is the number of groups."""


def sized(name: str, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call may have sizes in it."""
    if name in CONVOLUTIONS:
        return int(kwargs.get("groups", args[6] if len(args) > 6 else 1)) > 1
    return name in SIZED or factor(name, args, kwargs) is not None


@dataclass(frozen=True, eq=False)
class Sized:
    """A call with sizes written in it, as the model's own code made it: ``x.view(b, t, self.heads, -1)``.

    key     whose code made it, and which call of which name it is
    source  slot of the tensor that it is made on
    outs    slots of what it returned
    """

    key: Key
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    source: int | None
    outs: tuple[int, ...]

    def later(self, by: int) -> Sized:
        """The same behind ``by`` slots of another forward."""
        return replace(self, source=None if self.source is None else self.source + by, outs=_later(self.outs, by))

    @property
    def module(self) -> str:
        """Path of the module whose code made it."""
        return self.key[0]

    @property
    def name(self) -> str:
        """Of the function."""
        return self.key[1]


@dataclass(eq=False)
class Record:
    """All that one forward has shown.

    shapes   of every slot
    floats   slots that hold floating-point numbers
    names    slot -> name of the parameter or buffer that it is (the first of several names)
    others   slot -> a tensor that the model holds otherwise, or makes of nothing
    inputs   slots of tensors that the caller gave
    results  slots of what the model returned
    calls    per module path: slots of the tensors that it was given and returned, one entry for each call
    remade   tables that modules keep of earlier forwards were made anew
    first    how many of the nodes are of the first forward, where others were noted behind it; None: all
    """

    nodes: list[Node] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    floats: list[bool] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    others: dict[int, Tensor] = field(default_factory=dict)
    inputs: list[int] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    sized: list[Sized] = field(default_factory=list)
    calls: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = field(default_factory=dict)
    remade: bool = False
    first: int | None = None

    def then(self, other: Record) -> Record:
        """Both, as if the one forward had come behind the other."""
        by = len(self.shapes)
        calls = {path: list(each) for path, each in self.calls.items()}
        for path, each in other.calls.items():
            calls.setdefault(path, []).extend((_later(given, by), _later(made, by)) for given, made in each)
        return Record(
            nodes=[*self.nodes, *(node.later(by) for node in other.nodes)],
            shapes=self.shapes + other.shapes,
            floats=self.floats + other.floats,
            names={**self.names, **{slot + by: name for slot, name in other.names.items()}},
            others={**self.others, **{slot + by: tensor for slot, tensor in other.others.items()}},
            inputs=[*self.inputs, *_later(other.inputs, by)],
            results=[*self.results, *_later(other.results, by)],
            sized=[*self.sized, *(each.later(by) for each in other.sized)],
            calls=calls,
            remade=self.remade or other.remade,
            first=len(self.nodes) if self.first is None else self.first,
        )


def _later(slots: Iterable[int], by: int) -> tuple[int, ...]:
    return tuple(slot + by for slot in slots)


def tensors(item: Any) -> list[Tensor]:
    """Tensors in any pytree, dataclasses and plain objects included."""
    found: list[Tensor] = []
    _gather(item, found, set())
    return found


_CACHES = frozenset({"past_key_values", "past_key_value", "cache_params", "mems", "past_buckets_states"})


def is_cache(key: str, item: Any) -> bool:
    """Whether what a model returns by this name is for its own next call: nobody else depends on its sizes."""
    return key in _CACHES or type(item).__name__.endswith("Cache")


def outputs(result: Any) -> list[Tensor]:
    """Tensors that a model returns to its caller; caches for its own next call are none."""
    if isinstance(result, Mapping):
        return [each for key, item in result.items() if not is_cache(key, item) for each in outputs(item)]
    if isinstance(result, (list, tuple)):
        return [each for item in result for each in outputs(item)]
    return [] if is_cache("", result) else tensors(result)


def _gather(item: Any, found: list[Tensor], seen: set[int]) -> None:
    if isinstance(item, Tensor):
        found.append(item)
        return
    if id(item) in seen or isinstance(item, (str, bytes, int, float, type(None), torch.dtype, torch.device, type)):
        return
    seen.add(id(item))
    if isinstance(item, Mapping):
        inner = list(item.values())
    elif isinstance(item, (list, tuple, set, frozenset)):
        inner = list(item)
    elif isinstance(item, torch.nn.Module) or callable(item) or type(item).__module__.partition(".")[0] == "torch":
        inner = _of_distribution(item)
    else:
        inner = list(getattr(item, "__dict__", {}).values())
    for each in inner:
        _gather(each, found, seen)


def _of_distribution(item: Any) -> list[Any]:
    """A torch object that carries results: a distribution, a packed sequence."""
    carries = isinstance(item, torch.distributions.Distribution)
    return list(vars(item).values()) if carries else []
