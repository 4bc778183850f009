"""One pruning state for all ranks: what each of them holds is put together, and dealt out to any number of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from actprune.errors import CheckpointError
from actprune.pruner.distributed import (
    averaged_gradients,
    everyones,
    from_rank_0,
    local_part,
    meet,
    rank,
    ranks,
    reduced,
    sharded,
    whole,
)
from actprune.state import PruneState
from actprune.types import Sums

_CPU = torch.device("cpu")


def together(state: PruneState, tensors: Mapping[str, Tensor], buffers: frozenset[str]) -> PruneState:
    """The state of all ranks, the same on each of them; with one rank it is ``state`` itself.

    tensors: parameters and buffers by clean name, sharded where they are; buffers: the names of the latter. ``state``
    becomes this rank's share of the result, as it will be where that is loaded: so a run that goes on and one that is
    resumed do the same.

    A collective call. Raises CheckpointError when another rank does not make it, ObservationError when the ranks have
    not observed the same layers.
    """
    if ranks() == 1:
        return state
    meet("state_dict()")
    sums, gradients = reduced(state.sums), averaged_gradients(state.gradients)
    snapshot = {
        name: from_rank_0(part) if name in buffers and not sharded(tensors[name]) else whole(part, tensors[name])
        for name, part in sorted(state.snapshot.items())
    }
    found = replace(
        state,
        sums={name: sums[name] for name in state.sums},
        gradients=gradients,
        snapshot={name: snapshot[name] for name in state.snapshot},
        dense={name: whole(part, tensors[name]) for name, part in state.dense.items()},
        inputs=_interleaved(everyones(_moved(state.inputs, _CPU)), _device(state.inputs)),
        **_of_rank_0(state),
    )
    state.become(share(found, tensors))
    return found


def share(stored: PruneState, tensors: Mapping[str, Tensor]) -> PruneState:
    """What this rank holds of a state of all ranks; with one rank all of it. No communication.

    The first rank takes over the sums and the others start from zero, so that they add up to what was counted.
    Calibration inputs are dealt out batch by batch, shards are cut again. Raises CheckpointError, on every rank, for
    inputs that cannot be dealt out.
    """
    if ranks() == 1:
        return stored
    even = any(map(sharded, tensors.values()))
    return replace(
        stored,
        sums=stored.sums if rank() == 0 else _zeros(stored.sums),
        snapshot={name: _cut(value, tensors[name]) for name, value in stored.snapshot.items()},
        dense={name: _cut(value, tensors[name]) for name, value in stored.dense.items()},
        inputs=_dealt(stored.inputs, even),
    )


def _dealt(inputs: list[Any], even: bool) -> list[Any]:
    """The share of this rank. Where there are too few batches, each of them is dealt out example by example.

    even: as many batches for every rank, for a forward of sharded weights is one of all ranks. Sums do not care how
    their examples are grouped. Raises CheckpointError.
    """
    if not inputs or (len(inputs) >= ranks() and not (even and len(inputs) % ranks())):
        return inputs[rank() :: ranks()]
    for batch in inputs:
        lengths = {len(tensor) for tensor in _tensors(batch) if tensor.dim()}
        if len(lengths) != 1 or min(lengths) < ranks():
            raise CheckpointError(
                f"the state holds {len(inputs)} calibration batches for {ranks()} ranks, which cannot be dealt out: "
                f"one has tensors of {sorted(lengths)} examples; resume with a number of ranks that divides the batches"
            )
    return [_mapped(batch, lambda item: item[rank() :: ranks()].clone() if item.dim() else item) for batch in inputs]


def _of_rank_0(state: PruneState) -> dict[str, Any]:
    """What is one rank's by nature: any will do, but all must take the same."""
    own = state.forwards, _moved(state.example, _CPU)
    forwards, example = everyones(own)[0]
    device = _device(state.example)
    return {"forwards": forwards, "example": _moved(example, device)}


def _cut(value: Tensor, like: Tensor) -> Tensor:
    """A copy where it is a part, which would keep the memory of the whole."""
    return local_part(value, like).clone() if sharded(like) else value


def _zeros(sums: Mapping[str, Sums]) -> dict[str, Sums]:
    return {name: {key: torch.zeros_like(value) for key, value in own.items()} for name, own in sums.items()}


def _interleaved(inputs: list[list[Any]], device: torch.device) -> list[Any]:
    """First batches of all ranks, then their second ones, and so on."""
    longest = max(map(len, inputs))
    found = [own[index] for index in range(longest) for own in inputs if index < len(own)]
    return list(_moved(found, device))


def _moved(item: Any, device: torch.device) -> Any:
    return _mapped(item, lambda tensor: tensor.to(device))


def _mapped(item: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested lists, tuples and dicts with other tensors in them."""
    if isinstance(item, Tensor):
        return change(item)
    if type(item) in (list, tuple):
        return type(item)(_mapped(inner, change) for inner in item)
    return {key: _mapped(inner, change) for key, inner in item.items()} if type(item) is dict else item


def _tensors(item: Any) -> list[Tensor]:
    """Those nested in it."""
    found: list[Tensor] = []
    _mapped(item, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


def _device(item: Any) -> torch.device:
    """Of the first tensor in it that is not on the CPU; the CPU where there is none."""
    return next((tensor.device for tensor in _tensors(item) if tensor.device.type != "cpu"), _CPU)
