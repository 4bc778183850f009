"""Optimal brain damage: remove the weights whose removal costs the loss least, to second order and one by one.

    h_k = d^2 L / d w_k^2, the diagonal of the Hessian          here: mean over examples of (dL/dw_k)^2
    s_k = h_k w_k^2 / 2
    remove the weights with the smallest s_k; retrain; again

Source: Y. LeCun, J. Denker, S. Solla. Optimal Brain Damage. NIPS 1989, equation 5 and the recipe of section 2.

Deviations
  - the paper propagates second derivatives back (its Levenberg-Marquardt approximation); the diagonal of the empirical
    Fisher matrix stands for them, which is equal in expectation where the model's own distribution holds. It is exact
    for one example per ``backward()``; with mini-batches it is of their mean gradients;
  - how many go, and when, comes from a budget and a schedule.
"""

from __future__ import annotations

from actprune.criteria import Fisher
from actprune.rank.units import Weight
from actprune.ranked import Ranked
from actprune.schedules import OneShot
from actprune.scopes import Scope
from actprune.types import Budget, Schedule, Unit


def obd(
    sparsity: float = 0.9,
    *,
    budget: Budget | None = None,
    scope: Scope = "global",
    unit: Unit = Weight(),  # noqa: B008  (frozen)
    schedule: Schedule | None = None,
    skip_output: bool = False,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    seed: int = 0,
) -> Ranked:
    """w^2 times the squared gradient, one global ranking, of a trained network.

    Call ``loss.backward()`` inside ``pruner.observe()``, once for each small batch.
    """
    return Ranked(
        name="obd",
        criterion=Fisher(),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        unit=unit,
        scope=scope,
        skip_output=skip_output,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        seed=seed,
    )
