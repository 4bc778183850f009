"""Baselines that every comparison needs: magnitude, magnitude times input norm (Wanda), random."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from actprune.types import Need, Signals


@dataclass(frozen=True)
class Magnitude:
    """score = |w|. Source: Han et al. 2015 (arXiv 1506.02626)."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """Nothing but the weight."""
        return ()

    def score(self, signals: Signals) -> Tensor:
        """``|w|``, shape and dtype of the weight."""
        return signals.weight.abs()


@dataclass(frozen=True)
class Wanda:
    """score(w_ij) = |w_ij| * ||x_j||_2 over the calibration data. Source: Sun et al. 2023 (arXiv 2306.11695), eq. 1.

    For a conv the norm is that of the input channel over all positions, the same for every kernel offset (the paper
    has linear layers only).
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        """Second moments of the layer's inputs."""
        return (Need("input_moments"),)

    def score(self, signals: Signals) -> Tensor:
        """Shape of the weight, float32 (float64 for float64 weights)."""
        weight = signals.weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        norm = signals.sums["in_square"].to(weight.device).sqrt().to(dtype)
        groups = norm.numel() // weight.shape[1]  # a grouped conv: each group of outputs sees its own inputs
        norm = norm.view(groups, weight.shape[1]).repeat_interleave(weight.shape[0] // groups, dim=0)
        return weight.abs().to(dtype) * norm.view(*norm.shape, *[1] * (weight.dim() - 2))


@dataclass(frozen=True)
class Random:
    """score ~ uniform(0, 1), drawn from the recipe's seed and the weight's name: the same on every rank and resume."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """Nothing."""
        return ()

    def score(self, signals: Signals) -> Tensor:
        """Shape of the weight, float32, drawn on the CPU so that every device gets the same numbers."""
        digest = hashlib.blake2b(f"{signals.seed}/{signals.name}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        return torch.rand(signals.weight.shape, generator=generator).to(signals.weight.device)
