"""Constants of dead neurons: a neuron without inputs still sends act(bias) on; fold that into the next bias.

Two examples are sent through the model to measure the constants where the next layer sees them (after norms, pooling,
dropout and flatten), so nothing has to be known about what lies between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from actprune.core import Choice
from actprune.engine.distributed import full, local, local_part
from actprune.engine.quiet import quiet
from actprune.engine.wrappers import layer_of
from actprune.errors import ModelError, ObservationError
from actprune.graph import Consumer, Graph, dead_neurons, without_constants


@torch.no_grad()
def fold_constants(model: nn.Module, graph: Graph, layers: Mapping[str, str], choice: Choice, example: Any) -> None:
    """Apply ``choice.selected``, then move what dead neurons send over dead weights into the next biases.

    After this call the model computes under ``choice.masks`` what it computes under ``choice.selected``. When it
    raises, the weights are as before.
    """
    links = _dead_links(graph, choice.selected)
    if not links:
        return
    if example is None:
        raise ObservationError(
            "remove_dead has to measure what dead neurons send, but no input was seen that could be cut to two "
            "examples; run observe() on tensor inputs with a batch axis, or give Pruner(example=...)"
        )
    weights = {name: local(layer_of(model, layers[name]).weight) for name in choice.selected}
    before = {name: weight.clone() for name, weight in weights.items()}
    try:
        for name, mask in choice.selected.items():
            weights[name].masked_fill_(~local_part(mask, layer_of(model, layers[name]).weight), 0)
        seen = _inputs_of_layers(model, layers, {consumer.layer for consumer, _ in links}, example)
        constants = [_constant_columns(seen[consumer.layer], dropped, consumer.layer) for consumer, dropped in links]
    except Exception:
        for name, weight in weights.items():
            weight.copy_(before[name])
        raise
    for (consumer, dropped), constant in zip(links, constants, strict=True):
        layer = layer_of(model, layers[consumer.layer])
        lost = full(layer.weight).double() * dropped
        sent = lost.reshape(*lost.shape[:2], -1).sum(2) @ constant
        local(layer.bias).add_(local_part(sent.to(layer.bias.dtype), layer.bias))


def _dead_links(graph: Graph, selected: Mapping[str, Tensor]) -> list[tuple[Consumer, Tensor]]:
    """For every consumer of a dead neuron: which of its weights ``(out, in, *kernel)`` that neuron feeds."""
    links = []
    closed = without_constants(graph, selected)
    for name, mask in closed.items():
        dead = dead_neurons(mask)
        for consumer in graph.consumers.get(name) or ():
            if not consumer.foldable or consumer.layer not in closed or not bool(dead.any()):
                continue
            removed = selected[consumer.layer] & ~closed[consumer.layer]
            columns = dead.to(removed.device).repeat_interleave(consumer.repeat)
            dropped = removed & columns.view(1, -1, *[1] * (removed.dim() - 2))
            if bool(dropped.any()):
                links.append((consumer, dropped))
    return links


def _constant_columns(inputs: Tensor, dropped: Tensor, name: str) -> Tensor:
    """What the consumer receives in each column, ``(in,)``; columns that nothing is dropped from count as 0."""
    rows = inputs.movedim(1, -1) if dropped.dim() > 2 else inputs  # conv: channels last
    rows = rows.reshape(-1, dropped.shape[1]).double()
    wanted = dropped.transpose(0, 1).flatten(1).any(1)
    low, high = rows.amin(0), rows.amax(0)
    spread = torch.where(wanted, (high - low) / (high.abs() + 1e-12).clamp_min(1e-3), 0.0)
    if float(spread.max()) > 1e-3:
        raise ModelError(
            f"a neuron without inputs sends {name} different values for different examples; its constant cannot be "
            "folded: use remove_dead=False for this model"
        )
    return torch.where(wanted, rows.mean(0), 0.0)


def _inputs_of_layers(model: nn.Module, layers: Mapping[str, str], names: set[str], example: Any) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[name] = args[0].detach()

        return hook

    handles = [model.get_submodule(layers[name]).register_forward_pre_hook(keep(name)) for name in sorted(names)]
    args, kwargs = example
    try:
        with quiet(model):
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return seen
