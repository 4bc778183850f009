"""Going back in time: rewinding, the tickets' control, fresh values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from actprune.edit import Edit, View
from actprune.errors import ModelError, RecipeError


def _check(step: int) -> None:
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise RecipeError(f"to_step={step!r}: expected a number of optimizer steps, 0 for the initial values")


def _snapshot(view: View, step: int) -> dict[str, Tensor]:
    if not view.snapshot:
        raise ModelError(
            f"cannot rewind to step {step}: only {view.progress.step} optimizer steps were seen, or none at all; "
            "train that far before pruning, or attach(optimizer) before training"
        )
    return dict(view.snapshot)


@dataclass(frozen=True)
class Rewind:
    """Back to the values after ``to_step`` optimizer steps (0: the initial values), and to that point of the learning
    rate's schedule. Buffers (BatchNorm's) go back too, and momentum, which belongs to discarded weights, is forgotten.

    Source: Frankle & Carbin 2019 (arXiv 1803.03635) for 0; Frankle et al. 2020 (arXiv 1903.01611) for late rewinding.
    """

    to_step: int = 0
    restarts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self.to_step)

    @property
    def remembers(self) -> int:
        """``to_step``."""
        return self.to_step

    @property
    def replays(self) -> int:
        """``to_step``."""
        return self.to_step

    def repair(self, view: View, edit: Edit) -> Edit:
        """All parameters and buffers from the snapshot."""
        return edit._replace(weights={**edit.weights, **_snapshot(view, self.to_step)})


@dataclass(frozen=True)
class RewindRate:
    """Learning-rate rewinding: the weights are kept, the learning rate goes back to where it was after ``to_step``.

    Source: Renda, Frankle, Carbin 2020 (arXiv 2003.02389).
    """

    to_step: int = 0
    restarts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self.to_step)

    @property
    def replays(self) -> int:
        """``to_step``."""
        return self.to_step

    def repair(self, view: View, edit: Edit) -> Edit:
        """The weights stay as they are."""
        return edit


@dataclass(frozen=True)
class Reshuffle:
    """The control of the lottery ticket: masks as ``Rewind(0)`` finds them, but after the last pruning step every
    layer's initial weights are dealt out anew, a seeded permutation: the same distribution, whatever it was, and
    another draw.
    """

    seed: int = 0
    restarts: ClassVar[bool] = True
    remembers: ClassVar[int] = 0
    replays: ClassVar[int] = 0

    def repair(self, view: View, edit: Edit) -> Edit:
        """The snapshot; at the last pruning step its weights are permuted within each layer."""
        weights = {**edit.weights, **_snapshot(view, 0)}
        if view.last:
            weights |= {name: self._dealt(name, weights[name]) for name in view.names}
        return edit._replace(weights=weights)

    def _dealt(self, name: str, weight: Tensor) -> Tensor:
        """The entries of a weight permuted among themselves, drawn on the CPU from seed and name."""
        digest = hashlib.blake2b(f"reshuffle/{self.seed}/{name}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        return weight.flatten()[order].view_as(weight)


@dataclass(frozen=True)
class Reinitialise:
    """Fresh random values by ``reset_parameters``, after every pruning step. Seeded; the global RNG is not touched."""

    seed: int = 0
    restarts: ClassVar[bool] = True
    replays: ClassVar[int] = 0

    def repair(self, view: View, edit: Edit) -> Edit:
        """All parameters and buffers. Raises ModelError for a module without ``reset_parameters``."""
        return edit._replace(weights={**edit.weights, **view.source.fresh(self.seed + view.progress.pruning_step)})
