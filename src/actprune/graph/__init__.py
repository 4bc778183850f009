"""L2: where each neuron's activation is seen, and which layers read it. Found by watching one forward pass."""

from actprune.graph.dead import dead_neurons, without_constants, without_dead
from actprune.graph.hooks import Hook, hooked, unhooked
from actprune.graph.layers import (
    clean_path,
    named_layers,
    own_modules,
    prunable_layers,
    reasons,
    unit_axis,
    unwrap,
    weight_name,
)
from actprune.graph.ops import op_of
from actprune.graph.record import Value, tensors_in
from actprune.graph.tracer import Tracer
from actprune.graph.units import Place

__all__ = [
    "Hook",
    "Place",
    "Tracer",
    "Value",
    "clean_path",
    "dead_neurons",
    "hooked",
    "named_layers",
    "op_of",
    "own_modules",
    "prunable_layers",
    "reasons",
    "tensors_in",
    "unhooked",
    "unit_axis",
    "unwrap",
    "weight_name",
    "without_constants",
    "without_dead",
]
