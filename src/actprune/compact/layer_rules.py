"""L4: the layers: which class each row and column of a weight belongs to, and what reaches its columns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from actprune.compact.classes import EXTERNAL
from actprune.compact.flow import Flow, Reader, Seen, unknown
from actprune.program import Ref, Step, tensor_at
from actprune.program.ops import function


def linear(flow: Flow, index: int, step: Step) -> Any:
    """Input ``(..., in)`` by weight ``(out, in)``."""
    bias = step.arg(2, "bias")
    if not flow.stored(step.args[1], bias):  # a weight that is computed cannot be cut
        return unknown(flow, index, step)
    seen, weight = flow.see(step.args[0]), _weight(flow, step)
    _read(flow, index, step, seen, -1, only_zero=False)
    if bias is not None:
        flow.classes.join(flow.axis(bias, 0), flow.axis(step.args[1], 0))
    out = torch.nn.functional.linear(seen.value, weight.double(), _double(flow.tensor(bias)))
    varies = torch.nn.functional.linear(seen.varies.double(), (weight != 0).double()) > 0
    return Seen(out, varies, flow.axis(step.args[1], 0).expand(out.shape))


def conv(flow: Flow, index: int, step: Step) -> Any:
    """Input ``(N, in, *positions)`` by weight ``(out, in / groups, *kernel)``."""
    bias, groups, name = step.arg(2, "bias"), step.arg(6, "groups", 1), step.args[1]
    if not flow.stored(name, bias):
        return unknown(flow, index, step)
    seen, weight = flow.see(step.args[0]), _weight(flow, step)
    dims = weight.dim() - 2
    rows = flow.axis(name, 0)
    if groups == 1:
        _read(flow, index, step, seen, -1 - dims, only_zero=_any(step.arg(4, "padding", 0)))
    elif weight.shape[1] == 1:
        _depthwise(flow, rows, seen, dims, groups)
    else:
        _grouped(flow, index, step, seen, dims)
    if bias is not None:
        flow.classes.join(flow.axis(bias, 0), rows)
    call, rest = function(step.op), step.args[3:]
    out = call(seen.value, weight.double(), _double(flow.tensor(bias)), *rest, **dict(step.kwargs or {}))
    varies = call(seen.varies.double(), (weight != 0).double(), None, *rest, **dict(step.kwargs or {})) > 0
    return Seen(out, varies, rows.reshape(-1, *[1] * dims).expand(out.shape))


def batch_norm(flow: Flow, index: int, step: Step) -> Any:
    """Each channel for itself, by four vectors that are cut with it."""
    if not flow.stored(*step.args[1:5]):
        return unknown(flow, index, step)
    seen, out = flow.see(step.args[0]), _normed(flow, step)
    channels = seen.ids.movedim(1, -1)
    for item in step.args[1:5]:
        if isinstance(item, Ref):
            flow.classes.join(flow.axis(item, 0).expand_as(channels), channels)
    if step.arg(5, "training"):  # by the statistics of the batch: every position depends on all the others
        varies = seen.varies.transpose(0, 1).flatten(1).any(1)
        return Seen(out, varies.reshape(-1, *[1] * (out.dim() - 2)).expand(out.shape), seen.ids)
    return Seen(out, seen.varies, seen.ids)


def prelu(flow: Flow, index: int, step: Step) -> Any:
    """One slope for all channels, or one for each (axis 1)."""
    if not flow.stored(step.args[1]):
        return unknown(flow, index, step)
    seen, slope = flow.see(step.args[0]), _weight(flow, step)
    if slope.numel() > 1:
        channels = seen.ids.movedim(1, -1)
        flow.classes.join(flow.axis(step.args[1], 0).expand_as(channels), channels)
    return Seen(function(step.op)(seen.value, slope.double()), seen.varies, seen.ids)


def _weight(flow: Flow, step: Step) -> Tensor:
    return tensor_at(flow.program, step.args[1].name).detach()


def _reader(
    flow: Flow, index: int, step: Step, columns: Tensor, constant: Tensor, *, only_zero: bool, external: bool = False
) -> None:
    bias = step.arg(2, "bias")
    name = bias.name if isinstance(bias, Ref) else None
    flow.readers.append(Reader(index, step.args[1].name, name, columns, constant, only_zero, external))


def _normed(flow: Flow, step: Step) -> Tensor:
    tensors = [_double(flow.tensor(item)) for item in step.args[1:5]]
    out: Tensor = function(step.op)(flow.see(step.args[0]).value, *tensors, *step.args[5:])
    return out


def _read(flow: Flow, index: int, step: Step, seen: Seen, axis: int, *, only_zero: bool) -> None:
    """Note what reaches every column of a weight that mixes its inputs; columns that read the bare input are free."""
    columns, ids = flow.axis(step.args[1], 1), seen.ids.movedim(axis, -1)
    external = bool((ids == EXTERNAL).all())
    if not external:
        flow.classes.join(columns.expand_as(ids), ids)
    values = seen.value.movedim(axis, -1).flatten(0, -2)
    varies = seen.varies.movedim(axis, -1).flatten(0, -2).any(0)
    low, high = values.amin(0), values.amax(0)
    same = high - low <= 1e-9 * high.abs().clamp_min(1e-9)  # never so for values that are not finite
    constant = torch.where(same & ~varies, values[0], torch.nan)
    _reader(flow, index, step, columns, constant, only_zero=only_zero, external=external)


def _depthwise(flow: Flow, rows: Tensor, seen: Seen, dims: int, groups: int) -> None:
    """Channel c feeds rows c * m .. c * m + m - 1, and only those: they go together."""
    per_group = rows.reshape(groups, -1)
    flow.classes.join(per_group, per_group[:, :1].expand_as(per_group))
    channels = seen.ids.movedim(-1 - dims, -1)
    flow.classes.join(per_group[:, 0].expand_as(channels), channels)


def _grouped(flow: Flow, index: int, step: Step, seen: Seen, dims: int) -> None:
    """Groups keep equal widths: the same column goes in all of them, and the same row."""
    name, groups = step.args[1], step.arg(6, "groups")
    rows = flow.axis(name, 0).reshape(groups, -1)
    flow.classes.join(rows, rows[:1].expand_as(rows))
    channels = seen.ids.movedim(-1 - dims, -1)
    by_group = channels.reshape(*channels.shape[:-1], groups, -1)
    columns = flow.axis(name, 1)
    flow.classes.join(columns.expand_as(by_group), by_group)
    varies = seen.varies.movedim(-1 - dims, -1).reshape(by_group.shape).flatten(0, -2).any(0)
    values = seen.value.movedim(-1 - dims, -1).reshape(by_group.shape).flatten(0, -2)
    silent = ~varies & (values == 0).all(0)
    constant = torch.where(silent, 0.0, torch.nan).to(torch.float64)
    _reader(flow, index, step, columns, constant, only_zero=True)


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.double()


def _any(padding: Any) -> bool:
    """Whether zeros are put around the input."""
    return any(padding) if isinstance(padding, (list, tuple)) else padding not in (0, "valid")
