"""Which layers there are, and what they are called whatever the model is wrapped in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
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
            own = module._parameters.get("weight")  # what is computed is another tensor each time, at any address
            name = first.setdefault(id(module if own is None else own), weight_name(path))
            found.setdefault(name, []).append((path, module))
    return found


def weights_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of ``named_layers`` by clean name, but for those that are computed (a parametrization)."""
    found = {name: modules[0][1]._parameters.get("weight") for name, modules in named_layers(model).items()}
    return {name: weight for name, weight in found.items() if weight is not None}


@dataclass(frozen=True)
class Choice:
    """Which layers are to be pruned. Patterns are fnmatch patterns of module paths or weight names.

    skip            to be left alone
    only            everything else is left alone; (): nothing is
    include_frozen  also layers with ``requires_grad=False``
    include_tied    also layers whose weight another kind of module holds (a head tied to its token embedding)
    spans           units span layers: a weight that is computed is no obstacle then, nor is a model without Linear and
                    conv layers, and patterns may name any module or parameter
    """

    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    include_frozen: bool = False
    include_tied: bool = False
    spans: bool = False

    def left_alone(self, path: str, name: str) -> str | None:
        """Why the patterns leave a parameter alone; None: they do not."""
        if any(_matches(pattern, path, name) for pattern in self.skip):
            return SKIPPED
        if self.only and not any(_matches(pattern, path, name) for pattern in self.only):
            return NOT_IN_ONLY
        return None


SKIPPED = "skipped"
NOT_IN_ONLY = "not in only="


def patterns(given: Sequence[str]) -> tuple[str, ...]:
    """One pattern or several."""
    return (given,) if isinstance(given, str) else tuple(given)


def prunable_layers(
    model: nn.Module, skip: Sequence[str] = (), include_frozen: bool = False, include_tied: bool = False
) -> dict[str, str]:
    """``chosen_layers`` of these options."""
    return chosen_layers(model, Choice(patterns(skip), (), include_frozen, include_tied))


def chosen_layers(model: nn.Module, choice: Choice) -> dict[str, str]:
    """Clean weight name -> module path in ``model`` of each Linear, Conv1d and Conv2d to prune, in registration order.

    Layers tied to one another appear once, under the first name. Left out are what the patterns say, frozen layers
    (``requires_grad=False``) and layers whose weight another kind of module holds as well (the head of a language
    model, its token embedding) unless they are included, and layers without any weight.

    Raises ModelError when a pattern matches nothing, a layer is lazy or parametrized, or nothing is left.
    """
    outer, root = unwrapped(model)
    found = named_layers(root)
    why = reasons(root, choice)
    kept = {
        name: ".".join(part for part in (outer, modules[0][0]) if part)
        for name, modules in found.items()
        if name not in why
    }
    if not kept and not choice.spans:
        fate = [f"{_path(name) or type(root).__name__} ({reason})" for name, reason in why.items()]
        owners = (module for module in root.modules() if next(module.parameters(False), None) is not None)
        kinds = sorted({type(module).__name__ for module in owners if not isinstance(module, KINDS)})
        what = [*fate, *([f"only {', '.join(kinds)}" if not fate else ", ".join(kinds)] if kinds else [])]
        raise ModelError(
            f"{type(root).__name__} has no layer to prune; expected nn.Linear, nn.Conv1d or nn.Conv2d, found "
            + (", ".join(what) or "only modules without parameters")
        )
    return kept


def reasons(root: nn.Module, choice: Choice) -> dict[str, str]:
    """Why a Linear or conv below an unwrapped model is left alone, by clean weight name; those to be pruned are not in.

    Raises ModelError when a pattern matches nothing, or a layer is lazy or parametrized.
    """
    found = named_layers(root)
    _check_patterns(choice, found, root)
    ties = {} if choice.include_tied else _ties(root)
    why = {}
    for name, modules in found.items():
        reason = _why_not(name, modules[0][1], choice, ties)
        if reason is not None:
            why[name] = reason
    return why


def _ties(root: nn.Module) -> dict[int, str]:
    """Parameters that modules of other kinds hold, by identity: the path and kind of the first such module."""
    ties: dict[int, str] = {}
    for path, module in root.named_modules():
        if not isinstance(module, KINDS):
            for leaf, parameter in module.named_parameters(recurse=False):
                where = clean_path(f"{path}.{leaf}" if path else leaf)
                ties.setdefault(id(parameter), f"{where} of {type(module).__name__}")
    return ties


def _why_not(name: str, layer: nn.Module, choice: Choice, ties: Mapping[int, str]) -> str | None:
    """Why a layer is left alone, or None when it is to be pruned."""
    path = _path(name)
    computed = not isinstance(layer._parameters.get("weight"), nn.Parameter)
    if computed and choice.spans:
        return "its weight is computed from other tensors (a parametrization)"
    weight = layer.weight
    assert isinstance(weight, Tensor)
    aside = choice.left_alone(path, name)
    if aside is not None:
        return aside
    if is_lazy(weight):
        raise ModelError(f"layer {path!r} is lazy and has no weights yet; send one batch through the model first")
    if computed:
        raise ModelError(
            f"the weight of layer {path!r} is computed from other tensors (a parametrization, weight_norm or "
            f"torch.nn.utils.prune) and cannot be masked; make it a plain parameter, or leave it out: skip=[{path!r}]"
        )
    if not weight.numel():
        return "it has no weights"
    if not (weight.requires_grad or choice.include_frozen):
        return "frozen; include_frozen=True prunes it"
    if id(weight) in ties:
        return f"tied to {ties[id(weight)]}; include_tied=True prunes both"
    return None


def _path(name: str) -> str:
    """Module path of a weight name."""
    return name.removesuffix("weight").removesuffix(".")


def _matches(pattern: str, path: str, name: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(name, pattern)


def _check_patterns(choice: Choice, found: dict[str, list[tuple[str, nn.Module]]], root: nn.Module) -> None:
    known = [(clean_path(path), weight_name(path)) for modules in found.values() for path, _ in modules]
    if choice.spans:
        known += [(clean_path(path), clean_path(path)) for path, _ in root.named_modules() if path]
        known += [(_owner(name), name) for name in map(clean_path, dict(root.named_parameters()))]
    for option, given in (("skip", choice.skip), ("only", choice.only)):
        for pattern in given:
            if not any(_matches(pattern, path, name) for path, name in known):
                names = list(dict.fromkeys(path for path, _ in known if path))
                raise ModelError(f"{option}={pattern!r} matches no layer: " + unknown_name("layer", pattern, names))


def refuse_fixed(root: nn.Module, spans: bool) -> None:
    """Raise ModelError for models whose code or weights cannot be changed any more.

    spans: units span layers, so a quantised layer anywhere is in the way.
    """
    if isinstance(root, torch.jit.ScriptModule):
        raise ModelError(
            f"the model is a {type(root).__name__}, whose code is fixed; prune the module that it was made from, then "
            "script or trace the result"
        )
    for path, module in root.named_modules() if spans else ():
        if ".quantized" in type(module).__module__:
            raise ModelError(
                f"{path or 'the model'} is quantised ({type(module).__module__}.{type(module).__name__}), and packed "
                "weights cannot be cut; prune and compact the float model, then quantise the result"
            )


def _owner(name: str) -> str:
    """Path of the module that holds a parameter."""
    return name.rpartition(".")[0]
