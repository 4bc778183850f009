"""Automated gradual pruning: magnitude along a cubic curve while training, the same sparsity in every layer.

    s_t = s_f - s_f (1 - (t - t0) / (n dt))^3     for t = t0, t0 + dt, .., t0 + n dt
    at each such step every layer keeps its largest |w|, so that its sparsity is s_t; then training goes on

Source: M. Zhu, S. Gupta. To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model Compression. ICLR 2018
workshop (arXiv 1710.01878), equation 1, with s_i = 0.

Deviation: what is pruned stays pruned (``regrow="frozen"``). With ``regrow="dense_frozen"`` the value behind a mask
waits, and every step ranks all of them anew, as where masks are computed from stored weights.
"""

from __future__ import annotations

from typing import Literal

from actprune.criteria import Magnitude
from actprune.ranked import Ranked
from actprune.schedules import Cubic
from actprune.scopes import Scope
from actprune.types import Budget, Schedule


def gradual_magnitude(
    sparsity: float = 0.9,
    *,
    budget: Budget | None = None,
    begin: int = 0,
    end: int = 10_000,
    every: int = 100,
    regrow: Literal["frozen", "dense_frozen"] = "frozen",
    scope: Scope = "layer",
    schedule: Schedule | None = None,
    skip_output: bool = False,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    seed: int = 0,
) -> Ranked:
    """|w| in every ``every``-th ``optimizer.step()`` from ``begin`` to ``end``.

    begin, end  optimizer steps; the learning rate should have settled at ``begin`` and still move things at ``end``
    regrow      "frozen", or "dense_frozen": a weight may come back with the value that it had
    scope       "layer" (the paper's; best there), or "global"

    >>> gradual_magnitude(0.9, end=2000).schedule
    Cubic(begin=0, end=2000, every=100)
    """
    return Ranked(
        name="gradual_magnitude",
        criterion=Magnitude(),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or Cubic(begin, end, every),
        scope=scope,
        regrow=regrow,
        monotone=regrow == "frozen",
        skip_output=skip_output,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        seed=seed,
    )
