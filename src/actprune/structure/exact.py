"""L2: which normalisation a module computes, whoever wrote it, found by trying; and the one that keeps its width."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor, nn

Kind = Literal["layer", "group", "rms"]
_EPS = ("eps", "variance_epsilon", "epsilon", "norm_eps", "layer_norm_eps", "layer_norm_epsilon")
_USUAL = 1e-5  # of PyTorch's own, where a module has no attribute for it


@dataclass(frozen=True)
class Norm:
    """A norm over channels.

    kind    what is computed
    axis    of the channels: 1 or -1
    width   channels
    eps     name of the attribute with the small number, or the number where there is none
    offset  the weight counts from 0: ``1 + weight``
    groups  of a group norm
    """

    kind: Kind
    axis: int
    width: int
    eps: str | float
    offset: bool = False
    groups: int = 1


def norm_of(module: nn.Module) -> Norm | None:
    """What a module without children computes, if that is a norm of its input over channels; None: something else."""
    if isinstance(module, WidthNorm):
        return module.norm
    if isinstance(module, nn.GroupNorm):
        found = Norm("group", 1, module.num_channels, "eps", groups=module.num_groups)
        return found if type(module).forward is nn.GroupNorm.forward or _computes(module, found) else None
    bare = isinstance(module, nn.RMSNorm) and module.eps is None
    eps = "eps" if bare else next((name for name in _EPS if isinstance(getattr(module, name, None), float)), None)
    width = _width(module)
    if width is None or next(module.children(), None) is not None:
        return None
    for axis in (-1, 1):
        for kind, offset in (("layer", False), ("rms", False), ("rms", True), ("layer", True)):
            found = Norm(kind, axis, width, _USUAL if eps is None else eps, offset)  # type: ignore[arg-type]
            if _computes(module, found):
                return found
    return None


def _width(module: nn.Module) -> int | None:
    weight = module._parameters.get("weight", None)
    if weight is None:
        weight = module._parameters.get("scale", None)
    if weight is not None:
        return len(weight) if weight.dim() == 1 else None
    shape = getattr(module, "normalized_shape", None)
    return shape[0] if isinstance(shape, (tuple, list)) and len(shape) == 1 else None


@torch.no_grad()
def _computes(module: nn.Module, norm: Norm) -> bool:
    """Whether the module does what ``norm`` says on random numbers, with weights of random numbers."""
    generator = torch.Generator().manual_seed(0)
    try:
        probe = copy.deepcopy(module).to("cpu", torch.float64).eval()
        for parameter in probe.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.5)
        shape = (2, 3, norm.width) if norm.axis == -1 else (2, norm.width, 3, 4)
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        got = probe(x)
    except Exception:  # it takes something else: whatever it is, it is not this norm
        return False
    if not isinstance(got, Tensor) or got.shape != x.shape:
        return False
    weight = probe._parameters.get("weight", probe._parameters.get("scale"))
    bias, eps = probe._parameters.get("bias"), eps_of(probe, norm)
    expected = normalised(x, norm.kind, norm.axis, norm.width, norm.groups, norm.offset, weight, bias, eps)
    return bool((got - expected).abs().max() < 1e-5)  # it may compute in float32 whatever it is given


def eps_of(module: nn.Module, norm: Norm) -> float:
    """The small number; where there is none (``nn.RMSNorm``) PyTorch takes the rounding of the input's type."""
    known = norm.eps if isinstance(norm.eps, float) else getattr(module, norm.eps)
    tensor = next(module.parameters(), torch.empty(0))
    return float(torch.finfo(tensor.dtype).eps if known is None else known)


def normalised(  # noqa: PLR0917  (TorchScript has no keywords-only, and no dataclasses)
    x: Tensor, kind: str, axis: int, width: int, groups: int, offset: bool, weight: Tensor | None, bias: Tensor | None,
    eps: float,
) -> Tensor:  # fmt: skip
    """``x`` normalised over ``width`` entries of an axis, of which those that are missing are zero. See ``Norm``.

    A group norm is PyTorch's fused one with zeros in the place of what is missing: that is faster than the formula in
    steps, which the others are (the fused layer norm gives its mean and deviation, but no gradient of them). No
    function is used that the model's own code may have with sizes in it: nothing may rewrite those.
    """
    if offset and weight is not None:
        weight = 1 + weight
    if kind == "group":
        return _by_group(x, width, groups, weight, bias, eps)
    x = x.transpose(axis, -1)
    if kind == "rms":
        made = x * torch.rsqrt(x.square().sum(-1, keepdim=True) / width + eps)
        made = made if weight is None else made * weight
        made = made if bias is None else made + bias
    else:
        made = _by_layer(x, width, eps)
        made = made if weight is None else made.mul_(weight)
        made = made if bias is None else made.add_(bias)
    return made.transpose(axis, -1)


def _by_layer(x: Tensor, width: int, eps: float) -> Tensor:
    """Each of the n - k that are missing is as far from the mean as 0 is."""
    mean = x.sum(-1, keepdim=True) / width
    centred = x - mean
    squares = torch.linalg.vector_norm(centred, dim=-1, keepdim=True).square()
    variance = squares / width + mean.square() * (1 - x.shape[-1] / width)
    return centred * torch.rsqrt(variance + eps)


def _by_group(  # noqa: PLR0917  (as ``normalised``)
    x: Tensor, width: int, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    left = x.shape[1] // groups
    missing = width // groups - left
    each = torch.ops.aten.reshape(x, [x.shape[0], groups, left, -1])
    wide = torch.ops.aten.reshape(torch.ops.aten.constant_pad_nd(each, [0, 0, 0, missing]), [x.shape[0], width, -1])
    scale, shift = _by_groups(weight, groups, missing), _by_groups(bias, groups, missing)
    every = torch.ops.aten.reshape(
        torch.group_norm(wide, groups, scale, shift, eps), [x.shape[0], groups, width // groups, -1]
    )
    made: Tensor = torch.ops.aten.reshape(torch.ops.aten.slice(every, 2, 0, left), list(x.shape))
    return made


def _by_groups(vector: Tensor | None, groups: int, missing: int) -> Tensor | None:
    if vector is None:
        return None
    by_group = torch.ops.aten.constant_pad_nd(torch.ops.aten.reshape(vector, [groups, -1]), [0, missing])
    made: Tensor = torch.ops.aten.reshape(by_group, [-1])
    return made


class WidthNorm(nn.Module):
    """Stands for a LayerNorm, RMSNorm or GroupNorm over ``width`` channels of which only some are left.

    It divides by the number that there were, since those that are gone were zero.

    weight, bias  ``(channels,)`` or None
    width         channels before
    """

    __jit_unused_properties__ = ("norm",)

    if TYPE_CHECKING:  # TorchScript reads annotations of a class, and cannot
        weight: Tensor | None
        bias: Tensor | None

    def __init__(self, norm: Norm, eps: float) -> None:
        super().__init__()
        self.kind, self.axis, self.width, self.groups = str(norm.kind), norm.axis, norm.width, norm.groups
        self.offset, self.eps = norm.offset, eps
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    @property
    def norm(self) -> Norm:
        """What it computes, over the width of before."""
        kind: Kind = self.kind  # type: ignore[assignment]
        return Norm(kind, self.axis, self.width, "eps", self.offset, self.groups)

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
