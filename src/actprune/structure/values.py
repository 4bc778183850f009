"""L2: what travels beside every tensor of a recorded forward: which indices must go together, and what is constant.

A label array has one entry per index of the axes that it depends on and length 1 elsewhere, so that a channel of a
feature map costs one number whatever the image's size. A value has several of them where rows and columns go for
themselves, as in a weight: an element goes with any of its labels. An axis without label must stay as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from actprune.structure.classes import Classes

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the recorded forward.

    labels  int64 arrays with as many axes as ``shape``, each of length 1 or of the whole axis
    const   float64, likewise; NaN where the model's input can change it; None: everywhere, or nobody asked
    tensor  of what is made of parameters and buffers alone: the value itself
    name    of a parameter or buffer that it is, read as it is or transposed (``turned``)
    bare    it is the model's input, or moved entries of it
    shares  its entries along the last axis are shares, as of a softmax; ``whole``: they sum to one
    """

    shape: Shape
    labels: tuple[Tensor, ...] = ()
    const: Tensor | None = None
    tensor: Tensor | None = None
    name: str | None = None
    turned: bool = False
    bare: bool = False
    shares: bool = False
    whole: bool = False

    def with_(self, **changes: Any) -> Value:
        """A changed copy."""
        return replace(self, **changes)

    def along(self, axis: int) -> Tensor | None:
        """Labels ``(length,)`` of an axis that depend on it alone; None: it has none, or others."""
        axis %= len(self.shape)
        found = [each for each in self.labels if axis in support(each)]
        return found[0].reshape(-1) if len(found) == 1 and support(found[0]) == {axis} else None

    def on(self, axis: int) -> list[Tensor]:
        """Label arrays that depend on an axis."""
        return [each for each in self.labels if axis % len(self.shape) in support(each)]


def support(array: Tensor) -> set[int]:
    """The axes that an array depends on."""
    return {axis for axis, length in enumerate(array.shape) if length > 1}


def shrunk(array: Tensor) -> Tensor:
    """The same array, of length 1 along every axis on which it does not depend. NaN equals NaN."""
    for axis in range(array.dim()):
        if array.shape[axis] > 1:
            first = array.narrow(axis, 0, 1)
            if array.stride(axis) == 0 or _equal(array, first):
                array = first
    return array


def _equal(array: Tensor, first: Tensor) -> bool:
    if array.is_floating_point():
        return bool(((array == first) | (array.isnan() & first.isnan())).all())
    return bool((array == first).all())


def line(labels: Tensor, axis: int, dims: int) -> Tensor:
    """``(n,)`` as an array of ``dims`` axes along one of them."""
    shape = [1] * dims
    shape[axis % dims] = -1
    return labels.reshape(shape)


def whole(array: Tensor, shape: Sequence[int], axes: Sequence[int]) -> Tensor:
    """The array with some axes at full length (without memory)."""
    wanted = list(array.shape)
    for axis in axes:
        wanted[axis] = shape[axis]
    return array.expand(wanted)


def parts(old: Shape, new: Shape) -> list[tuple[range, range]]:
    """A reshape taken apart: runs of old and new axes that hold the same number of entries, as short as can be."""
    found, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        have, want = 1, 1
        while True:
            if have == want and (i > start_i or j > start_j) and (have > 1 or i == len(old) or j == len(new)):
                break
            if have <= want and i < len(old) and not (have == want and j < len(new) and i > start_i):
                have *= old[i]
                i += 1
            elif j < len(new):
                want *= new[j]
                j += 1
            else:
                have *= old[i]
                i += 1
        while i < len(old) and old[i] == 1 and (j >= len(new) or new[j] != 1):
            i += 1
        while j < len(new) and new[j] == 1 and (i >= len(old) or old[i] != 1):
            j += 1
        found.append((range(start_i, i), range(start_j, j)))
    return found


def reshaped(array: Tensor, old: Shape, new: Shape) -> Tensor:
    """A label or constant array after its value was reshaped from ``old`` to ``new``."""
    if not math.prod(old):
        return torch.zeros([1] * len(new), dtype=array.dtype)
    axes, target = support(array), []
    expand = []
    for before, after in parts(old, new):
        touched = any(axis in axes for axis in before)
        expand += list(before) if touched else []
        target += [new[axis] if touched else 1 for axis in after]
    return shrunk(whole(array, old, expand).reshape(target))


def along(const: Tensor | None, axis: int) -> Tensor | None:
    """Constants of an axis, ``(n,)`` or ``(1,)``: NaN where they differ along the other axes; None for None."""
    if const is None:
        return None
    lines = const.movedim(axis, 0).flatten(1) if const.dim() > 1 else const.reshape(-1, 1)
    same = (lines == lines[:, :1]).all(1)
    return torch.where(same, lines[:, 0], torch.nan)


class Meeting:
    """Joins the labels of values that meet element by element, as in a sum."""

    def __init__(self, classes: Classes, why: str) -> None:
        self.classes, self.why = classes, why

    def of(self, values: Sequence[Value], shape: Shape) -> tuple[Tensor, ...]:
        """The labels of the result of ``shape``."""
        dims = len(shape)
        several = [self._padded(each, dims) for each in values if each.shape]
        if len(several) == 1 and several[0][0] == shape:
            return several[0][1]
        result: list[Tensor] = []
        for number, (_, labels) in enumerate(several):
            others = several[:number] + several[number + 1 :]
            for each in labels:
                if self._followed(each, others):
                    result = self._merged(result, each)
        return tuple(result)

    @staticmethod
    def _padded(value: Value, dims: int) -> tuple[Shape, tuple[Tensor, ...]]:
        before = (1,) * (dims - len(value.shape))
        return before + value.shape, tuple(each.reshape(before + tuple(each.shape)) for each in value.labels)

    def _followed(self, array: Tensor, others: list[tuple[Shape, tuple[Tensor, ...]]]) -> bool:
        """False, and it stays, where something without labels meets it along its axes."""
        axes = support(array)
        for other, labels in others:
            common = {axis for axis in axes if other[axis] > 1}
            if common and not any(support(each) & common for each in labels):
                self.classes.pin(array, self.why)
                return False
        return True

    def _merged(self, result: list[Tensor], array: Tensor) -> list[Tensor]:
        axes = support(array)
        if not axes:
            self.classes.pin(array, self.why)
            return result
        rest, widest = [], array
        for each in result:
            if support(each) & axes:
                widest = self._together(widest, each)
            else:
                rest.append(each)
        return [*rest, widest]

    def _together(self, one: Tensor, other: Tensor) -> Tensor:
        """Labels that share an axis; the wider ones.

        What lies along inner axes of them alone (a table of rotations that all heads share) would go only with the same
        index of every head: it stays, so that whole heads can go.
        """
        wide, narrow = (one, other) if len(support(one)) >= len(support(other)) else (other, one)
        missing, common = support(wide) - support(narrow), support(narrow)
        if not common <= support(wide):
            self.classes.pin(wide, self.why)
            self.classes.pin(narrow, self.why)
        elif missing and min(missing) < min(common):
            self.classes.pin(narrow, self.why)
            first = wide
            for axis in common:
                first = first.narrow(axis, 0, 1)
            self.classes.join(wide, first)
        else:
            self.classes.join(wide, narrow)
        return wide
