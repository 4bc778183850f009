"""Movement pruning: keep the weights that move away from zero, by scores learnt through the mask.

Source: V. Sanh, T. Wolf, A. M. Rush. Movement Pruning: Adaptive Sparsity by Fine-Tuning. NeurIPS 2020
(arXiv 2005.07683), section 4.

    S = 0
    forward   W' = W * M,  M = top v of S in each layer
    backward  dL/dW = dL/dW' * M;   dL/dS = dL/dW' * W      (straight through the top v)
    S falls by the learning rate times its gradient, so it sums -lr * dL/dW' * W
    v on a cubic curve from 1 to its goal; what is behind the mask stays as it was and may come back

Deviations
  - the mask is chosen anew at the schedule's pruning steps, not at every forward (``every=1`` does that);
  - biases and the rest of the network are not scored.

What is learnt has to be trained: give ``pruner.extra_parameters()`` to the optimizer, without weight decay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from actprune.criteria import LearntScore
from actprune.errors import RecipeError
from actprune.ranked import Ranked
from actprune.recipes import register
from actprune.schedules import Cubic
from actprune.scopes import Scope
from actprune.types import Budget, Penalty, Schedule

NAME = "movement"


@register
@dataclass(frozen=True)
class MovementScores(Penalty):
    """Learns a score beside every weight, through the mask, straight through."""

    def learnt(self, weight: Tensor) -> dict[str, Tensor]:
        """Zeros of the shape of the weight, at least float32."""
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return {NAME: torch.zeros_like(weight, dtype=dtype, requires_grad=False)}

    def before_step(self, weight: Tensor, gradient: Tensor, learnt: Mapping[str, Tensor]) -> None:
        """``dL/dS = dL/dW' * W`` with the dense weight W."""
        score = learnt[NAME]
        score.grad = gradient.to(score.dtype) * weight.to(score.dtype)


def movement(
    sparsity: float = 0.9,
    *,
    budget: Budget | None = None,
    steps: int = 10_000,
    ramp: tuple[float, float] = (0.1, 0.7),
    every: int = 10,
    scope: Scope = "layer",
    schedule: Schedule | None = None,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> Ranked:
    """The highest movement scores stay, in each layer alike.

    steps  optimizer steps of the whole training
    ramp   where the cubic curve begins and where it ends, as fractions of ``steps``
    every  steps between two choices of the mask
    """
    if steps < 1 or not 0 <= ramp[0] <= ramp[1] <= 1:
        raise RecipeError(
            f"movement with steps={steps} and ramp={ramp}: expected at least 1, and two fractions in order"
        )
    begin = round(ramp[0] * steps)
    end = max(begin + 1, round(ramp[1] * steps))
    return Ranked(
        name="movement",
        criterion=LearntScore(NAME),
        penalty=MovementScores(),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or Cubic(begin, end, min(every, end - begin)),
        scope=scope,
        regrow="dense_frozen",
        monotone=False,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        skip_output=skip_output,
        seed=seed,
    )
