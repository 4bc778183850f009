"""Variational dropout: learn how much noise every weight bears, and remove those that are mostly noise.

Source: D. Molchanov, A. Ashukha, D. Vetrov. Variational Dropout Sparsifies Deep Neural Networks. ICML 2017
(arXiv 1701.05369); KL and constants in ``penalties.variational``.

    learn (theta, log sigma2) on noisy outputs, with the loss  cross entropy + rho * KL / examples
    rho from 0 to 1 in a warm-up; Adam, learning rate falling to 0
    M = log alpha < 3, log alpha = log sigma2 - log theta^2      one ranking for all layers, output layer included
    W = theta * M, no noise, no retraining

``variational_dropout`` keeps the lowest log alpha within a budget, for comparisons at equal sparsity;
``variational_dropout_threshold`` is as published.

What is learnt has to be trained: give ``pruner.extra_parameters()`` to the optimizer, without weight decay, and add
``pruner.penalty()`` to the loss.

Deviations from the paper
  - far fewer steps by default (the paper: 200 epochs, KL off for 5 and ramped over 15), hence a higher log variance to
    start from;
  - a weight at log alpha = 3 exactly stays.
"""

from __future__ import annotations

from actprune.criteria import LogAlpha
from actprune.errors import RecipeError
from actprune.penalties import VariationalDropout
from actprune.ranked import Ranked
from actprune.schedules import OneShot
from actprune.types import Budget, Schedule


def variational_dropout(
    sparsity: float = 0.985,
    *,
    budget: Budget | None = None,
    examples: int = 54_000,
    steps: int = 13_500,
    ramp: tuple[float, float] = (0.05, 0.3),
    log_sigma2: float = -8.0,
    schedule: Schedule | None = None,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> Ranked:
    """The lowest log alpha stay, within a budget, in one global ranking.

    examples    training examples, over which the KL is shared out
    steps       optimizer steps of training with noise; then it prunes, unless ``schedule`` says otherwise
    ramp        when the KL's factor leaves 0 and when it reaches 1, as fractions of ``steps``
    log_sigma2  log variance to start from
    """
    return Ranked(
        name="variational_dropout",
        criterion=LogAlpha(),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(at_step=steps),
        penalty=_penalty(examples, steps, ramp, log_sigma2),
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        skip_output=skip_output,
        seed=seed,
    )


def variational_dropout_threshold(
    threshold: float = 3.0,
    *,
    examples: int = 54_000,
    steps: int = 13_500,
    ramp: tuple[float, float] = (0.05, 0.3),
    log_sigma2: float = -8.0,
    schedule: Schedule | None = None,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> Ranked:
    """As published: what has a log alpha above ``threshold`` goes, and the sparsity follows."""
    return Ranked(
        name="variational_dropout_threshold",
        criterion=LogAlpha(),
        budget=Budget.threshold(-threshold),
        schedule=schedule or OneShot(at_step=steps),
        penalty=_penalty(examples, steps, ramp, log_sigma2),
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        skip_output=skip_output,
        seed=seed,
    )


def _penalty(examples: int, steps: int, ramp: tuple[float, float], log_sigma2: float) -> VariationalDropout:
    start, end = ramp
    if steps < 1 or not 0 <= start <= end <= 1:
        raise RecipeError(
            f"variational dropout with steps={steps} and ramp={ramp}; expected at least one step, and two fractions of "
            "them in order, such as (0.05, 0.3)"
        )
    return VariationalDropout(examples, round(start * steps), round(end * steps), log_sigma2_init=log_sigma2)
