"""Carrying out a recipe's recovery on a live model and its optimizers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from actprune.engine.distributed import local
from actprune.errors import ModelError
from actprune.recover import Keep, Reinitialise, Reshuffle, Rewind, RewindRate, reinitialise, resets, reshuffle, rewind
from actprune.state import PruneState
from actprune.types import Recovery

_FROM_SNAPSHOT = (Rewind, Reshuffle)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: local(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def take_snapshot(model: nn.Module, recovery: Recovery, state: PruneState) -> None:
    """Remember parameters and buffers (BatchNorm's too) when the step that the recipe rewinds to is reached."""
    if isinstance(recovery, _FROM_SNAPSHOT) and recovery.to_step == state.step and not state.snapshot:
        state.snapshot = {name: tensor.clone() for name, tensor in _tensors(model).items()}


def check_recovery(model: nn.Module, recovery: Recovery, state: PruneState) -> None:
    """Raise ModelError, before anything is changed, when there is nothing to rewind to, or no way to re-initialise."""
    if isinstance(recovery, Reinitialise):
        resets(model)
    if isinstance(recovery, _FROM_SNAPSHOT) and not state.snapshot:
        raise ModelError(
            f"cannot rewind to step {recovery.to_step}: only {state.step} optimizer steps were seen; "
            "train that far before pruning, or attach(optimizer) before training"
        )


def recover(
    model: nn.Module,
    recovery: Recovery,
    state: PruneState,
    optimizers: Sequence[Optimizer],
    *,
    weights: Mapping[str, Tensor],
    last: bool,
) -> None:
    """Apply the recovery after a pruning, ``last``: of all that are planned.

    Whatever goes back in time also forgets momentum, which belongs to the discarded weights or learning rate.
    """
    if isinstance(recovery, _FROM_SNAPSHOT):
        rewind(_tensors(model), state.snapshot)
    if isinstance(recovery, Reshuffle) and last:
        reshuffle({name: local(weight) for name, weight in weights.items()}, recovery.seed)
    if isinstance(recovery, Reinitialise):
        reinitialise(model, recovery.seed + state.pruning_step)
    if isinstance(recovery, (*_FROM_SNAPSHOT, RewindRate, Reinitialise)):
        for optimizer in optimizers:
            optimizer.state.clear()


def undo_dropout(model: nn.Module, state: PruneState) -> None:
    """Give every dropout its original rate: another state is about to be loaded."""
    for name, module in model.named_modules():
        if isinstance(module, _DropoutNd) and name in state.dropout:
            module.p = state.dropout[name]


def rescale_dropout(model: nn.Module, recovery: Recovery, state: PruneState, total: int) -> None:
    """Set every dropout rate to its original times sqrt(kept / total); also after a resume, as no model stores it."""
    if not (isinstance(recovery, Keep) and recovery.rescale_dropout) or not state.masks:
        return
    removed = sum(mask.numel() - int(mask.sum()) for mask in state.masks.values())
    for name, module in model.named_modules():
        if isinstance(module, _DropoutNd):
            original = state.dropout.setdefault(name, module.p)
            module.p = original * math.sqrt(1 - removed / total)
