"""L4: what each family of operations does to values, dependence and classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from actprune.compact.classes import EXTERNAL, PINNED
from actprune.compact.flow import Flow, Rule, Seen, counts, differs, plain, read, run, unknown
from actprune.compact.layer_rules import batch_norm, conv, linear, prelu
from actprune.compact.moves import MOVES, gather, move, pad, squeeze
from actprune.program import Step
from actprune.program.ops import POINTWISE, base, function

REDUCES = frozenset({"mean", "sum", "amax", "amin", "softmax", "log_softmax", "_softmax"})
_COUNTING = frozenset({"sum", "softmax", "log_softmax", "_softmax"})  # of a constant: another for every batch size
POOLS = frozenset({"max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
                   "adaptive_max_pool1d", "adaptive_max_pool2d", "upsample_nearest2d"})  # fmt: skip


def size(flow: Flow, index: int, step: Step) -> Any:
    """The size of an activation, as the program asks for it."""
    return run(flow, step)


def pick(flow: Flow, index: int, step: Step) -> Any:
    """``operator``: an entry of a list, or arithmetic on sizes."""
    args = [flow.see(item) for item in step.args]
    return function(step.op)(*args)


def pointwise(flow: Flow, index: int, step: Step) -> Any:
    """Element by element: what meets goes together."""
    out, seen = run(flow, step), read(flow, step)
    if not isinstance(out, Tensor) or not out.dim():
        return unknown(flow, index, step)
    ids = _met(flow, [one.ids for one in seen if one.value.dim()], out.shape)
    if base(step.op) == "mul" and len(seen) == 2:
        varies = _product_varies(seen[0], seen[1])
    else:
        varies = torch.full(out.shape, counts(flow, step))
        for one in seen:
            varies = varies | one.varies
    return Seen(out, varies.expand(out.shape), ids)


def _product_varies(left: Seen, right: Seen) -> Tensor:
    """A constant zero silences its partner."""
    silent_left = ~left.varies & (left.value == 0)
    silent_right = ~right.varies & (right.value == 0)
    return (left.varies & ~silent_right) | (right.varies & ~silent_left)


def _met(flow: Flow, operands: list[Tensor], shape: torch.Size) -> Tensor:
    """Join operands where they meet. One index that meets many classes cannot go with each of them: it stays."""
    wide = [ids.reshape((1,) * (len(shape) - ids.dim()) + ids.shape) for ids in operands]
    whole = [ids for ids in wide if ids.shape == shape]
    result = None
    for ids in sorted(wide, key=lambda item: -item.numel()):
        spread = [axis for axis, length in enumerate(ids.shape) if length == 1 != shape[axis]]
        stretched = ids.expand(shape)
        if any(differs(other, axis) for axis in spread for other in whole):
            flow.classes.pin(ids)
        elif result is None:
            result = stretched
        else:
            flow.classes.join(result, stretched)
    if result is None:
        result = torch.full(shape, PINNED)
    # What the input has met is no longer the bare input: no reader takes it through an index.
    return torch.where(result == EXTERNAL, PINNED, result) if len(operands) > 1 else result


def reduce(flow: Flow, index: int, step: Step) -> Any:
    """Sums, means and softmax over axes along which all elements belong to one class; otherwise nothing is assumed."""
    out, seen = run(flow, step), flow.see(step.args[0])
    dims = step.arg(1, "dim")
    axes = [axis % seen.ids.dim() for axis in ([dims] if isinstance(dims, int) else dims or range(seen.ids.dim()))]
    if any(differs(seen.ids, axis) for axis in axes):
        return unknown(flow, index, step)
    varies, ids = seen.varies, seen.ids
    if 0 in axes and base(step.op) in _COUNTING and flow.program.batch is None:
        varies = torch.ones_like(varies)
    for axis in axes:
        varies, ids = varies.any(axis, keepdim=True), ids.narrow(axis, 0, 1)
    if out.dim() == seen.ids.dim():
        return Seen(out, varies.expand(out.shape), ids.expand(out.shape))
    for axis in sorted(axes, reverse=True):
        varies, ids = varies.squeeze(axis), ids.squeeze(axis)
    return Seen(out, varies, ids)


def pool(flow: Flow, index: int, step: Step) -> Any:
    """Windows over positions: all positions of a channel belong to one class. Adaptive maxima also say where."""
    found, seen = run(flow, step), flow.see(step.args[0])
    out = found[0] if isinstance(found, tuple) else found
    dims = int(step.op.partition(".")[0][-2])
    flat = seen.ids.flatten(-dims)
    if differs(flat, flat.dim() - 1):
        flow.classes.join(flat, flat[..., :1].expand_as(flat))
    ids = flat[..., :1].reshape(*flat.shape[:-1], *[1] * dims).expand(out.shape)
    changed = function(step.op)(
        seen.varies.double(), *plain(flow, step.args[1:]), **plain(flow, dict(step.kwargs or {}))
    )
    if isinstance(found, tuple):
        return [Seen(one, changed[0] > 0, ids) for one in found]
    return Seen(out, changed != 0, ids)


def product(flow: Flow, index: int, step: Step) -> Any:
    """Products of activations (attention): everything in one matrix of the batch goes together: a head is a class."""
    left, right = (flow.see(item) for item in step.args[:2])
    out = run(flow, step)
    if min(left.ids.dim(), right.ids.dim()) < 3:
        return unknown(flow, index, step)
    ids = _one_class_each(flow, [left, right], out)
    live_left, live_right = (one.varies | (one.value != 0) for one in (left, right))
    multiply = function(step.op)
    varies = multiply(left.varies.double(), live_right.double()) + multiply(live_left.double(), right.varies.double())
    return Seen(out, varies > 0, ids)


def attention(flow: Flow, index: int, step: Step) -> Any:
    """softmax(q k') v: where v is the same constant at all positions, so is the result, whatever q and k are."""
    seen = [flow.see(item) for item in step.args[:3]]
    out, values = run(flow, step), seen[2]
    rest = [one for one in read(flow, step)[3:] if one.value.dim()]
    if min(one.ids.dim() for one in seen) < 3 or step.arg(7, "enable_gqa", False):  # heads that share keys
        return unknown(flow, index, step)
    for one in rest:
        flow.classes.pin(one.ids)
    uniform = ~values.varies.any(-2, keepdim=True) & (values.value == values.value[..., :1, :]).all(-2, keepdim=True)
    if any(bool(one.varies.any()) for one in rest):  # a mask that may exclude every key: zeros, then
        uniform = torch.zeros_like(uniform)
    return Seen(out, ~uniform.expand(out.shape), _one_class_each(flow, seen, out))


def _one_class_each(flow: Flow, operands: list[Seen], out: Tensor) -> Tensor:
    """Join, per matrix of the batch, all elements of all operands."""
    batch = out.shape[:-2]
    flat = [one.ids.expand(*batch, *one.ids.shape[-2:]).flatten(-2) for one in operands]
    first = flat[0][..., :1]
    for ids in flat:
        flow.classes.join(ids, first.expand_as(ids))
    return first.unsqueeze(-1).expand(out.shape)


RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE, pointwise), **dict.fromkeys(MOVES, move), **dict.fromkeys(REDUCES, reduce),
    **dict.fromkeys(POOLS, pool), "linear": linear, "prelu": prelu, "conv1d": conv, "conv2d": conv,
    "batch_norm": batch_norm, "matmul": product, "bmm": product, "scaled_dot_product_attention": attention,
    "index_select": gather, "squeeze": squeeze, "constant_pad_nd": pad, "pad": pad, "sym_size": size,
    "sym_numel": size,
    **dict.fromkeys((f"operator.{name}" for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "getitem")), pick),
}  # fmt: skip
