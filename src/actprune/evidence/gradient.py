"""Gradients: of the training loss, or of an objective of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from actprune.errors import RecipeError

Objective = Callable[[nn.Module, Any], Tensor]
"""``objective(model, inputs)`` -> 0-dim, differentiable by the model's parameters. A frozen dataclass, so that a recipe
can be compared and stored. ``inputs`` is ``(args, kwargs)`` of one calibration batch. With a class attribute
``needs_data = False`` it is called once, with the two examples that show how inputs are shaped."""


@dataclass(frozen=True)
class Gradient:
    """Gradient of every weight, summed over batches: ``gradient``, shape of the weight.

    of  None: the training loss. Its gradient is what ``backward()`` leaves inside ``observe()``, or, where a pruning
        step is due in ``optimizer.step()`` and nothing was observed for it, what that step finds in ``.grad``: the
        gradient of the weights as they were before that step. An objective: the engine computes it at the pruning
        step, on the model as it stands then, in evaluation mode.
    """

    of: Objective | None = None

    merges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.of is not None and (not callable(self.of) or isinstance(self.of, type)):
            raise RecipeError(f"Gradient(of={self.of!r}): expected None, or a frozen function of (model, inputs)")

    @property
    def keys(self) -> tuple[str, ...]:
        """``gradient``."""
        return ("gradient",)

    @property
    def needs_data(self) -> bool:
        """Whether calibration batches must have been seen."""
        return bool(getattr(self.of, "needs_data", True))


@dataclass(frozen=True)
class HessianGradient(Gradient):
    """Product of the training loss's Hessian with its gradient, by weight: ``hessian_gradient``, shape of the weight.

    ``backward(create_graph=True)`` inside ``observe()`` leaves a gradient that can be differentiated once more. Batches
    of one block add up to one loss, as ranks do, which all have to observe; two blocks do not, as a product is no sum:
    the later one counts.
    """

    merges: ClassVar[bool] = False
    """Two of them added are not what all batches together give."""

    def __post_init__(self) -> None:
        if self.of is not None:
            raise RecipeError(f"HessianGradient(of={self.of!r}): it is of the training loss; leave of= out")

    @property
    def keys(self) -> tuple[str, ...]:
        """``hessian_gradient``."""
        return ("hessian_gradient",)


@dataclass(frozen=True)
class SquaredGradient(Gradient):
    """Squares of the training loss's gradient, summed over backward passes: ``gradient_square``, shape of the weight.

    Over the number of passes it is the diagonal of the empirical Fisher matrix, if each pass is of one example; passes
    of mini-batches make it smaller and smoother. ``backward()`` inside ``observe()``, any number of times, or, as for
    ``Gradient``, what a step finds in ``.grad``.
    """

    def __post_init__(self) -> None:
        if self.of is not None:
            raise RecipeError(f"SquaredGradient(of={self.of!r}): it is of the training loss; leave of= out")

    @property
    def keys(self) -> tuple[str, ...]:
        """``gradient_square``."""
        return ("gradient_square",)
