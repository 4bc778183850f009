"""L5: data, model, optimizer and pruner of one run, placed on its device by Lightning Fabric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from actprune.edit import Method
from actprune.errors import RecipeError
from actprune.lab import data, labels, models
from actprune.lab.config import RunConfig
from actprune.lab.dataset import Dataset
from actprune.lab.recipe import recipe_of
from actprune.lab.seeding import batch_sizes
from actprune.lab.task import Task, task_of
from actprune.pruner.pruner import Pruner

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Setup:
    """A run, ready to train. All data is on the device.

    task        what is learnt: the loss, and the score that is called accuracy
    unlabelled  inputs ``(N, *shape)`` of the training examples whose labels are withheld; None: there are none
    model     the bare module (what is saved); ``forward`` is how it is called (with its precision), and ``backward``
    optimizer the bare optimizer (what is saved); ``step`` is how it is called
    """

    config: RunConfig
    recipe: Method
    dataset: Dataset
    train: Pair
    validation: Pair
    test: Pair
    model: nn.Module
    optimizer: Optimizer
    pruner: Pruner
    forward: Callable[[Tensor], Tensor]
    backward: Callable[..., None]
    step: Callable[[], Any]
    device: torch.device
    task: Task
    unlabelled: Tensor | None

    @property
    def epochs(self) -> int:
        """Epochs of training at most, those left out in which shared values will be fine-tuned."""
        sharing = self.recipe.sharing
        return max(1, self.config.max_epochs - (sharing.tune_epochs if sharing else 0))

    @property
    def steps(self) -> int:
        """Optimizer steps per epoch."""
        return len(batch_sizes(self.examples, self.config.batch_size))

    @property
    def examples(self) -> int:
        """Examples shown per epoch: as many as there are, with and without label."""
        return len(self.train[0]) + (0 if self.unlabelled is None else len(self.unlabelled))

    @property
    def counted(self) -> tuple[Tensor, Tensor | None]:
        """The images that are drawn from to be counted on, with their labels if they have any."""
        if self.config.calibration_from == "unlabelled":
            assert self.unlabelled is not None  # labels.check has seen to it
            return self.unlabelled, None
        return self.validation if self.config.calibration_from == "validation" else self.train


def build(config: RunConfig, recipe: Method | None = None) -> Setup:
    """Load the data, build and initialise the model, make the pruner (not attached yet: a resume loads first).

    Raises DataError, ModelError or RecipeError for whatever does not exist or does not fit together.
    """
    labels.check(config)
    dataset, unlabelled = labels.load(config)
    known = len(dataset.train[0])
    steps = len(batch_sizes(known + (0 if unlabelled is None else len(unlabelled)), config.batch_size))
    made = recipe_of(config, steps, known) if recipe is None else recipe
    recipe = labels.counting(config, made, given=recipe is not None)
    model = models.build(config.model, dataset, hidden=config.hidden, seed=config.seed, init=config.init)
    data.check_compatible(dataset, model, rebuilds=config.task == "autoencode")
    fabric = _fabric(config)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch 2.13 has no stub for it alone
    forward = fabric.setup_module(model)
    train, validation, test = (
        _placed(pair, fabric.device) for pair in (dataset.train, dataset.validation, dataset.test)
    )
    first = next(model.parameters())
    example = train[0][:2].to(first.dtype)
    pruner = Pruner(model, recipe, example=example, sharing_elsewhere=True)
    optimizer = _optimizer(config, model, fabric.device, pruner.extra_parameters())
    stepper = fabric.setup_optimizers(optimizer)
    return Setup(
        config, recipe, dataset, train, validation, test, model, optimizer, pruner,
        forward, fabric.backward, stepper.step, fabric.device, task_of(config.task, dataset, fabric.device),
        None if unlabelled is None else unlabelled.to(fabric.device),
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


def _optimizer(config: RunConfig, model: nn.Module, device: torch.device, extra: list[nn.Parameter]) -> Optimizer:
    """Fused where torch has it: one call for all parameters, which counts for small networks.

    Not in bfloat16: there torch 2.13's fused SGD with momentum does not learn on a CPU (the unfused one does).
    extra: what the recipe learns beside the weights; decay would drag that towards a value that means nothing.
    """
    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parameters: list[Any] = own if not extra else [{"params": own}, {"params": extra, "weight_decay": 0.0}]
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    common["fused"] = True if device.type in ("cpu", "cuda") and config.precision != "bf16-true" else None
    if config.optimizer == "sgd":
        return SGD(parameters, momentum=config.momentum, **common)
    return (Adam if config.optimizer == "adam" else AdamW)(parameters, **common)


def _placed(pair: Pair, device: torch.device) -> Pair:
    return pair[0].to(device), pair[1].to(device)
