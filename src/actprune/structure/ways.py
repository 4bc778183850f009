"""L2: ways through a model's code that the example does not take, where values decide: other inputs are sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from actprune.structure.record import Record
from actprune.structure.recorder import record

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]

_ENTRIES, _NOISE = 1 << 14, 16


def leaves(item: Any) -> list[Tensor]:
    """Tensors of a pytree."""
    return [leaf for leaf in tree_leaves(item) if isinstance(leaf, Tensor)]


def copied(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Tensors of their own: a model may write into what it is given."""
    args, kwargs = inputs
    copied = tree_map(lambda item: item.clone() if isinstance(item, Tensor) else item, (tuple(args), dict(kwargs)))
    return copied[0], copied[1]


def noise(inputs: Inputs, most: int = _NOISE) -> Inputs:
    """Normal numbers as large as the inputs get: activations that happen to be silent on the example fire on these.

    Small inputs are repeated, so that there are up to ``most`` examples of noise.
    """
    generator = torch.Generator().manual_seed(0)
    every = leaves(inputs)
    counts = {len(item) if item.dim() else 0 for item in every}
    largest = max((item.numel() for item in every), default=1)
    alike = len(counts) == 1 and 0 not in counts
    times = max(1, min(most // min(counts), _ENTRIES // max(largest, 1))) if alike else 1

    def like(item: Any) -> Any:
        if not isinstance(item, Tensor) or not item.numel():
            return item
        item = item.repeat(times, *[1] * (item.dim() - 1)) if times > 1 else item
        if not item.is_floating_point():
            return item
        scale = item.abs().amax() if bool(item.any()) else 1.0
        return torch.randn(item.shape, generator=generator, dtype=torch.float64).to(item) * scale

    args, kwargs = tree_map(like, (tuple(inputs[0]), dict(inputs[1])))
    return args, kwargs


def on_other_ways(
    model: nn.Module, found: Record, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, hooks: bool = False
) -> tuple[Record, list[Inputs]]:
    """Where the recorded forward has not reached some parameters: the record, and those of inputs that reach more.

    Tried are noise, its negative, and small and large inputs; what fails on the model is left out. Also returns these
    inputs.
    """
    missing, inputs = unreached(model, found), []
    for other in _others((args, kwargs)) if missing else ():
        try:
            more = record(model, *copied(other), hooks=hooks)
        except Exception:  # it does not take such values
            continue
        if missing.isdisjoint(more.names.values()):
            continue
        found = found.then(more)
        inputs.append(other)
        missing = unreached(model, found)
        if not missing:
            break
    return found, inputs


def unreached(model: nn.Module, found: Record) -> set[str]:
    """Names of parameters that no recorded forward has read."""
    return {name for name, _ in model.named_parameters()} - set(found.names.values())


def _others(inputs: Inputs) -> list[Inputs]:
    """Inputs of other values. Whole numbers, which may be indices, are only dealt in another order."""

    def times(factor: float, given: Inputs) -> Inputs:
        def changed(item: Any) -> Any:
            if not isinstance(item, Tensor) or item.dtype == torch.bool:
                return item
            return item * factor if item.is_floating_point() else item.flip(-1) if item.dim() else item

        args, kwargs = tree_map(changed, (tuple(given[0]), dict(given[1])))
        return args, kwargs

    other = noise(inputs, most=1)
    return [other, times(-1.0, other), times(0.01, other), times(100.0, other)]
