"""L2: standard layers for steps that have parameters, so that a program prunes, counts and trains like any module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from actprune.program.nodes import Ref, Step

Build = Callable[[Step, Tensor, bool], nn.Module]


def layer_path(step: Step) -> str | None:
    """Path of the layer a step can be, from the names of its parameters (``fc1.weight`` -> ``fc1``), or None."""
    if step.op not in BUILDERS:
        return None
    places, path = _PARAMETERS[step.op], None
    for position, leaf in places.items():
        ref = step.arg(position, leaf)
        if ref is None and leaf == "bias":
            continue
        if not isinstance(ref, Ref) or not ref.name.endswith(f".{leaf}"):
            return None
        found = ref.name.removesuffix(f".{leaf}")
        if path not in (None, found):
            return None
        path = found
    return path or None


def layer_of(step: Step, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The standard layer for a step that has a ``layer_path``; its own tensors are uninitialised, on no device."""
    position = min(_PARAMETERS[step.op])
    weight = tensors[step.arg(position, "weight").name]
    bias = isinstance(step.arg(position + 1, "bias"), Ref)
    with torch.device("meta"):
        return BUILDERS[step.op](step, weight, bias).to(weight.dtype)


def layer_inputs(step: Step) -> Any:
    """What the layer is called with: the one argument that is neither a parameter nor a setting."""
    return step.args[1] if step.op == "embedding" else step.args[0]


def settings(step: Step) -> str:
    """Everything but the input: two steps with equal settings can be one layer called twice."""
    rest = [item for item in step.args if item != layer_inputs(step)] if step.args else []
    return repr((step.op, rest, step.kwargs))


def _linear(step: Step, weight: Tensor, bias: bool) -> nn.Module:
    return nn.Linear(weight.shape[1], weight.shape[0], bias)


def _conv(step: Step, weight: Tensor, bias: bool) -> nn.Module:
    stride, padding, dilation = (step.arg(3 + i, name, d) for i, (name, d) in enumerate(_CONV))
    groups = step.arg(6, "groups", 1)
    kind: type[nn.Conv1d | nn.Conv2d] = nn.Conv1d if step.op == "conv1d" else nn.Conv2d
    sizes: list[Any] = [
        _pair(value, weight.dim() - 2) for value in (tuple(weight.shape[2:]), stride, padding, dilation)
    ]
    return kind(
        weight.shape[1] * groups, weight.shape[0], sizes[0],
        stride=sizes[1], padding=sizes[2], dilation=sizes[3], groups=groups, bias=bias,
    )  # fmt: skip


_CONV = (("stride", 1), ("padding", 0), ("dilation", 1))


def _pair(value: Any, dims: int) -> Any:
    """(1,) -> (1, 1): aten takes one number for all dimensions."""
    if isinstance(value, (str, int)):
        return value
    return tuple(value) * dims if len(value) == 1 else tuple(value)


def _batch_norm(step: Step, weight: Tensor, bias: bool) -> nn.Module:
    return _EvalBatchNorm(weight.shape[0], eps=step.arg(7, "eps", 1e-5), momentum=step.arg(6, "momentum", 0.1))


class _EvalBatchNorm(nn.BatchNorm2d):
    """BatchNorm of any number of dimensions: the stored statistics are used; in training mode they are updated."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def _layer_norm(step: Step, weight: Tensor, bias: bool) -> nn.Module:
    return nn.LayerNorm(tuple(step.args[1]), eps=step.arg(4, "eps", 1e-5), bias=bias)


def _embedding(step: Step, weight: Tensor, bias: bool) -> nn.Module:
    return nn.Embedding(weight.shape[0], weight.shape[1])


BUILDERS: dict[str, Build] = {
    "linear": _linear, "conv1d": _conv, "conv1d.padding": _conv, "conv2d": _conv, "conv2d.padding": _conv,
    "batch_norm": _batch_norm, "layer_norm": _layer_norm, "embedding": _embedding,
}  # fmt: skip
_WEIGHT_BIAS = {1: "weight", 2: "bias"}
_PARAMETERS: dict[str, dict[int, str]] = {
    "linear": _WEIGHT_BIAS, "conv1d": _WEIGHT_BIAS, "conv1d.padding": _WEIGHT_BIAS, "conv2d": _WEIGHT_BIAS,
    "conv2d.padding": _WEIGHT_BIAS,
    "batch_norm": {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"},
    "layer_norm": {2: "weight", 3: "bias"}, "embedding": {0: "weight"},
}  # fmt: skip
