"""L0: what is pruned as one piece, and how a budget is shared out among layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from actprune.errors import RecipeError


@dataclass(frozen=True)
class Weight:
    """Unit: every weight on its own (unstructured)."""


@dataclass(frozen=True)
class Neuron:
    """Unit: one output unit of a Linear or one output channel of a conv (all its incoming weights)."""


@dataclass(frozen=True)
class NM:
    """Unit: of every ``m`` consecutive inputs keep the ``n`` best (2:4 is ``NM(2, 4)``); the sparsity is 1 - n/m."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise RecipeError(f"n:m unit asks for {self.n}:{self.m}; use 0 < n < m, such as NM(2, 4)")


@dataclass(frozen=True)
class Block:
    """Unit: a tile of ``rows x cols`` weights of the ``(out, in * kernel)`` matrix; edge tiles may be smaller."""

    rows: int
    cols: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise RecipeError(f"block unit asks for {self.rows} x {self.cols}; both sides must be at least 1")


Unit = Weight | Neuron | NM | Block


@dataclass(frozen=True)
class Rates:
    """Allocation: layer ``l`` keeps ``k ** rate_l``, with the one ``k`` that meets the budget; a rate of 0.5 prunes a
    layer half as fast, and rates of ``log(d_l)`` give the densities ``d_l`` at the sparsity they were published for.

    output: rate of output layers. layers: pairs of fnmatch pattern of a weight name and rate, first match counts, and
    before ``output``. Everything else has rate 1.
    """

    output: float = 1.0
    layers: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        rates = [self.output, *(rate for _, rate in self.layers)]
        if any(not (math.isfinite(rate) and rate >= 0) for rate in rates):
            raise RecipeError(f"rates {rates} cannot be used; expected finite numbers of at least 0")


Allocation = Literal["uniform", "erk", "staged"] | Rates
