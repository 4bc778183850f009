"""L4: sizes and positions that are written into a call, as they must read once indices are gone.

A change holds only what differs, as a ratio where it is a size, so that the call still takes any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from actprune.structure import CONVOLUTIONS

Lines = Sequence[Tensor | None]


class StuckError(Exception):
    """A call cannot be written for the smaller shapes; what it reads has to stay."""


class Written(NamedTuple):
    """A call: the function's name, its arguments behind the tensor itself, and what its result is multiplied by."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    scale: float = 1.0


class Around(NamedTuple):
    """What a call is made on and gives: shapes as they were, and which indices of each axis stay (None: all)."""

    shape: tuple[int, ...]
    kept: Lines
    shapes: tuple[tuple[int, ...], ...]
    results: tuple[Lines, ...]

    def after(self, number: int = 0) -> list[int]:
        """Sizes of a result."""
        return [_count(line, size) for line, size in zip(self.results[number], self.shapes[number], strict=True)]


class Edited(Protocol):
    """What has to change in a call whenever it is made."""

    @property
    def numbers(self) -> tuple[tuple[int, int], ...]:
        """Numbers that stood there, and those that stand there now: an attribute may hold them."""
        ...

    def of(self, call: Written) -> Written:
        """The call as it has to read."""
        ...


@dataclass(frozen=True)
class Scaled:
    """Sizes by place: ``after`` stands where ``before`` stood, and multiples alike."""

    places: tuple[tuple[int, int, int], ...]

    def of(self, call: Written) -> Written:
        """The call with these sizes changed."""
        sizes, put = _sizes(call)
        for place, before, after in self.places:
            size = sizes[place]
            if isinstance(size, int) and size != -1 and size * after % before:
                raise StuckError
            if not (isinstance(size, int) and size == -1):
                sizes[place] = size * after // before
        return put(sizes)

    @property
    def numbers(self) -> tuple[tuple[int, int], ...]:
        """Sizes before and after."""
        return tuple((before, after) for _, before, after in self.places)


@dataclass(frozen=True)
class Parts:
    """Parts of these sizes along an axis."""

    sizes: tuple[int, ...]
    axis: int
    numbers: tuple[tuple[int, int], ...]

    def of(self, call: Written) -> Written:
        """A split into these."""
        return Written("split", (list(self.sizes), self.axis), {})


@dataclass(frozen=True)
class Items:
    """Slices and positions by place among the indices."""

    places: tuple[tuple[int, int | tuple[int, int]], ...]
    numbers: tuple[tuple[int, int], ...]

    def of(self, call: Written) -> Written:
        """The call with these indices changed."""
        given = call.args[0]
        items = list(given) if isinstance(given, tuple) else [given]
        for place, item in self.places:
            items[place] = slice(*item) if isinstance(item, tuple) else item
        return Written(call.name, (tuple(items),), {})


@dataclass(frozen=True)
class Multiplied:
    """The number that a tensor is multiplied or divided by, times ``ratio``: it is made of a size that has changed."""

    ratio: float
    numbers: tuple[tuple[int, int], ...] = ()

    def of(self, call: Written) -> Written:
        """The call with the number of before."""
        if call.args:
            return Written(call.name, (call.args[0] * self.ratio, *call.args[1:]), call.kwargs)
        return Written(call.name, (), {**call.kwargs, "other": call.kwargs["other"] * self.ratio})


@dataclass(frozen=True)
class Grouped:
    """A convolution in ``after`` groups instead of ``before``: whole groups have gone."""

    before: int
    after: int

    @property
    def numbers(self) -> tuple[tuple[int, int], ...]:
        """Groups before and after."""
        return ((self.before, self.after),)

    def of(self, call: Written) -> Written:
        """The call in so many groups."""
        if "groups" in call.kwargs:
            return call._replace(kwargs={**call.kwargs, "groups": self.after})
        return call._replace(args=(*call.args[:5], self.after))


@dataclass(frozen=True)
class Averaged:
    """A mean over some of ``1 / ratio`` times as many entries, of which the others were zero."""

    ratio: float
    numbers: tuple[tuple[int, int], ...] = ()

    def of(self, call: Written) -> Written:
        """The same mean, times the ratio."""
        return call._replace(scale=call.scale * self.ratio)


@dataclass(frozen=True)
class Instead:
    """Another call in its place."""

    name: str
    args: tuple[Any, ...]
    numbers: tuple[tuple[int, int], ...] = ()

    def of(self, call: Written) -> Written:
        """The other call, with the keywords of this one that it does not have."""
        return Written(
            self.name, self.args, {key: item for key, item in call.kwargs.items() if key in ("mode", "value")}
        )


@dataclass(frozen=True)
class Chained:
    """One change behind another, of an earlier compaction."""

    first: Edited
    second: Edited

    @property
    def numbers(self) -> tuple[tuple[int, int], ...]:
        """Of the second."""
        return self.second.numbers

    def of(self, call: Written) -> Written:
        """The call with both."""
        return self.second.of(self.first.of(call))


def rewritten(call: Written, before: Written, around: Around) -> Edited:
    """What has to change for the smaller shapes in a call as the small model makes it.

    before: the call as the large model made it.

    Raises StuckError.
    """
    if call.name in _SCALED:
        return _scaled(call, around)
    change = _REWRITES.get(call.name)
    if change is None:
        raise StuckError
    return change(before, around)


def _count(line: Tensor | None, size: int) -> int:
    return size if line is None else int(line.sum())


def _argument(call: Written, position: int, name: str, default: Any = None) -> Any:
    return call.args[position] if position < len(call.args) else call.kwargs.get(name, default)


def _sizes(call: Written) -> tuple[list[Any], Callable[[list[Any]], Written]]:
    """Sizes as written, and the call with others."""
    if call.name == "unflatten":
        axis = _argument(call, 0, "dim")
        return list(_argument(call, 1, "sizes")), lambda new: Written("unflatten", (axis, tuple(new)), {})
    for key in ("size", "shape", "sizes", "repeats", "dims"):
        if key in call.kwargs:
            named = call.kwargs[key]
            listed = list(named) if isinstance(named, (list, tuple)) else [named]
            return listed, partial(_with_keyword, call, key)
    first = call.args[0] if call.args else ()
    if isinstance(first, (list, tuple)):
        return list(first), lambda new: Written(call.name, (tuple(new), *call.args[1:]), call.kwargs)
    count = next((n for n, item in enumerate(call.args) if not _is_size(item)), len(call.args))
    return list(call.args[:count]), lambda new: Written(call.name, (tuple(new), *call.args[count:]), call.kwargs)


def _is_size(item: Any) -> bool:
    """A number; to ``torch.jit.trace`` a size is a tensor of no axis."""
    return isinstance(item, (int, torch.SymInt)) or (isinstance(item, Tensor) and not item.dim())


def _with_keyword(call: Written, key: str, sizes: list[Any]) -> Written:
    return Written(call.name, call.args, {**call.kwargs, key: tuple(sizes)})


def _scaled(call: Written, around: Around) -> Edited:
    written, _ = _sizes(call)
    new = around.after()
    if call.name == "unflatten":
        axis = _argument(call, 0, "dim") % len(around.shape)
        new = new[axis : axis + len(written)]
    if len(written) != len(new):
        raise StuckError
    pairs = enumerate(zip(written, new, strict=True))
    return Scaled(tuple((place, size, after) for place, (size, after) in pairs if size not in (-1, after)))


def _split(call: Written, around: Around) -> Edited:
    axis = _argument(call, 1, "dim", 0) % len(around.shape)
    after = tuple(around.after(number)[axis] for number in range(len(around.shapes)))
    before = tuple(shape[axis] for shape in around.shapes)
    return Parts(after, axis, tuple(zip(before, after, strict=True)))


def _repeat(call: Written, around: Around) -> Edited:
    extra = len(around.shapes[0]) - len(around.shape)
    sizes = [1] * extra + [_count(line, size) for line, size in zip(around.kept, around.shape, strict=True)]
    times = [after // size if size else 1 for after, size in zip(around.after(), sizes, strict=True)]
    written, _ = _sizes(call)
    places = enumerate(zip(written, times, strict=True))
    return Scaled(tuple((place, before, after) for place, (before, after) in places if before != after))


def _narrow(call: Written, around: Around) -> Edited:
    axis, start, length = (_argument(call, place, name) for place, name in enumerate(("dim", "start", "length")))
    line = around.kept[axis % len(around.shape)]
    if line is None:
        raise StuckError
    new = int(line[:start].sum()), int(line[start : start + length].sum())
    return Instead("narrow", (axis, *new), ((start, new[0]), (length, new[1])))


def _getitem(call: Written, around: Around) -> Edited:
    """Slices: a position is the number of indices before it that stay."""
    given = call.args[0]
    items = list(given) if isinstance(given, tuple) else [given]
    used = sum(item is not None and item is not Ellipsis for item in items)
    axis = 0
    places: list[tuple[int, int | tuple[int, int]]] = []
    numbers: list[tuple[int, int]] = []
    for place, item in enumerate(items):
        if item is None:
            continue
        if item is Ellipsis:
            axis += len(around.shape) - used
            continue
        line = around.kept[axis]
        if line is not None and item != slice(None):
            new = _position(item, line)
            places.append((place, new))
            if isinstance(new, tuple):
                numbers += zip(item.indices(len(line))[:2], new, strict=True)
            else:
                numbers.append((item, new))
        axis += 1
    return Items(tuple(places), tuple(pair for pair in numbers if pair[0] != pair[1]))


def _position(item: Any, line: Tensor) -> int | tuple[int, int]:
    length = len(line)
    if isinstance(item, slice):
        start, stop, step = item.indices(length)
        if step != 1:
            raise StuckError
        return int(line[:start].sum()), int(line[:stop].sum())
    if isinstance(item, int) and bool(line[item]):
        return int(line[: item % length].sum())
    raise StuckError


def _pad(call: Written, around: Around) -> Edited:
    sizes = list(_argument(call, 0, "pad"))
    for number in range(len(sizes) // 2):
        kept = around.results[0][-1 - number]
        if kept is not None:
            before, after = sizes[2 * number : 2 * number + 2]
            sizes[2 * number : 2 * number + 2] = [int(kept[:before].sum()), int(kept[len(kept) - after :].sum())]
    return Instead("pad", (tuple(sizes), *call.args[1:]))


def _convolution(call: Written, around: Around) -> Edited:
    groups = _argument(call, 5, "groups")
    left = _count(around.kept[1], around.shape[1]) * groups
    if left % around.shape[1]:
        raise StuckError
    return Grouped(groups, left // around.shape[1])


Rewrite = Callable[[Written, Around], Edited]
_SCALED = frozenset({"view", "reshape", "expand", "broadcast_to", "unflatten", "zeros", "ones", "empty", "full",
                     "randn", "rand", "new_zeros", "new_ones", "new_empty", "new_full"})  # fmt: skip
_REWRITES: Mapping[str, Rewrite] = {
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk"), _split),
    "repeat": _repeat, "tile": _repeat, "narrow": _narrow, "__getitem__": _getitem, "pad": _pad,
    **dict.fromkeys(CONVOLUTIONS, _convolution),
}  # fmt: skip
