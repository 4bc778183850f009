"""L0: ``PruneState``, everything a pruning run knows besides the model. Tensors, numbers and strings only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from actprune.errors import CheckpointError
from actprune.types import Progress, Sums

VERSION = 3


@dataclass
class PruneState:
    """Masks live here, outside the model (``PruneState.masks``, bool, True = kept, keyed by clean parameter name).

    masks      full (never sharded) masks, on CPU or on the parameter's device
    sums       observed sums per weight name
    gradients  summed gradients per weight name, for criteria that need them
    snapshot   parameters and buffers to rewind to, by name
    moments    moments of the weights at the first pruning, for criteria that need them
    learnt     what the penalty learns beside each weight (live parameters)
    dense      the dense weights behind the mask of a splicing recipe
    dropout    dropout rates as they were before they were rescaled
    pruned_at  optimizer steps at the latest pruning
    positions  output positions per example of each layer (1 for a Linear on vectors, 24*24 for a first LeNet conv)
    graph      where each activation is final and who reads it, as plain values (``graph.Graph.to_dict``)
    dead       cost (weights, or FLOP for a FLOP budget) of all dead weights removed so far
    forwards   training forwards seen by live counting, of which each ``count_every``-th is counted
    example    two examples of the first observed input, to measure what a dead neuron still sends
    """

    masks: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Sums] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    snapshot: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Sums] = field(default_factory=dict)
    learnt: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    dense: dict[str, Tensor] = field(default_factory=dict)
    dropout: dict[str, float] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    graph: dict[str, Any] | None = None
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
        return {"version": VERSION, **{name: _copied(value) for name, value in vars(self).items()}}

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
        return cls(**{name: _copied(stored[name]) for name in names})


def _copied(value: Any) -> Any:
    """Copies nested dicts and tensors, so that a state dict taken now does not change later."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in value)
    return value
