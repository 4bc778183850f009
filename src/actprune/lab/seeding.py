"""L5: every random number of a run is a pure function of (seed, epoch, purpose): resuming needs no RNG state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derived_seed(seed: int, epoch: int, purpose: str) -> int:
    """A 63-bit seed; neighbouring seeds and epochs give unrelated streams."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Order in which ``count`` examples are shown in this epoch: int64 ``(count,)``, on the CPU."""
    return torch.randperm(count, generator=_generator(seed, epoch, "order"))


def drawn(count: int, images: int, seed: int, epoch: int) -> Tensor:
    """Indices of ``images`` of ``count`` examples, with replacement: int64 ``(images,)``, on the CPU."""
    return torch.randint(count, (images,), generator=_generator(seed, epoch, "draw"))


@contextmanager
def seeded_epoch(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """The global RNG of torch (dropout) seeded inside the block, as before outside it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derived_seed(seed, epoch, "dropout"))
        yield


def _generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, epoch, purpose))


def batch_sizes(count: int, size: int) -> list[int]:
    """Sizes of an epoch's batches. A last batch of one example joins the one before: BatchNorm cannot train on one."""
    sizes = [size] * (count // size) + ([count % size] if count % size else [])
    return [*sizes[:-2], sizes[-2] + 1] if len(sizes) > 1 and sizes[-1] == 1 else sizes
