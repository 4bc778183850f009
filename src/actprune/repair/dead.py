"""What is dead: a neuron without inputs still sends act(bias) on; fold that into the next bias, remove what it feeds.

Two examples are sent through the model to measure the constants where the next layer sees them (after norms, pooling,
dropout and flatten), so nothing has to be known about what lies between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from actprune.edit import Edit, Masks, View
from actprune.errors import ModelError, ObservationError
from actprune.graph import dead_neurons, without_constants, without_dead
from actprune.nodes import Consumer, Graph


@dataclass(frozen=True)
class RemoveDead:
    """Also remove weights out of neurons that can no longer fire, their constant folded into the next bias, and into
    neurons that nobody reads. The network computes the same as without this.

    in_budget  True: dead weights count towards the budget; False: in global scope they come on top of it
    """

    in_budget: bool = True

    def closes(self, graph: Graph, masks: Masks) -> Masks:
        """The masks without what is dead under them."""
        return without_dead(graph, masks)

    def repair(self, view: View, edit: Edit) -> Edit:
        """Masks without what is dead, and the biases that take the constants."""
        if view.graph is None:
            raise ObservationError(
                "remove_dead has to see one forward pass to know which layer reads which: run observe(), or give "
                "Pruner(example=...)"
            )
        biases = _folded(view, view.graph, edit)
        return edit._replace(masks=without_dead(view.graph, edit.masks), weights={**edit.weights, **biases})


def _folded(view: View, graph: Graph, edit: Edit) -> dict[str, Tensor]:
    """New biases by name. After this the model computes without the dead weights what it computes with them."""
    links = _dead_links(graph, edit.masks)
    if not links:
        return {}
    masked = {name: _weight(view, edit, name) * mask for name, mask in edit.masks.items()}
    readers = sorted({consumer.layer for consumer, _ in links})
    seen = view.inputs({**edit.weights, **masked}, readers)
    biases: dict[str, Tensor] = {}
    for consumer, dropped in links:
        constant = _constant_columns(seen[consumer.layer], dropped, consumer.layer)
        lost = masked[consumer.layer].double() * dropped
        sent = lost.reshape(*lost.shape[:2], -1).sum(2) @ constant
        name = f"{consumer.layer.removesuffix('weight')}bias"
        before = biases[name] if name in biases else edit.weights.get(name, view.tensor(name))
        biases[name] = before + sent.to(before.dtype)
    return biases


def _weight(view: View, edit: Edit, name: str) -> Tensor:
    return edit.weights[name] if name in edit.weights else view.layer(name).weight


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
