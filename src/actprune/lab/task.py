"""L5: what a network learns: the class of an example, or the example itself. Loss and score of either.

Training loop, evaluation and accuracy-driven schedules know a task by two numbers only: a *loss*, which is trained, and
a *score*, larger = better and 1 = perfect. The score of a classifier is its accuracy; that of an autoencoder the
explained variance. Wherever the loop says "accuracy", it means the score; ``Task.score_name`` says which one it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from actprune.errors import DataError
from actprune.lab.dataset import Dataset

Reduction = Literal["mean", "sum"]
TaskName = Literal["classify", "autoencode"]


class Task(Protocol):
    """Loss and score of one batch: ``out`` ``(N, ...)`` is what the model made of ``x`` ``(N, ...)``, y ``(N,)``."""

    loss_name: ClassVar[str]
    score_name: ClassVar[str]
    labelled: ClassVar[bool]  # whether the loss reads y

    def loss(self, out: Tensor, x: Tensor, y: Tensor | None, reduction: Reduction = "mean") -> Tensor:
        """0-dim, differentiable; the mean over the batch's examples, or their sum."""
        ...

    def tally(self, out: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
        """What ``score`` needs of one batch: sums, so that batches add up."""
        ...

    def score(self, tally: Tensor, examples: int) -> float:
        """The score of all batches whose tallies were added."""
        ...


@dataclass(frozen=True)
class Classify:
    """Cross-entropy (nats) and accuracy (0..1)."""

    loss_name: ClassVar[str] = "cross-entropy"
    score_name: ClassVar[str] = "accuracy"
    labelled: ClassVar[bool] = True

    def loss(self, out: Tensor, x: Tensor, y: Tensor | None, reduction: Reduction = "mean") -> Tensor:
        """In float32 at least: half precision is too coarse for a sum of exponentials."""
        return F.cross_entropy(_wide(out), _given(y), reduction=reduction)

    def tally(self, out: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
        """Number of examples whose largest output is that of their label, int64."""
        return (out.argmax(1) == _given(y)).sum()

    def score(self, tally: Tensor, examples: int) -> float:
        """Accuracy."""
        return int(tally) / examples


@dataclass(frozen=True, eq=False)
class Autoencode:
    """Squared error per pixel, and explained variance ``R^2 = 1 - squared error / squared distance from mean``.

    mean    the mean training example, flattened ``(F,)``: whoever answers it to every input has R^2 = 0 (worse answers
            have less than that; there is no lower bound), a perfect copy has R^2 = 1

    Both sums run over all pixels of all examples of the part that is scored; no label is read.
    """

    mean: Tensor
    loss_name: ClassVar[str] = "mean squared error per pixel"
    score_name: ClassVar[str] = "explained variance"
    labelled: ClassVar[bool] = False

    def loss(self, out: Tensor, x: Tensor, y: Tensor | None, reduction: Reduction = "mean") -> Tensor:
        """Mean squared error per pixel of the batch, or the examples' own added up."""
        each = (_wide(out).flatten(1) - x.flatten(1)).square().mean(1)
        return each.mean() if reduction == "mean" else each.sum()

    def tally(self, out: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
        """(squared error, squared distance from the mean), sums over examples and pixels."""
        wanted = x.flatten(1)
        error = (_wide(out).flatten(1) - wanted).square().sum()
        spread = (wanted - self.mean).square().sum()
        return torch.stack((error.to(_summing(x.device)), spread.to(_summing(x.device))))

    def score(self, tally: Tensor, examples: int) -> float:
        """Explained variance."""
        error, spread = tally.tolist()
        return float(1 - error / spread) if spread else float(error == 0)


def task_of(name: TaskName, dataset: Dataset, device: torch.device | None = None) -> Task:
    """The task by name. Raises DataError for an autoencoder of data that never varies."""
    if name == "classify":
        return Classify()
    x = dataset.train[0].flatten(1)
    mean = x.mean(0)
    if not bool((x != mean).any()):
        raise DataError(f"{dataset.name}: all training examples are equal; an autoencoder needs data that varies")
    return Autoencode(mean.to(device))


def _wide(out: Tensor) -> Tensor:
    return out.float() if out.itemsize < 4 else out


def _given(y: Tensor | None) -> Tensor:
    if y is None:
        raise DataError(
            "classification was asked to score examples without labels; give the labels, or task=autoencode"
        )
    return y


def _summing(device: torch.device) -> torch.dtype:
    """Sums over a data set in float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
