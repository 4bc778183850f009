"""The user's model as the pruner knows it: its prunable layers, their names, what is left alone, and its tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from actprune.accounting import Account, account
from actprune.edit import Method
from actprune.errors import ModelError
from actprune.graph import Choice, chosen_layers, clean_path, reasons, refuse_fixed, unhooked, unwrap, weights_of
from actprune.nodes import Graph
from actprune.pruner.distributed import full, local, local_part, sharded
from actprune.state import PruneState
from actprune.types import Cost


class PrunableModel:
    """``layers``: clean weight name -> module path; ``why``: weight name -> why it is left alone, of the others.

    ``scored``: those of which evidence is collected: ``layers``, and with ``readers`` all others of their kinds, too.
    Parameters are looked up anew each time.
    """

    def __init__(self, model: nn.Module, choice: Choice = Choice(), readers: bool = False) -> None:  # noqa: B008  (frozen)
        self.root, self.choice = unwrap(model), choice
        refuse_fixed(self.root, choice.spans)
        self.layers = chosen_layers(self.root, choice)
        self.why = reasons(self.root, choice)
        every = Choice(include_frozen=True, include_tied=True, spans=True)
        self.scored = {**self.layers, **(chosen_layers(self.root, every) if readers else {})}

    def of_copy(self, model: nn.Module) -> PrunableModel:
        """A copy of the model (an EMA), with the same layers. Raises ModelError when it is none."""
        other = copy.copy(self)
        other.root = unwrap(model)
        wanted = {name: parameter.shape for name, parameter in self.parameters().items()}
        found = {name: parameter.shape for name, parameter in other.parameters().items()}
        if odd := sorted(name for name, shape in wanted.items() if found[name] != shape):
            raise ModelError(f"not a copy of the pruned model: {odd[0]} is {tuple(found[odd[0]])}")
        return other

    def parameters(self) -> dict[str, nn.Parameter]:
        """The prunable weights by clean name.

        They are reached by module path, as wrappers deep inside a model (activation checkpointing, compiled parts) make
        the clean weight name differ from it. Raises ModelError when a layer is gone.
        """
        return self._weights(self.layers)

    def evident(self) -> dict[str, nn.Parameter]:
        """The weights of which evidence is collected, likewise."""
        return self._weights(self.scored)

    def _weights(self, layers: Mapping[str, str]) -> dict[str, nn.Parameter]:
        try:
            return {name: self.root.get_submodule(path).weight for name, path in layers.items()}  # type: ignore[misc]
        except AttributeError as error:
            raise ModelError(f"not the model that was given to the Pruner, nor a copy of it: {error}") from error

    def held(self, masks: Iterable[str]) -> dict[str, nn.Parameter]:
        """The prunable weights, and whatever else has a mask (biases and norms of units that span layers)."""
        found = self.parameters()
        more = [name for name in masks if name not in found]
        if more:
            every = {clean_path(name): parameter for name, parameter in self.root.named_parameters()}
            found |= {name: every[name] for name in more if name in every}
        return found

    def weights(self) -> int:
        """Number of prunable weights."""
        return sum(parameter.numel() for parameter in self.parameters().values())

    def tensors(self) -> dict[str, Tensor]:
        """All parameters and buffers by clean name, as they are (sharded ones too)."""
        found = [*self.root.named_parameters(), *self.root.named_buffers()]
        return {clean_path(name): tensor for name, tensor in found}

    def buffers(self) -> frozenset[str]:
        """Clean names of the buffers."""
        return frozenset(clean_path(name) for name, _ in self.root.named_buffers())

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

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Sharded parameters are whole inside the block, plain ones that no hook of FSDP touches. A collective call.

        Every rank then holds the whole network once.
        """
        taken = [
            (module, name, parameter)
            for module in self.root.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None and sharded(parameter)
        ]
        if not taken:
            yield
            return
        plain = {id(parameter): nn.Parameter(full(parameter), parameter.requires_grad) for _, _, parameter in taken}
        with unhooked(self.root, "torch.distributed.fsdp"):
            try:
                for module, name, parameter in taken:
                    module._parameters[name] = plain[id(parameter)]
                yield
            finally:
                for module, name, parameter in taken:
                    module._parameters[name] = parameter

    def dropouts(self) -> dict[str, _DropoutNd]:
        """Dropout modules by path."""
        return {name: module for name, module in self.root.named_modules() if isinstance(module, _DropoutNd)}

    def set_dropout(self, rates: Mapping[str, float], state: PruneState) -> None:
        """New dropout rates, which no model stores: originals and rates in force are kept in the state."""
        modules = self.dropouts()
        for path, rate in rates.items():
            state.dropout.setdefault(path, modules[path].p)
            modules[path].p = rate
        state.dropout_now.update(rates)

    def outputs(self, graph: Graph | None) -> set[str]:
        """Layers whose outputs leave the model; the last one while the structure is not known."""
        return set(list(self.layers)[-1:]) if graph is None else set(graph.outputs)

    def pruned(self, method: Method, graph: Graph | None) -> list[str]:
        """Layers this method prunes, in execution order once the structure is known, else in registration order."""
        names = list(self.layers)
        if graph is not None:
            seen = list(graph.sites)
            names = [name for name in seen if name in self.layers] + [name for name in names if name not in seen]
        if not method.skip_output or not names:
            return names
        outputs = self.outputs(graph)
        hidden = [name for name in names if name not in outputs]
        if not hidden:
            raise ModelError(
                f"nothing to prune: {names} are output layers and this recipe leaves those alone; "
                "use a model with a hidden layer, or a method that prunes the output layer (skip_output=False)"
            )
        return hidden

    def account(self, method: Method, state: PruneState, masks: Mapping[str, Tensor]) -> Account:
        """What the whole network holds and costs under ``masks``, and what this method leaves alone."""
        names, parameters = set(self.pruned(method, state.graph)), self.parameters()
        spared = {name: "an output layer, which this recipe leaves alone" for name in self.layers if name not in names}
        held = weights_of(self.root)
        return account(self.root, {**self.held(masks), **held, **parameters}, masks, {**self.why, **spared}, state.flop)

    def others(self, names: Sequence[str], state: PruneState) -> Cost:
        """What is left alone: weights of the whole network but for ``names``, and FLOP, of which those of Linear and
        conv layers are known before a forward pass was counted whole.
        """
        parameters, positions = self.parameters(), state.positions
        mine = {id(parameters[name]): name for name in names}
        every = [tensor for tensor in dict.fromkeys(self.root.parameters()) if tensor.dim() > 1]
        weights = sum(tensor.numel() for tensor in every if id(tensor) not in mine)
        if state.flop is not None:
            own = sum(2 * parameters[name].numel() * positions.get(name, 1) for name in names)
            return Cost(weights, sum(state.flop.values()) - own)
        held = weights_of(self.root)
        flop = sum(2 * each.numel() * positions.get(name, 1) for name, each in held.items() if id(each) not in mine)
        return Cost(weights, flop)

    def counted(self, method: Method, state: PruneState) -> int:
        """Weights that the method's budget counts; of units that span layers, all parameters (or their bytes)."""
        if getattr(method, "spans", False):
            if method.budget.kind == "bytes":
                return sum(each.numel() * each.element_size() for each in self.tensors().values())
            return sum(parameter.numel() for parameter in dict.fromkeys(self.root.parameters()))
        names, parameters = self.pruned(method, state.graph), self.parameters()
        mine = sum(parameters[name].numel() for name in names)
        return mine + (self.others(names, state).weights if method.budget.of == "all" else 0)
