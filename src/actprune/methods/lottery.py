"""Lottery tickets: iterative magnitude pruning, the survivors reset to their initial values after every round.

Source: J. Frankle, M. Carbin. The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks. ICLR 2019
(arXiv 1803.03635). Late rewinding: Frankle, Dziugaite, Roy, Carbin 2020 (arXiv 1903.01611). Learning-rate rewinding:
Renda, Frankle, Carbin 2020 (arXiv 2003.02389).

    theta_0 = init; M = 1
    repeat   train theta_0 * M  ->  theta
             per layer drop the p smallest share of |theta| among the survivors (the output layer: p / 2)
             survivors back to theta_0  (late: to theta_k;  learning rate only: they stay, the schedule is replayed)
    train once more

Deviations: p follows from sparsity and rounds; optimizer state is forgotten at each rewinding; the batch order goes on
instead of starting again (``lab`` draws one per epoch). The control that the paper re-initialises gets its own
initial weights dealt out anew within each layer, which keeps their distribution whatever it is.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from actprune.criteria import Magnitude
from actprune.edit import Repair
from actprune.errors import RecipeError, one_of
from actprune.ranked import Ranked
from actprune.repair import Reshuffle, Rewind, RewindRate
from actprune.schedules import EqualSurvivors
from actprune.scopes import Rates
from actprune.types import Budget, Schedule

Variant = Literal["ticket", "rate", "control"]


def lottery(
    sparsity: float = 0.865,
    *,
    variant: Variant = "ticket",
    to_step: int = 0,
    pruning_steps: int = 9,
    schedule: Schedule | None = None,
    output_rate: float = 0.5,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    seed: int = 0,
) -> Ranked:
    """Iterative magnitude pruning with rewinding, each layer at the same rate.

    variant      "ticket": weights and learning rate go back to ``to_step``; "rate": only the learning rate does;
                 "control": after the last pruning the initial weights are dealt out anew
    to_step      optimizer steps into training, 0 for the initial values
    pruning_steps  rounds, if ``prune()`` is called by hand; a schedule such as ``EqualSurvivors(9, every=4000)`` calls
    output_rate  how fast the output layer is pruned: p * output_rate of its survivors a round; 0: never
    """
    budget = Budget.sparsity(sparsity)  # refuses what the formulas below cannot take
    plan = schedule or EqualSurvivors(pruning_steps)
    rounds = plan.pruning_steps or pruning_steps
    p = 1 - (1 - sparsity) ** (1 / rounds)
    if not 0 <= p * output_rate < 1:
        raise RecipeError(f"output_rate={output_rate!r} at {p:.3g} a round: expected it to leave the output layer some")
    slower = math.log1p(-p * output_rate) / math.log1p(-p) if p else 1.0
    one_of("variant", variant, get_args(Variant))
    back: dict[str, Repair] = {
        "ticket": Rewind(to_step), "rate": RewindRate(to_step), "control": Reshuffle(seed)
    }  # fmt: skip
    return Ranked(
        name="lottery",
        criterion=Magnitude(),
        budget=budget,
        schedule=plan,
        repairs=(back[variant],),
        scope="layer",
        allocation=Rates(output=slower),
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        seed=seed,
    )
