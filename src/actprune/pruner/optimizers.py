"""The user's optimizers: which can be followed, whose steps are counted, and when a step is none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from actprune.errors import ModelError, RecipeError
from actprune.pruner.distributed import local, local_part

Closure = Callable[[], Any]


def followed(optimizer: Any) -> Optimizer:
    """The torch optimizer inside a Lightning Fabric or Accelerate wrapper (whose step hooks would not fire).

    Raises RecipeError for anything without step hooks.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    found = inner if isinstance(inner, Optimizer) else optimizer
    if not isinstance(found, Optimizer) or not hasattr(found, "_optimizer_step_post_hooks"):
        raise RecipeError(
            f"attach() cannot follow {type(found).__name__}: it has no step hooks, as a torch.optim.Optimizer whose "
            "constructor was called does; leave it out, and call pruner.enforce() after each of its steps"
        )
    return found


def parameters_of(optimizer: Optimizer) -> dict[int, nn.Parameter]:
    """What it trains, by identity."""
    return {id(parameter): parameter for group in optimizer.param_groups for parameter in group["params"]}


def takes_over(new: Optimizer, counted: Optimizer | None, model: nn.Module) -> bool:
    """Whether ``new`` replaces the optimizer whose steps are counted.

    It does if it trains any of the same parameters, or if the other trains nothing of the model any more.
    """
    if counted is None:
        return True
    before, own = parameters_of(counted), {id(parameter) for parameter in model.parameters()}
    return bool(before.keys() & parameters_of(new).keys()) or not before.keys() & own


def replaced(
    now: Mapping[str, nn.Parameter], known: Mapping[str, nn.Parameter], optimizers: list[Optimizer]
) -> list[str]:
    """Weights that are other parameters ``now`` than the ``known`` ones.

    Raises ModelError for one whose predecessor an optimizer trains, and which itself none does.
    """
    changed = [name for name, parameter in now.items() if parameter is not known.get(name)]
    trained = {key for optimizer in optimizers for key in parameters_of(optimizer)} if changed else set()
    lost = [name for name in changed if id(known.get(name)) in trained and id(now[name]) not in trained]
    if lost:
        raise ModelError(
            f"{lost[0]} was replaced by another parameter after attach() (load_state_dict(assign=True), or a new "
            "nn.Parameter), which no attached optimizer trains; make the optimizer anew with model.parameters(), "
            "and give it to attach()"
        )
    return changed


def skipped(optimizer: Optimizer) -> bool:
    """Whether a gradient scaler has found infinities and the step of a fused optimizer therefore does nothing."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def in_backward() -> bool:
    """Whether autograd is under way: an optimizer that steps in a gradient hook, one parameter after the other."""
    return bool(torch._C._current_graph_task_id() != -1)


def after_backward(call: Callable[[], Any]) -> None:
    """Have ``call`` done when the backward pass that is under way is over."""
    torch.autograd.Variable._execution_engine.queue_callback(call)


def keeps_weights(optimizer: Optimizer) -> bool:
    """Whether its state holds weights that it puts into the model outside of ``step()``: schedule-free optimizers do,
    in their ``train()`` and ``eval()``.
    """
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


@contextmanager
def weights_followed(
    optimizers: list[Optimizer], tensors: Mapping[str, Tensor], names: Collection[str]
) -> Iterator[None]:
    """What changes in the named parameters inside the block also changes in the weights that optimizers keep ("z")."""
    keeping = [optimizer for optimizer in optimizers if keeps_weights(optimizer)]
    before = {name: local(tensors[name]).clone() for name in names if keeping}
    yield
    with torch.no_grad():
        for optimizer in keeping:
            for name, was in before.items():
                kept = optimizer.state.get(tensors[name], {}).get("z")
                if isinstance(kept, Tensor) and local(kept).shape == was.shape:
                    local(kept).add_(local(tensors[name]) - was)


@torch.no_grad()
def restart(optimizers: list[Optimizer], parameters: Mapping[str, nn.Parameter], born: Mapping[str, Tensor]) -> None:
    """Zero what optimizers remember (momentum, second moments) of the entries that grew.

    A history of whole steps (LBFGS) says nothing of the network after a pruning step: it is forgotten.
    """
    for optimizer in optimizers:
        if isinstance(optimizer, LBFGS):
            optimizer.state.clear()
    for name, mask in born.items():
        parameter = parameters[name]
        part = local_part(mask, parameter)
        for optimizer in optimizers:
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    local(value).masked_fill_(part, 0)


def around_closure(
    args: tuple[Any, ...], kwargs: dict[str, Any], around: Callable[[Closure], Closure]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """What ``Optimizer.step`` was called with, its closure inside another; None when it was called without one.

    ``args`` starts with the optimizer itself, as step hooks get it.
    """
    if kwargs.get("closure") is not None:
        return args, {**kwargs, "closure": around(kwargs["closure"])}
    if len(args) > 1 and args[1] is not None:
        return (args[0], around(args[1]), *args[2:]), kwargs
    return None
