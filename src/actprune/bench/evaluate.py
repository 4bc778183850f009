"""L5: loss and accuracy of a classifier on data that is resident as tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXAMPLES_AT_ONCE = 1024


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy (nats) and accuracy (0..1)."""

    loss: float
    accuracy: float


def evaluate(model: nn.Module, data: tuple[Tensor, Tensor], forward: Callable[[Tensor], Tensor] | None = None) -> Score:
    """Evaluation mode, no gradients; every module's training flag is as before afterwards.

    data: ``(x, y)`` on the model's device. forward: how the model is called, if not directly (a Fabric wrapper).
    """
    x, y = data
    call = model if forward is None else forward
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    loss = torch.zeros((), dtype=torch.float64 if x.device.type != "mps" else torch.float32, device=x.device)
    hits = torch.zeros((), dtype=torch.int64, device=x.device)
    try:
        with torch.no_grad():
            for xs, ys in zip(torch.split(x, EXAMPLES_AT_ONCE), torch.split(y, EXAMPLES_AT_ONCE), strict=True):
                out = call(xs)
                loss += F.cross_entropy(out.float() if out.itemsize < 4 else out, ys, reduction="sum")
                hits += (out.argmax(1) == ys).sum()
    finally:
        for module, flag in flags:
            module.training = flag
    return Score(float(loss) / len(x), int(hits) / len(x))
