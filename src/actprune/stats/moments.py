"""Sums of |activation|, of values and of their squares. All in float64, whatever the model computes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from actprune.stats.rows import count, rows_of, total, zeros
from actprune.types import Sums


@dataclass(frozen=True)
class MeanAbs:
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
class OutputMoments:
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
class InputMoments:
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


def _add_moments(first: Tensor, second: Tensor, values: Tensor, axis: int) -> None:
    """Squares are taken in float64: in fp16 they overflow from 256 on."""
    wide = values.detach().to(torch.float64)
    first += total(wide, axis, torch.float64)
    second += total(wide.square(), axis, torch.float64)
