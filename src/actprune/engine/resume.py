"""Putting a stored state back into a live pruner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actprune.engine.distributed import local
from actprune.engine.recovery import rescale_dropout, undo_dropout
from actprune.errors import CheckpointError
from actprune.graph import Graph
from actprune.state import PruneState

if TYPE_CHECKING:
    from actprune.engine.pruner import Pruner


def restore(pruner: Pruner, state: PruneState) -> None:
    """Make ``state`` the pruner's own. Raises CheckpointError, before anything is changed, when it does not fit."""
    parameters = pruner.parameters
    for name, mask in state.masks.items():
        if name not in parameters or tuple(mask.shape) != tuple(parameters[name].shape):
            found = tuple(parameters[name].shape) if name in parameters else "no such weight"
            raise CheckpointError(f"stored mask {name} is {tuple(mask.shape)}; the model has {found}")
    for name, values in state.dense.items():
        if name not in state.masks or tuple(values.shape) != tuple(local(parameters[name]).shape):
            raise CheckpointError(
                f"stored dense weights behind the mask of {name} are {tuple(values.shape)}: not of this model"
            )
    pruner.learner.load(state.learnt)
    undo_dropout(pruner.model, pruner.state)
    state.learnt = pruner.learner.learnt
    state.masks = {name: mask.to(local(parameters[name]).device) for name, mask in state.masks.items()}
    pruner.take_state(state)
    pruner.observer.sums = state.sums
    pruner.observer.graph = None if state.graph is None else Graph.from_dict(state.graph)
    pruner.observer.example = state.example
    pruner.observer.positions = dict(state.positions)
    pruner.observer.forwards = state.forwards
    pruner.enforcer.set_masks(state.masks)
    if pruner.enforcer.dense is not None:
        pruner.enforcer.dense = state.dense
    rescale_dropout(pruner.model, pruner.recipe.recovery, state, sum(p.numel() for p in parameters.values()))
    if pruner.finished:
        pruner.observer.stop_live()
        pruner.learner.stop()
    else:
        pruner.learner.resume()
