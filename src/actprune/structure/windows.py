"""L2: rules of operations on positions: pooling, resizing, sampling. Channels go through, positions stay."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from actprune.structure.analysis import Call, Rule
from actprune.structure.values import Value, support


def window(call: Call) -> list[Value]:
    """All positions of a channel go together, for the window mixes them."""
    x: Value = call.args[0]
    dims = _positions(call, x)
    positions = set(range(len(x.shape) - dims, len(x.shape)))
    labels = []
    for each in x.labels:
        inside = support(each) & positions
        first = each
        for axis in inside:
            first = first.narrow(axis, 0, 1)
        if inside and not support(first):
            call.pin([each], "slides over it")
            continue
        if inside:
            call.join(each, first)
        labels.append(first)
    const = _constant(call, x, positions)
    return [Value(shape, tuple(labels) if len(shape) == len(x.shape) else (), const) for shape in call.shapes]


def _positions(call: Call, x: Value) -> int:
    found = re.search(r"([123])d", call.node.op)
    if found:
        return int(found.group(1))
    kinds = {"bilinear": 2, "bicubic": 2, "linear": 1, "trilinear": 3}
    return next((count for word, count in kinds.items() if word in call.node.op), len(x.shape) - 2)


def _constant(call: Call, x: Value, positions: set[int]) -> Tensor | None:
    """Windows over one constant give it back; with zeros around that is so for a zero only."""
    if x.const is None or support(x.const) & positions:
        return None
    if "avg_pool" in call.node.op and "adaptive" not in call.node.op:
        zeros_around = any(call.arg(3, "padding", [0])) and call.arg(5, "count_include_pad", True)
        return torch.where(x.const == 0, 0.0, torch.nan).double() if zeros_around else x.const
    return x.const


def grid_sampler(call: Call) -> Value:
    """Values at positions that are computed: channels go through, the grid stays."""
    x, grid = call.args[0], call.args[1]
    call.pin(grid.labels, "samples by it")
    call.pin([each for each in x.labels if support(each) & set(range(2, len(x.shape)))], "samples positions of it")
    return Value(call.shape, tuple(each for each in x.labels if not support(each) & set(range(2, len(x.shape)))))


def im2col(call: Call) -> Value:
    """``(N, C, H, W)`` to ``(N, C * window, positions)``: what belongs to a channel goes together."""
    x: Value = call.args[0]
    size = call.args[1][0] * call.args[1][1]
    labels = []
    for each in x.labels:
        if support(each) != {1}:
            call.pin([each], "takes windows of it")
            continue
        labels.append(each.reshape(-1).repeat_interleave(size).reshape(1, -1, 1))
    return Value(call.shape, tuple(labels))


def col2im(call: Call) -> Value:
    """The inverse of ``im2col``."""
    x: Value = call.args[0]
    size = call.args[2][0] * call.args[2][1]
    labels = []
    for each in x.labels:
        if support(each) != {1}:
            call.pin([each], "puts windows of it")
            continue
        by_channel = each.reshape(-1, size)
        call.join(by_channel, by_channel[:, :1])
        labels.append(by_channel[:, 0].reshape(1, -1, 1, 1))
    return Value(call.shape, tuple(labels))


_NAMES = [f"{kind}_pool{dims}d{suffix}" for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "_adaptive_avg",
                                                     "fractional_max", "lp") for dims in (1, 2, 3)
          for suffix in ("", "_with_indices")]  # fmt: skip
_NAMES += [f"{prefix}upsample_{kind}" for prefix in ("", "_") for kind in (
    "nearest1d", "nearest2d", "nearest3d", "nearest_exact1d", "nearest_exact2d", "nearest_exact3d", "bilinear2d",
    "bicubic2d", "linear1d", "trilinear3d", "bilinear2d_aa", "bicubic2d_aa")]  # fmt: skip
RULES: dict[str, Rule] = {
    **dict.fromkeys(_NAMES, window), **dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d"), grid_sampler),
    "_upsample_nearest_exact1d": window, "im2col": im2col, "col2im": col2im,
}  # fmt: skip
