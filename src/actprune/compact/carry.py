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
    """Names of the model's parameters by identity.

    Raises CompactionError when the optimizer holds any others, or something that cannot be cut along with them.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise CompactionError(
                    f"the optimizer holds a parameter of shape {tuple(parameter.shape)} that is not the model's; give "
                    "compact() the optimizer of the model that is compacted"
                )
    _refuse_uncuttable(optimizer, names)
    return names


def _refuse_uncuttable(optimizer: Optimizer, names: Mapping[int, str]) -> None:
    kind = type(optimizer).__name__
    remedy = "leave optimizer= out, and make a new optimizer with the small model's parameters()"
    for attribute, value in vars(optimizer).items():
        if attribute not in ("param_groups", "state", "defaults") and _holds(value, names):
            raise CompactionError(
                f"{kind} keeps the parameters in its attribute {attribute} as well, so that it cannot be pointed at "
                f"smaller ones; {remedy}"
            )
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            if any(not _ours(hook) for hook in (parameter._post_accumulate_grad_hooks or {}).values()):
                raise CompactionError(
                    f"{name} has a gradient hook (an optimizer that steps inside backward()?), which the small model's "
                    f"parameter would lack; {remedy}, and put the hooks on those"
                )
            for key, value in optimizer.state.get(parameter, {}).items():
                if not _cuttable(value, parameter):
                    found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                    raise CompactionError(
                        f"{kind} keeps {key!r} ({found}) for {name} of shape {tuple(parameter.shape)}, which cannot be "
                        f"cut along with it; {remedy}"
                    )


def _holds(value: Any, names: Mapping[int, str]) -> bool:
    return isinstance(value, (list, tuple)) and any(id(item) in names for item in value)


def _ours(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("actprune.")


def _cuttable(value: Any, parameter: Tensor) -> bool:
    """A number, or a tensor that has each axis of the parameter: as long, or of length 1 (factored moments)."""
    if not isinstance(value, Tensor):
        return not isinstance(value, (list, tuple, dict, set))
    same = value.dim() == parameter.dim() and all(
        size in (1, whole) for size, whole in zip(value.shape, parameter.shape, strict=True)
    )
    return value.numel() == 1 or same


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
                kept = keeps.get(name, [])
                optimizer.state[fresh[name]] = _cut_state(state[parameter], parameter, kept)
                _follow(optimizer.state[fresh[name]], sliced(parameter.detach(), kept), fresh[name].detach())
        beside = [name for name in added if f"{name.removesuffix('bias')}weight" in own]
        group["params"] = [fresh[name] for name in (*own, *sorted(beside))]


def _cut_state(state: Mapping[str, Any], parameter: Tensor, kept: list[Tensor | None]) -> dict[str, Any]:
    def cut(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() != parameter.dim() or value.numel() == 1:
            return value
        axes = [indices if size != 1 else None for indices, size in zip(kept, value.shape, strict=False)]
        return sliced(value, axes).clone()

    return {key: cut(value) for key, value in state.items()}


def _follow(state: dict[str, Any], before: Tensor, after: Tensor) -> None:
    """A weight that a schedule-free optimizer keeps ("z") takes the constant that moved into a bias, too."""
    if isinstance(state.get("z"), Tensor) and state["z"].shape == after.shape:
        state["z"] += (after - before).to(state["z"])


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
