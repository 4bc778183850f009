"""L4: one example followed through a program, element by element: values, dependence on the input, classes.

Every activation carries three tensors of its own shape: its value in float64; ``varies``, whether any input can change
it given which weights are zero (never decided by the data: a ReLU that happens to be silent still varies); and ``ids``,
the class that each element belongs to. Removing a class removes the same indices everywhere, so the shapes still fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from actprune.compact.classes import EXTERNAL, PINNED, Classes
from actprune.program import Program, Ref, Step, tensor_at
from actprune.program.ops import base

_MOST = 1_000_000  # elements of a tensor outside layers (an embedding) that are followed one by one


@dataclass(frozen=True, eq=False)
class Seen:
    """One activation, three times: float64 values, bool dependence on the input, int64 classes."""

    value: Tensor
    varies: Tensor
    ids: Tensor

    def through(self, move: Callable[[Tensor], Tensor]) -> Seen:
        """The same movement applied to all three."""
        return Seen(move(self.value), move(self.varies), move(self.ids))


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer call that mixes its inputs: column j of ``weight`` reads the class ``columns[j]``.

    constant  float64 ``(in,)``: what column j receives, NaN where that varies or differs between positions
    only_zero a constant other than 0 cannot be folded into the bias (zero padding, groups)
    external  every column reads the model's input directly
    """

    step: int
    weight: str
    columns: Tensor
    constant: Tensor
    only_zero: bool
    external: bool


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
        return Seen(tensor.double(), torch.zeros_like(tensor, dtype=torch.bool), self.elements[name])


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
        flow.values[step.name] = rule(flow, index, step)
    return flow
