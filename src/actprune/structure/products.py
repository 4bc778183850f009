"""L2: rules of products that sum over an axis: matrices, convolutions, embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from actprune.structure.analysis import Call, Reader, Rule, unknown
from actprune.structure.values import Shape, Value, along, line, shrunk, support

_BLOCK = 1 << 24  # weights looked at together


def mm(call: Call) -> Value:
    """``(m, k) @ (k, n)``."""
    return _product(call, call.args[0], call.args[1], None)


def addmm(call: Call) -> Value:
    """``bias + (m, k) @ (k, n)``."""
    return _product(call, call.args[1], call.args[2], call.args[0])


def mv(call: Call) -> Value:
    """``(m, k) @ (k,)``: the vector is a matrix of one column."""
    matrix, vector = call.args[-2:] if call.node.op == "mv" else call.args[1:3]
    wide = _column(vector)
    made = _contract(call, matrix, wide, 0, (*call.shape, 1))
    return Value(call.shape, tuple(each.reshape(-1) for each in made if support(each) == {0}))


def _column(vector: Value) -> Value:
    tensor = None if vector.tensor is None else vector.tensor.unsqueeze(1)
    return Value((*vector.shape, 1), tuple(each.unsqueeze(1) for each in vector.labels), tensor=tensor)


def dot(call: Call) -> Value:
    """Two vectors: what meets goes together; the sum does not change without zeros."""
    for labels in call.meet(call.values[:2], call.values[0].shape):
        call.summed(labels.reshape(-1), _silent(call, call.values[0], 0, call.values[1], 0))
    return Value(call.shape)


def bmm(call: Call) -> Value:
    """``(b, m, k) @ (b, k, n)``: in every matrix of the batch what is summed over goes together, as in a head."""
    left, right, added = (*call.args[1:3], call.args[0]) if call.node.op == "baddbmm" else (*call.args[:2], None)
    return _product(call, left, right, added)


def grouped_mm(call: Call) -> Value:
    """``(t, k)`` by ``(experts, k, n)``, each token by the matrix of its expert: every expert loses the same."""
    left, right = call.args[:2]
    if len(left.shape) != 2 or len(right.shape) != 3 or call.arg(3, "bias") is not None:
        return unknown(call)[0]
    call.pin(right.on(0), "tells experts apart by it")
    rows = Value((1, *left.shape), tuple(each.unsqueeze(0) for each in left.labels), _first(call.const(left)))
    own = tuple(each for each in right.labels if 0 not in support(each))
    zero = None if not call.analysis.constants or right.tensor is None else (right.tensor == 0).all(0, keepdim=True)
    silent = None if zero is None else torch.where(zero.cpu(), 0.0, torch.nan).double()
    every = Value((1, *right.shape[1:]), own, silent)
    made = _contract(call, rows, every, 1, (1, *call.shape))
    const = None if silent is None else torch.where((silent == 0).all(1), 0.0, torch.nan).double()
    dead = const is not None and not bool(const.isnan().all())
    return Value(
        call.shape, tuple(each.squeeze(0) for each in made), shrunk(const) if dead and const is not None else None
    )


def _first(const: Tensor | None) -> Tensor | None:
    return None if const is None else const.unsqueeze(0)


def _product(call: Call, left: Value, right: Value, added: Value | None) -> Value:
    batch = len(call.shape) - 2
    if left.shares and right.tensor is None:
        call.analysis.heads += [each for each in left.labels if support(each)]
    made = Value(call.shape, tuple(_contract(call, left, right, batch, call.shape)))
    if call.analysis.constants:
        made = made.with_(const=_constant(call, left, right, batch))
    if added is None:
        return made
    labels = call.meet([made, added], call.shape)
    const = made.const
    if const is not None:
        beta, alpha = call.kwargs.get("beta", 1), call.kwargs.get("alpha", 1)
        more = call.const(added) if beta else torch.zeros((), dtype=torch.float64)
        const = None if more is None else shrunk(const * alpha + beta * more)
    return made.with_(labels=labels, const=const)


def _contract(call: Call, left: Value, right: Value, batch: int, out: Shape) -> list[Tensor]:
    """Join what is summed over, note who reads, and return the labels of the result, which has the shape ``out``."""
    rows, columns = batch + 1, batch  # the axes that are summed over
    _note(call, left, right, batch)
    _meet_along(call, left, rows, right, columns, batch)
    result: list[Value] = []
    for value, summed in ((left, rows), (right, columns)):
        arrays = []
        for each in value.labels:
            axes = support(each)
            if summed not in axes:
                arrays.append(each)
            elif axes - {summed}:
                first = each.narrow(summed, 0, 1)
                call.join(each, first)
                arrays.append(first)
        shape = list(out)
        shape[batch if summed == columns else batch + 1] = 1
        result.append(Value(tuple(shape), tuple(_turned(each, summed, batch) for each in arrays)))
    return list(call.meet(result, out))


def _turned(array: Tensor, summed: int, batch: int) -> Tensor:
    """Its own axis in its place, the other one at length 1."""
    own = batch if summed == batch + 1 else batch + 1
    shape = [1] * (batch + 2)
    for axis in range(batch):
        shape[axis] = array.shape[axis]
    shape[own] = array.shape[own]
    return array.reshape(shape)


def _meet_along(  # noqa: PLR0917  (what a product is made of)
    call: Call, left: Value, rows: int, right: Value, columns: int, batch: int
) -> None:
    """Entry k of one meets entry k of the other; with labels in one only, it stays (but for the bare input)."""
    mine, theirs = left.on(rows), right.on(columns)

    def turned(array: Tensor, axis: int) -> Tensor:
        other = columns if axis == rows else rows
        first = array
        if array.shape[other] > 1:
            first = array.narrow(other, 0, 1)
            call.join(array, first)
        return first.movedim(axis, -1).reshape(*array.shape[:batch], -1)

    for one, axis, value, others in ((mine, rows, right, theirs), (theirs, columns, left, mine)):
        free = value.bare and not others
        if one and not others and not free and value.shape[columns if axis == rows else rows] > 1:
            call.pin(one, "sums over it together with what has to stay")
    for each in mine:
        for other in theirs:
            call.join(turned(each, rows), turned(other, columns))
    stored = left.tensor is not None or right.tensor is not None
    alone = [each for each in mine if support(each) == {rows}]
    if alone and theirs and not stored:
        call.analysis.lengths.append((call.node.module, alone[0], left.shape[-1]))
        call.summed(alone[0].reshape(-1), _silent(call, left, rows, right, columns))


def _silent(call: Call, left: Value, rows: int, right: Value, columns: int) -> Tensor | None:
    """0 where either factor is 0 along what is summed over, else NaN."""
    found = None
    for value, axis in ((left, rows), (right, columns)):
        const = along(call.const(value), axis)
        if const is None:
            continue
        zero = torch.where(const == 0, 0.0, torch.nan).double()
        found = zero if found is None else torch.where(found == 0, 0.0, zero)
    return found


def _note(call: Call, left: Value, right: Value, batch: int) -> None:
    """A stored weight reads what it is multiplied by."""
    for weight, axis, x, other in ((right, batch, left, batch + 1), (left, batch + 1, right, batch)):
        if weight.tensor is None or (x.tensor is not None and weight.name is None):
            continue
        columns = weight.on(axis)
        if len(columns) != 1 or support(columns[0]) != {axis}:
            continue
        const = along(call.const(x), other)
        own = axis if not weight.turned else 1 - axis
        direct = weight.name is not None and batch == 0
        call.analysis.readers.append(
            Reader(call.index, call.node.module, weight.name if direct else None, own, columns[0].reshape(-1), const,
                   not direct, x.bare)
        )  # fmt: skip


def _constant(call: Call, left: Value, right: Value, batch: int) -> Tensor | None:
    if batch == 0 and right.tensor is not None and right.tensor.dim() == 2 and left.tensor is None:
        return _weighted(left.const, right.tensor, 0)
    if batch == 0 and left.tensor is not None and left.tensor.dim() == 2 and right.tensor is None:
        const = None if right.const is None else right.const.movedim(0, 1)
        found = _weighted(const, left.tensor, 1)
        return None if found is None else found.movedim(0, 1)
    one, other = call.const(left), call.const(right)
    if left.whole and other is not None and other.shape[-2] == 1:  # shares of a constant add up to it
        return shrunk(other)
    zero_left = one is not None and bool((one == 0).all())
    if other is not None:
        silent = (other == 0).all(-2, keepdim=True)
        out = torch.where(silent, 0.0, torch.nan).double()
        return None if bool(out.isnan().all()) else shrunk(out)
    return torch.zeros([1] * len(call.shape), dtype=torch.float64) if zero_left else None


def _weighted(const: Tensor | None, weight: Tensor, axis: int) -> Tensor | None:
    """Constants ``(1 or m, 1 or k)`` by a weight that is summed over along ``axis``: ``(1 or m, n)``.

    A result varies where anything that varies has a weight that is not zero.
    """
    matrix = weight if axis == 0 else weight.t()
    if const is None:
        dead = ~matrix.any(0)
        if not bool(dead.any()):
            return None
        return shrunk(torch.where(dead.cpu(), 0.0, torch.nan).to(torch.float64)[None])
    count = weight.shape[axis]
    const = const.expand(const.shape[0], count)
    if len(const) == 1:
        out = _sent(const[0], matrix)
        return None if bool(out.isnan().all()) else shrunk(out[None])
    step = max(1, _BLOCK // max(count, 1))
    found = []
    for start in range(0, matrix.shape[1], step):
        block = matrix[:, start : start + step].to("cpu", torch.float64)
        varies = const.isnan().double() @ (block != 0).double() > 0
        found.append(torch.where(varies, torch.nan, const.nan_to_num(0.0) @ block))
    out = torch.cat(found, 1)
    return None if bool(out.isnan().all()) else shrunk(out)


def _sent(const: Tensor, matrix: Tensor) -> Tensor:
    """``(k,)`` constants by ``(k, n)`` weights: ``(n,)``, NaN where anything that varies has a weight that is not zero.

    Only rows that can matter are read, and no more than those of constants in float64.
    """

    def rows(which: Tensor) -> Tensor:
        return matrix.index_select(0, torch.nonzero(which).flatten().to(matrix.device))

    varies, counts = const.isnan(), ~const.isnan() & (const != 0)
    out = const[counts] @ rows(counts).to("cpu", torch.float64)
    return out.masked_fill(rows(varies).any(0).cpu(), torch.nan)


def convolution(call: Call) -> Value:
    """``(N, in, *positions)`` by ``(out, in / groups, *kernel)``, or transposed ``(in, out / groups, *kernel)``."""
    x, weight, bias = call.args[:3]
    padding, transposed, groups = call.arg(4, "padding"), call.arg(6, "transposed"), call.arg(8, "groups")
    call.pin([each for each in weight.labels if support(each) & set(range(2, len(weight.shape)))], "has it as a kernel")
    channels = _channels(call, x)
    reads, rows = (weight.along(0), weight.along(1)) if transposed else (weight.along(1), weight.along(0))
    count = weight.shape[1] * groups if transposed else weight.shape[0]
    if groups > 1:
        made = _grouped(call, x, weight, channels, groups, transposed)
    else:
        made = rows
        if reads is not None and channels is not None:
            call.join(reads, channels)
        elif channels is not None:
            call.pin([channels], "reads it as it is")
        elif reads is not None and not x.bare and x.shape[1] > 1:
            call.pin([reads], "reads what has to stay")
    if reads is not None and weight.tensor is not None and not (groups > 1 and weight.shape[1] == 1):
        _note_conv(
            call, weight, reads, along(x.const, 1), any(padding) or groups > 1 or transposed, x.bare, transposed, groups
        )
    if bias is not None:
        own = bias.along(0)
        if made is not None and own is not None:
            call.join(own, made)
        elif own is not None:
            call.pin([own], "has outputs that stay")
        elif made is not None and bias.shape[0] > 1:
            call.pin([made], "has a bias that stays")
    far = [each for each in x.labels if support(each) == {0}]
    labels = [line(made, 1, len(call.shape))] if made is not None and count > 1 else []
    const = _conv_constant(call, x, weight, bias, groups, any(padding), transposed)
    return Value(call.shape, (*far, *labels), const)


def _channels(call: Call, x: Value) -> Tensor | None:
    """Labels of the channels; all positions of one go together."""
    found = None
    for each in x.labels:
        axes = support(each)
        if axes == {0}:
            continue
        if 1 not in axes or 0 in axes:
            call.pin([each], "slides over it")
            continue
        first = each
        for axis in axes - {1}:
            first = first.narrow(axis, 0, 1)
        if first is not each:
            call.join(each, first)
        if found is not None:
            call.join(found, first.reshape(-1))
        found = first.reshape(-1)
    return found


def _grouped(  # noqa: PLR0917  (what a product is made of)
    call: Call, x: Value, weight: Value, channels: Tensor | None, groups: int, transposed: bool
) -> Tensor | None:
    """Outputs of a grouped convolution. Whole groups go, or the same channel of each, where groups have several."""
    width = x.shape[1] // groups
    first, second = weight.along(0), weight.along(1)
    out_width = weight.shape[1] if transposed else weight.shape[0] // groups
    if channels is None:
        call.pin(weight.labels, "reads what has to stay")
        rows = second if transposed else first
        return None if rows is None else (rows.repeat(groups) if transposed else rows)
    inputs = channels.reshape(groups, width)
    if transposed:
        call.pin(weight.labels, "is transposed and grouped")
        call.pin([channels], "is transposed and grouped")
        return None
    assert first is not None
    rows = first.reshape(groups, out_width)
    several = min(width, out_width) > 1
    call.analysis.grouped |= several
    if call.analysis.whole_groups or not several:
        call.join(rows, rows[:, :1])
        call.join(inputs, inputs[:, :1])
        call.join(rows[:, 0], inputs[:, 0])
        if second is not None:
            call.pin([second], "goes by whole groups")
    else:
        call.join(rows, rows[:1])
        if second is not None:
            call.join(inputs, second[None])
    return first


def _note_conv(  # noqa: PLR0917  (what a product is made of)
    call: Call, weight: Value, reads: Tensor, const: Tensor | None, only_zero: bool, bare: bool, transposed: bool,
    groups: int,
) -> None:  # fmt: skip
    line_ = None if const is None else const.reshape(-1)
    if groups > 1 and line_ is not None and len(line_) > 1:
        by_group = line_.reshape(groups, -1)
        same = (by_group == by_group[:1]).all(0)
        line_ = torch.where(same, by_group[0], torch.nan)
        if len(line_) != len(reads):
            line_ = None
    call.analysis.readers.append(
        Reader(call.index, call.node.module, weight.name, 0 if transposed else 1, reads, line_,
               only_zero or weight.name is None, bare)
    )  # fmt: skip


def _conv_constant(  # noqa: PLR0917  (what a product is made of)
    call: Call, x: Value, weight: Value, bias: Value | None, groups: int, padded: bool, transposed: bool
) -> Tensor | None:
    """Of every output channel; where zeros are put around, only constants of zero stay the same up to the border."""
    if not call.analysis.constants or weight.tensor is None:
        return None
    matrix = weight.tensor.flatten(2).detach()
    inputs = x.shape[1]
    const = torch.full((inputs,), torch.nan, dtype=torch.float64)
    known = along(x.const, 1)
    if known is not None:
        const = known.expand(inputs).clone()
        if padded or transposed:
            const[const != 0] = torch.nan
    rows = []
    each_in, each_out = inputs // groups, (call.shape[1] // groups)
    for group in range(groups) if groups < inputs else [None]:
        if group is None:  # depthwise
            own = const.repeat_interleave(each_out)
            kernel = (
                matrix.to("cpu", torch.float64) if not transposed else matrix.reshape(-1, 1, matrix.shape[-1]).double()
            )
            total, any_ = kernel[:, 0].sum(-1), (kernel[:, 0] != 0).any(-1)
            rows.append(torch.where(any_ & own.isnan(), torch.nan, total * own.nan_to_num(0.0)))
            continue
        part = const[group * each_in : (group + 1) * each_in]
        if transposed:
            kernel = matrix[group * each_in : (group + 1) * each_in].transpose(0, 1)
        else:
            kernel = matrix[group * each_out : (group + 1) * each_out]
        if bool(part.isnan().all()):
            rows.append(torch.where(kernel.any((1, 2)).cpu(), torch.nan, 0.0).to(torch.float64))
            continue
        # what is sent is summed over the kernel, and varies with every place of it
        kinds = part.repeat_interleave(kernel.shape[-1])
        rows.append(_sent(kinds, kernel.flatten(1).t()))
    out = torch.cat(rows)
    if bias is not None:
        more = call.const(bias)
        out = out + more.reshape(-1) if more is not None else out * torch.nan
    if bool(out.isnan().all()):
        return None
    return shrunk(line(out, 1, len(call.shape)))


def embedding(call: Call) -> Value:
    """Rows of a table by an index: the rows stay, the columns go along."""
    table, index = call.args[0], call.args[1]
    call.pin(index.labels, "is looked up")
    call.pin(table.on(0), "looks its rows up")
    columns = table.along(1)
    if columns is None:
        return Value(call.shape)
    return Value(call.shape, (line(columns, -1, len(call.shape)),), _of_table(call, table))


def _of_table(call: Call, table: Value) -> Tensor | None:
    if not call.analysis.constants or table.tensor is None:
        return None
    dead = ~(table.tensor != 0).any(0)
    if not bool(dead.any()):
        return None
    return shrunk(line(torch.where(dead.cpu(), 0.0, torch.nan).to(torch.float64), -1, len(call.shape)))


def embedding_bag(call: Call) -> list[Value]:
    """Sums, means or maxima of rows of a table."""
    first = embedding(call)
    return [first, *(Value(shape) for shape in call.shapes[1:])]


RULES: dict[str, Rule] = {
    "mm": mm, "addmm": addmm, "mv": mv, "addmv": mv, "dot": dot, "vdot": dot, "bmm": bmm, "baddbmm": bmm,
    "_grouped_mm": grouped_mm,
    "convolution": convolution, "_convolution": convolution, "convolution_overrideable": convolution,
    "embedding": embedding, "_embedding_bag": embedding_bag, "_embedding_bag_forward_only": embedding_bag,
}  # fmt: skip
