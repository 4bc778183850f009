"""Dynamic network surgery: prune and splice while training, with the full gradient behind the zeros.

Source: Y. Guo, A. Yao, Y. Chen. Dynamic Network Surgery for Efficient DNNs. NIPS 2016 (arXiv 1608.04493).

    start from a trained net, M = 1
    once         per layer: t = max(mu + c * sd, 0), mu and sd the mean and deviation of |w|; fixed afterwards
    every step   with probability (1 + gamma * iter)^(-power), while iter < stop:
                     M = 1 and |w| <= 0.9 t  ->  M = 0
                     M = 0 and |w| >  1.1 t  ->  M = 1
                 forward with W * M;  W -= lr * dL/d(W * M) for ALL entries
    at the end   W * M

``dns_thresholds`` is that; ``dns`` keeps splicing, hysteresis and decay, but ranks, so that it meets a sparsity.

Deviations from the paper and its code
  - biases are not pruned, and mu and sd leave them out;
  - one random draw for all layers, where the code draws for each;
  - convolutions and fully connected layers are cut together, not in two phases.
Deviations of ``dns`` alone
  - the sparsity rises on a cubic curve to its goal, as a ranking at the full sparsity at once prunes what training has
    had no time to tell apart; all layers are ranked together by |w|, or share it as ``scope`` and ``allocation`` say.
"""

from __future__ import annotations

from actprune.criteria import Hysteresis, HysteresisOverThreshold
from actprune.ranked import Ranked
from actprune.schedules import Decaying
from actprune.scopes import Allocation, Scope
from actprune.types import Budget, Schedule

Pairs = tuple[tuple[str, float], ...]


def dns(
    sparsity: float = 0.98,
    *,
    budget: Budget | None = None,
    scope: Scope = "global",
    allocation: Allocation = "uniform",
    band: float = 0.1,
    schedule: Schedule | None = None,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> Ranked:
    """Surgery at a fixed sparsity.

    band      0.1: a kept weight counts |w| / 0.9, a pruned one |w| / 1.1
    schedule  steps of the surgery, counted from the start of training; default ``Decaying(1000, 6000, ramp=2000)``
    """
    return Ranked(
        name="dns",
        criterion=Hysteresis(band),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or Decaying(1000, 6000, ramp=2000, every=16, seed=seed),
        scope=scope,
        allocation=allocation,
        regrow="dense",
        monotone=False,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        skip_output=skip_output,
        seed=seed,
    )


def dns_thresholds(
    c_rate: float = 1.0,
    *,
    c_rates: Pairs = (),
    band: float = 0.1,
    schedule: Schedule | None = None,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> Ranked:
    """As published: thresholds frozen at the first update, and the sparsity follows from training.

    c_rate   c of every layer that ``c_rates`` (pairs of fnmatch pattern and c) does not name; only that of LeNet-5's
             first fully connected layer is public (4)
    """
    return Ranked(
        name="dns_thresholds",
        criterion=HysteresisOverThreshold(band, c_rate, c_rates),
        budget=Budget.threshold(1.0),
        schedule=schedule or Decaying(1000, 6000, seed=seed),
        regrow="dense",
        monotone=False,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        skip_output=skip_output,
        seed=seed,
    )
