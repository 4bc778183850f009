"""L5: the training loop of the experiments: train, count, report the accuracy, prune when due, stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from actprune.errors import CheckpointError
from actprune.evidence import Gradient
from actprune.lab.evaluate import Score, evaluate
from actprune.lab.listener import Listener
from actprune.lab.recipe import waits_for_a_call
from actprune.lab.setup import Setup
from actprune.lab.stopping import Patience
from actprune.lab.train import calibrate, train_epoch

Row = dict[str, Any]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Standing:
    """All the loop knows between two epochs, besides model, optimizer and pruner. Plain values, but for ``best``.

    dense       scores of the weights before the first pruning, as far as training has come
    report      the last pruning, ``PruneReport.to_dict()``
    best        weights and buffers of ``best_epoch``, the one with the lowest validation loss after the last pruning
    stop        why the run is over, or None: "accuracy", "emptied network", "early stopping", "max epochs"
    """

    epoch: int = 0
    patience: Patience = field(default_factory=Patience)
    dense: dict[str, Any] | None = None
    report: dict[str, Any] | None = None
    best_epoch: int | None = None
    best_loss: float | None = None
    best: Tensors = field(default_factory=dict)
    stop: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings in dicts: goes through ``torch.load(weights_only=True)``."""
        return {**vars(self), "patience": asdict(self.patience)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Standing:
        """Inverse of ``to_dict``. Raises CheckpointError when an entry is missing or unknown."""
        try:
            return cls(**{**stored, "patience": Patience(**stored["patience"])})
        except (TypeError, KeyError) as error:
            raise CheckpointError(f"the checkpoint's standing cannot be read: {error}") from error


@dataclass(frozen=True)
class Outcome:
    """What one epoch leaves behind: a line for ``metrics.jsonl``, and the counts that a pruning, if any, went by."""

    standing: Standing
    row: Row
    counts: dict[str, Tensors] | None


def prune_before_training(setup: Setup, at: Standing) -> Outcome | None:
    """The moment for a recipe that waits for a call (SNIP as published) or starts sparse. None: nothing to do."""
    if not waits_for_a_call(setup.recipe) or setup.pruner.state.pruning_step:
        return None
    validation = evaluate(setup.model, setup.validation, setup.forward, setup.task)
    dense = _dense(0, None, validation)
    if any(each.needs_data for each in setup.recipe.needed(setup.pruner.state.progress)):
        calibrate(setup, 0, setup.config.calibration_images)
    counts = _counts(setup)
    report = setup.pruner.prune()
    after = replace(at, dense=dense, report=report.to_dict())
    return Outcome(after, _row(setup, after, None, validation, pruned=True), counts)


def one_epoch(setup: Setup, at: Standing, listener: Listener) -> Outcome:
    """Train for an epoch and prune if it is due. Everything follows from the state and the epoch's number."""
    pruner, epoch, pruning_step = setup.pruner, at.epoch + 1, setup.pruner.state.pruning_step
    trained = train_epoch(setup, epoch, listener)
    done = pruner.finished  # before this epoch's own pruning: after it, the network has not recovered yet
    validation = evaluate(setup.model, setup.validation, setup.forward, setup.task)
    due = pruner.due(trained.accuracy)
    dense = at.dense if pruner.state.pruning_step else _dense(epoch, trained, validation)
    _observe_if_wanted(setup, epoch, trained.accuracy)
    counts = _counts(setup) if due else None
    report = pruner.report_metric(trained.accuracy)
    if report is None and pruner.state.pruning_step > pruning_step:  # a schedule of steps pruned while training
        report, counts = pruner.last_report, _counts(setup)
    after = replace(
        at,
        epoch=epoch,
        dense=dense,
        report=at.report if report is None else report.to_dict(),
        patience=_patience(setup, at, validation, done),
    )
    if done and (at.best_loss is None or validation.loss < at.best_loss):
        after = replace(after, best_epoch=epoch, best_loss=validation.loss, best=_copy(setup))
    after = replace(after, stop=_reason(setup, after, trained, done))
    row = _row(setup, after, trained, validation, pruned=report is not None)
    return Outcome(after, row, counts if report else None)


def train(setup: Setup, at: Standing, keep: Callable[[Outcome], None], listener: Listener) -> Standing:
    """Epochs until there is a reason to stop. ``keep`` stores what each of them leaves behind."""
    while at.stop is None:
        outcome = one_epoch(setup, at, listener)
        keep(outcome)
        listener.epoch_done(outcome.row)
        at = outcome.standing
    return at


def _observe_if_wanted(setup: Setup, epoch: int, accuracy: float) -> None:
    """Counts that accumulate are taken every epoch; those of one moment, and gradients, only when it is due."""
    recipe, pruner = setup.recipe, setup.pruner
    if recipe.count_on != "observe" or pruner.finished or not any(each.needs_data for each in recipe.evidence):
        return
    momentary = recipe.reset_counts or any(isinstance(each, Gradient) for each in recipe.evidence)
    if not momentary or pruner.due(accuracy):
        calibrate(setup, epoch, setup.config.calibration_images)


def _patience(setup: Setup, at: Standing, validation: Score, done: bool) -> Patience:
    counts = done or setup.config.patience_from == "start"
    return at.patience.seen(validation.loss) if counts else at.patience


def _reason(setup: Setup, after: Standing, trained: Score, done: bool) -> str | None:
    """Why to stop now, or None."""
    config = setup.config
    if done and trained.accuracy >= config.stop_accuracy and not config.full_length:
        return "accuracy"
    if setup.pruner.state.pruning_step and not _still_listens(setup):
        return "emptied network"
    if config.patience and after.patience.ticks >= config.patience:
        return "early stopping"
    return "max epochs" if after.epoch >= setup.epochs else None


def _still_listens(setup: Setup) -> bool:
    """Whether any example still changes the outputs; a network emptied by its pruning answers always the same."""
    inputs = setup.validation[0][:64]
    setup.model.eval()
    with torch.no_grad():
        outputs = setup.forward(inputs)
    return bool((outputs != outputs[:1]).any()) or len(inputs) < 2 or setup.recipe.regrow == "free"


def _dense(epoch: int, trained: Score | None, validation: Score) -> dict[str, Any]:
    """Scores of the weights as they are, before any pruning. The test data is looked at once, when all is over."""
    return {
        "epoch": epoch,
        "train_accuracy": trained.accuracy if trained else None,
        "validation_accuracy": validation.accuracy,
    }


def _counts(setup: Setup) -> dict[str, Tensors]:
    sums: dict[str, Tensors] = setup.pruner.state_dict()["sums"]
    return sums


def _copy(setup: Setup) -> Tensors:
    with torch.no_grad():
        return {name: tensor.clone() for name, tensor in setup.model.state_dict().items()}


def _row(setup: Setup, after: Standing, trained: Score | None, validation: Score, *, pruned: bool) -> Row:
    """One line of ``metrics.jsonl``: scores before an epoch-end pruning, and what is removed after it: "actual" in the
    budget's terms, "sparsity" of the whole network.

    "after" is what the pruning leaves of the validation scores before any recovery. No times: they never repeat.
    """
    report = after.report or {}
    remains = asdict(evaluate(setup.model, setup.validation, setup.forward, setup.task)) if pruned else None
    return {
        "epoch": after.epoch,
        "step": setup.pruner.state.step,
        "train_loss": trained.loss if trained else None,
        "train_accuracy": trained.accuracy if trained else None,
        "validation_loss": validation.loss,
        "validation_accuracy": validation.accuracy,
        "actual": report.get("actual", 0.0),
        "sparsity": report.get("sparsity", 0.0),
        "pruning_steps": setup.pruner.state.pruning_step,
        "pruned": pruned,
        "pruning": {**report, "after": remains} if pruned else None,
    }
