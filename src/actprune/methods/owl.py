"""OWL: Wanda with more kept where more weights stand out.

    A(w_ij) = |w_ij| * ||x_j||_2
    D_b     = share of the weights of block b with A > M * mean of A in b       M = 5
    d_b     = density + D_b - mean D, after D was brought to 0 .. 2 lambda      lambda = 0.08
    prune   each row of every layer of block b to the density d_b, by A

Source: Yin, Wu, Zhang, Hsieh, Wang, Jia, Pechenizkiy, Liang, Wang, Liu. Outlier Weighed Layerwise Sparsity (OWL): A
Missing Secret Sauce for Pruning LLMs to High Sparsity. ICML 2024 (arXiv 2310.05175), section 3.

Deviation: layers are looked at on the dense model's inputs at once, not block by block behind already pruned ones.
"""

from __future__ import annotations

from actprune.criteria import Outliers, Wanda
from actprune.ranked import Ranked
from actprune.schedules import OneShot
from actprune.types import Budget, Schedule


def owl(
    sparsity: float = 0.5,
    *,
    budget: Budget | None = None,
    times: float = 5.0,
    spread: float = 0.08,
    schedule: Schedule | None = None,
    skip_output: bool = False,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    seed: int = 0,
) -> Ranked:
    """Wanda's score, ranked within rows, at densities by block that follow the share of outliers.

    times   an outlier scores more than so many times the mean of its block (M in the paper)
    spread  densities differ by at most twice this (lambda)

    >>> owl(0.7).allocation.spread
    0.08
    """
    return Ranked(
        name="owl",
        criterion=Wanda(),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        scope="row",
        allocation=Outliers(times, spread),
        skip_output=skip_output,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        seed=seed,
    )
