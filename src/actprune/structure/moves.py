"""L2: rules of operations that move entries: reshapes, transpositions, slices, concatenations, padding, indexing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from actprune.structure.analysis import Call, Rule
from actprune.structure.values import Value, line, reshaped, shrunk, support, whole


def view(call: Call) -> Value:
    """Row-major reshape."""
    source: Value = call.args[0]
    if source.shape == call.shape:
        return source
    labels = _apart(call, [reshaped(each, source.shape, call.shape) for each in source.labels])
    const = None if source.const is None else reshaped(source.const, source.shape, call.shape)
    last = bool(call.shape) and bool(source.shape) and source.shape[-1] == call.shape[-1]
    return _kept(call, source, labels, const, shares=source.shares and last, whole=source.whole and last)


def _apart(call: Call, labels: list[Tensor]) -> list[Tensor]:
    """Of labels that have come to lie along one axis the finest go on; the others' axis stays whole."""
    kept: list[Tensor] = []
    for each in sorted(labels, key=lambda array: -len(torch.unique(array))):
        if any(support(each) & support(other) for other in kept):
            call.pin([each], "lays it along another axis")
        else:
            kept.append(each)
    return kept


def _kept(call: Call, source: Value, labels: Sequence[Tensor], const: Tensor | None, **more: Any) -> Value:
    """A result of moved entries; labels that have lost their axis are of what has been taken apart: they stay."""
    for each in labels:
        if not support(each):
            call.pin([each], "takes single entries of it")
    kept = tuple(each for each in labels if support(each))
    return Value(call.shape, kept, const, bare=source.bare, **more)


def _each(call: Call, source: Value, move: Any, axes: Sequence[int] = (), **more: Any) -> Value:
    """``move`` of every array, with ``axes`` at full length where an array depends on them."""

    def moved(array: Tensor) -> Tensor:
        return shrunk(move(whole(array, source.shape, axes)))

    labels = [moved(each) for each in source.labels]
    return _kept(call, source, labels, None if source.const is None else moved(source.const), **more)


def strided(call: Call) -> Value:
    """Other strides for the same entries, where the shape stays."""
    source: Value = call.args[0]
    if call.shape == source.shape:
        return source.with_(name=None)
    call.pin(source.labels, "moves its entries")
    return Value(call.shape)


def permute(call: Call) -> Value:
    """The axes in another order."""
    source = call.args[0]
    args = call.args[1:]
    function = call.node.function
    made = _each(call, source, lambda array: function(array, *args, **dict(call.kwargs)))
    two = len(source.shape) == 2 and call.node.op in ("t", "transpose", "permute")
    if source.name is not None and two and made.shape == source.shape[::-1]:
        swapped = call.node.op == "t" or tuple(axis % 2 for axis in _flat(args)) in ((0, 1), (1, 0))
        really = call.node.op == "t" or (call.node.op == "transpose" and swapped) or list(_flat(args)) == [1, 0]
        return made.with_(name=source.name, turned=source.turned ^ really)
    return made


def _flat(args: Sequence[Any]) -> list[int]:
    return [item for arg in args for item in (arg if isinstance(arg, (list, tuple)) else [arg])]


def along(call: Call) -> Value | list[Value]:
    """Slices, selections, flips, rolls and parts along an axis that is the second argument (or ``dim``)."""
    source: Value = call.args[0]
    axis = call.arg(_DIM.get(call.node.op, 1), "dim", 0) % len(source.shape)

    def moved(array: Tensor) -> Any:
        return call.node.function(whole(array, source.shape, [axis]), *call.args[1:], **dict(call.kwargs))

    labels = [moved(each) for each in source.labels]
    if source.tensor is not None and call.node.op in ("slice", "select", "narrow"):
        both = zip(source.labels, labels, strict=True)
        call.analysis.cuts += [(before, after) for before, after in both if axis in support(before)]
    const = None if source.const is None else moved(source.const)
    if isinstance(const, (list, tuple)) or (labels and isinstance(labels[0], (list, tuple))) or len(call.shapes) > 1:
        found = []
        for number, shape in enumerate(call.shapes):
            part = [shrunk(each[number]) for each in labels]
            found.append(_part(call, source, shape, part, None if const is None else shrunk(const[number])))
        return found
    return _part(call, source, call.shape, [shrunk(each) for each in labels], None if const is None else shrunk(const))


_DIM = {"split": 2, "split_with_sizes": 2, "unsafe_split": 2, "unsafe_split_with_sizes": 2, "chunk": 2,
        "unsafe_chunk": 2, "tensor_split": 2}  # fmt: skip


def _part(call: Call, source: Value, shape: tuple[int, ...], labels: list[Tensor], const: Tensor | None) -> Value:
    for each in labels:
        if not support(each):
            call.pin([each], "takes single entries of it")
    return Value(shape, tuple(each for each in labels if support(each)), const, bare=source.bare)


def dims(call: Call) -> Value:
    """Flips and rolls: several axes."""
    source: Value = call.args[0]
    position = 2 if call.node.op == "roll" else 1
    given = call.arg(position, "dims", [])
    listed = [given] if isinstance(given, int) else list(given)
    axes = [axis % len(source.shape) for axis in listed]
    for each in source.labels:
        if not listed and support(each):  # a roll of everything
            call.pin([each], "moves its entries across axes")
    return _each(call, source, lambda array: call.node.function(array, *call.args[1:], **dict(call.kwargs)), axes)


def squeeze(call: Call) -> Value:
    """Axes of length 1 go, others come."""
    source: Value = call.args[0]
    labels = tuple(_to(each, source.shape, call.shape) for each in source.labels)
    const = None if source.const is None else _to(source.const, source.shape, call.shape)
    return _kept(call, source, labels, const)


def _to(array: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """The long axes are the same ones, in order; those of length 1 may differ."""
    long = iter([array.shape[axis] for axis, length in enumerate(old) if length != 1])
    return array.reshape([next(long) if length != 1 else 1 for length in new])


def expand(call: Call) -> Value:
    """Entries are repeated without memory; an index that is spread over an axis is as long there as what it meets."""
    source: Value = call.args[0]
    dims = len(call.shape)
    extra = dims - len(source.shape)

    def longer(array: Tensor) -> Tensor:
        return array.reshape([1] * extra + list(array.shape))

    labels = [longer(each) for each in source.labels]
    const = None if source.const is None else longer(source.const)
    if not call.analysis.record.floats[call.node.outs[0]]:
        old = (1,) * extra + source.shape
        spread = [axis for axis in range(dims) if old[axis] == 1 < call.shape[axis]]
        labels += [line(call.analysis.classes.fresh(call.shape[axis]), axis, dims) for axis in spread]
    return _kept(call, source, labels, const, shares=source.shares, whole=source.whole)


def repeat(call: Call) -> Value:
    """Entries are repeated in memory: index i of an axis is index i modulo its old length."""
    source: Value = call.args[0]
    extra = len(call.shape) - len(source.shape)
    old = (1,) * extra + source.shape

    def again(array: Tensor) -> Tensor:
        array = array.reshape([1] * extra + list(array.shape))
        times = [new // length if array.shape[axis] > 1 else 1
                 for axis, (length, new) in enumerate(zip(old, call.shape, strict=True))]  # fmt: skip
        return array.repeat(times)

    return _kept(call, source, [again(each) for each in source.labels],
                 None if source.const is None else again(source.const))  # fmt: skip


def cat(call: Call) -> Value:
    """One after the other along an axis; along the other axes they meet."""
    values = [value for value in call.args[0] if value.shape != (0,)]
    axis = call.arg(1, "dim", 0) % len(call.shape)
    return _joined(call, values, axis)


def stack(call: Call) -> Value:
    """Beside each other along a new axis."""
    axis = call.arg(1, "dim", 0) % len(call.shape)
    values = [_wider(value, axis) for value in call.args[0]]
    return _joined(call, values, axis)


def _wider(value: Value, axis: int) -> Value:
    shape = (*value.shape[:axis], 1, *value.shape[axis:])
    const = None if value.const is None else value.const.unsqueeze(axis)
    tensor = None if value.tensor is None else value.tensor.unsqueeze(axis)
    return Value(shape, tuple(each.unsqueeze(axis) for each in value.labels), const, tensor, bare=value.bare)


def _joined(call: Call, values: list[Value], axis: int) -> Value:
    """Labels along the axis follow one another; those of other axes go together."""
    dims = len(call.shape)
    across = [Value(value.shape, tuple(each for each in value.labels if axis not in support(each))) for value in values]
    one = tuple(1 if number == axis else length for number, length in enumerate(call.shape))
    flat = [Value(one, value.labels) for value in across]
    labels = list(call.meet(flat, one))
    lengthwise = [_lengthwise(call, value, axis) for value in values]
    if any(lengthwise):
        mixed = {number for found in lengthwise for each in found for number in support(each)} - {axis}
        parts = []
        for value, found in zip(values, lengthwise, strict=True):
            shape = [1] * dims
            for number in (axis, *mixed):
                shape[number] = value.shape[number]
            if len(found) > 1:
                call.pin(found, "puts it beside others in more than one way")
            parts.append(found[0].expand(shape) if len(found) == 1 else torch.zeros(shape, dtype=torch.int64))
        labels.append(shrunk(torch.cat(parts, axis)))
    const = _joined_constants(call, values, axis)
    return Value(call.shape, tuple(labels), const, bare=all(value.bare for value in values))


def _lengthwise(call: Call, value: Value, axis: int) -> list[Tensor]:
    """Labels along an axis; a constant of length 1 has none so far, and is as free as a longer one."""
    if value.tensor is not None and value.shape[axis] == 1:
        return [line(call.analysis.classes.fresh(1), axis, len(value.shape))]
    return [each for each in value.labels if axis in support(each)]


def _joined_constants(call: Call, values: list[Value], axis: int) -> Tensor | None:
    if not call.analysis.constants:
        return None
    known = [call.const(value) for value in values]
    if all(each is None for each in known):
        return None
    parts = []
    for value, each in zip(values, known, strict=True):
        array = torch.full([1] * len(call.shape), torch.nan, dtype=torch.float64) if each is None else each
        shape = [max(k.shape[number] for k in known if k is not None) for number in range(len(call.shape))]
        shape[axis] = value.shape[axis]
        parts.append(array.expand(shape))
    return shrunk(torch.cat(parts, axis))


def index(call: Call) -> Value:
    """``x[i, :, j]``: indexed axes stay whole; the others go along."""
    source, places = call.args[0], list(call.args[1])
    places += [None] * (len(source.shape) - len(places))
    return _indexed(call, source, places)


def _indexed(call: Call, source: Value, places: list[Any]) -> Value:
    taken = []
    for axis, place in enumerate(places):
        if isinstance(place, Value):
            width = len(place.shape) if place.tensor is None or place.tensor.dtype != torch.bool else place.tensor.dim()
            boolean = place.tensor is not None and place.tensor.dtype == torch.bool
            taken += list(range(axis, axis + (width if boolean else 1)))
    for place in places:
        if isinstance(place, Value):
            call.pin(place.labels, "is indexed by it")
    pinned = [each for each in source.labels if support(each) & set(taken)]
    call.pin(pinned, "takes entries along it by an index")
    free = [axis for axis in range(len(source.shape)) if axis not in taken]
    target = _free_axes(source, call.shape, taken, free)
    labels = []
    for each in source.labels:
        if support(each) & set(taken):
            continue
        if target is None:
            call.pin([each], "moves it by an index")
            continue
        shape = [1] * len(call.shape)
        for axis in support(each):
            shape[target[axis]] = source.shape[axis]
        labels.append(each.reshape(shape))
    return Value(call.shape, tuple(labels))


def _free_axes(source: Value, shape: tuple[int, ...], taken: list[int], free: list[int]) -> dict[int, int] | None:
    """Old axis -> new axis. Indices that are neighbours put theirs in the place of the first, others in front."""
    extra = len(shape) - len(free)
    neighbours = taken == list(range(taken[0], taken[-1] + 1)) if taken else True
    first = taken[0] if taken and neighbours else 0
    before = [axis for axis in free if axis < first] if neighbours else []
    order = {axis: number for number, axis in enumerate(before)}
    order |= {axis: len(before) + extra + number for number, axis in enumerate(a for a in free if a not in before)}
    fits = all(shape[new] == source.shape[old] for old, new in order.items())
    return order if fits else None


def index_select(call: Call) -> Value:
    """Entries along one axis by an index; a stored index of a gathered layer is cut with what it selects for."""
    source, axis, place = call.args[0], call.args[1] % len(call.args[0].shape), call.args[2]
    if source.bare and place.name is not None:
        labels = tuple(each.reshape([-1 if a == axis else 1 for a in range(len(call.shape))]) for each in place.labels)
        return Value(call.shape, labels)
    places: list[Any] = [None] * len(source.shape)
    places[axis] = place
    return _indexed(call, source, places)


def gather(call: Call) -> Value:
    """Entries along one axis by an index of the same rank: that axis stays, along the others they meet."""
    source, axis, place = call.args[0], call.args[1] % max(len(call.shape), 1), call.args[2]
    both = []
    for value in (source, place):
        call.pin(value.on(axis) if value.shape else [], "picks entries along it")
        both.append(Value(call.shape, tuple(each for each in value.labels if axis not in support(each))))
    same = all(a == b for number, (a, b) in enumerate(zip(source.shape, place.shape, strict=True)) if number != axis)
    if not same:
        call.pin([each for value in both for each in value.labels], "picks entries of it")
        return Value(call.shape)
    return Value(call.shape, call.meet(both))


def scatter(call: Call) -> Value:
    """Entries put or added along one axis: it stays, the others meet."""
    source, axis = call.args[0], call.args[1] % max(len(call.args[0].shape), 1)
    values = [value for value in call.values if value.shape]
    call.pin([each for value in values for each in value.labels if axis in support(each)], "puts entries along it")
    rest = [Value(value.shape, tuple(each for each in value.labels if axis not in support(each))) for value in values]
    full = [value for value in rest if len(value.shape) == len(source.shape)]
    one = tuple(1 if number == axis else length for number, length in enumerate(source.shape))
    cut = [
        Value(tuple(1 if n == axis else length for n, length in enumerate(value.shape)), value.labels) for value in full
    ]
    fits = all(all(a in (1, b) for a, b in zip(value.shape, one, strict=True)) for value in cut)
    if not fits:
        call.pin([each for value in cut for each in value.labels], "puts entries of it elsewhere")
        return Value(call.shape)
    return Value(call.shape, call.meet(cut, one))


def index_put(call: Call) -> Value:
    """``x[i, j] = y``: indexed axes stay, the others meet what is put."""
    source, places, put = call.args[0], list(call.args[1]), call.args[2]
    places += [None] * (len(source.shape) - len(places))
    taken = [axis for axis, place in enumerate(places) if isinstance(place, Value)]
    call.pin([each for place in places if isinstance(place, Value) for each in place.labels], "is indexed by it")
    call.pin([each for each in source.labels if support(each) & set(taken)], "puts entries along it by an index")
    free = [axis for axis in range(len(source.shape)) if axis not in taken]
    kept = [each for each in source.labels if not support(each) & set(taken)]
    tail = free and free == list(range(free[0], len(source.shape))) and len(put.shape) >= len(free)
    if not tail:
        call.pin([*kept, *put.labels], "puts entries of it elsewhere")
        return Value(call.shape)
    shape = tuple(source.shape[axis] for axis in free)
    lines = [each.reshape([each.shape[axis] for axis in free]) for each in kept]
    far = [each for each in put.labels if support(each) & set(range(len(put.shape) - len(free)))]
    call.pin(far, "puts entries of it elsewhere")
    near = [
        each.reshape(each.shape[len(put.shape) - len(free) :]) for each in put.labels if not any(each is f for f in far)
    ]
    call.meet([Value(shape, tuple(lines)), Value(put.shape[len(put.shape) - len(free) :], tuple(near))], shape)
    return Value(call.shape, tuple(kept))


def pad(call: Call) -> Value:
    """Positions put around; constants put beside channels are indices of their own, that may go with what they meet."""
    source, sizes = call.args[0], list(call.args[1])
    dims = len(call.shape)
    padded = {dims - 1 - number // 2: tuple(sizes[number // 2 * 2 : number // 2 * 2 + 2])
              for number, size in enumerate(sizes) if size}  # fmt: skip
    plain = call.node.op == "constant_pad_nd"
    labels, beside = [], set()
    for each in source.labels:
        axes = support(each) & set(padded)
        if axes and not plain:
            call.pin([each], "repeats entries of it")
            continue
        wider = each
        for axis in axes:
            wider = _widened(call, wider, axis, *padded[axis])
        beside |= axes
        labels.append(wider)
    const = _padded(call, source, padded, beside) if call.analysis.constants else None
    return Value(call.shape, tuple(labels), const)


def _padded(call: Call, source: Value, padded: dict[int, tuple[int, int]], beside: set[int]) -> Tensor | None:
    """Constants of channels beside others; of one that is padded itself only where the same value is put around."""
    dims, value = len(call.shape), call.arg(2, "value", 0) or 0
    const = source.const
    if call.node.op != "constant_pad_nd":
        return None if const is None or support(const) & set(padded) else const
    if const is None:
        if not beside:
            return None
        const = torch.full([1] * dims, torch.nan, dtype=torch.float64)
    for axis, (before, after) in padded.items():
        if axis in beside or axis in support(const):
            const = const.expand([source.shape[axis] if a == axis else length for a, length in enumerate(const.shape)])
            around = [0, 0] * (dims - 1 - axis) + [before, after]
            const = torch.nn.functional.pad(const, around, value=float(value))
        else:
            const = torch.where(const == value, const, torch.nan)
    return None if bool(const.isnan().all()) else shrunk(const)


def _widened(call: Call, labels: Tensor, axis: int, before: int, after: int) -> Tensor:
    """New entries before and after; they are free, as nothing depends on how many there are."""
    start, stop = max(-before, 0), labels.shape[axis] + min(after, 0)
    labels = labels.narrow(axis, start, stop - start)
    pieces = [labels]
    for place, count in ((0, before), (1, after)):
        if count > 0:
            shape = list(labels.shape)
            shape[axis] = count
            new = line(call.analysis.classes.fresh(count), axis, labels.dim()).expand(shape)
            pieces.insert(0 if place == 0 else len(pieces), new)
    return torch.cat(pieces, axis)


def unfold(call: Call) -> Value:
    """Windows along one axis."""
    source, axis = call.args[0], call.args[1] % len(call.args[0].shape)
    call.pin(source.on(axis), "takes windows along it")
    labels = tuple(each.unsqueeze(-1) for each in source.labels if axis not in support(each))
    return Value(call.shape, labels)


def pixel_shuffle(call: Call) -> Value:
    """``(C r r, H, W)`` to ``(C, H r, W r)``: what becomes one channel goes together."""
    source: Value = call.args[0]
    factor = call.args[1] ** 2
    channel = len(source.shape) - 3
    labels = []
    for each in source.labels:
        if support(each) != {channel}:
            call.pin([each], "moves it to other axes")
            continue
        if call.node.op == "pixel_shuffle":
            rows = each.reshape(-1, factor)
            call.join(rows, rows[:, :1])
            new = rows[:, 0]
        else:
            new = each.reshape(-1).repeat_interleave(factor)
        shape = [1] * len(call.shape)
        shape[channel] = -1
        labels.append(new.reshape(shape))
    return Value(call.shape, tuple(labels))


RULES: dict[str, Rule] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "ravel"), view),
    **dict.fromkeys(("permute", "transpose", "t", "movedim", "swapaxes", "mT", "numpy_T", "adjoint"), permute),
    **dict.fromkeys(("slice", "select", "unbind", "split", "split_with_sizes", "unsafe_split", "narrow", "chunk",
                     "unsafe_split_with_sizes", "unsafe_chunk", "tensor_split"), along),
    **dict.fromkeys(("flip", "roll"), dims), **dict.fromkeys(("squeeze", "unsqueeze"), squeeze),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), expand), "repeat": repeat, "tile": repeat,
    **dict.fromkeys(("cat", "concat", "concatenate"), cat), "stack": stack, "index": index, "_unsafe_index": index,
    "index_select": index_select, **dict.fromkeys(("gather", "take_along_dim"), gather),
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_fill",
                     "index_reduce"), scatter),
    **dict.fromkeys(("index_put", "_index_put_impl_", "_unsafe_index_put"), index_put),
    **dict.fromkeys(("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
                     "replication_pad1d", "replication_pad2d", "replication_pad3d"), pad),
    "unfold": unfold, "as_strided": strided, **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), pixel_shuffle),
}  # fmt: skip
