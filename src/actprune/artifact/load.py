"""L4: from a file to a module: without the original class, or into it, its layers taking the stored widths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from actprune.artifact.document import Document, read
from actprune.artifact.encoding import MAX_BYTES
from actprune.errors import ArtifactError
from actprune.program import Program, Ref
from actprune.program.bound import GROWTH

M = TypeVar("M", bound=nn.Module)


@overload
def load(path: str | Path, *, into: None = None, max_bytes: int = MAX_BYTES, growth: float = GROWTH) -> Program: ...


@overload
def load(path: str | Path, *, into: M, max_bytes: int = MAX_BYTES, growth: float = GROWTH) -> M: ...


def load(
    path: str | Path, *, into: nn.Module | None = None, max_bytes: int = MAX_BYTES, growth: float = GROWTH
) -> nn.Module:
    """The model in a file that ``save`` wrote, in evaluation mode.

    into       a model of the original class, of any widths: its layers are changed to the stored widths, its weights
               replaced; it is returned, and untouched if that fails. None: a Program, which needs no class
    max_bytes  of the file, and of the tensors in memory
    growth     how many times the bytes of its inputs, or of its largest tensor, any value of a forward may take (64 MiB
               are always free; see ``program.bound``); math.inf for a file you trust

    No code is run that comes from the file: it holds numbers and names of listed operations. Whatever is wrong with a
    file (truncated, changed, hostile) is an ArtifactError, in bounded time and memory. What a forward would allocate
    beyond ``growth`` is one here, where it can be told without an input, else when the program is called, before it
    allocates.
    """
    program = build(read(path, max_bytes)[0], growth)
    return program if into is None else fill(into, program).eval()


def build(doc: Document, growth: float = GROWTH) -> Program:
    """The program that a document describes. Raises ArtifactError when it is inconsistent, or allocates too much."""
    if not growth > 0:
        raise ArtifactError(f"growth={growth!r}: expected a positive number such as 256, or math.inf")
    try:
        tensors = doc.tensors()
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise ArtifactError(f"the file is damaged: {str(error)[:200]}") from error
    return Program.build(doc.header.structure, tensors, growth).eval()


# ---- into a model of the original class -----------------------------------------------------------------------------


Changes = dict[str, Any]
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def fill(model: nn.Module, program: Program) -> nn.Module:
    """``model``, changed in place: parameters, buffers and widths are those of ``program``.

    Inputs that the stored model does not read get zero weights again, as the original class has no place for a gather.
    Everything is checked first. Raises ArtifactError naming the first tensor that does not fit; nothing has changed
    then.
    """
    tensors = _scattered(model, program)
    own = model.state_dict(keep_vars=True)
    for name in own:
        if name not in tensors and not name.endswith("num_batches_tracked"):
            raise ArtifactError(f"the file has no tensor {name!r}, which {type(model).__name__} needs: another class?")
    plan = [_fitted(model, name, own.get(name), tensor) for name, tensor in tensors.items()]
    for place, leaf, tensor, changes in plan:
        _put(place, leaf, tensor)
        for attribute, value in changes.items():
            setattr(place, attribute, value)
    return model


def _fitted(model: nn.Module, name: str, own: Tensor | None, tensor: Tensor) -> tuple[nn.Module, str, Tensor, Changes]:
    """Where a tensor goes, and which of its layer's attributes change with it."""
    if own is None:
        raise ArtifactError(f"{type(model).__name__} has no tensor {name!r}, which the file holds: another class?")
    path, _, leaf = name.rpartition(".")
    place = model.get_submodule(path)
    if own.shape == tensor.shape:
        return place, leaf, tensor, {}
    rule = next((rule for kind, rule in _RULES.items() if isinstance(place, kind)), None)
    if rule is None or own.dim() != tensor.dim():
        raise ArtifactError(
            f"{name!r} is {tuple(own.shape)} in {type(model).__name__} and {tuple(tensor.shape)} in the file, and a "
            f"{type(place).__name__} cannot change its width; load without into="
        )
    return place, leaf, tensor, rule(place, leaf, tensor)


def _put(place: nn.Module, leaf: str, tensor: Tensor) -> None:
    own = getattr(place, leaf)
    if isinstance(own, nn.Parameter):
        setattr(place, leaf, nn.Parameter(tensor.detach().to(own), requires_grad=own.requires_grad))
    else:
        setattr(place, leaf, tensor.detach().to(own))


def _linear(place: nn.Module, leaf: str, tensor: Tensor) -> Changes:
    return {"out_features": tensor.shape[0], "in_features": tensor.shape[1]} if leaf == "weight" else {}


def _conv(place: nn.Module, leaf: str, tensor: Tensor) -> Changes:
    """Groups keep their size: a depthwise convolution with fewer channels has fewer groups."""
    if leaf != "weight":
        return {}
    assert isinstance(place, nn.modules.conv._ConvNd)
    per_group = place.out_channels // place.groups
    groups = place.groups if place.groups == 1 else max(1, tensor.shape[0] // per_group)
    return {"out_channels": tensor.shape[0], "in_channels": tensor.shape[1] * groups, "groups": groups}


def _norm(place: nn.Module, leaf: str, tensor: Tensor) -> Changes:
    return {"num_features": tensor.shape[0]}


def _layer_norm(place: nn.Module, leaf: str, tensor: Tensor) -> Changes:
    return {"normalized_shape": tuple(tensor.shape)}


def _group_norm(place: nn.Module, leaf: str, tensor: Tensor) -> Changes:
    return {"num_channels": tensor.shape[0]}


def _embedding(place: nn.Module, leaf: str, tensor: Tensor) -> Changes:
    return {"num_embeddings": tensor.shape[0], "embedding_dim": tensor.shape[1]}


_RULES: dict[type[nn.Module], Callable[[nn.Module, str, Tensor], Changes]] = {
    nn.Linear: _linear, nn.modules.conv._ConvNd: _conv, nn.LayerNorm: _layer_norm, nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding, **dict.fromkeys(_NORMS, _norm),
}  # fmt: skip


def _scattered(model: nn.Module, program: Program) -> dict[str, Tensor]:
    """The program's tensors; weights behind a gather of the input are put back at the columns that were gathered."""
    tensors, own = dict(program.tensors()), model.state_dict()
    gathers = {
        step.name: step.args[2].name
        for step in program.steps
        if step.op == "index_select" and isinstance(step.args[2], Ref) and step.args[2].name not in own
    }
    for step in program.steps:
        source = step.args[0] if step.args else None
        if step.op == "linear" and isinstance(source, Ref) and source.name in gathers:
            name, columns = step.args[1].name, tensors[gathers[source.name]]
            if name in own and own[name].dim() == 2 and len(columns) and int(columns.max()) < own[name].shape[1]:
                wide = torch.zeros(tensors[name].shape[0], own[name].shape[1], dtype=tensors[name].dtype)
                wide[:, columns] = tensors[name].detach()
                tensors[name] = wide
    for buffer in gathers.values():
        tensors.pop(buffer, None)
    return tensors
