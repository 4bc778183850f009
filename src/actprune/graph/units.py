"""Where the units of a layer lie in what a function makes of its output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from actprune.graph import ops

Shape = tuple[int, ...]
Given = tuple[tuple[Any, ...], Mapping[str, Any]]


class Place(NamedTuple):
    """axis: of the units, from the end. parts: so many equal parts of the layer share each entry (2 in a GLU)."""

    axis: int
    parts: int = 1


def after(name: str, given: Given, before: Shape, then: Shape, place: Place) -> Place | None:
    """Where the units lie in a result of shape ``then``, if they lay at ``place`` before; None: not as one axis.

    given: the arguments of the function, by position and by name.

    A function that keeps the shape keeps them where they are, a transposition moves them, a pooling leaves them alone,
    and a part of them (a chunk, a slice, ``glu``) is one of several equal ones.
    """
    if name in ops.TRANSPOSES:
        index = _moved(name, given, len(before), len(before) + place.axis)
        fits = index is not None and len(then) == len(before) and then[index] == before[place.axis]
        return Place(index - len(before), place.parts) if fits and index is not None else None
    if then == before:
        return place
    if len(then) != len(before):
        return None
    if name in ops.POOLS:
        return place if then[place.axis] == before[place.axis] else None
    count = before[place.axis] // max(then[place.axis], 1)
    whole = list(then)
    whole[place.axis] *= count
    parted = name in ops.PARTS and count > 1 and tuple(whole) == before
    return Place(place.axis, place.parts * count) if parted else None


def _moved(name: str, given: Given, rank: int, index: int) -> int | None:
    """The new index of an axis under a transposition; None where its arguments are not plain numbers."""
    args, kwargs = given
    order = list(range(rank))
    if name in ("t", "T"):
        order.reverse()
    elif name == "mT":
        order[-2:] = reversed(order[-2:])
    elif name == "permute":
        dims = ops.argument(args, kwargs, 1, "dims")
        order = list(dims if isinstance(dims, (list, tuple)) else args[1:])
    elif name in ("movedim", "moveaxis"):
        one, other = ops.argument(args, kwargs, 1, "source"), ops.argument(args, kwargs, 2, "destination")
        if not (isinstance(one, int) and isinstance(other, int)):
            return None
        order.insert(other % rank, order.pop(one % rank))
    else:
        named = ("axis0", "axis1") if "axis0" in kwargs else ("dim0", "dim1")
        one, other = (ops.argument(args, kwargs, position, word) for position, word in enumerate(named, 1))
        if not (isinstance(one, int) and isinstance(other, int)):
            return None
        order[one], order[other] = order[other], order[one]
    plain = len(order) == rank and all(isinstance(axis, int) for axis in order)
    return [axis % rank for axis in order].index(index) if plain else None
