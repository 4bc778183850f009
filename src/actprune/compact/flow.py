"""L4: one example followed through a program, element by element: values, dependence on the input, classes.

Every activation carries three tensors of its own shape: its value in float64; ``varies``, whether any input can change
it given which weights are zero (never decided by the data: a ReLU that happens to be silent still varies); and ``ids``,
the class that each element belongs to. Removing a class removes the same indices everywhere, so the shapes still fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from actprune.compact.classes import EXTERNAL, PINNED, Classes
from actprune.program import Program, Ref, Step, tensor_at
from actprune.program.nodes import mapped
from actprune.program.ops import base, function

_MOST = 1_000_000  # elements of a tensor outside layers (an embedding) that are followed one by one


@dataclass(frozen=True, eq=False)
class Seen:
    """One activation, three times: float64 values, bool dependence on the input, int64 classes."""

    value: Tensor
    varies: Tensor
    ids: Tensor


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer call that mixes its inputs: column j of ``weight`` reads the class ``columns[j]``.

    constant  float64 ``(in,)``: what column j receives, NaN where that varies or differs between positions
    only_zero a constant other than 0 cannot be folded into the bias (zero padding, groups)
    external  every column reads the model's input directly
    """

    step: int
    weight: str
    bias: str | None
    columns: Tensor
    constant: Tensor
    only_zero: bool
    external: bool

    @property
    def slot(self) -> str:
        """Where constants go: its bias, or the one that could be made for its weight."""
        return self.bias or self.weight


@dataclass(eq=False)
class Flow:
    """Everything one pass has shown.

    values    by name: Seen, a list of Seen, or a size
    axes      by tensor name: the class of every index of each axis, None for axes that are never cut (kernels)
    elements  by tensor name, for tensors read outside layers: the class of every element
    """

    program: Program
    classes: Classes = field(default_factory=Classes)
    values: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, list[Tensor | None]] = field(default_factory=dict)
    elements: dict[str, Tensor] = field(default_factory=dict)
    readers: list[Reader] = field(default_factory=list)

    def tensor(self, item: Any) -> Tensor | None:
        """A parameter or buffer by reference."""
        return tensor_at(self.program, item.name).detach() if isinstance(item, Ref) else None

    def stored(self, *items: Any) -> bool:
        """Whether these are parameters and buffers (or left out), not results of other steps."""
        return not any(isinstance(item, Ref) and item.name in self.values for item in items)

    def axis(self, ref: Ref, axis: int) -> Tensor:
        """Classes of the indices of one axis of a parameter; new ones at the first call."""
        tensor = tensor_at(self.program, ref.name)
        if ref.name in self.elements:  # also read outside layers: leave it whole
            self.classes.pin(self.elements[ref.name])
            return torch.full((tensor.shape[axis],), PINNED)
        known = self.axes.setdefault(ref.name, [None] * tensor.dim())
        found = known[axis]
        if found is None:
            found = known[axis] = self.classes.fresh(tensor.shape[axis])
        return found

    def see(self, item: Any) -> Any:
        """What an argument stands for: a Seen, a list of them, or the plain value."""
        if isinstance(item, Ref):
            return self.values[item.name] if item.name in self.values else self._constant(item.name)
        if isinstance(item, (list, tuple)):
            return [self.see(inner) for inner in item]
        return item

    def _constant(self, name: str) -> Seen:
        """A tensor of the model that is read as it is: each element a class of its own, but scalars are never cut."""
        tensor = tensor_at(self.program, name).detach()
        if name not in self.elements:
            count = tensor.numel()
            whole = name in self.axes or count == 1 or count > _MOST
            fresh = torch.full((count,), PINNED) if whole else self.classes.fresh(count)
            self.elements[name] = fresh.reshape(tensor.shape)
            for ids in self.axes.get(name, []):
                if ids is not None:
                    self.classes.pin(ids)
        value = tensor.double() if tensor.is_floating_point() else tensor
        return Seen(value, torch.zeros_like(tensor, dtype=torch.bool), self.elements[name])


def plain(flow: Flow, item: Any) -> Any:
    """An argument as the operation itself takes it: float64 values, lists, sizes."""
    return mapped(item, lambda leaf: _value(flow.see(leaf)))


def _value(seen: Any) -> Any:
    if isinstance(seen, Seen):
        return seen.value
    return [_value(inner) for inner in seen] if isinstance(seen, list) else seen


def run(flow: Flow, step: Step) -> Any:
    """The step's own result."""
    return function(step.op)(*plain(flow, step.args), **plain(flow, dict(step.kwargs or {})))


def read(flow: Flow, step: Step) -> list[Seen]:
    """Every activation or constant that a step reads."""
    return list(_seen(flow.see(ref) for ref in step.refs()))


def _seen(items: Any) -> Iterator[Seen]:
    for item in items:
        if isinstance(item, Seen):
            yield item
        elif isinstance(item, list):
            yield from _seen(item)


def counts(flow: Flow, step: Step) -> bool:
    """Whether it computes with a size itself. Only the batch's is not a plain number, and that may be any."""
    items = (*step.args, *(step.kwargs or {}).values())
    return any(isinstance(item, Ref) and isinstance(flow.see(item), int) for item in items)


def unknown(flow: Flow, index: int, step: Step) -> Any:
    """Nothing is assumed: whatever goes in must stay, and all that comes out depends on all of it."""
    seen = read(flow, step)
    for one in seen:
        flow.classes.pin(one.ids)
    varies = counts(flow, step) or any(bool(one.varies.any()) for one in seen)
    return pinned(run(flow, step), varies)


def differs(ids: Tensor, axis: int) -> bool:
    """Whether classes change along an axis."""
    return bool((ids != ids.narrow(axis, 0, 1)).any())


def pinned(out: Any, varies: bool) -> Any:
    """A result that stays as it is."""
    if isinstance(out, Tensor):
        return Seen(out, torch.full(out.shape, varies), torch.full(out.shape, PINNED))
    return [pinned(inner, varies) for inner in out] if isinstance(out, (list, tuple)) else out


Rule = Callable[[Flow, int, Step], Any]


@torch.no_grad()
def follow(program: Program, inputs: Mapping[str, Tensor], rules: Mapping[str, Rule], default: Rule) -> Flow:
    """Send ``inputs`` (float64) through ``program``; ``rules`` says what each family of operations does to a Seen."""
    flow = Flow(program)
    for name, tensor in inputs.items():
        ids = torch.full(tensor.shape, EXTERNAL)
        flow.values[name] = Seen(tensor, torch.ones_like(tensor, dtype=torch.bool), ids)
    for index, step in enumerate(program.steps):
        rule = rules.get(step.op) or rules.get(base(step.op), default)
        flow.values[step.name] = _doubled(rule(flow, index, step))
    return flow


def _doubled(found: Any) -> Any:
    """A result in float64, whatever precision the program itself converts to (``x.float()`` of a byte)."""
    if isinstance(found, list):
        return [_doubled(one) for one in found]
    if isinstance(found, Seen) and found.value.is_floating_point():
        return Seen(found.value.double(), found.varies, found.ids)
    return found
