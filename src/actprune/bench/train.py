"""L5: one epoch of training on data that is resident as tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from actprune.bench.config import RunConfig
from actprune.bench.evaluate import Score
from actprune.bench.listener import Listener
from actprune.bench.seeding import drawn, epoch_order, seeded_epoch
from actprune.errors import ModelError

if TYPE_CHECKING:
    from actprune.bench.setup import Setup


def batch_sizes(count: int, size: int) -> list[int]:
    """Sizes of an epoch's batches. A last batch of one example joins the one before: BatchNorm cannot train on one."""
    sizes = [size] * (count // size) + ([count % size] if count % size else [])
    return [*sizes[:-2], sizes[-2] + 1] if len(sizes) > 1 and sizes[-1] == 1 else sizes


def learning_rate(config: RunConfig, epoch: int) -> float:
    """Of an epoch, counted from 1. A pure function of its number, so that a resumed run needs no scheduler state."""
    if config.lr_schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / config.max_epochs))


def train_epoch(setup: Setup, epoch: int, listener: Listener) -> Score:
    """Train on every example once; running loss and accuracy of the epoch (as Keras reports them).

    Nothing is read back from the device until the end. Raises ModelError when the loss is no longer finite.
    """
    x, y = setup.train
    model, forward, backward, step = setup.model, setup.forward, setup.backward, setup.step
    order = epoch_order(len(x), setup.config.seed, epoch).to(setup.device)
    loss_sum = torch.zeros((), device=setup.device)
    hits = torch.zeros((), dtype=torch.int64, device=setup.device)
    model.train()
    for group in setup.optimizer.param_groups:
        group["lr"] = learning_rate(setup.config, epoch)
    with seeded_epoch(setup.config.seed, epoch, setup.device):
        # Gathering batch by batch keeps the copy in the cache; a permuted copy of the whole set is 15 % slower.
        for chosen in torch.split(order, batch_sizes(len(x), setup.config.batch_size)):
            labels = y.index_select(0, chosen)
            out = forward(x.index_select(0, chosen))
            loss = F.cross_entropy(out.float() if out.itemsize < 4 else out, labels)
            backward(loss)
            step()
            setup.optimizer.zero_grad()
            loss_sum += loss.detach() * len(labels)
            hits += (out.detach().argmax(1) == labels).sum()
            listener.stepped()
    loss_mean = float(loss_sum) / len(x)
    if not torch.isfinite(loss_sum):
        raise ModelError(
            f"training diverged in epoch {epoch}: the loss is {loss_mean}; the last checkpoint is the one before. "
            f"Start again with a smaller learning rate (lr={setup.config.lr:g} now)"
        )
    return Score(loss_mean, int(hits) / len(x))


def observe_images(setup: Setup, epoch: int, images: int) -> None:
    """Count on ``images`` random training images, the same ones for the same (seed, epoch); gradients where needed."""
    x, y = setup.train
    chosen = drawn(len(x), images, setup.config.seed, epoch).to(setup.device)
    with setup.pruner.observe():
        out = setup.forward(x.index_select(0, chosen))
        if out.requires_grad:
            setup.backward(F.cross_entropy(out.float(), y.index_select(0, chosen), reduction="mean"))
