"""L1: what happens to the surviving weights after a pruning."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from actprune.errors import ModelError, RecipeError


@dataclass(frozen=True)
class Keep:
    """Go on from the values at hand (Han et al. 2015; the founding method).

    lr_scale         factor on the learning rate from the first pruning on (Han: 0.1 for the LeNets)
    rescale_dropout  dropout rates are multiplied by sqrt(kept weights / all weights) (Han et al. 2015, eq. 1 and 2)
    """

    lr_scale: float = 1.0
    rescale_dropout: bool = False
    kind: ClassVar[str] = "keep"
    replays: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        if not self.lr_scale > 0:
            raise RecipeError(f"Keep(lr_scale={self.lr_scale!r}): expected a factor above 0, such as 0.1")


@dataclass(frozen=True)
class Rewind:
    """Back to the values after ``to_step`` optimizer steps (0: the initial values), and to that point of the learning
    rate's schedule.

    Source: Frankle & Carbin 2019 (arXiv 1803.03635) for 0; Frankle et al. 2020 (arXiv 1903.01611) for late rewinding.
    """

    to_step: int = 0
    kind: ClassVar[str] = "rewind"
    lr_scale: ClassVar[float] = 1.0

    @property
    def replays(self) -> int:
        """``to_step``."""
        return self.to_step


@dataclass(frozen=True)
class RewindRate:
    """Learning-rate rewinding: the weights are kept, the learning rate goes back to where it was after ``to_step``.

    Source: Renda, Frankle, Carbin 2020 (arXiv 2003.02389).
    """

    to_step: int = 0
    kind: ClassVar[str] = "rewind_rate"
    lr_scale: ClassVar[float] = 1.0

    @property
    def replays(self) -> int:
        """``to_step``."""
        return self.to_step


@dataclass(frozen=True)
class Reshuffle:
    """The control of the lottery ticket: masks as ``Rewind(0)`` finds them, but after the last pruning every layer's
    initial weights are dealt out anew, a seeded permutation: the same distribution, whatever it was, and another draw.
    """

    seed: int = 0
    kind: ClassVar[str] = "reshuffle"
    lr_scale: ClassVar[float] = 1.0
    replays: ClassVar[int | None] = 0
    to_step: ClassVar[int] = 0


@dataclass(frozen=True)
class Reinitialise:
    """Fresh random values by ``reset_parameters``, after every pruning. Seeded; the global RNG is not touched."""

    seed: int = 0
    kind: ClassVar[str] = "reinitialise"
    lr_scale: ClassVar[float] = 1.0
    replays: ClassVar[int | None] = 0


def rewind(tensors: Mapping[str, Tensor], snapshot: Mapping[str, Tensor]) -> None:
    """Copy the snapshot into parameters and buffers, in place."""
    missing = sorted(set(tensors) - set(snapshot))
    if missing:
        raise ModelError(
            f"cannot rewind: no snapshot of {missing}; it is taken at the step that Rewind(to_step=) names"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(snapshot[name])


@torch.no_grad()
def reshuffle(weights: Mapping[str, Tensor], seed: int) -> None:
    """Permute the entries of each weight among themselves, in place; drawn on the CPU from seed and name."""
    for name, weight in weights.items():
        digest = hashlib.blake2b(f"reshuffle/{seed}/{name}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.copy_(weight.flatten()[order].view_as(weight))


def reinitialise(model: nn.Module, seed: int) -> None:
    """Call ``reset_parameters`` of every module that has parameters of its own, under a seed of its own."""
    ways = resets(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for reset in ways:
            reset()


def resets(model: nn.Module) -> list[Callable[[], Any]]:
    """``reset_parameters`` of every module that has parameters of its own. Raises ModelError for one without it."""
    found = []
    for name, module in model.named_modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        reset = getattr(module, "reset_parameters", None)
        if reset is None:
            raise ModelError(
                f"cannot re-initialise {name or 'the model'} ({type(module).__name__}): it has parameters but no "
                "reset_parameters(); give it one, or use Rewind()"
            )
        found.append(reset)
    return found
