"""L4: sizes and positions that are written into a program, as they must read once indices are gone."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from actprune.compact.fates import Fates, lines
from actprune.compact.flow import Seen
from actprune.program import Ref, Step
from actprune.program.ops import base


class StuckError(Exception):
    """A step cannot be written for the smaller shapes; what it reads has to stay."""


Rewrite = Callable[[Step, Fates, Seen, list[Seen]], Step]


def rewritten(step: Step, fates: Fates) -> Step:
    """``step`` for the smaller shapes; the same object where nothing has to change. Raises StuckError."""
    source = fates.flow.see(step.args[0]) if step.args else None
    found = fates.flow.values[step.name]
    results = found if isinstance(found, list) else [found]
    if not isinstance(source, Seen) or not all(isinstance(one, Seen) for one in results):
        return step
    if base(step.op) in ("conv1d", "conv2d"):
        return _conv(step, fates)
    change = _REWRITES.get(base(step.op))
    whole = all(bool(fates.alive(one.ids).all()) for one in (source, *results))
    return step if change is None or whole else change(step, fates, source, results)


def _sizes(fates: Fates, seen: Seen) -> list[int]:
    return [int(kept.sum()) for kept in lines(fates, seen.ids)]


def _reshape(step: Step, fates: Fates, source: Seen, results: list[Seen]) -> Step:
    sizes = _fitted(list(step.args[1]), list(results[0].ids.shape), _sizes(fates, results[0]))
    return step if sizes == list(step.args[1]) else Step(step.name, step.op, (step.args[0], sizes), step.kwargs)


def _fitted(written: list[object], old: list[int], new: list[int]) -> list[object]:
    """Sizes as written, with those that change replaced; a computed one becomes -1, which only one of them can be."""
    fitted: list[object] = []
    for size, before, after in zip(written, old, new, strict=True):
        if before == after or size == -1:
            fitted.append(size)
        else:
            fitted.append(-1 if isinstance(size, Ref) else after)
    if fitted.count(-1) > 1:
        raise StuckError
    return fitted


def _unflatten(step: Step, fates: Fates, source: Seen, results: list[Seen]) -> Step:
    axis, sizes = step.args[1] % source.ids.dim(), list(step.args[2])
    part = slice(axis, axis + len(sizes))
    fitted = _fitted(sizes, list(results[0].ids.shape)[part], _sizes(fates, results[0])[part])
    return step if fitted == sizes else Step(step.name, step.op, (step.args[0], step.args[1], fitted), step.kwargs)


def _split(step: Step, fates: Fates, source: Seen, results: list[Seen]) -> Step:
    axis = step.arg(2, "dim", 0) % source.ids.dim()
    before = [one.ids.shape[axis] for one in results]
    after = [_sizes(fates, one)[axis] for one in results]
    if before == after or (base(step.op) == "chunk" and _chunks(sum(after), step.arg(1, "chunks")) == after):
        return step
    return Step(step.name, "split_with_sizes", (step.args[0], after, axis))


def _chunks(length: int, number: int) -> list[int]:
    """Lengths of what ``chunk`` makes: so many of equal length, the last one shorter."""
    each = -(-length // number)
    return [min(each, length - start) for start in range(0, length, each)]


def _slice(step: Step, fates: Fates, source: Seen, results: list[Seen]) -> Step:
    axis = step.arg(1, "dim", 0) % source.ids.dim()
    kept = lines(fates, source.ids)[axis]
    if bool(kept.all()):
        return step
    length = len(kept)
    start, end = (_position(step.arg(2 + i, name), length, default) for i, (name, default) in enumerate(_ENDS))
    if step.arg(4, "step", 1) != 1 or not isinstance(start, int) or not isinstance(end, int):
        raise StuckError
    first = int(kept[:start].sum())
    return Step(step.name, step.op, (step.args[0], axis, first, first + int(kept[start:end].sum())))


_ENDS = (("start", 0), ("end", None))


def _position(value: object, length: int, default: int | None) -> object:
    if value is None:
        return length if default is None else default
    if not isinstance(value, int):
        return value
    return min(max(value + length if value < 0 else value, 0), length)


def _select(step: Step, fates: Fates, source: Seen, results: list[Seen]) -> Step:
    axis, index = step.args[1] % source.ids.dim(), step.args[2]
    kept = lines(fates, source.ids)[axis]
    if bool(kept.all()):
        return step
    if not isinstance(index, int) or not bool(kept[index]):
        raise StuckError
    return Step(step.name, step.op, (step.args[0], axis, int(kept[: index % len(kept)].sum())))


def _expand(step: Step, fates: Fates, source: Seen, results: list[Seen]) -> Step:
    if _sizes(fates, results[0]) == list(results[0].ids.shape):
        return step
    sizes = _fitted(list(step.args[1]), list(results[0].ids.shape), _sizes(fates, results[0]))
    if [size for size in sizes if size == -1] != [size for size in step.args[1] if size == -1]:
        raise StuckError  # -1 would mean "as it is" here
    return Step(step.name, step.op, (step.args[0], sizes), step.kwargs)


def _pad(step: Step, fates: Fates, source: Seen, results: list[Seen]) -> Step:
    sizes = list(step.args[1])
    for number in range(len(sizes) // 2):
        kept = lines(fates, results[0].ids)[-1 - number]
        before, after = sizes[2 * number : 2 * number + 2]
        sizes[2 * number : 2 * number + 2] = [int(kept[:before].sum()), int(kept[len(kept) - after :].sum())]
    return step if sizes == list(step.args[1]) else Step(step.name, step.op, (step.args[0], sizes, *step.args[2:]))


def _conv(step: Step, fates: Fates) -> Step:
    """Depthwise: one group per channel that is left. Other groups keep their number."""
    groups = step.arg(6, "groups", 1)
    weight = fates.flow.tensor(step.args[1])
    if groups == 1 or weight is None or weight.shape[1] != 1:
        return step
    rows: Tensor = fates.alive(fates.flow.axis(step.args[1], 0))
    left = int(rows.sum()) // (weight.shape[0] // groups)
    if left == groups:
        return step
    names = ("bias", "stride", "padding", "dilation")
    settings = [
        step.arg(2 + i, name, default) for i, (name, default) in enumerate(zip(names, (None, 1, 0, 1), strict=True))
    ]
    listed = [[value] if isinstance(value, int) else value for value in settings]
    return Step(step.name, step.op, (*step.args[:2], *listed, left))


_CONV = {"bias": None, "stride": 1, "padding": 0, "dilation": 1}
_REWRITES: dict[str, Rewrite] = {
    "reshape": _reshape, "unflatten": _unflatten, "split": _split, "split_with_sizes": _split, "chunk": _split,
    "slice": _slice, "select": _select, "expand": _expand, "pad": _pad, "constant_pad_nd": _pad,
}  # fmt: skip
