"""Training under a (weighted) nuclear norm, so that the weights end up near low rank.

Sources: J.-F. Cai, E. J. Candes, Z. Shen, SIAM J. Optim. 20, 2010 (arXiv 0810.3286): thresholding of singular values;
S. Gu, L. Zhang, W. Zuo, X. Feng, CVPR 2014: weights. That activation-based pruning acts like these two is the central
hypothesis of T. Ganguli, E. K. P. Chong, Algorithms 17(1):48, 2024; their code has weights w_i = i and the subgradient.

    repeat  w <- optimizer step on the loss
            every T steps   W = U diag(s) V^T;   s_i <- (s_i - t w_i)_+          (how="proximal")
            or: loss + strength * sum_i w_i s_i, gradient U diag(w) V^T           (how="subgradient")
    then the norm is lifted, and one of two ends follows
            masks    the smallest |w| go, to ``sparsity`` (the end of every recipe, and the only one the Pruner knows)
            factors  sparsity=0; lowrank.replace(model, lowrank.ranks_within(model, names, budget)): layers as two of
                     rank k, which is what the norm prepares

Deviations: T > 1, for a decomposition at every step costs more than the step; the amount of a proximal step falls to 0
like a cosine learning rate unless ``horizon=None``; the article's code switches the norm on and off by epochs.
"""

from __future__ import annotations

from actprune.criteria import Magnitude
from actprune.penalties import NuclearNorm
from actprune.penalties.nuclear import How, Weights
from actprune.ranked import Ranked
from actprune.schedules import OneShot
from actprune.scopes import Scope
from actprune.types import Budget, Schedule


def nuclear_norm(
    sparsity: float = 0.9,
    *,
    budget: Budget | None = None,
    strength: float = 1e-2,
    weights: Weights = "uniform",
    how: How = "proximal",
    every: int = 20,
    steps: int = 5_000,
    decays: bool = True,
    scope: Scope = "global",
    schedule: Schedule | None = None,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> Ranked:
    """The norm of every prunable weight while training, until a magnitude pruning after four fifths of the steps.

    strength, weights, how, every  see ``penalties.NuclearNorm``; weights="uniform" is NNM, the others are WNNM
    steps                          optimizer steps of the whole training
    decays                         the amount of a proximal step falls to 0 over ``steps``, as the learning rate should
    schedule                       instead of that one pruning; with several, the norm stays until the last

    >>> nuclear_norm(0.9, weights="index").penalty.weights
    'index'
    """
    return Ranked(
        name="nuclear_norm",
        criterion=Magnitude(),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(at_step=max(1, steps * 4 // 5)),
        penalty=NuclearNorm(strength, weights, how, every, steps if decays and how == "proximal" else None),
        scope=scope,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        skip_output=skip_output,
        seed=seed,
    )
