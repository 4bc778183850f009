"""L1: what happens to the surviving weights after a pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from actprune.errors import ModelError


@dataclass(frozen=True)
class Keep:
    """Go on from the values at hand (Han et al. 2015; the founding method)."""

    kind: ClassVar[str] = "keep"


@dataclass(frozen=True)
class Rewind:
    """Back to the values after ``to_step`` optimizer steps (0: the initial values).

    Source: Frankle & Carbin 2019 (arXiv 1803.03635) for 0; Frankle et al. 2020 (arXiv 1903.01611) for late rewinding.
    """

    to_step: int = 0
    kind: ClassVar[str] = "rewind"


@dataclass(frozen=True)
class Reinitialise:
    """Fresh random values: the control of the lottery ticket experiments. Seeded; the global RNG is not touched."""

    seed: int = 0
    kind: ClassVar[str] = "reinitialise"


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


def reinitialise(model: nn.Module, seed: int) -> None:
    """Call ``reset_parameters`` of every module that has parameters of its own, under a seed of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, module in model.named_modules():
            if not any(True for _ in module.parameters(recurse=False)):
                continue
            reset = getattr(module, "reset_parameters", None)
            if reset is None:
                raise ModelError(
                    f"cannot re-initialise {name or 'the model'} ({type(module).__name__}): it has parameters but no "
                    "reset_parameters(); give it one, or use Rewind()"
                )
            reset()
