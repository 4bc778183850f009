"""RigL: a network that is sparse from the start, its connections moved to where the gradient is largest.

Source: U. Evci, T. Gale, J. Menick, P. S. Castro, E. Elsen. Rigging the Lottery: Making All Tickets Winners. ICML 2020
(arXiv 1911.11134), algorithm 1.

    M = random, at densities of the Erdos-Renyi-kernel                       before training
    every dT steps, until T_end                                              dT = 100, T_end = 3/4 of training
        f = a / 2 * (1 + cos(pi * t / T_end))                                a = 0.3
        per layer   drop the share f of the kept weights with the smallest |w|
                    grow as many of those pruned before with the largest |dL/dw|, at value 0
    every step  W = W * M, and no momentum where a weight has just grown

Deviations
  - at an update the paper skips the optimizer's step; here the step is done first and the gradient it used decides;
  - the dense gradient is that of the training batch at hand, taken from ``.grad`` in the optimizer's step.
"""

from __future__ import annotations

from actprune.criteria import GradientMagnitude, Magnitude, Random
from actprune.errors import RecipeError
from actprune.ranked import Grow, Ranked
from actprune.schedules import Every
from actprune.scopes import Allocation
from actprune.types import Budget, Schedule


def rigl(
    sparsity: float = 0.9,
    *,
    budget: Budget | None = None,
    steps: int = 10_000,
    every: int = 100,
    stop: float = 0.75,
    share: float = 0.3,
    allocation: Allocation = "erk",
    schedule: Schedule | None = None,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> Ranked:
    """Constant sparsity; connections are dropped by magnitude and grown by gradient.

    Call ``prune()`` once before training: that draws the sparse network. All further updates happen in
    ``optimizer.step()``.

    steps   optimizer steps of the whole training
    every   steps between two updates
    stop    share of the training after which the connections stay
    share   of the kept weights that an update moves at first; it falls to 0 like half a cosine

    >>> rigl(0.9, steps=1000).grow.share
    0.3
    """
    if steps < 1 or every < 1 or not 0 < stop <= 1:
        raise RecipeError(f"rigl with steps={steps}, every={every} and stop={stop}: expected at least 1, 1 and 0..1")
    until = max(1, round(stop * steps))
    return Ranked(
        name="rigl",
        criterion=Magnitude(),
        first=Random(),
        grow=Grow(GradientMagnitude(), share, until),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or Every(every, until),
        scope="layer",
        allocation=allocation,
        monotone=False,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        skip_output=skip_output,
        seed=seed,
    )
