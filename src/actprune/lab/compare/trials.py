"""L5: the trials of a comparison, and what makes two of them the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actprune.errors import BudgetError
from actprune.lab.compare.baselines import DENSE, Baseline
from actprune.lab.compare.sizes import converted, sizes_of
from actprune.lab.compare.training import Training
from actprune.lab.config import RunConfig

# Fields of the first version. Those added later count in an identity only where they differ from their default, so
# that results stay valid when RunConfig grows.
_FIRST = (
    "data", "data_seed", "validation", "download", "model", "hidden", "init", "method", "options", "sparsity",
    "schedule", "pruning_steps", "start_at", "retrain_to", "cubic_epochs", "calibration_images", "seed", "optimizer",
    "lr", "lr_schedule", "momentum", "weight_decay", "batch_size", "max_epochs", "stop_at", "patience", "patience_from",
    "restore_best", "precision", "accelerator", "threads",
)  # fmt: skip


WORK = "actprune.lab.compare.work:work"
"""What a worker does with a job."""


@dataclass(frozen=True)
class Trial:
    """One run of one baseline.

    sparsity  of the whole network, the target; ``config.sparsity`` is what the method is asked for
    steps     optimizer steps of the common budget
    refused   why it cannot be run at all, or None
    """

    data: str
    model: str
    baseline: Baseline
    sparsity: float
    seed: int
    training: Training
    config: RunConfig
    steps: int
    refused: str | None = None

    @property
    def id(self) -> str:
        """A hash of everything that decides the result; labels and notes are not in it."""
        values: dict[str, Any] = {"config": identity(self.config)}
        if self.refused:
            values["of_whole_network"] = True  # its sparsity could not be converted
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def labels(self) -> dict[str, Any]:
        """The columns of a result that are known beforehand."""
        return {
            "id": self.id,
            "data": self.data,
            "model": self.model,
            "baseline": self.baseline.name,
            "method": self.baseline.method,
            "note": self.baseline.note,
            "seed": self.seed,
            "target": self.sparsity,
            "training": str(self.training),
            "budget_steps": self.steps,
        }

    def job(self, trials: str) -> dict[str, Any]:
        """Plain values for a worker. trials: the folder of the trials' folders."""
        return {
            "work": WORK,
            "labels": self.labels(),
            "config": self.config.model_dump(mode="json"),
            "refused": self.refused,
            "folder": f"{trials}/{self.id}",
        }


def identity(config: RunConfig) -> dict[str, Any]:
    """The fields that make two runs different."""
    values, fields = config.model_dump(mode="json"), RunConfig.model_fields
    return {
        name: value
        for name, value in values.items()
        if name in _FIRST or value != fields[name].get_default(call_default_factory=True)
    }


def trials_of(
    data: Sequence[str],
    models: Sequence[str],
    baselines: Sequence[tuple[Baseline, float]],
    seeds: Sequence[int],
    training: Training,
) -> list[Trial]:
    """Every trial, seed by seed, so that an early look sees the whole field; dense references first.

    Raises DataError, ModelError or RecipeError for what does not exist or does not fit together.
    """
    pairs = [(DENSE, 0.0), *baselines]
    found = [
        _trial(source, model, baseline, sparsity, seed=seed, training=training)
        for seed in seeds
        for baseline, sparsity in pairs
        for source in data
        for model in models
    ]
    return list({trial.id: trial for trial in reversed(found)}.values())[::-1]


def _trial(source: str, model: str, baseline: Baseline, sparsity: float, *, seed: int, training: Training) -> Trial:
    sizes = sizes_of(source, model)
    per_epoch = sizes.steps(training.batch_size)
    wanted = RunConfig(model=model, sparsity=sparsity, seed=seed, **baseline.fields(source, training, per_epoch))
    steps = training.epochs * per_epoch
    try:
        config, refused = converted(wanted, sizes), None
    except BudgetError as error:
        config, refused = wanted, f"BudgetError: {error}"
    return Trial(source, model, baseline, sparsity, seed, training, config, steps, refused)
