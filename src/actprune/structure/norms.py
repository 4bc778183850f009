"""L2: rules of normalisations. Those over channels are exact after a removal only with the sizes of before."""

from __future__ import annotations

import torch
from torch import Tensor

from actprune.structure.analysis import Call, Mixing, Rule
from actprune.structure.values import Value, along, line, shrunk, support


def batch_norm(call: Call) -> list[Value]:
    """Each channel for itself, by four vectors that are cut with it."""
    x: Value = call.args[0]
    vectors = [each for each in call.args[1:5] if isinstance(each, Value)]
    dims = len(x.shape)
    wide = [_at(each, 1, dims) for each in vectors]
    _scale(call, call.args[1])
    if "no_training" not in call.node.op and bool(call.arg(5, "training", False)):  # as standardised weights are made
        call.pin([each for each in x.labels if support(each) - {1}], "takes the mean over it")
    labels = call.meet([x, *wide], x.shape)
    const = _batch_constant(call, x) if call.analysis.constants else None
    return [Value(call.shape, labels, const), *(Value(shape) for shape in call.shapes[1:])]


def _scale(call: Call, weight: Value | None) -> None:
    if isinstance(weight, Value) and weight.name is not None:
        call.analysis.scales.add(weight.name)


def _at(value: Value, axis: int, dims: int) -> Value:
    shape = tuple(value.shape[0] if number == axis else 1 for number in range(dims))
    return Value(shape, tuple(line(each.reshape(-1), axis, dims) for each in value.labels))


def _vector(value: Value | None, otherwise: float) -> Tensor | None:
    if value is None:
        return torch.tensor([otherwise], dtype=torch.float64)
    return None if value.tensor is None else value.tensor.to("cpu", torch.float64)


def _batch_constant(call: Call, x: Value) -> Tensor | None:
    """``(x - mean) / std * weight + bias``; a weight of zero leaves the bias, whatever comes."""
    weight, bias, mean, var = (_vector(call.args[place], 1.0 if place in (1, 4) else 0.0) for place in (1, 2, 3, 4))
    legit = "no_training" in call.node.op
    training = False if legit else bool(call.arg(5, "training", False))
    eps = call.arg(6 if legit else 7, "eps", 1e-5)
    if weight is None or bias is None or mean is None or var is None:
        return None
    const = along(x.const, 1)
    if const is None:
        const = torch.tensor([torch.nan], dtype=torch.float64)
    normed = torch.where(const.isnan(), torch.nan, 0.0) if training else (const - mean) * torch.rsqrt(var + eps)
    out = torch.where(weight == 0, 0.0, normed * weight) + bias
    if bool(out.isnan().all()):
        return None
    return shrunk(line(out, 1, len(x.shape)))


def layer_norm(call: Call) -> list[Value]:
    """Over the last axes: labels there go on, and the norm has to divide by the number of before."""
    x, shape, weight, bias = call.args[0], call.args[1], call.arg(2, "weight"), call.arg(3, "bias")
    over = set(range(len(x.shape) - len(shape), len(x.shape)))
    _scale(call, weight)
    affine = [_last(each, len(x.shape)) for each in (weight, bias) if isinstance(each, Value)]
    inside = [each for each in x.labels if support(each) & over]
    if not inside:
        call.pin([each for value in affine for each in value.labels], "goes over what has to stay")
    labels = call.meet([x, *affine], x.shape)
    single = len(shape) == 1 and len(inside) == 1 and support(inside[0]) == over
    if inside and not (single and _exact(call, x, inside[0], "layer")):
        call.pin(inside, "mixes its entries")
    const = _affine_constant(call, x, weight, bias, -1, over)
    return [Value(call.shape, labels, const), *(Value(each) for each in call.shapes[1:])]


def _last(value: Value, dims: int) -> Value:
    before = (1,) * (dims - len(value.shape))
    return Value(before + value.shape, tuple(each.reshape(before + tuple(each.shape)) for each in value.labels))


def _exact(call: Call, x: Value, labels: Tensor, kind: str, groups: int = 1) -> bool:
    """Note a normalisation over labels, if the module that does it can be made to divide by the number of before."""
    if call.analysis.norms(call.node.module, x) != kind:
        return False
    axis = next(iter(support(labels)))
    known = along(x.const, axis)
    call.analysis.mixings.append(
        Mixing(call.node.module, kind, labels.reshape(-1), known, x.shape[axis] // groups, groups)
    )
    return True


def _affine_constant(  # noqa: PLR0917
    call: Call, x: Value, weight: Value | None, bias: Value | None, axis: int, over: set[int]
) -> Tensor | None:
    """Behind the norm a constant is left where the weight is zero."""
    if (
        not call.analysis.constants
        or not isinstance(weight, Value)
        or weight.tensor is None
        or weight.tensor.dim() != 1
    ):
        return None
    scale, shift = _vector(weight, 1.0), _vector(bias if isinstance(bias, Value) else None, 0.0)
    if scale is None or shift is None:
        return None
    out = torch.where(scale == 0, shift, torch.nan)
    return None if bool(out.isnan().all()) else shrunk(line(out, axis, len(x.shape)))


def group_norm(call: Call) -> list[Value]:
    """Over the channels of each group and all positions: the same channels go in every group."""
    x, weight, bias, groups = call.args[0], call.args[1], call.args[2], call.args[6]
    _scale(call, weight)
    affine = [_at(each, 1, len(x.shape)) for each in (weight, bias) if isinstance(each, Value)]
    labels = call.meet([x, *affine], x.shape)
    for each in x.labels:
        if support(each) != {0}:
            _in_groups(call, x, each, groups, x.shape[1] // groups)
    const = _affine_constant(call, x, weight, bias, 1, {1})
    return [Value(call.shape, labels, const), *(Value(each) for each in call.shapes[1:])]


def _in_groups(call: Call, x: Value, labels: Tensor, groups: int, width: int) -> None:
    """Labels over whose groups, of ``width`` channels at first, a norm goes."""
    if support(labels) != {1}:
        call.pin([labels], "mixes its entries")
    elif width > 1:
        by_group = labels.reshape(groups, -1)
        call.join(by_group, by_group[:1])
        if not _exact(call, x, labels, "group", groups):
            call.pin([labels], "mixes its entries")


def width_norm(call: Call) -> list[Value]:
    """A norm that an earlier compaction has made to keep its width: its steps are read as one, at the last of them."""
    analysis, path = call.analysis, call.node.module
    norm = analysis.replaced[path]
    given = [slots[0] for slots, made in analysis.record.calls[path] if set(made) & set(call.node.outs)]
    if not given:
        return [Value(shape) for shape in call.shapes]
    x = analysis.values[given[0]]
    dims, axis = len(x.shape), norm.axis % len(x.shape)
    weight, bias = (
        analysis.stored(f"{path}.{name}") if f"{path}.{name}" in analysis.tensors else None
        for name in ("weight", "bias")
    )
    _scale(call, weight)
    labels = call.meet([x, *(_at(each, axis, dims) for each in (weight, bias) if each is not None)], x.shape)
    for each in x.labels:
        if norm.kind == "group" and support(each) != {0}:
            _in_groups(call, x, each, norm.groups, norm.width // norm.groups)
        elif axis in support(each) and not (support(each) == {axis} and _exact(call, x, each, norm.kind)):
            call.pin([each], "mixes its entries")
    return [Value(call.shape, labels, _affine_constant(call, x, weight, bias, axis, {axis}))]


def fused_rms(call: Call) -> list[Value]:
    """Over the last axes, without a mean taken off."""
    x, shape, weight = call.args[0], call.args[1], call.arg(2, "weight")
    over = set(range(len(x.shape) - len(shape), len(x.shape)))
    _scale(call, weight)
    affine = [_last(weight, len(x.shape))] if isinstance(weight, Value) else []
    inside = [each for each in x.labels if support(each) & over]
    if not inside:
        call.pin([each for value in affine for each in value.labels], "goes over what has to stay")
    labels = call.meet([x, *affine], x.shape)
    single = len(shape) == 1 and len(inside) == 1 and support(inside[0]) == over
    if inside and not (single and _exact(call, x, inside[0], "rms")):
        call.pin(inside, "mixes its entries")
    return [Value(call.shape, labels), *(Value(each) for each in call.shapes[1:])]


def weight_norm(call: Call) -> list[Value]:
    """``g * v / |v|`` for each index of one axis. A zero g silences it; were v zero as well, it would be 0 / 0."""
    v, g, axis = call.args[0], call.args[1], call.arg(2, "dim", 0)
    for each in v.labels:
        if support(each) == {axis}:
            call.analysis.never_zero |= {(v.name, axis)} if v.name else set()
    labels = call.meet([v, g], v.shape)
    return [Value(call.shape, labels), *(Value(shape) for shape in call.shapes[1:])]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
                     "cudnn_batch_norm", "batch_norm", "_batch_norm_no_update"), batch_norm),
    "native_layer_norm": layer_norm, "native_group_norm": group_norm, "_fused_rms_norm": fused_rms,
    "_weight_norm_interface": weight_norm, "norm of a width": width_norm,
}  # fmt: skip
