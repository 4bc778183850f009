"""Evidence that is read off the weights, or learnt beside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from actprune.types import Sums


class OfWeights(ABC):
    """Read off a layer's weight at a pruning step. Subclasses are frozen dataclasses.

    frozen: keep what the first pruning step has seen, for all that follow.
    """

    frozen: ClassVar[bool] = False
    needs_data: ClassVar[bool] = False

    @property
    @abstractmethod
    def keys(self) -> tuple[str, ...]:
        """Names of its entries."""

    @abstractmethod
    def read(self, weight: Tensor) -> Sums:
        """From the full weight ``(out, in, *kernel)``, detached."""


@dataclass(frozen=True)
class WeightMoments(OfWeights):
    """Number, sum of |w| and sum of w^2 of the layer at the first pruning step: ``weights``, ``weights_abs``,
    ``weights_square``, float64 scalars.
    """

    frozen: ClassVar[bool] = True

    @property
    def keys(self) -> tuple[str, ...]:
        """Three scalars."""
        return ("weights", "weights_abs", "weights_square")

    def read(self, weight: Tensor) -> Sums:
        """Over all weights of the layer."""
        wide = weight.double()
        return {
            "weights": wide.new_tensor(wide.numel()),
            "weights_abs": wide.abs().sum(),
            "weights_square": wide.square().sum(),
        }


@dataclass(frozen=True)
class Learnt:
    """What the recipe's penalty trains beside each weight, under the name that the penalty gives it."""

    name: str
    needs_data: ClassVar[bool] = False

    @property
    def keys(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)
