"""Seeing through wrappers: layers by module path, optimizers inside their wrappers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer


def layer_of(model: nn.Module, path: str) -> Any:
    """The Linear or conv at a module path. Its weight is reached this way, as wrappers deep inside a model (activation
    checkpointing, compiled parts) make the clean weight name differ from the path.
    """
    return model.get_submodule(path)


def unwrap_optimizer(optimizer: Optimizer) -> Optimizer:
    """The torch optimizer inside a Lightning Fabric wrapper (whose step hooks would not fire)."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return inner if isinstance(inner, Optimizer) else optimizer


Closure = Callable[[], Any]


def around_closure(
    args: tuple[Any, ...], kwargs: dict[str, Any], around: Callable[[Closure], Closure]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """What ``Optimizer.step`` was called with, its closure inside another; None when it was called without one.

    ``args`` starts with the optimizer itself, as step hooks get it.
    """
    if kwargs.get("closure") is not None:
        return args, {**kwargs, "closure": around(kwargs["closure"])}
    if len(args) > 1 and args[1] is not None:
        return (args[0], around(args[1]), *args[2:]), kwargs
    return None
