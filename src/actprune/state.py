"""L0: ``PruneState``, everything a pruning run knows besides the model. Tensors, numbers and strings only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from actprune.errors import CheckpointError
from actprune.nodes import Graph
from actprune.types import Progress, Sums

VERSION = 4


@dataclass
class PruneState:
    """Masks live here, outside the model (``PruneState.masks``, bool, True = kept, keyed by clean parameter name).

    With several ranks (DDP, FSDP) each has a state of its own. ``Pruner.state_dict()`` makes one of them that is right
    for all and for any other number of ranks; what is said of ranks below is how. All else is alike on every rank.

    masks      full (never sharded) masks, on CPU or on the parameter's device
    sums       evidence of activations per weight name. Each rank's own; they are added up for a pruning step. Stored:
               the sums over all ranks, which the first rank takes over while the others go on from zeros
    gradients  summed gradients per weight name, for the next pruning step. Each rank's own; stored: their mean
    snapshot   parameters and buffers to rewind to, by name. A rank's shard where they are sharded; stored: whole, and
               buffers are those of rank 0
    moments    evidence of the whole weights at the first pruning step
    learnt     what the penalty learns beside each weight (live parameters, whole: a sharded model is refused one)
    dense      the dense weights behind the mask, for a method that keeps them. A rank's shard; stored: whole
    dropout    dropout rates as they were before they were rescaled, by module path
    dropout_now  dropout rates in force
    inputs     calibration inputs, ``(args, kwargs)`` each, for a method that collects evidence again on them. Each
               rank's own; stored: those of all, of which rank r of n takes ``inputs[r::n]``,
               or its share of the examples of each where they are too few
    pruned_at  optimizer steps at the latest pruning step
    positions  output positions per example of each layer (1 for a Linear on vectors, 24*24 for a first LeNet conv)
    flop       of the whole dense network for one example, by the weight that a product reads ("": none); None: not
               counted yet
    graph      where each activation is final and who reads it
    dead       cost (weights, or FLOP for a FLOP budget) of all dead weights removed so far
    forwards   training forwards seen by live counting, of which each ``count_every``-th is counted.
               Stored: rank 0's
    example    two examples of the first observed input, to measure what a dead neuron still sends. Stored: rank 0's
    """

    masks: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Sums] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    snapshot: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Sums] = field(default_factory=dict)
    learnt: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    dense: dict[str, Tensor] = field(default_factory=dict)
    dropout: dict[str, float] = field(default_factory=dict)
    dropout_now: dict[str, float] = field(default_factory=dict)
    inputs: list[Any] = field(default_factory=list)
    positions: dict[str, int] = field(default_factory=dict)
    flop: dict[str, int] | None = None
    graph: Graph | None = None
    example: Any = None
    forwards: int = 0
    step: int = 0
    pruned_at: int = 0
    pruning_step: int = 0
    metric: float | None = None
    metric_at_last_prune: float | None = None
    dead: int = 0
    released: bool = False

    @property
    def progress(self) -> Progress:
        """What a schedule may look at."""
        return Progress(self.step, self.pruning_step, self.metric, self.metric_at_last_prune)

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings only: ``torch.load(..., weights_only=True)`` reads it back."""
        values = {name: _copied(value) for name, value in vars(self).items()}
        return {"version": VERSION, **values, "graph": None if self.graph is None else self.graph.to_dict()}

    @classmethod
    def from_state_dict(cls, stored: dict[str, Any]) -> PruneState:
        """Inverse of ``state_dict``. Raises CheckpointError on unknown versions or missing entries."""
        version = stored.get("version")
        if version != VERSION:
            raise CheckpointError(f"pruning state has version {version!r}; this actprune reads version {VERSION}")
        names = set(cls.__dataclass_fields__)
        if set(stored) - {"version"} != names:
            odd = sorted(names ^ (set(stored) - {"version"}))
            raise CheckpointError(f"pruning state does not have the expected entries; missing or unknown: {odd}")
        graph = None if stored["graph"] is None else Graph.from_dict(stored["graph"])
        return cls(**{**{name: _copied(stored[name]) for name in names - {"graph"}}, "graph": graph})

    def become(self, other: PruneState) -> None:
        """Take over all that ``other`` knows. There is one state: whoever holds it sees the change."""
        vars(self).update(vars(other))


def _copied(value: Any) -> Any:
    """Copies nested dicts and tensors, so that a state dict taken now does not change later."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in value)
    return value
