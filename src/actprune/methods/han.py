"""Learning both weights and connections: per-layer thresholds of q x std, prune and retrain in turns.

Source: S. Han, J. Pool, J. Tran, W. J. Dally. Learning both Weights and Connections for Efficient Neural Networks.
NIPS 2015 (arXiv 1506.02626).

    train dense, with L2 decay
    repeat   M_l = |W_l| >= q_l * std(W_l)                    per layer
             retrain the survivors from their values at a lower learning rate and dropout, W = W * M

``han`` finds the one q that meets a sparsity, or takes densities per layer as given; ``han_thresholds`` takes q.

Deviations from the paper
  - std is that of the weights still there, measured anew at each pruning (the paper does not say; thresholds of a
    layer's first deviation never prune twice);
  - D_r = D_o sqrt(C_kept / C_all) uses the counts of the whole network, as a dropout module belongs to no one layer;
  - convolutions and fully connected layers are retrained together, not one kind at a time;
  - neurons left without inputs or outputs are removed by ``compact``, not while training.
"""

from __future__ import annotations

import math

from actprune.criteria import Magnitude, MagnitudeOverDeviation
from actprune.errors import RecipeError
from actprune.ranked import Ranked
from actprune.repair import LowerRate, RescaleDropout
from actprune.schedules import OneShot
from actprune.scopes import Rates
from actprune.types import Budget, Schedule

Pairs = tuple[tuple[str, float], ...]


def han(
    sparsity: float = 0.92,
    *,
    budget: Budget | None = None,
    kept: Pairs = (),
    schedule: Schedule | None = None,
    lr_scale: float = 0.1,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> Ranked:
    """Thresholds of q x std with one q for all layers, whatever it must be for this sparsity.

    kept      fixed sparsity instead: pairs of fnmatch pattern and kept fraction per layer, such as the paper's
              (("fc1*", 0.08), ("fc2*", 0.09), ("fc3*", 0.26)); at another sparsity they are scaled, k ** log(kept)
    lr_scale  of the learning rate while retraining
    """
    if any(not 0 < share <= 1 for _, share in kept):
        raise RecipeError(f"kept={kept}: expected fractions 0 < kept <= 1, such as ('fc1*', 0.08)")
    rates = Rates(layers=tuple((pattern, -math.log(share)) for pattern, share in kept)) if kept else None
    return Ranked(
        name="han",
        criterion=Magnitude() if rates else MagnitudeOverDeviation(),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        repairs=(LowerRate(lr_scale), RescaleDropout()),
        scope="layer" if rates else "global",
        allocation=rates or "uniform",
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        skip_output=skip_output,
        seed=seed,
    )


def han_thresholds(
    quality: float = 1.0,
    *,
    qualities: Pairs = (),
    schedule: Schedule | None = None,
    lr_scale: float = 0.1,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> Ranked:
    """As published: whatever lies below q_l * std(W_l) goes, and the sparsity follows.

    quality    q of every layer that ``qualities`` (pairs of fnmatch pattern and q) does not name
    """
    return Ranked(
        name="han_thresholds",
        criterion=MagnitudeOverDeviation((*qualities, ("*", quality))),
        budget=Budget.threshold(1.0),
        schedule=schedule or OneShot(),
        repairs=(LowerRate(lr_scale), RescaleDropout()),
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        skip_output=skip_output,
        seed=seed,
    )
