"""Taylor: remove the neurons or channels whose removal changes the loss least, by a first-order expansion.

Source: Molchanov, Mallya, Tyree, Frosio, Kautz. Importance Estimation for Neural Network Pruning. CVPR 2019
(arXiv 1906.10771), equation 8 over the parameters of a unit: I = (sum over the unit of g w)^2.

    repeat: show batches, take gradients of the training loss
            I(unit) = (sum_s g_s w_s)^2          the squared change of the loss when the unit is set to zero
            remove the units with the smallest I, in one ranking over all layers; fine-tune

Deviations
  - the gradient is summed over the batches and then squared; the paper squares for each batch and averages. With one
    batch both rank alike; with several, contributions of opposite sign cancel here. (A sum of squares could be added up
    over ranks as well; the evidence ``Gradient`` keeps only the sum.)
  - pruned from ``optimizer.step()`` with nothing observed, a step ranks by its own gradient alone (one batch; the paper
    averages over many), and by the weights behind the update, while the gradient is from before it;
  - a unit's parameters are its incoming weights; the bias, batch norm and the paper's gates are not scored. Coupled
    groups (``Channel()``) are scored by the weights that read them, whose sum of g w is that of a gate on the
    activation: of several layers that read a group the largest counts, where a gate would add them up;
  - only the first-order form; the second-order one (eq. 7) is left out;
  - how many go, and when, comes from a schedule and a budget of weights, not from a number of units per some batches.
"""

from __future__ import annotations

from actprune.criteria import Taylor
from actprune.rank.units import Neuron
from actprune.ranked import Ranked
from actprune.schedules import OneShot
from actprune.scopes import Scope
from actprune.types import Budget, Schedule, Unit


def taylor(
    sparsity: float = 0.5,
    *,
    budget: Budget | None = None,
    scope: Scope = "global",
    unit: Unit = Neuron(),  # noqa: B008  (frozen)
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
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        unit=unit,
        scope=scope,
        skip_output=True,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        seed=seed,
    )
