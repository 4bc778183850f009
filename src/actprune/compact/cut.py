"""L4: carry out a plan: tensors without what goes, inside a copy of the user's own model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from actprune.compact.attention import widen
from actprune.compact.gathered import GatheredLinear
from actprune.compact.plan import Plan
from actprune.errors import CompactionError, ModelError
from actprune.program import first_names
from actprune.structure import tables, tensors_of


def sliced(tensor: Tensor, kept: list[Tensor | None]) -> Tensor:
    """``tensor`` without the indices that are not kept, axis by axis; the same tensor where all are."""
    for axis, indices in enumerate(kept):
        if indices is not None and not bool(indices.all()):
            tensor = tensor.index_select(axis, torch.nonzero(indices.to(tensor.device)).flatten())
    return tensor


def small_tensors(plan: Plan, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor of the small network, with the trainability of ``like`` (by name).

    New ones: biases that had to be made, and ``<layer>.columns``, the inputs that a first layer still reads.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in plan.tensors.items():
        old = like.get(name, tensor)
        new = sliced(tensor.detach(), plan.keeps.get(name, [])).contiguous()
        new = new.clone() if new.data_ptr() == tensor.data_ptr() or new.data_ptr() == old.data_ptr() else new
        found[name] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
        if name in plan.biases:
            found[name] = nn.Parameter(new)
    for weight in plan.gathers:
        kept = plan.keeps[weight][1]
        assert kept is not None
        found[columns_name(weight)] = torch.nonzero(kept).flatten().to(found[weight].device)
    return found


def columns_name(weight: str) -> str:
    """Name of the index of inputs that a layer reads."""
    return weight.removesuffix("weight") + "columns"


def as_module(plan: Plan, model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the user's model whose layers hold the small tensors."""
    cut: dict[int, Any] = {id(tensor): tensors[name] for name, tensor in tensors_of(model).items()}
    cut.update(_kept_aside(plan))
    small = copy.deepcopy(model, cut)  # so that no tensor is copied whole first
    for weight in plan.gathers:
        path = weight.removesuffix(".weight")
        _replace(small, path, GatheredLinear.of(small.get_submodule(path), tensors[columns_name(weight)]))
    for name in plan.biases:
        path, _, leaf = name.rpartition(".")
        bias = tensors[name]
        assert isinstance(bias, nn.Parameter)
        small.get_submodule(path)._parameters[leaf] = bias
    if plan.fates.found.record.remade:
        for table in tables(small):
            table.clear()
    for path, module in small.named_modules():
        refit(module)
        _refit_bare(plan, path, module)
    return small


def _kept_aside(plan: Plan) -> dict[int, Tensor]:
    """Tensors that the model holds otherwise (a table that it has made once) without what goes, by identity."""
    fates, found = plan.fates, {}
    for slot, tensor in plan.fates.found.record.others.items():
        lines = fates.lines(fates.found.values[slot])
        if any(line is not None for line in lines):
            found[id(tensor)] = sliced(tensor.detach(), lines)
    return found


def _refit_bare(plan: Plan, path: str, module: Any) -> None:
    """A norm without tensors of its own learns its channels from what it is given."""
    found = plan.fates.found
    kinds = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
    if not isinstance(module, kinds) or module._parameters.get("weight") is not None:
        return
    for inputs, _ in found.record.calls.get(path, []):
        channels = plan.fates.shape(found.values[inputs[0]])[1]
        if isinstance(module, nn.GroupNorm):
            module.num_groups = channels if module.num_groups == module.num_channels else module.num_groups
            module.num_channels = channels
        else:
            module.num_features = channels


def refit(module: nn.Module) -> None:
    """Bring the numbers that a standard layer keeps about itself in line with its tensors."""
    for kind, change in _REFITS:
        if isinstance(module, kind):
            change(module)
            return


def _linear(module: Any) -> None:
    module.out_features, module.in_features = module.weight.shape
    if isinstance(module, GatheredLinear):
        module.in_features = module.features


def _conv(module: Any) -> None:
    weight = module.weight
    if module.transposed:
        module.in_channels, module.out_channels = weight.shape[0], weight.shape[1] * module.groups
        return
    width, each = module.in_channels // module.groups, module.out_channels // module.groups
    if module.groups > 1 and weight.shape[1] == width and weight.shape[0] != module.out_channels:
        module.groups = weight.shape[0] // each  # whole groups have gone
    module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups


def _features(module: Any) -> None:
    first = next((t for t in (module.weight, module.running_mean) if t is not None), None)
    if first is not None:
        module.num_features = len(first)


def _layer_norm(module: Any) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


def _group_norm(module: Any) -> None:
    channels = module.num_channels if module.weight is None else len(module.weight)
    if module.num_groups == module.num_channels:  # each channel for itself
        module.num_groups = channels
    module.num_channels = channels


def _embedding(module: Any) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _recurrent(module: Any) -> None:
    weight = module.weight_hh_l0
    if not module.proj_size:
        module.hidden_size = weight.shape[1]
    module.input_size = module.weight_ih_l0.shape[1]
    module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def _cell(module: Any) -> None:
    module.hidden_size, module.input_size = module.weight_hh.shape[1], module.weight_ih.shape[1]


def _slopes(module: Any) -> None:
    module.num_parameters = len(module.weight)


_REFITS: tuple[tuple[Any, Callable[[Any], None]], ...] = (
    (nn.Linear, _linear),
    (nn.modules.conv._ConvNd, _conv),
    (nn.modules.batchnorm._NormBase, _features),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    (nn.GroupNorm, _group_norm),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    (nn.MultiheadAttention, widen),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _cell),
    (nn.PReLU, _slopes),
)


def _replace(root: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    root.get_submodule(parent)._modules[leaf] = new


@torch.no_grad()
def masked_tensors(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters and buffers by their first names, masked weights set to zero; only those are copied.

    Raises CompactionError for masks that do not fit, ModelError for NaN and infinite parameters.
    """
    own, names, tensors = dict(model.state_dict(keep_vars=True)), first_names(model), tensors_of(model)
    for name, mask in masks.items():
        if name not in own or own[name].shape != mask.shape:
            found = tuple(own[name].shape) if name in own else "no such weight"
            raise CompactionError(
                f"mask {name} is {tuple(mask.shape)}; the model has {found}; give the masks of this model"
            )
        tensor = tensors[names[name]]
        kept = mask.to(tensor.device) != 0
        if bool(((tensor.detach() != 0) & ~kept).any()):
            tensors[names[name]] = tensor.detach().masked_fill(~kept, 0)
    buffers = dict(model.named_buffers())
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or bool(tensor.detach().sum().isfinite()):
            continue  # a sum with one of them is none itself
        wrong = tensor.isnan() if name in buffers else ~tensor.isfinite()
        if bool(wrong.any()):
            raise ModelError(
                f"{name} has {int(wrong.sum())} values that are NaN or infinite; nothing can be said of what they "
                "compute; train again from a checkpoint without them"
            )
    return tensors
