"""The user's model as the pruner knows it: its prunable layers, their names, what is left alone, and its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from actprune.edit import Method
from actprune.errors import ModelError
from actprune.graph import clean_path, prunable_layers, unwrap
from actprune.nodes import Graph
from actprune.pruner.distributed import local, local_part
from actprune.pruner.wrappers import layer_of
from actprune.types import Cost


class PrunableModel:
    """``layers``: clean weight name -> module path. Parameters are looked up anew each time."""

    def __init__(self, model: nn.Module, skip: Sequence[str] = (), include_frozen: bool = False) -> None:
        self.root = unwrap(model)
        self.layers = prunable_layers(self.root, skip, include_frozen)

    def parameters(self, model: nn.Module | None = None) -> dict[str, nn.Parameter]:
        """The prunable weights by clean name, of the model or of a copy of it."""
        root = self.root if model is None else unwrap(model)
        try:
            return {name: layer_of(root, path).weight for name, path in self.layers.items()}
        except AttributeError as error:
            raise ModelError(f"not a copy of the pruned model: {error}") from error

    def weights(self) -> int:
        """Number of prunable weights."""
        return sum(parameter.numel() for parameter in self.parameters().values())

    def tensors(self) -> dict[str, Tensor]:
        """All parameters and buffers by clean name, as they are (sharded ones too)."""
        found = [*self.root.named_parameters(), *self.root.named_buffers()]
        return {clean_path(name): tensor for name, tensor in found}

    def local_tensors(self) -> dict[str, Tensor]:
        """The part of this rank of each, detached and writable in place."""
        return {name: local(tensor) for name, tensor in self.tensors().items()}

    @torch.no_grad()
    def put(self, values: Mapping[str, Tensor]) -> None:
        """New values of parameters and buffers by clean name, full ones or this rank's part. Raises ModelError."""
        tensors = self.tensors()
        if unknown := sorted(set(values) - set(tensors)):
            raise ModelError(f"the edit has values for {unknown}, which the model does not have")
        for name, value in values.items():
            place = local(tensors[name])
            place.copy_(value if value.shape == place.shape else local_part(value, tensors[name]))

    @contextmanager
    def holding(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """The model with these values inside the block, and as it was afterwards."""
        before = {name: tensor.clone() for name, tensor in self.local_tensors().items() if name in values}
        try:
            self.put(values)
            yield
        finally:
            self.put(before)

    def dropouts(self) -> dict[str, _DropoutNd]:
        """Dropout modules by path."""
        return {name: module for name, module in self.root.named_modules() if isinstance(module, _DropoutNd)}

    def outputs(self, graph: Graph | None) -> set[str]:
        """Layers whose outputs leave the model; the last one while the structure is not known."""
        return set(list(self.layers)[-1:]) if graph is None else set(graph.outputs)

    def pruned(self, method: Method, graph: Graph | None) -> list[str]:
        """Layers this method prunes, in execution order once the structure is known, else in registration order."""
        names = list(self.layers)
        if graph is not None:
            seen = list(graph.sites)
            names = [name for name in seen if name in self.layers] + [name for name in names if name not in seen]
        if not method.skip_output:
            return names
        outputs = self.outputs(graph)
        hidden = [name for name in names if name not in outputs]
        if not hidden:
            raise ModelError(
                f"nothing to prune: {names} are output layers and this recipe leaves those alone; "
                "use a model with a hidden layer, or a method that prunes the output layer (skip_output=False)"
            )
        return hidden

    def others(self, names: Sequence[str], positions: Mapping[str, int]) -> Cost:
        """Linear and conv weights that are left alone (output layer, skipped, frozen)."""
        parameters = self.parameters()
        mine = {id(parameters[name]) for name in names}
        weights = flop = 0
        for path, module in self.root.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) and id(module.weight) not in mine:
                mine.add(id(module.weight))
                weights += module.weight.numel()
                flop += 2 * module.weight.numel() * positions.get(f"{path}.weight", 1)
        return Cost(weights, flop)

    def counted(self, method: Method, graph: Graph | None, positions: Mapping[str, int]) -> int:
        """Weights that the method's budget counts."""
        names, parameters = self.pruned(method, graph), self.parameters()
        mine = sum(parameters[name].numel() for name in names)
        return mine + (self.others(names, positions).weights if method.budget.of == "all" else 0)
