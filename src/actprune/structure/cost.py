"""L2: what a network holds and costs once classes are gone: parameters, bytes, and FLOP of one example."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from actprune.structure.analysis import Analysis, needed
from actprune.structure.classes import PINNED, Solved
from actprune.structure.record import Node
from actprune.structure.values import Value, support

_PRODUCTS = {"mm": (0, 1), "addmm": (1, 2), "bmm": (0, 1), "baddbmm": (1, 2), "_grouped_mm": (0, 1)}


@dataclass(frozen=True)
class Size:
    """A network's parameters, their bytes (buffers included), and FLOP of one example in products and convolutions."""

    parameters: int
    bytes: int
    flop: int


class Costs:
    """``size(gone)`` for any set of classes, by their roots: shapes only, nothing is run.

    examples: how many the recorded forward was of.
    """

    def __init__(
        self, found: Analysis, solved: Solved, tensors: Mapping[str, Tensor], parameters: frozenset[str], examples: int
    ) -> None:
        self._members = len(solved.roots)
        self._examples = max(examples, 1)
        self._tensors = [
            (math.prod(tensor.shape), tensor.element_size(), name in parameters, self._axes(found, solved, name))
            for name, tensor in tensors.items()
        ]
        first = found.record.first
        nodes = [found.record.nodes[index] for index in needed(found.record) if first is None or index < first]
        self._products = [each for node in nodes if (each := _product(found, solved, node)) is not None]

    @staticmethod
    def _axes(found: Analysis, solved: Solved, name: str) -> list[tuple[int, Tensor]]:
        """Of each axis that may get shorter: its length, and the classes of its indices."""
        axes = []
        for labels in found.axes.get(name, []):
            if labels is not None:
                roots = solved.roots[labels]
                if bool((roots != PINNED).any()):
                    axes.append((len(roots), roots))
        return axes

    def size(self, gone: Tensor) -> Size:
        """gone: bool by member, set at the roots of what is removed."""
        parameters = total = 0
        for whole, width, counts, axes in self._tensors:
            left = whole
            for length, roots in axes:
                left = left // length * (length - int(gone[roots].sum()))
            parameters += left if counts else 0
            total += left * width
        flop = sum(each.flop(gone) for each in self._products)
        return Size(parameters, total, flop // self._examples)

    def none(self) -> Tensor:
        """Nothing gone."""
        return torch.zeros(self._members, dtype=torch.bool)


@dataclass(frozen=True, eq=False)
class _Product:
    """2 x entries of the result x what is summed over; ``arrays``: classes by axes of the result, and along the sum."""

    flop_whole: int
    arrays: tuple[Tensor, ...]

    def flop(self, gone: Tensor) -> int:
        share = 1.0
        for roots in self.arrays:
            share *= 1 - float(gone[roots].double().mean())
        return round(self.flop_whole * share)


def _product(found: Analysis, solved: Solved, node: Node) -> _Product | None:
    op, args = node.op, node.args
    if not node.outs:
        return None
    out = found.values[node.outs[0]]
    if op in _PRODUCTS:
        left = found.values[args[_PRODUCTS[op][0]].number]
        summed = left.shape[-1]
        along = _roots(solved, left, len(left.shape) - 1)
    elif op == "convolution":
        weight, x = found.values[args[1].number], found.values[args[0].number]
        transposed, groups = args[6], args[8]
        if transposed:  # counted by what goes in
            whole = 2 * math.prod(x.shape) * math.prod(weight.shape[1:])
            return _Product(whole, (*_all(solved, x), *_roots(solved, weight, 1)))
        summed = math.prod(weight.shape[1:])
        along = _roots(solved, weight, 1) if groups < x.shape[1] else []
    else:
        return None
    return _Product(2 * math.prod(out.shape) * summed, (*_all(solved, out), *along))


def _all(solved: Solved, value: Value) -> list[Tensor]:
    """Classes of the lines of each array."""
    return [solved.roots[each] for each in value.labels if support(each)]


def _roots(solved: Solved, value: Value, axis: int) -> list[Tensor]:
    """Classes along one axis, if there are any that depend on it alone."""
    return [solved.roots[each] for each in value.labels if support(each) == {axis}]
