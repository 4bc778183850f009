"""Which layers there are, and what they are called whatever the model is wrapped in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from actprune.errors import ModelError, unknown_name

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)
WRAPPERS = ("_orig_mod", "_forward_module", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
"""What torch.compile, Lightning Fabric, activation checkpointing and FSDP1 put into module paths."""


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside torch.compile, DDP, DataParallel, an EMA copy or a Lightning Fabric wrapper."""
    return unwrapped(model)[1]


def unwrapped(model: nn.Module) -> tuple[str, nn.Module]:
    """``(path, module)`` of the user's own module inside ``model``; the path is "" when nothing is wrapped."""
    inside: list[str] = []
    while True:
        step = next((name for name in WRAPPERS if name in model._modules), None)
        if step is None and isinstance(model, (DistributedDataParallel, DataParallel, AveragedModel)):
            step = "module"
        if step is None:
            return ".".join(inside), model
        inside.append(step)
        model = model.get_submodule(step)


def clean_path(path: str) -> str:
    """A module path below the unwrapped model, without what wrappers further inside have added to it."""
    return ".".join(part for part in path.split(".") if part not in WRAPPERS)


def weight_name(path: str) -> str:
    """Clean name of the weight of the module at ``path`` below the unwrapped model."""
    clean = clean_path(path)
    return f"{clean}.weight" if clean else "weight"


def own_modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """``(clean path, module)`` of every module below an unwrapped model, without the wrappers themselves."""
    for path, module in root.named_modules():
        if not any(name in module._modules for name in WRAPPERS):
            yield clean_path(path), module


def unit_axis(layer: nn.Module | None) -> int:
    """Axis of a layer's units, from the end, which fits batched and unbatched tensors: Linear -1, conv before space."""
    return -1 - len(layer.kernel_size) if isinstance(layer, (nn.Conv1d, nn.Conv2d)) else -1


def named_layers(model: nn.Module) -> dict[str, list[tuple[str, nn.Module]]]:
    """Every Linear, Conv1d and Conv2d below an unwrapped model, by clean weight name, in registration order.

    Modules that share one weight are listed together, under the first name.
    """
    first: dict[int, str] = {}
    found: dict[str, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules():
        if isinstance(module, KINDS):
            name = first.setdefault(id(module.weight), weight_name(path))
            found.setdefault(name, []).append((path, module))
    return found


def prunable_layers(model: nn.Module, skip: Sequence[str] = (), include_frozen: bool = False) -> dict[str, str]:
    """Clean weight name -> module path in ``model`` of each Linear, Conv1d and Conv2d to prune, in registration order.

    Tied weights appear once, under the first name. ``skip`` holds fnmatch patterns for module paths or weight names.
    Frozen layers (``requires_grad=False``) are left out unless ``include_frozen``.

    Raises ModelError when a pattern matches nothing, a layer is lazy or parametrized, or nothing is left.
    """
    outer, root = unwrapped(model)
    skip = (skip,) if isinstance(skip, str) else tuple(skip)
    found = named_layers(root)
    _check_patterns(skip, found)
    kept: dict[str, str] = {}
    fate: list[str] = []
    for name, modules in found.items():
        path, layer = modules[0]
        why = _why_not(name, layer, skip, include_frozen)
        if why is None:
            kept[name] = ".".join(part for part in (outer, path) if part)
        fate.append(f"{clean_path(path) or type(layer).__name__} ({why})")
    if not kept:
        others = sorted(
            {type(module).__name__ for module in root.modules() if next(module.parameters(False), None) is not None}
        )
        raise ModelError(
            f"{type(root).__name__} has no layer to prune; expected nn.Linear, nn.Conv1d or nn.Conv2d, found "
            + (", ".join(fate) if fate else f"only {', '.join(others) or 'modules without parameters'}")
        )
    return kept


def _why_not(name: str, layer: nn.Module, skip: tuple[str, ...], include_frozen: bool) -> str | None:
    """Why a layer is left alone, or None when it is to be pruned."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    path = name.removesuffix("weight").removesuffix(".")
    if any(_matches(pattern, path, name) for pattern in skip):
        return "skipped"
    if is_lazy(weight):
        raise ModelError(f"layer {path!r} is lazy and has no weights yet; send one batch through the model first")
    if not isinstance(layer._parameters.get("weight"), nn.Parameter):
        raise ModelError(
            f"the weight of layer {path!r} is computed from other tensors (a parametrization, weight_norm or "
            f"torch.nn.utils.prune) and cannot be masked; make it a plain parameter, or leave it out: skip=[{path!r}]"
        )
    return None if weight.requires_grad or include_frozen else "frozen"


def _matches(pattern: str, path: str, name: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(name, pattern)


def _check_patterns(skip: Sequence[str], found: dict[str, list[tuple[str, nn.Module]]]) -> None:
    known = [(clean_path(path), weight_name(path)) for modules in found.values() for path, _ in modules]
    for pattern in skip:
        if not any(_matches(pattern, path, name) for path, name in known):
            raise ModelError(
                f"skip={pattern!r} matches no layer: " + unknown_name("layer", pattern, [p for p, _ in known])
            )
