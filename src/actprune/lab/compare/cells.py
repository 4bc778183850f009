"""L5: the cells of a comparison, and what makes two of them the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actprune.errors import BudgetError
from actprune.lab.compare.entrants import DENSE, Entrant
from actprune.lab.compare.sizes import converted, sizes_of
from actprune.lab.compare.training import Training
from actprune.lab.config import RunConfig

# Fields of the first version. Those added later count in an identity only where they differ from their default, so
# that results stay valid when RunConfig grows.
_FIRST = (
    "data", "data_seed", "validation", "download", "model", "hidden", "init", "method", "options", "sparsity",
    "schedule", "cycles", "start_at", "retrain_to", "cubic_epochs", "count_images", "seed", "optimizer", "lr",
    "lr_schedule", "momentum", "weight_decay", "batch_size", "max_epochs", "stop_at", "patience", "patience_from",
    "restore_best", "precision", "accelerator", "threads",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One run of one entrant.

    sparsity  of the whole network, as asked; ``config.sparsity`` is what the method is asked for
    steps     optimizer steps of the common budget
    refused   why it cannot be run at all, or None
    """

    data: str
    model: str
    entrant: Entrant
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
            "entrant": self.entrant.name,
            "method": self.entrant.method,
            "note": self.entrant.note,
            "seed": self.seed,
            "asked": self.sparsity,
            "training": str(self.training),
            "budget_steps": self.steps,
        }

    def job(self, cells: str) -> dict[str, Any]:
        """Plain values for a worker. cells: the folder of the cells' folders."""
        return {
            "labels": self.labels(),
            "config": self.config.model_dump(mode="json"),
            "refused": self.refused,
            "folder": f"{cells}/{self.id}",
        }


def identity(config: RunConfig) -> dict[str, Any]:
    """The fields that make two runs different."""
    values, fields = config.model_dump(mode="json"), RunConfig.model_fields
    return {
        name: value
        for name, value in values.items()
        if name in _FIRST or value != fields[name].get_default(call_default_factory=True)
    }


def cells_of(
    data: Sequence[str],
    models: Sequence[str],
    entrants: Sequence[tuple[Entrant, float]],
    seeds: Sequence[int],
    training: Training,
) -> list[Cell]:
    """Every cell, seed by seed, so that an early look sees the whole field; dense references first.

    Raises DataError, ModelError or RecipeError for what does not exist or does not fit together.
    """
    pairs = [(DENSE, 0.0), *entrants]
    found = [
        _cell(source, model, entrant, sparsity, seed=seed, training=training)
        for seed in seeds
        for entrant, sparsity in pairs
        for source in data
        for model in models
    ]
    return list({cell.id: cell for cell in reversed(found)}.values())[::-1]


def _cell(source: str, model: str, entrant: Entrant, sparsity: float, *, seed: int, training: Training) -> Cell:
    sizes = sizes_of(source, model)
    per_epoch = sizes.steps(training.batch_size)
    asked = RunConfig(model=model, sparsity=sparsity, seed=seed, **entrant.fields(source, training, per_epoch))
    steps = training.epochs * per_epoch
    try:
        config, refused = converted(asked, sizes), None
    except BudgetError as error:
        config, refused = asked, f"BudgetError: {error}"
    return Cell(source, model, entrant, sparsity, seed, training, config, steps, refused)
