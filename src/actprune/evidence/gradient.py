"""Gradients: of the training loss, or of an objective of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
