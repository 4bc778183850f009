"""Sums of |activation|, of values, of their squares and products. All in float64, whatever the model computes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actprune.errors import ModelError
from actprune.evidence.activations import OfActivations, count, rows_of, total, zeros
from actprune.nodes import Site
from actprune.types import Sums


@dataclass(frozen=True)
class MeanAbs(OfActivations):
    """Mean absolute activation: sums ``out_abs`` float64 ``(units,)`` and ``rows`` int64 scalar."""

    sees: ClassVar[Literal["input", "output"]] = "output"

    def init(self, units: int, like: Tensor) -> Sums:
        """Zero sums on the device of ``like``."""
        return {"out_abs": zeros(units, like, torch.float64), "rows": count(like)}

    def update(self, sums: Sums, values: Tensor, axis: int) -> None:
        """Add one batch in place."""
        sums["out_abs"] += total(values.detach().abs(), axis, torch.float64)
        sums["rows"] += rows_of(values, axis)


@dataclass(frozen=True)
class SmoothActivity(MeanAbs):
    """Mean absolute activation, only where a non-linearity or a gate makes values that are hardly ever zero."""

    everywhere: ClassVar[bool] = False

    def counted_at(self, site: Site, *, output: bool) -> bool:
        """Behind GELU, SiLU, tanh, a product, or a module that is not known; not where exact zeros can be counted."""
        return site.smooth and not site.exact_zero and not (output and not site.known)


@dataclass(frozen=True)
class OutputMoments(OfActivations):
    """First and second moment of activations: sums ``out_sum``, ``out_square`` float64 ``(units,)``, ``rows`` int64."""

    sees: ClassVar[Literal["input", "output"]] = "output"

    def init(self, units: int, like: Tensor) -> Sums:
        """Zero sums on the device of ``like``."""
        sums = {key: zeros(units, like, torch.float64) for key in ("out_sum", "out_square")}
        return {**sums, "rows": count(like)}

    def update(self, sums: Sums, values: Tensor, axis: int) -> None:
        """Add one batch in place."""
        _add_moments(sums["out_sum"], sums["out_square"], values, axis)
        sums["rows"] += rows_of(values, axis)


@dataclass(frozen=True)
class InputMoments(OfActivations):
    """First and second moment of a layer's inputs: ``in_sum``, ``in_square`` float64 ``(in,)`` and ``in_rows`` int64.

    For a conv the units are the input channels, the rows examples x input positions.
    """

    sees: ClassVar[Literal["input", "output"]] = "input"

    def init(self, units: int, like: Tensor) -> Sums:
        """Zero sums on the device of ``like``."""
        sums = {key: zeros(units, like, torch.float64) for key in ("in_sum", "in_square")}
        return {**sums, "in_rows": count(like)}

    def update(self, sums: Sums, values: Tensor, axis: int) -> None:
        """Add one batch in place."""
        _add_moments(sums["in_sum"], sums["in_square"], values, axis)
        sums["in_rows"] += rows_of(values, axis)


@dataclass(frozen=True)
class Gram(OfActivations):
    """Products of a layer's inputs, the Hessian of its squared error: sum ``gram`` float64 ``(n, n)``, ``in_rows``.

    n is ``in`` for a Linear and ``in / groups * kernel`` for a conv, whose inputs are unfolded into the patches it sees
    (over all groups, which share one matrix only when there is one group).
    """

    sees: ClassVar[Literal["input", "output"]] = "input"

    def init(self, units: int, like: Tensor) -> Sums:
        """Zero sums on the device of ``like``."""
        return {"gram": zeros((units, units), like, torch.float64), "in_rows": count(like)}

    def update(self, sums: Sums, values: Tensor, axis: int) -> None:
        """Add one batch in place."""
        rows = values.detach().movedim(axis, -1).reshape(-1, values.shape[axis]).to(torch.float64)
        sums["gram"].addmm_(rows.T, rows)
        sums["in_rows"] += len(rows)

    def rows(self, layer: nn.Module, values: Tensor, axis: int) -> tuple[Tensor, int]:
        """The patches that a conv sees, ``(batch, in * kernel, positions)``; the input of anything else."""
        if not isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            return values, axis
        if layer.groups != 1 or layer.padding_mode != "zeros":
            raise ModelError(
                f"a Gram matrix was asked of {layer}; it knows convolutions of one group with zero padding: leave the "
                "layer out with skip="
            )
        return _patches(layer, values), 1


def _patches(layer: nn.Conv1d | nn.Conv2d, values: Tensor) -> Tensor:
    """``(batch, in * kernel, positions)`` of a batched or unbatched conv input."""
    flat = isinstance(layer, nn.Conv1d)
    x = values.detach()
    x = x if x.dim() == (3 if flat else 4) else x[None]
    pads = layer._reversed_padding_repeated_twice  # what padding="same" comes down to, last axis first
    x = F.pad(x, pads)
    if flat:
        x = x.unsqueeze(2)
    two = (lambda pair: (1, pair[0])) if flat else tuple
    return F.unfold(x, two(layer.kernel_size), dilation=two(layer.dilation), stride=two(layer.stride))


def _add_moments(first: Tensor, second: Tensor, values: Tensor, axis: int) -> None:
    """Squares are taken in float64: in fp16 they overflow from 256 on."""
    wide = values.detach().to(torch.float64)
    first += total(wide, axis, torch.float64)
    second += total(wide.square(), axis, torch.float64)
