"""L5: data, model, optimizer and pruner of one run, placed on its device by Lightning Fabric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from actprune.bench import data, models
from actprune.bench.config import RunConfig
from actprune.bench.dataset import Dataset
from actprune.bench.recipe import recipe_of
from actprune.bench.train import batch_sizes
from actprune.engine.pruner import Pruner
from actprune.errors import RecipeError
from actprune.types import Recipe

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Setup:
    """A run, ready to train. All data is on the device.

    model     the bare module (what is saved); ``forward`` is how it is called (with its precision), and ``backward``
    optimizer the bare optimizer (what is saved); ``step`` is how it is called
    """

    config: RunConfig
    recipe: Recipe
    dataset: Dataset
    train: Pair
    validation: Pair
    test: Pair
    model: nn.Module
    optimizer: Optimizer
    pruner: Pruner
    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor], None]
    step: Callable[[], Any]
    device: torch.device

    @property
    def steps(self) -> int:
        """Optimizer steps per epoch."""
        return len(batch_sizes(len(self.train[0]), self.config.batch_size))


def build(config: RunConfig, recipe: Recipe | None = None) -> Setup:
    """Load the data, build and initialise the model, make the pruner (not attached yet: a resume loads first).

    Raises DataError, ModelError or RecipeError for whatever does not exist or does not fit together.
    """
    dataset = data.load(config.data, seed=config.data_seed, validation=config.validation, download=config.download)
    steps = len(batch_sizes(len(dataset.train[0]), config.batch_size))
    recipe = recipe_of(config, steps) if recipe is None else recipe
    model = models.build(config.model, dataset, hidden=config.hidden, seed=config.seed, init=config.init)
    data.check_compatible(dataset, model)
    fabric = _fabric(config)
    optimizer = _optimizer(config, model, fabric.device)
    forward, stepper = fabric.setup(model, optimizer)
    train, validation, test = (
        _placed(pair, fabric.device) for pair in (dataset.train, dataset.validation, dataset.test)
    )
    first = next(model.parameters())
    example = train[0][:2].to(first.dtype)
    pruner = Pruner(model, recipe, example=example)
    return Setup(
        config, recipe, dataset, train, validation, test, model, optimizer, pruner,
        forward, fabric.backward, stepper.step, fabric.device,
    )  # fmt: skip


def _fabric(config: RunConfig) -> Any:
    """One device: a run that fits in memory needs no second one, and several would change the order of the batches."""
    from lightning_fabric import Fabric  # slow to import, and an optional extra

    try:
        return Fabric(accelerator=config.accelerator, devices=1, precision=config.precision)
    except Exception as error:  # Fabric raises several types, e.g. for a missing GPU
        raise RecipeError(
            f"accelerator={config.accelerator!r} with precision={config.precision!r} cannot be used here: {error}; "
            "use accelerator='cpu' and precision='32-true'"
        ) from error


def _optimizer(config: RunConfig, model: nn.Module, device: torch.device) -> Optimizer:
    """Fused where torch has it: one call for all parameters, which counts for small networks.

    Not in bfloat16: there torch 2.13's fused SGD with momentum does not learn on a CPU (the unfused one does).
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    common["fused"] = True if device.type in ("cpu", "cuda") and config.precision != "bf16-true" else None
    if config.optimizer == "sgd":
        return SGD(parameters, momentum=config.momentum, **common)
    return (Adam if config.optimizer == "adam" else AdamW)(parameters, **common)


def _placed(pair: Pair, device: torch.device) -> Pair:
    return pair[0].to(device), pair[1].to(device)
