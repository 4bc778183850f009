"""L2: rules of operations that work element by element, and of tensors made of nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from actprune.structure.analysis import Call, Rule
from actprune.structure.record import mapped
from actprune.structure.values import Value, line, shrunk

_KEEPS_NAME = frozenset({"detach", "alias", "lift_fresh", "lift", "clone", "_to_copy", "contiguous"})
_PRODUCTS = frozenset({"mul", "mul_"})
_PLACES = frozenset({"dtype", "device", "out", "memory_format", "layout", "pin_memory", "non_blocking"})
_COMPARES = frozenset({"where", "masked_fill", "masked_fill_", "fill", "fill_", "zero_", "bernoulli", "bernoulli_"})


def pointwise(call: Call) -> Value:
    """What meets goes together; constants give constants, and a constant zero silences its factor."""
    made = Value(call.shape, call.meet(call.values))
    values = call.values
    if call.node.op.rstrip("_") in ("mul", "div") and len(values) == 1:
        numbers = [item for item in call.args if isinstance(item, float) and item > 0]
        call.analysis.scalars.setdefault(call.node.module, []).extend(numbers)
    if len(values) == 1 and call.node.op in _KEEPS_NAME and values[0].shape == call.shape:
        return values[0]
    return made.with_(const=_constant(call)) if call.analysis.constants else made


def _constant(call: Call) -> Tensor | None:
    if call.node.op in _COMPARES:
        return _chosen(call)
    values = call.values
    if all(value.tensor is not None for value in values):
        return None  # it is computed itself
    known = [call.const(value) for value in values]
    if call.node.op in _PRODUCTS and len(values) == 2:
        return _product(known[0], known[1])
    present = [each for each in known if each is not None]
    if len(present) < len(known):
        return None
    return _applied(call, present)


def _product(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    if left is None and right is None:
        return None
    nan = torch.tensor(torch.nan, dtype=torch.float64)
    left, right = nan if left is None else left, nan if right is None else right
    out = torch.where((left == 0) | (right == 0), 0.0, left * right)
    return None if bool(out.isnan().all()) else shrunk(out)


def _applied(call: Call, constants: list[Tensor]) -> Tensor | None:
    """The operation itself on constants; NaN wherever one of them is, whatever the operation makes of NaN."""
    dims = len(call.shape)
    queue = [each.reshape((1,) * (dims - each.dim()) + tuple(each.shape)) for each in constants]
    numbers = iter(list(queue))

    def given(leaf: Any) -> Any:
        return next(numbers) if isinstance(leaf, Value) else leaf

    keywords = {key: item for key, item in call.kwargs.items() if key not in _PLACES}
    args, kwargs = mapped((call.args, keywords), given)
    function = call.node.function
    if call.node.op == "_to_copy":
        return queue[0]
    if call.node.op in ("copy", "copy_"):
        return queue[1]
    try:
        if function._schema.is_mutable:
            shape = torch.broadcast_shapes(*(each.shape for each in queue))  # type: ignore[no-untyped-call]
            args = (args[0].expand(shape).clone(), *args[1:])
        out = function(*args, **kwargs)
    except (RuntimeError, TypeError, NotImplementedError):
        return None
    if not isinstance(out, Tensor) or out.is_complex():
        return None
    out = out.double()
    for each in queue:
        out = torch.where(each.isnan(), torch.nan, out)
    return None if bool(out.isnan().all()) else shrunk(out)


def _chosen(call: Call) -> Tensor | None:
    """A choice between constants that are equal, whatever the condition says."""
    if call.node.op in ("zero_",):
        return torch.zeros([1] * len(call.shape), dtype=torch.float64)
    if call.node.op in ("fill", "fill_") and isinstance(call.arg(1, "value"), (int, float)):
        return torch.full([1] * len(call.shape), float(call.arg(1, "value")), dtype=torch.float64)
    one, other = call.args[1:3] if call.node.op == "where" and len(call.args) == 3 else (None, None)
    if call.node.op.startswith("masked_fill"):
        one, other = call.args[0], call.arg(2, "value")
    constants = [call.const(each) if isinstance(each, Value) else each for each in (one, other)]
    if any(each is None for each in constants):
        return None
    left, right = (torch.as_tensor(each, dtype=torch.float64) for each in constants)
    out = torch.where(left == right, left, torch.nan)
    if out.dim() != len(call.shape):
        out = out.reshape((1,) * (len(call.shape) - out.dim()) + tuple(out.shape))
    return None if bool(out.isnan().all()) else shrunk(out)


def prelu(call: Call) -> Value:
    """One slope for all channels, or one for each (axis 1)."""
    x, slope = call.args[0], call.args[1]
    wide = slope
    if len(slope.shape) == 1 and slope.shape[0] > 1 and len(x.shape) > 1:
        wide = Value((1, slope.shape[0], *[1] * (len(x.shape) - 2)),
                     tuple(line(each.reshape(-1), 1, len(x.shape)) for each in slope.labels))  # fmt: skip
    const = call.const(x)
    return Value(call.shape, call.meet([x, wide]), const if const is not None and bool((const == 0).all()) else None)


def nothing(call: Call) -> list[Value]:
    """Zeros, ones, a range: its axes are as long as what it will meet."""
    made = []
    for shape in call.shapes:
        labels = tuple(
            line(call.analysis.classes.fresh(length), axis, len(shape))
            for axis, length in enumerate(shape)
            if length > 1
        )
        made.append(Value(shape, labels, _filled(call, len(shape))))
    return made


def _filled(call: Call, dims: int) -> Tensor | None:
    fills = {"zeros": 0.0, "ones": 1.0, "new_zeros": 0.0, "new_ones": 1.0, "zeros_like": 0.0, "ones_like": 1.0}
    value = fills.get(call.node.op)
    if call.node.op in ("full", "new_full", "full_like"):
        given = call.arg(1 if call.node.op != "new_full" else 2, "fill_value")
        value = float(given) if isinstance(given, (int, float)) else None
    if value is None or not call.analysis.constants:
        return None
    return torch.full([1] * dims, value, dtype=torch.float64)


def like(call: Call) -> Value:
    """Made as large as another."""
    source = call.args[0]
    if call.shape != source.shape:
        return nothing(call)[0]
    return Value(call.shape, source.labels, _filled(call, len(call.shape)))


RULES: dict[str, Rule] = {
    "pointwise": pointwise, "made of nothing": nothing, "prelu": prelu, "_prelu_kernel": pointwise,
    **dict.fromkeys(("detach", "alias", "lift_fresh", "lift", "clone", "_to_copy", "contiguous", "copy", "where",
                     "masked_fill", "native_dropout", "fill", "zero", "bernoulli", "dropout", "lerp", "addcmul",
                     "addcdiv", "clamp", "gelu", "celu", "elu", "hardtanh", "rrelu_with_noise", "polar", "complex",
                     "view_as_complex_copy", "isnan", "nan_to_num", "conj", "_conj", "resolve_conj", "resolve_neg",
                     "logical_not", "bitwise_not", "round", "uniform", "normal", "random", "exponential",
                     "hardswish", "hardsigmoid", "leaky_relu",
                     "log_sigmoid_forward", "softplus", "mish", "fake_quantize_per_tensor_affine"), pointwise),
    **dict.fromkeys(("new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided"), nothing),
    **dict.fromkeys(("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"), like),
}  # fmt: skip
