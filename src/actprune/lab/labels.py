"""L5: which training examples keep their label, and which images a run may count on.

A run with ``labels=N`` knows the labels of N training examples; of the others only the inputs are kept, so nothing that
comes after can read a withheld label. Validation and test sets stay labelled: they choose and report, as always.
(A validation set larger than the labelled training set is more than practice would have: Oliver et al. 2018.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from actprune.edit import Method
from actprune.errors import DataError, RecipeError
from actprune.evidence import Gradient
from actprune.lab import data
from actprune.lab.dataset import Dataset
from actprune.lab.seeding import derived_seed

if TYPE_CHECKING:
    from actprune.lab.config import RunConfig


def load(config: RunConfig) -> tuple[Dataset, Tensor | None]:
    """The data of a run: with the labels it may know, and the inputs of the training examples without. See ``data``."""
    dataset = data.load(config.data, seed=config.data_seed, validation=config.validation, download=config.download)
    return (dataset, None) if config.labels is None else withhold(dataset, config.labels, config.data_seed)


def withhold(dataset: Dataset, count: int, seed: int) -> tuple[Dataset, Tensor]:
    """The data set with ``count`` labelled training examples, and the inputs of the others, ``(N - count, *shape)``.

    seed: of the choice (``RunConfig.data_seed``: runs that are compared know the same labels). Raises DataError.
    """
    x, y = dataset.train
    if not 0 < count < len(x):
        raise DataError(
            f"labels={count} of {len(x)} training examples of {dataset.name}; expected fewer than there are, so that "
            "some are left without a label; leave labels out to use them all"
        )
    chosen = choose(y, dataset.classes, count, seed)
    rest = torch.ones(len(x), dtype=torch.bool)
    rest[chosen] = False
    return replace(dataset, train=(x[chosen], y[chosen])), x[rest]


def choose(y: Tensor, classes: int, count: int, seed: int) -> Tensor:
    """Indices of ``count`` examples, int64, equally many of every class (one more of the first ``count % classes``).

    A seeded permutation is walked until every class has its share: labels of examples it passes over do not matter, as
    long as their class is full. Raises DataError when a class gets none, or has too few.
    """
    if count < classes:
        raise DataError(f"labels={count} for {classes} classes; expected at least one labelled example of each class")
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(derived_seed(seed, 0, "labels")))
    walked = y[order]
    taken = torch.zeros(len(y), dtype=torch.bool)
    for label in range(classes):
        share = count // classes + (label < count % classes)
        own = (walked == label).nonzero().flatten()
        if len(own) < share:
            raise DataError(f"labels={count} wants {share} examples of class {label}, which has {len(own)}; ask fewer")
        taken[own[:share]] = True
    return order[taken]


def passes(count: int, length: int, seed: int, epoch: int) -> Tensor:
    """``length`` indices of ``count`` examples: whole passes, each in a new order; int64 ``(length,)``, on the CPU."""
    rounds = -(-length // count)
    orders = [
        torch.randperm(count, generator=torch.Generator().manual_seed(derived_seed(seed, epoch, f"order/{number}")))
        for number in range(rounds)
    ]
    return torch.cat(orders)[:length]


def check(config: RunConfig) -> None:
    """Raise RecipeError for settings of labels that contradict each other."""
    if config.labels is not None and config.task == "autoencode":
        raise RecipeError(f"labels={config.labels} with task='autoencode', which reads no label; leave labels out")
    if config.semi != "none" and config.labels is None:
        raise RecipeError(
            f"semi={config.semi!r} needs training images without labels; say how many keep theirs (labels=N)"
        )
    if config.calibration_from == "unlabelled" and config.labels is None:
        raise RecipeError(
            "calibration_from='unlabelled' needs training images without labels, and here every one has its own; say "
            "how many keep theirs (labels=N), or use calibration_from='train' or 'validation'"
        )


def counting(config: RunConfig, recipe: Method, given: bool) -> Method:
    """The recipe as it can count on the images that ``config.calibration_from`` names.

    Live training batches are training images. A method that counts on them by default counts inside ``observe()``
    instead when other images are asked for; one that was told to (an option, or a recipe ``given`` as such) is a
    contradiction. Raises RecipeError, also for gradients of a loss that needs labels on images without.
    """
    where = config.calibration_from
    if where == "train" or not any(each.needs_data for each in recipe.evidence):
        return recipe
    if recipe.count_on == "train" and (given or config.options.get("count_on") == "train"):
        raise RecipeError(
            f"calibration_from={where!r} with count_on='train': live training batches are training images; use "
            "count_on='observe', or calibration_from='train'"
        )
    gradients = any(isinstance(each, Gradient) and each.of is None for each in recipe.evidence)
    if gradients and where == "unlabelled" and config.task == "classify":
        raise RecipeError(
            f"method {recipe.name} needs gradients of the loss, which needs labels; calibration_from='unlabelled' has "
            "none: use calibration_from='train' or 'validation'"
        )
    return replace(recipe, count_on="observe")
