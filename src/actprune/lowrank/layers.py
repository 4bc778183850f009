"""L4: which layers can be two, and the pair of layers that stands for one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from actprune.errors import ModelError, unknown_name
from actprune.graph import named_layers
from actprune.lowrank.factors import Factors


def layers_of(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.Module]:
    """Layers by weight name, all that can be factorised if no names are given.

    Raises ModelError for names that do not exist, tied weights, grouped convolutions, and other types of layer.
    """
    found = named_layers(model)
    if names is None:
        return {name: places[0][1] for name, places in found.items() if not _problem(places)}
    for name in names:
        if name not in found:
            raise ModelError(unknown_name("weight of a Linear or conv", name, found))
        if problem := _problem(found[name]):
            raise ModelError(f"{name} cannot be factorised: {problem}; leave it out")
    return {name: found[name][0][1] for name in names}


def pair(layer: nn.Module, factors: Factors) -> nn.Sequential:
    """``first`` (in -> directions, without bias) and ``second`` (directions -> out, with the bias, if any).

    For a conv the first has its kernel, stride, padding and dilation, and the second is 1 x 1.
    """
    bias = layer.bias is not None
    k = factors.directions
    assert isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d))
    with torch.device("meta"):
        if isinstance(layer, nn.Linear):
            first: nn.Module = nn.Linear(layer.in_features, k, bias=False)
            second: nn.Module = nn.Linear(k, layer.out_features, bias=bias)
        else:
            kind: Any = type(layer)
            same = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "padding_mode")}
            first = kind(layer.in_channels, k, layer.kernel_size, bias=False, **same)
            second = kind(k, layer.out_channels, 1, bias=bias)
    _fill(first, "weight", factors.first.reshape(first.get_parameter("weight").shape), layer.weight)
    _fill(second, "weight", factors.second.reshape(second.get_parameter("weight").shape), layer.weight)
    if layer.bias is not None:
        _fill(second, "bias", layer.bias.detach().clone(), layer.bias)
    return nn.Sequential(OrderedDict(first=first, second=second)).train(layer.training)


def _fill(layer: nn.Module, leaf: str, values: Tensor, like: Tensor) -> None:
    values = values.to(like.device, like.dtype).contiguous()
    setattr(layer, leaf, nn.Parameter(values, requires_grad=like.requires_grad))


def _problem(places: Sequence[tuple[str, nn.Module]]) -> str:
    """Why the layer at these places cannot become two, or ""."""
    layer = places[0][1]
    if type(layer) not in (nn.Linear, nn.Conv1d, nn.Conv2d):
        return f"it belongs to a {type(layer).__name__}, whose own code reads the weight"
    if any(other is not layer for _, other in places):
        return f"its weight is shared by {', '.join(path for path, _ in places)}"
    if getattr(layer, "groups", 1) != 1:
        return f"it is a convolution in {layer.groups} groups"
    return ""
