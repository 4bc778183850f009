"""L5: loss and score of a network on data that is resident as tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from actprune.lab.task import Classify, Task

EXAMPLES_AT_ONCE = 1024


@dataclass(frozen=True)
class Score:
    """Mean loss and the task's score; of a classifier cross-entropy (nats) and accuracy (0..1), see ``lab.task``."""

    loss: float
    accuracy: float


def evaluate(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    forward: Callable[[Tensor], Tensor] | None = None,
    task: Task | None = None,
) -> Score:
    """Evaluation mode, no gradients; every module's training flag is as before afterwards.

    data: ``(x, y)`` on the model's device. forward: how the model is called, if not directly (a Fabric wrapper).
    task: whose loss and score; classification unless given.
    """
    x, y = data
    task = Classify() if task is None else task
    call = model if forward is None else forward
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    loss = torch.zeros((), dtype=torch.float64 if x.device.type != "mps" else torch.float32, device=x.device)
    tally = torch.zeros((), dtype=torch.int64, device=x.device)
    try:
        with torch.no_grad():
            for xs, ys in zip(torch.split(x, EXAMPLES_AT_ONCE), torch.split(y, EXAMPLES_AT_ONCE), strict=True):
                out = call(xs)
                loss += task.loss(out, xs, ys, "sum")
                tally = tally + task.tally(out, xs, ys)
    finally:
        for module, flag in flags:
            module.training = flag
    return Score(float(loss) / len(x), task.score(tally, len(x)))
