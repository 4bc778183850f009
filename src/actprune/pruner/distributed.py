"""The only file that touches ``torch.distributed``: sums over ranks, and full tensors from sharded ones."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor

from actprune.errors import ActpruneError, CheckpointError, ObservationError
from actprune.types import Sums

PATIENCE = timedelta(seconds=60)
"""How long ``meet`` waits for the other ranks."""


def sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor. Importing that class takes a second, and whoever has one has imported it."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def ranks() -> int:
    """How many processes there are; 1 without ``torch.distributed``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if ranks() > 1 else 0


def meet(call: str) -> None:
    """Wait until every rank has made this call, at most ``PATIENCE``. Raises CheckpointError naming those that did not.

    A reduction that one rank enters alone hangs for the process group's timeout, half an hour by default. So the ranks
    sign in at the store first. A rank that gives up signs out again: the next call of all of them then succeeds.
    """
    if ranks() == 1:
        return
    store = dist.distributed_c10d._get_default_store()
    own = f"actprune/{call}/calls of rank {rank()}"
    count = store.add(own, 1)
    keys = [f"actprune/{call}/{count}/{each}" for each in range(ranks())]
    store.set(keys[rank()], "here")
    try:
        store.wait(keys, PATIENCE)
    except RuntimeError as error:  # DistStoreError is one
        absent = [str(each) for each, key in enumerate(keys) if not store.check([key])]
        if absent:
            store.delete_key(keys[rank()])
            store.add(own, -1)
            raise CheckpointError(
                f"rank {rank()} called {call} and waited for {PATIENCE.total_seconds():g} s, but of {ranks()} ranks "
                f"{', '.join(absent)} did not call it; call it on every rank, and let one of them write the file: "
                "state = pruner.state_dict(), then if torch.distributed.get_rank() == 0: torch.save(state, path)"
            ) from error


def everyones(item: Any) -> list[Any]:
    """The items of all ranks, by rank (anything that can be pickled). A collective call."""
    if ranks() == 1:
        return [item]
    found: list[Any] = [None] * ranks()
    dist.all_gather_object(found, item)
    return found


def from_rank_0(tensor: Tensor) -> Tensor:
    """A copy of what rank 0 has there, on every rank. A collective call."""
    found = tensor.detach().clone()
    if ranks() > 1:
        dist.broadcast(found, 0)
    return found


def reduced(sums: Mapping[str, Sums]) -> dict[str, Sums]:
    """The sums of all ranks added up, identical on every rank; the local sums are not changed.

    A collective call: every rank must make it. Raises ObservationError on every rank when one rank saw no data.
    """
    total = {layer: {key: value.clone() for key, value in parts.items()} for layer, parts in sums.items()}
    for layer, key, _ in _alike(total):
        dist.all_reduce(total[layer][key])
    return total


def averaged_gradients(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean over all ranks, so that averaging twice, or what another number of ranks has averaged, changes nothing.

    A collective call. Raises ObservationError on every rank when one rank has none.
    """
    total = {name: {"gradient": gradient.clone()} for name, gradient in gradients.items()}
    for name, key, _ in _alike(total):
        mean = total[name][key].double()  # the sum of three equal float32 divided by three is not always the same
        dist.all_reduce(mean)
        total[name][key].copy_(mean.div_(ranks()))
    return {name: own["gradient"] for name, own in total.items()}


def _alike(sums: Mapping[str, Sums]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Layer, key and shape of all that is to be reduced, in one order; nothing for a single rank.

    Raises ObservationError on every rank when they do not hold the same.
    """
    if ranks() == 1:
        return []
    shapes = [
        (layer, key, tuple(value.shape))
        for layer, parts in sorted(sums.items())
        for key, value in sorted(parts.items())
    ]
    found = everyones(shapes)
    if any(theirs != shapes for theirs in found):
        counts = [len(theirs) for theirs in found]
        raise ObservationError(
            f"the ranks observed different layers (number of sums per rank: {counts}); every rank must observe at "
            "least one batch: give each rank a share of the calibration data"
        )
    return shapes


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each by its mean over all ranks, in place. A collective call."""
    if ranks() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.div_(ranks())


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, detached. Gathers a sharded one (FSDP2, tensor parallel): a collective call then."""
    whole: Any = tensor.detach()
    return whole.full_tensor() if sharded(whole) else whole  # type: ignore[no-any-return]


def local(tensor: Tensor) -> Tensor:
    """The own part of this rank of a parameter, detached and writable in place."""
    part: Any = tensor.detach()
    return part.to_local() if sharded(part) else part  # type: ignore[no-any-return]


def whole(part: Tensor, like: Any) -> Tensor:
    """The whole tensor of which every rank has the ``part`` that it has of ``like``. Inverse of ``local_part``.

    A collective call where ``like`` is sharded.
    """
    if not sharded(like):
        return part
    placed = sys.modules["torch.distributed.tensor"].DTensor.from_local(
        part.to(like.device), like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return placed.full_tensor()  # type: ignore[no-any-return]


def local_part(whole: Tensor, like: Any) -> Tensor:
    """The part of ``whole`` (equal on every rank) at the place of this rank's part of ``like``. No communication."""
    whole = whole.to(like.device)
    if not sharded(like):
        return whole
    distribute = sys.modules["torch.distributed.tensor"].distribute_tensor
    placed: Any = distribute(whole, like.device_mesh, like.placements, src_data_rank=None)
    return placed.to_local()  # type: ignore[no-any-return]


def agree(problem: ActpruneError | None) -> None:
    """Raise on every rank when one rank has a problem: its own, or word of the other's. A collective call."""
    words = everyones(None if problem is None else str(problem))
    if problem is not None:
        raise problem
    for other, word in enumerate(words):
        if word is not None:
            raise ObservationError(f"rank {other} cannot prune, so no rank did (every rank must observe data): {word}")
