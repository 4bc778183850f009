"""L4: carry out a plan: tensors without what goes, as a small program or inside a copy of the user's own model."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from actprune.compact.gathered import GatheredLinear
from actprune.compact.plan import Plan
from actprune.errors import CompactionError, ModelError
from actprune.program import Program, Ref, Step, first_names


def sliced(tensor: Tensor, kept: list[Tensor | None]) -> Tensor:
    """``tensor`` without the indices that are not kept, axis by axis; the same tensor where all are."""
    for axis, indices in enumerate(kept):
        if indices is not None and not bool(indices.all()):
            tensor = tensor.index_select(axis, torch.nonzero(indices.to(tensor.device)).flatten())
    return tensor


def small_tensors(plan: Plan, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor of the small network, with the dtype, device and trainability of ``like`` (by name).

    New ones: biases that had to be made, and ``<layer>.columns``, the inputs that a first layer still reads.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in plan.masked.tensors().items():
        old = like.get(name, tensor)
        new = sliced(tensor.detach(), plan.keeps.get(name, [])).to(old.dtype).to(_device(like)).contiguous()
        found[name] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
        if name in plan.biases:
            found[name] = nn.Parameter(new.to(next(iter(like.values())).dtype))
    for weight in plan.gathers.values():
        kept = plan.keeps[weight][1]
        assert kept is not None
        found[columns_name(weight)] = torch.nonzero(kept).flatten().to(_device(like))
    return found


def columns_name(weight: str) -> str:
    """Name of the index of inputs that a layer reads."""
    return weight.removesuffix("weight") + "columns"


def _device(like: Mapping[str, Tensor]) -> torch.device:
    return next(iter(like.values())).device


def as_program(plan: Plan, tensors: Mapping[str, Tensor]) -> Program:
    """The small network as a program: sizes rewritten, gathers in front of first layers."""
    steps: list[Step] = []
    for index, step in enumerate(plan.steps):
        if index in plan.gathers:
            weight = plan.gathers[index]
            axis = 1 if tensors[weight].dim() > 2 else -1
            steps.append(Step(f"{step.name}_inputs", "index_select", (step.args[0], axis, Ref(columns_name(weight)))))
            steps.append(Step(step.name, step.op, (Ref(f"{step.name}_inputs"), *step.args[1:]), step.kwargs))
        else:
            steps.append(step)
    masked = plan.masked
    return Program(masked.inputs, steps, masked.result, tensors, masked.plain_buffers(), masked.batch)


def as_module(plan: Plan, model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the user's model whose layers hold the small tensors."""
    small = copy.deepcopy(model)
    for weight in plan.gathers.values():
        path = weight.removesuffix(".weight")
        _replace(small, path, GatheredLinear.of(small.get_submodule(path), tensors[columns_name(weight)]))
    names = {name: name for name in tensors} | first_names(model)  # tied tensors have several names
    for name in [name for name, first in names.items() if first in tensors]:
        path, _, leaf = name.rpartition(".")
        parent, tensor = small.get_submodule(path), tensors[names[name]]
        if leaf in parent._parameters:
            parent._parameters[leaf] = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)
        elif leaf in parent._buffers:
            parent._buffers[leaf] = tensor
    for module in small.modules():
        refit(module)
    return small


def refit(module: nn.Module) -> None:
    """Bring the numbers that a standard layer keeps about itself in line with its tensors."""
    weight = module._parameters.get("weight")
    if weight is None:
        return
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
        if isinstance(module, GatheredLinear):
            module.in_features = module.features
    elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
        if module.groups > 1 and weight.shape[1] == 1 and module.in_channels == module.groups:
            module.groups = weight.shape[0] // (module.out_channels // module.groups)
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        module.num_features = len(weight)


def _replace(root: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    root.get_submodule(parent)._modules[leaf] = new


@torch.no_grad()
def masked_program(program: Program, masks: Mapping[str, Tensor], model: nn.Module) -> Program:
    """``program`` of ``model``, its masked weights set to zero.

    Raises CompactionError for masks that do not fit, ModelError for NaN and infinite parameters.
    """
    own, names, tensors = dict(model.state_dict(keep_vars=True)), first_names(model), program.tensors()
    for name, mask in masks.items():
        if name not in own or own[name].shape != mask.shape:
            found = tuple(own[name].shape) if name in own else "no such weight"
            raise CompactionError(
                f"mask {name} is {tuple(mask.shape)}; the model has {found}; give the masks of this model"
            )
        if names[name] in tensors:  # otherwise the network does not use it
            tensors[names[name]].masked_fill_(mask.to(tensors[names[name]].device) == 0, 0)
    for name, tensor in tensors.items():
        wrong = tensor.isnan() if name in dict(program.named_buffers()) else ~tensor.isfinite()
        if tensor.is_floating_point() and bool(wrong.any()):
            raise ModelError(
                f"{name} has {int(wrong.sum())} values that are NaN or infinite; nothing can be said of what they "
                "compute; train again from a checkpoint without them"
            )
    return program
