"""L2: where each neuron's activation is seen, and which layers read it. Found by watching one forward pass."""

from actprune.graph.dead import dead_neurons, without_constants, without_dead
from actprune.graph.hooks import Hook, hooked, unhooked
from actprune.graph.layers import (
    SKIPPED,
    Choice,
    chosen_layers,
    clean_path,
    named_layers,
    own_modules,
    patterns,
    prunable_layers,
    reasons,
    refuse_fixed,
    unit_axis,
    unwrap,
    weight_name,
    weights_of,
)
from actprune.graph.ops import op_of
from actprune.graph.record import Value, tensors_in
from actprune.graph.tracer import Tracer
from actprune.graph.units import Place

__all__ = [
    "SKIPPED",
    "Choice",
    "Hook",
    "Place",
    "Tracer",
    "Value",
    "chosen_layers",
    "clean_path",
    "dead_neurons",
    "hooked",
    "named_layers",
    "op_of",
    "own_modules",
    "patterns",
    "prunable_layers",
    "reasons",
    "refuse_fixed",
    "tensors_in",
    "unhooked",
    "unit_axis",
    "unwrap",
    "weight_name",
    "weights_of",
    "without_constants",
    "without_dead",
]
