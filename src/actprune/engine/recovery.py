"""Carrying out a recipe's recovery on a live model and its optimizers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from actprune.engine.distributed import local
from actprune.errors import ModelError
from actprune.recover import Reinitialise, Rewind, reinitialise, rewind
from actprune.state import PruneState
from actprune.types import Recovery


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: local(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def take_snapshot(model: nn.Module, recovery: Recovery, state: PruneState) -> None:
    """Remember parameters and buffers (BatchNorm's too) when the step that the recipe rewinds to is reached."""
    if isinstance(recovery, Rewind) and recovery.to_step == state.step and not state.snapshot:
        state.snapshot = {name: tensor.clone() for name, tensor in _tensors(model).items()}


def check_snapshot(recovery: Recovery, state: PruneState) -> None:
    """Raise ModelError, before anything is changed, when there is nothing to rewind to."""
    if isinstance(recovery, Rewind) and not state.snapshot:
        raise ModelError(
            f"cannot rewind to step {recovery.to_step}: only {state.step} optimizer steps were seen; "
            "train that far before pruning, or attach(optimizer) before training"
        )


def recover(model: nn.Module, recovery: Recovery, state: PruneState, optimizers: Sequence[Optimizer]) -> None:
    """Apply the recovery after a pruning. Rewinding also forgets momentum, which belongs to the discarded weights."""
    if isinstance(recovery, Rewind):
        rewind(_tensors(model), state.snapshot)
    elif isinstance(recovery, Reinitialise):
        reinitialise(model, recovery.seed + state.cycle)
    else:
        return
    for optimizer in optimizers:
        optimizer.state.clear()
