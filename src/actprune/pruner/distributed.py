"""The only file that touches ``torch.distributed``: sums over ranks, and full tensors from sharded ones."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor

from actprune.errors import ActpruneError, ObservationError
from actprune.types import Sums


def sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor. Importing that class takes a second, and whoever has one has imported it."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def reduced(sums: Mapping[str, Sums]) -> dict[str, Sums]:
    """The sums of all ranks added up, identical on every rank; the local sums are not changed.

    A collective call: every rank must make it. Raises ObservationError on every rank when one rank saw no data.
    """
    total = {layer: {key: value.clone() for key, value in parts.items()} for layer, parts in sums.items()}
    if _world() == 1:
        return total
    shapes = [
        (layer, key, tuple(value.shape))
        for layer, parts in sorted(total.items())
        for key, value in sorted(parts.items())
    ]
    everyone: list[list[tuple[str, str, tuple[int, ...]]]] = [[] for _ in range(_world())]
    dist.all_gather_object(everyone, shapes)
    if any(theirs != shapes for theirs in everyone):
        counts = [len(theirs) for theirs in everyone]
        raise ObservationError(
            f"the ranks observed different layers (number of sums per rank: {counts}); every rank must observe at "
            "least one batch: give each rank a share of the calibration data"
        )
    for layer, key, _ in shapes:
        dist.all_reduce(total[layer][key])
    return total


def reduced_gradients(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients summed over ranks (under DDP they are equal already, and a common factor changes no ranking)."""
    total = {name: gradient.clone() for name, gradient in gradients.items()}
    if _world() > 1:
        for name in sorted(total):
            dist.all_reduce(total[name])
    return total


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each by its mean over all ranks, in place. A collective call."""
    if (ranks := _world()) > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.div_(ranks)


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, detached. Gathers a sharded one (FSDP2, tensor parallel): a collective call then."""
    whole: Any = tensor.detach()
    return whole.full_tensor() if sharded(whole) else whole  # type: ignore[no-any-return]


def local(tensor: Tensor) -> Tensor:
    """The own part of this rank of a parameter, detached and writable in place."""
    part: Any = tensor.detach()
    return part.to_local() if sharded(part) else part  # type: ignore[no-any-return]


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
    words: list[str | None] = [None] * _world()
    if _world() > 1:
        dist.all_gather_object(words, None if problem is None else str(problem))
    if problem is not None:
        raise problem
    for rank, word in enumerate(words):
        if word is not None:
            raise ObservationError(f"rank {rank} cannot prune, so no rank did (every rank must observe data): {word}")
