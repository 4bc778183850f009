"""L4: operations that change places: reshapes, slices, concatenations, padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from actprune.compact.flow import Flow, Seen, differs, pinned, plain, run, unknown
from actprune.program import Ref, Step
from actprune.program.nodes import mapped
from actprune.program.ops import function

MOVES = frozenset({"reshape", "flatten", "unflatten", "permute", "transpose", "t", "unsqueeze", "expand", "cat",
                   "concat", "stack", "chunk", "split", "split_with_sizes", "select", "slice", "movedim",
                   "flip"})  # fmt: skip


def move(flow: Flow, index: int, step: Step) -> Any:
    """Elements change places only: the same operation moves values, dependence and classes."""
    out = [_moved(flow, step, part) for part in ("value", "varies", "ids")]
    if isinstance(out[0], Tensor):
        return Seen(*out)
    return [Seen(*parts) for parts in zip(*out, strict=True)]


def _moved(flow: Flow, step: Step, part: str) -> Any:
    def of(item: Any) -> Any:
        if isinstance(item, Seen):
            return getattr(item, part)
        return [of(inner) for inner in item] if isinstance(item, list) else item

    args = mapped(step.args, lambda leaf: of(flow.see(leaf)))
    return function(step.op)(*args, **plain(flow, dict(step.kwargs or {})))


def squeeze(flow: Flow, index: int, step: Step) -> Any:
    """Named axes of length 1 are left out. Where they are not named, or longer, they may become that short: unknown."""
    dims, shape = step.arg(1, "dim"), flow.see(step.args[0]).ids.shape
    axes = [dims] if isinstance(dims, int) else dims
    if axes is None or any(shape[axis] != 1 for axis in axes):
        return unknown(flow, index, step)
    return move(flow, index, step)


def pad(flow: Flow, index: int, step: Step) -> Any:
    """Positions put around belong to their channel; channels put beside others are classes of their own."""
    seen, sizes, mode = flow.see(step.args[0]), step.args[1], step.arg(2, "mode", "constant")
    if any(isinstance(size, Ref) or size < 0 for size in sizes):
        return unknown(flow, index, step)
    ids = seen.ids
    if mode != "constant" and any(differs(ids, -1 - axis) for axis in range(len(sizes) // 2)):
        return unknown(flow, index, step)  # channels that repeat others
    for number, sides in enumerate(zip(sizes[::2], sizes[1::2], strict=True)):
        ids = _widened(flow, ids, ids.dim() - 1 - number, sides)
    how = [mode] if step.op == "pad" else []
    varies = function(step.op)(seen.varies.double(), sizes, *how) > 0
    return Seen(run(flow, step), varies, ids)


def _widened(flow: Flow, ids: Tensor, axis: int, sides: tuple[int, int]) -> Tensor:
    """More indices before and after those of one axis."""
    shape = list(ids.shape)
    parts = [ids]
    for place, count in zip((0, 2), sides, strict=True):
        shape[axis] = count
        line = [1] * ids.dim()
        line[axis] = count
        same = not differs(ids, axis)
        new = ids.narrow(axis, 0, 1) if same else flow.classes.fresh(count).reshape(line)
        parts.insert(place, new.expand(shape))
    return torch.cat(parts, axis)


def gather(flow: Flow, index: int, step: Step) -> Any:
    """``index_select`` by a stored index: each entry of the index is a class of its own; the source stays whole."""
    source, where = flow.see(step.args[0]), step.args[2]
    out = run(flow, step)
    flow.classes.pin(source.ids)
    chosen = flow.tensor(where) if flow.stored(where) else None
    if chosen is None:
        return pinned(out, True)
    axis, shape = step.args[1] % out.dim(), [1] * out.dim()
    shape[axis] = -1
    ids = flow.axis(where, 0).reshape(shape).expand(out.shape)
    return Seen(out, source.varies.index_select(axis, chosen), ids)
