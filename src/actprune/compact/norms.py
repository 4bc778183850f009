"""L4: norms over channels of which some are gone: the same function, as those were zero."""

from __future__ import annotations

import math

import torch
from torch import nn

from actprune.errors import CompactionError
from actprune.structure import Norm, WidthNorm, eps_of


def rescale(module: nn.Module, norm: Norm, left: int) -> None:
    """An RMSNorm over k of n channels is the same function with ``weight * sqrt(n / k)`` and ``eps * n / k``."""
    factor = norm.width / left
    name = "weight" if "weight" in module._parameters else "scale"
    weight = module._parameters[name]
    assert weight is not None
    with torch.no_grad():
        value = (1 + weight if norm.offset else weight) * math.sqrt(factor)
        weight.copy_(value - 1 if norm.offset else value)
    setattr(module, str(norm.eps), eps_of(module, norm) * factor)


def put(root: nn.Module, path: str, norm: Norm, left: int, exact: bool) -> str:
    """Make the norm at ``path`` right for ``left`` channels; returns what was done, for the report."""
    module = root.get_submodule(path)
    if isinstance(module, WidthNorm):
        return "kept its width"
    if not exact:
        return f"a plain norm over {left} of {norm.width} channels"
    rescalable = (
        norm.kind == "rms"
        and isinstance(norm.eps, str)
        and any(module._parameters.get(name) is not None for name in ("weight", "scale"))
    )
    if rescalable:
        rescale(module, norm, left)
        return "weight and eps rescaled"
    if next(module.children(), None) is not None:
        raise CompactionError(f"{path} normalises over channels of which some go, and cannot be replaced")
    parent, _, leaf = path.rpartition(".")
    root.get_submodule(parent)._modules[leaf] = WidthNorm.of(module, norm)
    return f"divides by {norm.width}"
