"""RIA: Wanda's score with every weight taken relative to those of its own row and column; no retraining needed.

    score(w_ij)   (|w_ij| / sum_j |w_ij| + |w_ij| / sum_i |w_ij|) * ||x_j||_2^0.5
    prune         the same fraction of each row

Source: Zhang, Bai, Lin, Zhao, Hou, Cannistraci. Plug-and-Play: An Efficient Post-training Pruning Method for Large
Language Models. ICLR 2024. ``scope=NM(2, 4)`` gives its 2:4 variant.

Deviations
  - layers are scored on the dense model's inputs at once, not layer by layer behind already pruned ones;
  - the permutation of channels that the paper adds to n:m patterns is left out.
"""

from __future__ import annotations

from actprune.criteria import RelativeImportance
from actprune.ranked import Ranked
from actprune.schedules import OneShot
from actprune.scopes import Scope
from actprune.types import Budget, Schedule


def ria(
    sparsity: float = 0.5,
    *,
    budget: Budget | None = None,
    power: float = 0.5,
    scope: Scope = "row",
    schedule: Schedule | None = None,
    skip_output: bool = False,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    seed: int = 0,
) -> Ranked:
    """Relative importance times a power of the input's norm; each row (output) loses the same fraction.

    power  of the norm; 0: weights alone

    >>> ria(0.5).criterion
    RelativeImportance(power=0.5)
    """
    return Ranked(
        name="ria",
        criterion=RelativeImportance(power),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        scope=scope,
        skip_output=skip_output,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        seed=seed,
    )
