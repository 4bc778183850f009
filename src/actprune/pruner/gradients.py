"""Gradients of the training loss: taken inside a block and kept away from the user's optimizer, or read as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from actprune.errors import ObservationError
from actprune.pruner.distributed import full
from actprune.pruner.model import PrunableModel


@contextmanager
def collected(model: PrunableModel, into: dict[str, Tensor], *, required: bool) -> Iterator[None]:
    """Whatever ``backward()`` leaves in ``.grad`` inside the block is added to ``into``; ``.grad`` is then as before.

    required: ``backward()`` must have been called. Raises ObservationError when a prunable weight received no gradient,
    or one that is not finite.
    """
    before: dict[nn.Parameter, Tensor | None] = {parameter: parameter.grad for parameter in model.root.parameters()}
    for parameter in before:
        parameter.grad = None
    try:
        yield
        if not required and all(parameter.grad is None for parameter in model.parameters().values()):
            return
        for name, gradient in present(model, "call loss.backward() inside observe()").items():
            into[name] = into[name] + gradient if name in into else gradient
    finally:
        for parameter, was in before.items():
            parameter.grad = was


def present(model: PrunableModel, how: str = "call loss.backward() before optimizer.step()") -> dict[str, Tensor]:
    """Copies of the gradients that are in ``.grad``, full ones, of all weights that are scored and have one.

    Raises ObservationError when a prunable weight has none, or a gradient is not finite.
    """
    missing = [name for name, parameter in model.parameters().items() if parameter.grad is None]
    if missing:
        raise ObservationError(
            f"no gradient reached {missing}; {how}, and leave frozen or unused layers out with skip="
        )
    found = {}
    for name, parameter in model.evident().items():
        if parameter.grad is None:
            continue
        found[name] = full(parameter.grad).clone()
        if not bool(torch.isfinite(found[name]).all()):
            raise ObservationError(f"the gradient of {name} is not finite (NaN or Inf); check the loss and its inputs")
    return found
