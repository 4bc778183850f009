"""L2: a record read once, operation by operation: which indices go together, what is constant, who reads what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from actprune.structure.classes import Classes
from actprune.structure.exact import Norm
from actprune.structure.record import Node, Record, flat, mapped
from actprune.structure.values import Meeting, Shape, Value, line, shrunk, support

_MOST = 1 << 20  # entries of a stored tensor up to which its values are followed as constants


@dataclass(frozen=True, eq=False)
class Reader:
    """A product that sums over an axis: entry j of ``columns`` is what index j of that axis meets.

    weight    name of the parameter, None where it is computed
    axis      of the parameter that is summed over
    constant  float64 ``(n,)`` or ``(1,)``: what arrives at each index; NaN where that varies; None: everywhere
    only_zero a constant other than 0 cannot be moved into the bias (zero padding, groups, a computed weight)
    bare      every index reads the model's input directly
    """

    node: int
    module: str
    weight: str | None
    axis: int
    columns: Tensor
    constant: Tensor | None
    only_zero: bool
    bare: bool


@dataclass(frozen=True, eq=False)
class Mixing:
    """A normalisation over an axis with labels: exact after a removal only with the sizes of before.

    kind   "layer", "group" or "rms"
    count  how many entries one normalisation is over, along the axis with labels
    """

    module: str
    kind: str
    labels: Tensor
    constant: Tensor | None
    count: int
    groups: int = 1


@dataclass(eq=False)
class Analysis:
    """Everything one reading of a record has shown.

    tensors   parameters and buffers by name, masked where masks are to count
    constants whether constants are followed
    norms     module path and what it normalises -> which norm it computes, if that can be made exact
    replaced  module path -> the norm over all channels of before that it computes, read as a whole
    rewrites  whether calls in the model's code can be made otherwise
    whole_groups  of a grouped convolution whole groups go, and not the same channel of each
    grouped   whether there was such a convolution
    axes      by name of a parameter or buffer: the labels of each of its axes, None: it stays whole
    unknown   operations without a rule that touched labels, and the modules that called them
    heads     labels of what an attention weighs by shares: its heads
    scalars   by module path: positive numbers that tensors were multiplied or divided by
    lengths   what products of activations sum over: module path, labels, length
    wide      label arrays over several axes: only whole lines of them can go
    scales    names of what normalisations multiply their channels by
    cuts      labels of what is made of the model's own tensors alone, before and after a slice of it was taken
    never_zero  name and axis of what is divided by its own norm: a removed group is cut there, and not set to zero
    """

    record: Record
    tensors: Mapping[str, Tensor]
    constants: bool
    norms: Callable[[str, Value], str | None]
    replaced: Mapping[str, Norm] = field(default_factory=dict)
    whole_groups: bool = False
    rewrites: bool = True
    classes: Classes = field(default_factory=Classes)
    values: dict[int, Value] = field(default_factory=dict)
    axes: dict[str, list[Tensor | None]] = field(default_factory=dict)
    readers: list[Reader] = field(default_factory=list)
    mixings: list[Mixing] = field(default_factory=list)
    unknown: dict[str, list[str]] = field(default_factory=dict)
    scalars: dict[str, list[float]] = field(default_factory=dict)
    lengths: list[tuple[str, Tensor, int]] = field(default_factory=list)
    wide: list[Tensor] = field(default_factory=list)
    heads: list[Tensor] = field(default_factory=list)
    scales: set[str] = field(default_factory=set)
    cuts: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    never_zero: set[tuple[str, int]] = field(default_factory=set)
    grouped: bool = False

    def stored(self, name: str) -> Value:
        """A parameter or buffer: each axis has labels of its own."""
        tensor = self.tensors[name].detach()
        shape = tuple(tensor.shape)
        if name not in self.axes:
            self.axes[name] = [self.classes.fresh(length) if length > 1 else None for length in shape]
        dims = len(shape)
        labels = [line(each, axis, dims) for axis, each in enumerate(self.axes[name]) if each is not None]
        return Value(shape, tuple(labels), None, tensor, name)

    def made(self, tensor: Tensor) -> Value:
        """A tensor of nobody's: its axes are as free as those of what it meets."""
        shape = tuple(tensor.shape)
        labels = tuple(
            line(self.classes.fresh(length), axis, len(shape)) for axis, length in enumerate(shape) if length > 1
        )
        return Value(shape, labels, None, tensor.detach())

    def constant(self, value: Value) -> Tensor | None:
        """Its constants, compressed; those of a stored tensor are its values, if it is not large."""
        if value.const is not None:
            return value.const
        if not self.constants or value.tensor is None or value.tensor.is_complex():
            return None
        if value.tensor.numel() > _MOST:
            return None
        return shrunk(value.tensor.to("cpu", torch.float64))


@dataclass(frozen=True, eq=False)
class Call:
    """One operation as a rule sees it: values in the place of tensors."""

    analysis: Analysis
    index: int
    node: Node
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shapes: tuple[Shape, ...]

    @property
    def values(self) -> list[Value]:
        """Every value that it reads, in order."""
        return [leaf for leaf in flat((self.args, self.kwargs)) if isinstance(leaf, Value)]

    @property
    def shape(self) -> Shape:
        """Of the first result."""
        return self.shapes[0]

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    @property
    def where(self) -> str:
        """Words for the user."""
        return f"{self.node.op} in {self.node.module or 'the model'}"

    def pin(self, labels: Sequence[Tensor], why: str) -> None:
        """They stay; ``why`` follows the operation's name."""
        for each in labels:
            self.analysis.classes.pin(each, f"{self.where} {why}")

    def join(self, left: Tensor, right: Tensor) -> None:
        """They go together."""
        self.analysis.classes.join(left, right)

    def meet(self, values: Sequence[Value], shape: Shape | None = None) -> tuple[Tensor, ...]:
        """Labels of the result of values that meet element by element."""
        meeting = Meeting(self.analysis.classes, f"{self.where} needs it beside what has to stay")
        return meeting.of(values, self.shape if shape is None else shape)

    def const(self, value: Value) -> Tensor | None:
        """Compressed constants of a value."""
        return self.analysis.constant(value)

    def summed(self, columns: Tensor, constant: Tensor | None) -> None:
        """Entries along ``columns`` are summed up by something without a weight: only zeros may go."""
        reader = Reader(self.index, self.node.module, None, 0, columns, constant, True, False)
        self.analysis.readers.append(reader)


Rule = Callable[[Call], "Value | list[Value]"]


def analyse(
    record: Record,
    tensors: Mapping[str, Tensor],
    rules: Mapping[str, Rule],
    *,
    constants: bool,
    norms: Callable[[str, Value], str | None],
    replaced: Mapping[str, Norm],
    whole_groups: bool = False,
    rewrites: bool = True,
) -> Analysis:
    """Read a record by ``rules``; what has no rule pins all it touches.

    norms: module path and what it normalises -> which norm it computes ("layer", "rms"), if that can be made exact.
    replaced: by module path, norms of an earlier compaction.
    """
    found = Analysis(record, tensors, constants, norms, replaced, whole_groups, rewrites)
    for slot in record.inputs:
        found.values[slot] = Value(record.shapes[slot], bare=True)
    for slot, name in record.names.items():
        found.values[slot] = found.stored(name)
    for slot, tensor in record.others.items():
        found.values[slot] = found.made(tensor)
    wanted = set(needed(record))
    aside = _aside(found)
    for index, node in enumerate(record.nodes):
        _read(found if index in wanted else aside, index, node, rules)
    _pin_scaled(found)
    _pin_left_out(found)
    for slot in record.results:
        for labels in found.values[slot].labels:
            found.classes.pin(labels, "it is part of what the model returns")
    return found


class _Lenient(Classes):
    """What meets goes together, as the code has to run; but nothing has to stay."""

    def __init__(self, real: Classes) -> None:
        super().__init__()
        self._real = real

    def fresh(self, count: int) -> Tensor:
        """Of those that count."""
        return self._real.fresh(count)

    def join(self, left: Tensor, right: Tensor) -> None:
        """With those that count."""
        self._real.join(left, right)

    def pin(self, labels: Tensor, why: str = "") -> None:
        """Nothing."""


def _aside(found: Analysis) -> Analysis:
    """The same values, for operations that no result depends on: they run, but what they need does not matter."""
    return Analysis(
        found.record, found.tensors, found.constants, lambda path, value: None, {}, found.whole_groups,
        True, _Lenient(found.classes), found.values, found.axes,
    )  # fmt: skip


def needed(record: Record) -> list[int]:
    """Operations on which a result depends, in order: what nobody looks at (averaged attention) pins nothing."""
    wanted, kept = set(record.results), []
    for index in range(len(record.nodes) - 1, -1, -1):
        node = record.nodes[index]
        if wanted.isdisjoint((*node.outs, *node.spoils)):
            continue
        wanted.update(node.slots())
        kept.append(index)
    return kept[::-1]


def _pin_scaled(found: Analysis) -> None:
    """Attention multiplies by a root of the length that it sums over: none of it may go, or the number would change."""
    for module, labels, length in found.lengths:
        numbers = found.scalars.get(module, [])
        if any(abs(number / length**power - 1) < 1e-4 for number in numbers for power in (-0.5, 0.5, -0.25, 0.25)):
            found.classes.pin(labels, f"{module or 'the model'} scales by a root of the length that it sums over")


def _pin_left_out(found: Analysis) -> None:
    """A table of positions is cut to the length of the example: what no slice has taken is for longer ones."""
    if not found.cuts:
        return
    taken = torch.unique(torch.cat([after.reshape(-1) for _, after in found.cuts]))
    for before, _ in found.cuts:
        found.classes.pin(before[~torch.isin(before, taken)], "the size of the example leaves it out")


def _read(found: Analysis, index: int, node: Node, rules: Mapping[str, Rule]) -> None:
    args, kwargs = node.filled(found.values)
    call = Call(found, index, node, args, kwargs, tuple(found.record.shapes[slot] for slot in node.outs))
    for slot in node.spoils:
        found.values[slot] = found.values[slot].with_(const=None, tensor=None, name=None, bare=False)
    if not node.outs:  # it returns numbers of python's
        call.pin(
            [each for value in call.values for each in value.labels], "returns a number that the model's code uses"
        )
        return
    rule = rules["norm of a width"] if node.module in found.replaced else _rule(node, rules) or unknown
    made = rule(call)
    values = made if isinstance(made, list) else [made] * len(node.outs)
    inputs = call.values
    static = bool(inputs) and all(each.tensor is not None for each in inputs)
    results = _computed(call) if static else None
    for number, (slot, value) in enumerate(zip(node.outs, values, strict=False)):
        labels = value.labels if any(axis > 1 for axis in value.shape) else ()
        known = results[number] if results is not None and number < len(results) else None
        found.wide += [each for each in labels if len(support(each)) > 1]
        const = value.const
        if const is not None and const.dim() < len(value.shape):  # as it broadcasts
            const = const.reshape((1,) * (len(value.shape) - const.dim()) + tuple(const.shape))
        found.values[slot] = value.with_(
            labels=labels, const=const, tensor=known if value.tensor is None else value.tensor
        )


def _computed(call: Call) -> list[Tensor] | None:
    """What is made of stored tensors alone is computed again, so that masks count."""

    def given(leaf: Any) -> Any:
        return leaf.tensor if isinstance(leaf, Value) else leaf

    if call.node.function._schema.is_mutable:
        return None
    args, kwargs = mapped((call.args, call.kwargs), given)
    try:
        if call.node.op in ("view", "_unsafe_view"):  # a copy before it may have been left out
            return [args[0].reshape(args[1])]
        out = call.node.function(*args, **kwargs)
    except (RuntimeError, TypeError, NotImplementedError):
        return None
    return [leaf for leaf in flat(out) if isinstance(leaf, Tensor)]


def _rule(node: Node, rules: Mapping[str, Rule]) -> Rule | None:
    base = node.op[:-1] if node.op.endswith("_") and not node.op.startswith("__") else node.op
    rule = rules.get(node.op) or rules.get(base)
    if rule is None and torch.Tag.pointwise in node.function.tags:
        rule = rules["pointwise"]
    if rule is None and not list(node.slots()):
        rule = rules["made of nothing"]
    return rule


def unknown(call: Call) -> list[Value]:
    """Nothing is assumed: whatever goes in stays."""
    call.pin([each for value in call.values for each in value.labels], "has no rule, so all it touches stays")
    if any(value.labels for value in call.values):
        call.analysis.unknown.setdefault(call.node.op, []).append(call.node.module)
    return [Value(shape) for shape in call.shapes]
