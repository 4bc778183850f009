"""SET, sparse evolutionary training: a sparse network whose weakest connections are replaced at random.

Source: D. C. Mocanu, E. Mocanu, P. Stone, P. H. Nguyen, M. Gibescu, A. Liotta. Scalable training of artificial neural
networks with adaptive sparse connectivity inspired by network science. Nature Communications 9:2383, 2018
(arXiv 1707.04780), algorithm 1.

    M = random, eps (n_in + n_out) connections per layer (Erdos-Renyi)       before training
    after every epoch, but the last
        per layer   remove the share zeta of the smallest positive and of the largest negative weights
                    add as many at random places

Deviations
  - a budget instead of eps: densities are those of the Erdos-Renyi-kernel at this sparsity;
  - a grown weight starts at 0, where the authors' code draws a new value, and is none of those just removed.
"""

from __future__ import annotations

from actprune.criteria import MagnitudeWithinSign, Random
from actprune.errors import RecipeError
from actprune.ranked import Grow, Ranked
from actprune.schedules import Every
from actprune.scopes import Allocation
from actprune.types import Budget, Schedule


def sparse_evolutionary(
    sparsity: float = 0.9,
    *,
    budget: Budget | None = None,
    steps: int = 10_000,
    steps_per_epoch: int = 500,
    share: float = 0.3,
    allocation: Allocation = "erk",
    schedule: Schedule | None = None,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> Ranked:
    """Constant sparsity; the weakest of each sign go and as many grow at random, once an epoch.

    Call ``prune()`` once before training: that draws the sparse network.

    steps            optimizer steps of the whole training
    steps_per_epoch  between two updates
    share            zeta, of the kept weights that an update replaces
    """
    if steps < 1 or steps_per_epoch < 1:
        raise RecipeError(f"steps={steps} and steps_per_epoch={steps_per_epoch}: expected at least one of each")
    until = max(1, steps - steps_per_epoch)
    return Ranked(
        name="sparse_evolutionary",
        criterion=MagnitudeWithinSign(),
        first=Random(),
        grow=Grow(Random(anew=True), share),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or Every(min(steps_per_epoch, until), until),
        scope="layer",
        allocation=allocation,
        monotone=False,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        skip_output=skip_output,
        seed=seed,
    )
