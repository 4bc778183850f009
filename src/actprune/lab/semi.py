"""L5: pseudo-labels: the network's own answers on images without labels, trained as if they were true.

Source: D.-H. Lee. Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks.
ICML 2013 Workshop on Challenges in Representation Learning.

    y'_i = argmax_c f_c(x'_i)            taken anew at every step, from the outputs of that very step
    L    = mean CE(f(x), y) + a(t) * mean CE(f(x'), y')
    a(t) = 0 until T1, rises linearly until T2, then WEIGHT

Deviations: T1 and T2 are fractions of the run (``FROM`` and ``FULL``) instead of counts of updates, as runs here differ
in length; a step takes equally many examples of both kinds; no pre-training with denoising autoencoders.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from actprune.lab.seeding import derived_seed

WEIGHT = 3.0
FROM, FULL = 0.1, 0.6


def weight(epoch: int, epochs: int) -> float:
    """a(t) of an epoch, counted from 1, of a run of at most ``epochs``. Pure, so that a resumed run needs no state."""
    done = (epoch - 1) / epochs
    return WEIGHT * min(1.0, max(0.0, (done - FROM) / (FULL - FROM)))


def loss(out: Tensor) -> Tensor:
    """Mean cross-entropy (nats, 0-dim) of outputs ``(N, classes)`` against their own largest entry."""
    wide = out.float() if out.itemsize < 4 else out
    return F.cross_entropy(wide, wide.detach().argmax(1))


def order(count: int, length: int, seed: int, epoch: int) -> Tensor:
    """Which of ``count`` unlabelled examples an epoch of ``length`` takes: int64 ``(length,)``, on the CPU.

    Passes in new orders, unrelated to those of the labelled examples.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch, "unlabelled order"))
    return torch.cat([torch.randperm(count, generator=generator) for _ in range(-(-length // count))])[:length]
