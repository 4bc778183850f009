"""Criteria made for whole channels: the scale behind a channel, and how like the others its filter is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from actprune.types import Evidence, Layer


@dataclass(frozen=True)
class NormScale:
    """score = |gamma|, the scale by which a normalisation multiplies the channel.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017 (arXiv
    1708.06519). It reads the scales of norms instead of the weights of layers, so it needs units that have some
    (``unit=Channel()``). The paper trains with an L1 penalty on the scales before; that is up to your loss.
    """

    reads_scales = True
    """What it scores is ``(channels,)``, the weight of a norm."""

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """Nothing but the scales."""
        return ()

    def score(self, layer: Layer) -> Tensor:
        """``|gamma|``, ``(channels,)``."""
        return layer.weight.abs()


@dataclass(frozen=True)
class GeometricMedian:
    """score of a neuron = sum over j of ||w_i - w_j||_2: the nearest to the geometric median can be replaced best.

    Source: He et al., Filter Pruning via Geometric Median for Deep Neural Networks Acceleration, CVPR 2019 (arXiv
    1811.00250), eq. 6. Neurons that are pruned already score 0 and are nobody's neighbours.
    """

    members = ("outputs",)
    """It says nothing of the weights that read a neuron."""

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """Nothing but the weight."""
        return ()

    def score(self, layer: Layer) -> Tensor:
        """Shape of the weight, float64, the same for all weights of a neuron."""
        rows = layer.weight.flatten(1).double()
        alive = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        if layer.mask is not None:
            alive = layer.mask.to(rows.device).flatten(1).any(1)
        kept = rows[alive]
        total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        # distances of a block of neurons at a time: all at once would be the square of their number
        total[alive] = torch.cat([torch.cdist(block, kept).sum(1) for block in torch.split(kept, _BLOCK)])
        return total.view(-1, *(1,) * (layer.weight.dim() - 1)).expand(layer.weight.shape)


_BLOCK = 1024
