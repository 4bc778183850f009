"""Seeing through wrappers: layers by module path, optimizers inside their wrappers."""

from __future__ import annotations

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
