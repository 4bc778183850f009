"""GraSP: prune once before training, so that as much gradient as possible flows through what is left.

    g = dL/dw on one batch        H g = d<g, stop(g)>/dw
    S = -w * (H g)                what the removal of w does to the squared norm of the gradient, to first order
    remove the weights with the LARGEST S, in one ranking: those whose removal raises the norm, or hurts it least

Source: C. Wang, G. Zhang, R. Grosse. Picking Winning Tickets Before Training by Preserving Gradient Flow. ICLR 2020
(arXiv 2002.07376), equation 8 and algorithm 2. |S| would be another method.

Deviations
  - the authors divide the logits by a temperature of 200, draw the last layer anew for the score, and take a
    class-balanced batch in two halves: that is up to your loss and batch, ``cross_entropy(model(x) / 200, y)``;
  - the gradient is taken in evaluation mode, theirs in training mode (batch statistics); biases are not pruned.
"""

from __future__ import annotations

from actprune.criteria import GradientFlow
from actprune.ranked import Ranked
from actprune.schedules import OneShot
from actprune.scopes import Scope
from actprune.types import Budget, Schedule


def grasp(
    sparsity: float = 0.9,
    *,
    budget: Budget | None = None,
    scope: Scope = "global",
    schedule: Schedule | None = None,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> Ranked:
    """Gradient flow, one global ranking, before training.

    Call ``loss.backward(create_graph=True)`` inside ``pruner.observe()``; the engine keeps the gradients away from your
    optimizer. Every operation of the model needs a second derivative.
    """
    return Ranked(
        name="grasp",
        criterion=GradientFlow(),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        scope=scope,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        skip_output=skip_output,
        seed=seed,
    )
