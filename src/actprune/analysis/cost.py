"""L1: what is left and what it costs. Every function takes masks (True = kept) or weights (non-zero = kept)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from actprune.errors import ModelError


@dataclass(frozen=True)
class Flop:
    """Floating point operations per example, multiplication and addition counted apart; biases are left out."""

    layers: dict[str, int]
    total: int


def kept(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Number of kept weights per layer."""
    return {name: int(torch.count_nonzero(tensor)) for name, tensor in tensors.items()}


def sparsity(tensors: Mapping[str, Tensor]) -> float:
    """Fraction of weights removed, 0..1, over all layers given. Raises ModelError when there is no weight."""
    total = _total(tensors)
    return (total - sum(kept(tensors).values())) / total


def compression(tensors: Mapping[str, Tensor]) -> float:
    """Weights before / weights after over all layers given; inf when none is left. Raises ModelError on no weight."""
    total, left = _total(tensors), sum(kept(tensors).values())
    return total / left if left else math.inf


def flop(tensors: Mapping[str, Tensor], positions: Mapping[str, int]) -> Flop:
    """``2 * kept weights * output positions`` per layer and in total, for one example.

    positions: by layer name, 1 for a Linear on vectors, height * width of the output for a conv (576 for the first
    one of LeNet-5 on 28x28). Raises ModelError naming the layers without a number of positions.
    """
    missing = [name for name in tensors if name not in positions]
    if missing:
        raise ModelError(
            f"FLOP of {', '.join(missing)}: the number of output positions is not known (known: "
            f"{', '.join(positions) or 'none'}); pass it, 1 for a Linear on vectors, height * width for a conv"
        )
    layers = {name: 2 * count * positions[name] for name, count in kept(tensors).items()}
    return Flop(layers, sum(layers.values()))


def survival(mask: Tensor) -> Tensor:
    """Kept incoming weights of every neuron: int64 ``(out,)`` from a mask or weight ``(out, in, *kernel)``."""
    if mask.ndim < 2:
        raise ModelError(
            f"a mask of shape {tuple(mask.shape)} has no neurons; expected (out, in) or (out, in, *kernel)"
        )
    return torch.count_nonzero(mask.flatten(1), dim=1)


def _total(tensors: Mapping[str, Tensor]) -> int:
    total = sum(tensor.numel() for tensor in tensors.values())
    if not total:
        raise ModelError(
            f"no weights were given (layers: {', '.join(tensors) or 'none'}); pass at least one mask or weight"
        )
    return total
