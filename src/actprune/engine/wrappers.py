"""Seeing through wrappers, so that names are the clean ones of the user's own model."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside ``torch.compile``, DDP, DataParallel, an EMA copy or a Lightning Fabric wrapper."""
    while True:
        if isinstance(model, (DistributedDataParallel, DataParallel, AveragedModel)) or _from_fabric(model):
            model = model.module  # type: ignore[assignment]
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):  # what torch.compile returns
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def unwrap_optimizer(optimizer: Optimizer) -> Optimizer:
    """The torch optimizer inside a Lightning Fabric wrapper (whose step hooks would not fire)."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return inner if isinstance(inner, Optimizer) else optimizer


def _from_fabric(model: nn.Module) -> bool:
    return type(model).__name__ == "_FabricModule"  # by name: Fabric is an optional extra
