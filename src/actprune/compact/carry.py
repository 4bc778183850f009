"""L4: what goes along with a smaller model, so that training and pruning go on: the optimizer and the pruning state."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from actprune.compact.cut import sliced
from actprune.compact.plan import Keeps
from actprune.errors import CompactionError
from actprune.state import PruneState


def names_held(optimizer: Optimizer, model: nn.Module) -> dict[int, str]:
    """Names of the model's parameters by identity. Raises CompactionError when the optimizer holds any others."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise CompactionError(
                    f"the optimizer holds a parameter of shape {tuple(parameter.shape)} that is not the model's; give "
                    "compact() the optimizer of the model that is compacted"
                )
    return names


def move_optimizer(optimizer: Optimizer, names: Mapping[int, str], new: nn.Module, keeps: Keeps) -> None:
    """Point ``optimizer`` at the parameters of ``new``; momenta and the like are cut along with them.

    Biases that were made join the group of their layer's weight; parameters that ``new`` has no use for leave.
    """
    fresh = dict(new.named_parameters())
    added = {name for name in fresh if name not in set(names.values())}
    state = dict(optimizer.state)
    optimizer.state.clear()
    for group in optimizer.param_groups:
        own = {names[id(parameter)]: parameter for parameter in group["params"] if names[id(parameter)] in fresh}
        for name, parameter in own.items():
            if parameter in state:
                optimizer.state[fresh[name]] = _cut_state(state[parameter], parameter, keeps.get(name, []))
        beside = [name for name in added if f"{name.removesuffix('bias')}weight" in own]
        group["params"] = [fresh[name] for name in (*own, *sorted(beside))]


def _cut_state(state: Mapping[str, Any], parameter: Tensor, kept: list[Tensor | None]) -> dict[str, Any]:
    return {
        key: sliced(value, kept).clone() if isinstance(value, Tensor) and value.shape == parameter.shape else value
        for key, value in state.items()
    }


def move_state(state: PruneState, keeps: Keeps, names: Mapping[str, str]) -> PruneState:
    """The pruning state of the smaller model: masks, sums and snapshot cut alike; the graph is looked at anew.

    names: every name of a tensor -> the one that ``keeps`` knows it by.
    """
    keeps = keeps | {name: keeps[first] for name, first in names.items() if first in keeps}
    moved = copy.copy(state)
    moved.masks = {name: sliced(mask, keeps.get(name, [])) for name, mask in state.masks.items()}
    moved.gradients = {name: sliced(grad, keeps.get(name, [])) for name, grad in state.gradients.items()}
    moved.snapshot = {name: sliced(tensor, keeps.get(name, [])).clone() for name, tensor in state.snapshot.items()}
    moved.sums = {
        name: {key: _cut_sums(key, total, keeps.get(name, [])) for key, total in sums.items()}
        for name, sums in state.sums.items()
    }
    moved.graph = moved.flop = None
    return moved


def _cut_sums(key: str, total: Tensor, kept: list[Tensor | None]) -> Tensor:
    """A sum per unit is as long as the weight has rows; one per input ("in_..."), as long as it has columns."""
    for axis in kept[1::-1] if key.startswith("in_") else kept[:2]:
        if axis is not None and total.dim() and len(total) == len(axis):
            return total.index_select(0, torch.nonzero(axis.to(total.device)).flatten())
    return total
