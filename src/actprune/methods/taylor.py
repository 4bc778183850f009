"""Taylor: remove the neurons or channels whose removal changes the loss least, by a first-order expansion.

Source: Molchanov, Mallya, Tyree, Frosio, Kautz. Importance Estimation for Neural Network Pruning. CVPR 2019
(arXiv 1906.10771), equation 8 over the parameters of a unit: I = (sum over the unit of g w)^2.

    repeat: show batches, take gradients of the training loss
            I(unit) = (sum_s g_s w_s)^2          the squared change of the loss when the unit is set to zero
            remove the units with the smallest I, in one ranking over all layers; fine-tune

Deviations: the gradient is summed over the batches and then squared; the paper squares per batch and averages. Evidence
here is sums that add up over ranks; with one batch both are the same. A unit's parameters are its incoming weights; the
paper may add bias and batch norm, or score a gate behind the batch norm. How many go at a step comes from a schedule.
"""

from __future__ import annotations

from actprune.criteria import Taylor
from actprune.rank.units import Neuron
from actprune.ranked import Ranked
from actprune.schedules import OneShot
from actprune.scopes import Scope
from actprune.types import Budget, Schedule


def taylor(
    sparsity: float = 0.5,
    *,
    scope: Scope = "global",
    schedule: Schedule | None = None,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    seed: int = 0,
) -> Ranked:
    """Whole neurons or channels with the least (sum of g w)^2 go, ranked globally; the output layer is left alone.

    Call ``loss.backward()`` inside ``pruner.observe()``, or prune from ``optimizer.step()``.
    """
    return Ranked(
        name="taylor",
        criterion=Taylor(),
        budget=Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        unit=Neuron(),
        scope=scope,
        skip_output=True,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        seed=seed,
    )
