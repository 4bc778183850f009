"""L0: where units compete (``row``, ``layer``, ``global``, n of every m), and how layers share a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Literal, Protocol, runtime_checkable

from actprune.errors import RecipeError


@dataclass(frozen=True)
class NM:
    """Scope: of every ``m`` consecutive inputs keep the ``n`` best (2:4 is ``NM(2, 4)``); the sparsity is 1 - n/m."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise RecipeError(f"n:m scope asks for {self.n}:{self.m}; use 0 < n < m, such as NM(2, 4)")


Scope = Literal["row", "layer", "global"] | NM
SCOPES = ("row", "layer", "global")


@dataclass(frozen=True)
class Share:
    """A layer that takes part: its cost in all, removed already, and removable in all (what is removed included).

    output: whether it is an output layer.
    """

    name: str
    shape: tuple[int, ...]
    cost: int
    removed: int
    removable: int
    output: bool = False


@runtime_checkable
class Densities(Protocol):
    """An allocation of one's own: a frozen object that says how much of each layer is to be kept.

    An allocation that must see all layers first also has ``fit(view)``, which returns the one to allocate with.
    """

    def densities(self, shares: Sequence[Share], target: int) -> Sequence[Fraction]:
        """Kept fraction per layer, such that a cost of ``target`` is removed in all."""
        ...


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

    def densities(self, shares: Sequence[Share], target: int) -> list[Fraction]:
        """Kept fraction ``k ** rate`` per layer, with the ``k`` in 0..1 at which a cost of ``target`` is removed."""
        powers = [self._rate(share) for share in shares]
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            removed = sum(share.cost * (1 - middle**power) for share, power in zip(shares, powers, strict=True))
            low, high = (middle, high) if removed > target else (low, middle)
        return [Fraction(high**power) for power in powers]

    def _rate(self, share: Share) -> float:
        for pattern, rate in self.layers:
            if fnmatchcase(share.name, pattern):
                return rate
        return self.output if share.output else 1.0


_HALVINGS = 200  # k down to 2^-200: with a low rate somewhere it may be tiny

Allocation = Literal["uniform", "erk", "staged"] | Densities
ALLOCATIONS = ("uniform", "erk", "staged")
