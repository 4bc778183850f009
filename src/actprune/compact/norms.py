"""L4: norms over channels of which some are gone: the same function, as those were zero."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from actprune.errors import CompactionError
from actprune.structure import Norm, eps_of, normalised


class WidthNorm(nn.Module):
    """Stands for a LayerNorm, RMSNorm or GroupNorm over ``width`` channels of which only some are left.

    It divides by the number that there were, since those that are gone were zero.

    weight, bias  ``(channels,)`` or None
    width         channels before
    """

    if TYPE_CHECKING:  # TorchScript reads annotations of a class, and cannot
        weight: Tensor | None
        bias: Tensor | None

    def __init__(self, norm: Norm, eps: float) -> None:
        super().__init__()
        self.kind, self.axis, self.width, self.groups = str(norm.kind), norm.axis, norm.width, norm.groups
        self.offset, self.eps = norm.offset, eps
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    @classmethod
    def of(cls, module: nn.Module, norm: Norm) -> Self:
        """Take the place of ``module``; its tensors are the same ones."""
        new = cls(norm, eps_of(module, norm))
        new.training = module.training
        for name, parameter in module._parameters.items():
            new._parameters["weight" if name == "scale" else name] = parameter
        return new

    def forward(self, x: Tensor) -> Tensor:
        """``x`` normalised over its channels, as if the missing ones were there and zero. Any shape, any float type."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        weight = None if self.weight is None else self.weight.to(wide.dtype)
        bias = None if self.bias is None else self.bias.to(wide.dtype)
        made = normalised(wide, self.kind, self.axis, self.width, self.groups, self.offset, weight, bias, self.eps)
        return made.to(x.dtype)

    def extra_repr(self) -> str:
        """Kind and sizes."""
        left = "" if self.weight is None else f"{len(self.weight)} of "
        return f"{self.kind}, {left}{self.width} channels, eps={self.eps}"


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
