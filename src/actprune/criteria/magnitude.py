"""Baselines that every comparison needs: magnitude, magnitude times input norm (Wanda), random."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import Tensor

from actprune.evidence import InputMoments
from actprune.types import Evidence, Layer, Progress


@dataclass(frozen=True)
class Magnitude:
    """score = |w|. Source: Han et al. 2015 (arXiv 1506.02626)."""

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """Nothing but the weight."""
        return ()

    def score(self, layer: Layer) -> Tensor:
        """``|w|``, shape and dtype of the weight."""
        return layer.weight.abs()


@dataclass(frozen=True)
class MagnitudeOverDeviation:
    """score = |w| / (q_l * std(W_l)) over the weights of the layer that are still there.

    Cutting at 1 is Han et al.'s threshold q_l * std(W_l) (arXiv 1506.02626); ranking all layers together by it is one
    common quality parameter for every layer, whatever it must be for the budget.

    quality: pairs of fnmatch pattern of a weight name and q_l; everything else has q = 1.
    """

    quality: tuple[tuple[str, float], ...] = ()

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """Nothing but the weight."""
        return ()

    def score(self, layer: Layer) -> Tensor:
        """Shape of the weight, float32 (float64 for float64 weights)."""
        weight = layer.weight.double()
        alive = weight if layer.mask is None else weight[layer.mask.to(weight.device)]
        deviation = alive.std(correction=0) if alive.numel() else weight.new_tensor(1.0)
        quality = next((q for pattern, q in self.quality if fnmatchcase(layer.name, pattern)), 1.0)
        dtype = torch.float64 if layer.weight.dtype == torch.float64 else torch.float32
        tiny = torch.finfo(torch.float64).tiny  # a layer of equal weights deviates from nothing
        return (weight.abs() / (quality * deviation).clamp_min(tiny)).to(dtype)


@dataclass(frozen=True)
class Lamp:
    """score(w) = w^2 / sum of v^2 over the weights v of the layer with |v| >= |w|: what the layer would lose by it.

    The largest weight of every layer scores 1, so a global ranking empties no layer.
    Source: Lee et al. 2021 (arXiv 2010.07611), eq. 4. Equal magnitudes share one sum here, where the authors' code
    sorts them in some order.
    """

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """Nothing but the weight."""
        return ()

    def score(self, layer: Layer) -> Tensor:
        """Shape of the weight, float64."""
        return lamp(layer.weight.double().abs())


def lamp(magnitude: Tensor) -> Tensor:
    """LAMP of non-negative magnitudes of one layer: ``m^2 / sum of squares of all that are at least m``, float64."""
    square = magnitude.double().square().flatten()
    ordered, order = square.sort(descending=True)
    upto = ordered.cumsum(0)
    # equal values belong to one another's sum: take the sum at the end of each run of equals
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    run = torch.cumsum(last, 0) - last.long()
    upto = upto[last][run]
    score = torch.empty_like(square)
    score[order] = ordered / upto.clamp_min(torch.finfo(torch.float64).tiny)
    return score.view(magnitude.shape)


@dataclass(frozen=True)
class Wanda:
    """score(w_ij) = |w_ij| * ||x_j||_2 over the calibration data. Source: Sun et al. 2023 (arXiv 2306.11695), eq. 1.

    For a conv the norm is that of the input channel over all positions, the same for every kernel offset (the paper
    has linear layers only).
    """

    members: ClassVar[tuple[str, ...]] = ("inputs", "outputs", "all")
    """Where a layer reads a channel, the norm is that of the channel itself."""

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """Second moments of the layer's inputs."""
        return (InputMoments(),)

    def score(self, layer: Layer) -> Tensor:
        """Shape of the weight, float32 (float64 for float64 weights)."""
        norms = self.norms(layer)
        return layer.weight.abs().to(norms.dtype) * norms

    @staticmethod
    def norms(layer: Layer) -> Tensor:
        """``||x_j||_2`` of the input that each weight reads, to broadcast, float32 (float64 for such weights)."""
        weight = layer.weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        norm = layer.evidence["in_square"].to(weight.device).sqrt().to(dtype)
        groups = norm.numel() // weight.shape[1]  # a grouped conv: each group of outputs sees its own inputs
        norm = norm.view(groups, weight.shape[1]).repeat_interleave(weight.shape[0] // groups, dim=0)
        return norm.view(*norm.shape, *[1] * (weight.dim() - 2))


@dataclass(frozen=True)
class MagnitudeWithinSign:
    """score = rank of |w| among the kept weights of the same sign, over their number: 1 is the largest of its sign.

    Cutting the lowest share z takes the z smallest positive and the z largest negative weights.
    Source: Mocanu et al. 2018 (arXiv 1707.04780), algorithm 1.
    """

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """Nothing but the weight and the current mask."""
        return ()

    def score(self, layer: Layer) -> Tensor:
        """Shape of the weight, float64; 0 for pruned weights and zeros, which go first."""
        weight = layer.weight
        kept = weight != 0 if layer.mask is None else (weight != 0) & layer.mask.to(weight.device)
        score = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
        for side in (weight > 0, weight < 0):
            chosen = side & kept
            size = weight[chosen].abs()
            rank = torch.empty(size.shape, dtype=torch.float64, device=weight.device)
            rank[size.argsort()] = torch.arange(1, len(size) + 1, dtype=torch.float64, device=weight.device)
            score[chosen] = rank / max(1, len(size))
        return score


@dataclass(frozen=True)
class Random:
    """score ~ uniform(0, 1), drawn from the recipe's seed and the weight's name: the same on every rank and resume.

    anew  draw other numbers at every pruning step
    """

    def of_groups(self, name: str, groups: int, seed: int, progress: Progress) -> Tensor:
        """One number for each of a bundle's groups: the mean over its members would lie near 0.5 if there are many."""
        return self.score(Layer(name, torch.empty(groups), seed=seed, progress=progress))

    anew: bool = False

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """Nothing."""
        return ()

    def score(self, layer: Layer) -> Tensor:
        """Shape of the weight, float32, drawn on the CPU so that every device gets the same numbers."""
        step = f"/{layer.progress.pruning_step}" if self.anew else ""
        digest = hashlib.blake2b(f"{layer.seed}/{layer.name}{step}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        return torch.rand(layer.weight.shape, generator=generator).to(layer.weight.device)
