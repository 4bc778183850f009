"""L2: the tree of names under a program: standard layers, parameters and buffers at their dotted places."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from actprune.errors import ArtifactError

_NAME = re.compile(r"(?!__)[A-Za-z0-9_-]{1,128}")
STATISTICS = (".running_mean", ".running_var")


class Part(nn.Module):
    """A place in the tree of names: holds parameters, buffers and further parts; it is never called."""


def grow(
    root: nn.Module, layers: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], buffers: frozenset[str]
) -> None:
    """Put ``layers`` (their own tensors uninitialised) and then ``tensors`` at their places below ``root``.

    Integers and booleans are buffers, and so are the named ones and running statistics; the rest are parameters.

    Raises ArtifactError for names that cannot be, and for layers that are left without a tensor.
    """
    for path, layer in layers.items():
        parent, leaf = _place(root, path)
        for name, part in (parent._modules.get(leaf) or Part()).named_children():
            layer.add_module(name, part)  # layers inside layers may come first
        parent.add_module(leaf, layer)
        _check_shapes(path, layer, tensors)
    for name, tensor in tensors.items():
        parent, leaf = _place(root, name)
        if name in buffers or name.endswith(STATISTICS) or not tensor.is_floating_point():
            parent.register_buffer(leaf, tensor.detach())
        else:
            trains = tensor.requires_grad or not isinstance(tensor, nn.Parameter)
            parent.register_parameter(leaf, nn.Parameter(tensor.detach(), requires_grad=trains))
    for path, layer in layers.items():
        _complete(path, layer)


def tensor_at(root: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of that name. Raises ArtifactError when there is none."""
    path, _, leaf = name.rpartition(".")
    parent = root.get_submodule(path)
    found = parent._parameters.get(leaf, parent._buffers.get(leaf))
    if found is None:
        raise ArtifactError(f"the program has no tensor called {name[:80]!r}")
    return found


def first_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> the first name of the same tensor (tied weights have several)."""
    found: dict[int, str] = {}
    names: dict[str, str] = {}
    for name, tensor in [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]:
        names[name] = found.setdefault(id(tensor), name)
    return names


def _place(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    *path, leaf = name.split(".")
    if len(path) > 64 or not all(_NAME.fullmatch(part) for part in (*path, leaf)):
        raise ArtifactError(f"{name[:80]!r} cannot be the name of a tensor or layer")
    place = root
    first = path[0] if path else leaf
    if first not in root._modules and hasattr(root, first):
        raise ArtifactError(f"{first!r} is the name of something that every program has itself; rename that layer")
    for part in path:
        if part not in place._modules:
            place.add_module(part, Part())
        place = place.get_submodule(part)
    return place, leaf


def _check_shapes(path: str, layer: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for leaf, own in layer.named_parameters():
        found = tensors.get(f"{path}.{leaf}")
        if found is not None and found.shape != own.shape:
            raise ArtifactError(f"{path}.{leaf} is {tuple(found.shape)}; its step says {str(tuple(own.shape))[:80]}")


def _complete(path: str, layer: nn.Module) -> None:
    """A count of batches that was not stored starts at 0; nothing else may be missing."""
    tracked = layer._buffers.get("num_batches_tracked")
    if tracked is not None and tracked.is_meta:
        layer.register_buffer("num_batches_tracked", torch.tensor(0))
    for leaf, own in [*layer.named_parameters(), *layer.named_buffers()]:
        if own.is_meta:
            raise ArtifactError(f"the tensor {path}.{leaf} is missing")
