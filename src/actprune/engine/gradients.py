"""Gradients for criteria that need them, kept away from the user's optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from actprune.engine.distributed import full
from actprune.errors import ObservationError


@contextmanager
def collected(model: nn.Module, prunable: Mapping[str, nn.Parameter], into: dict[str, Tensor]) -> Iterator[None]:
    """Whatever ``backward()`` leaves in ``.grad`` inside the block is added to ``into``; ``.grad`` is then as before.

    Raises ObservationError when a prunable weight received no gradient, or one that is not finite.
    """
    before = {parameter: parameter.grad for parameter in model.parameters()}
    for parameter in before:
        parameter.grad = None
    try:
        yield
        found = {name: parameter.grad for name, parameter in prunable.items()}
        _check(found)
        for name, gradient in found.items():
            assert gradient is not None  # _check has seen to it
            whole = full(gradient).clone()
            into[name] = into[name] + whole if name in into else whole
    finally:
        for parameter, gradient in before.items():
            parameter.grad = gradient


def _check(gradients: Mapping[str, Tensor | None]) -> None:
    missing = [name for name, gradient in gradients.items() if gradient is None]
    if missing:
        raise ObservationError(
            f"no gradient reached {missing}; call loss.backward() inside observe(), and leave frozen or unused layers "
            "out with skip="
        )
    for name, gradient in gradients.items():
        if gradient is not None and not bool(torch.isfinite(full(gradient)).all()):
            raise ObservationError(f"the gradient of {name} is not finite (NaN or Inf); check the loss and its inputs")
