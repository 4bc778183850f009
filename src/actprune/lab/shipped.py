"""L5: a finished run, read back for shipping: its data, its network as trained, and the network without its zeros."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from actprune import recipes
from actprune.compact import Compaction, compaction
from actprune.edit import Method
from actprune.errors import CheckpointError
from actprune.lab import labels, models
from actprune.lab.config import RunConfig
from actprune.lab.dataset import Dataset
from actprune.lab.folder import RunFolder

SMALL = "model.actprune"
PACKED = "packed.actprune"


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """What a run's folder holds. ``model`` has the final weights with the zeros in place; ``masks``: True = kept."""

    folder: Path
    config: RunConfig
    recipe: Method
    dataset: Dataset
    model: nn.Module
    masks: dict[str, Tensor]
    summary: dict[str, Any]

    @property
    def example(self) -> Tensor:
        """Two training examples, to follow through the model."""
        return self.dataset.train[0][:2]

    def about(self) -> dict[str, Any]:
        """What a shipped file says of where it comes from: plain values."""
        kept = ("method", "data", "model", "seed", "target", "actual", "validation_accuracy", "test_accuracy")
        return {
            **{key: self.summary[key] for key in kept},
            "recipe": recipes.to_dict(self.recipe),
            "fingerprint": self.dataset.fingerprint,
            "shape": list(self.dataset.shape),
            "task": self.config.task,
        }


def read(folder: str | Path) -> FinishedRun:
    """Read a run back. Raises CheckpointError when there is none, it is not finished, or a file of it is damaged."""
    place = RunFolder(folder)
    config = RunConfig(**place.read("config.json"))
    if not place.finished:
        raise CheckpointError(
            f"the run in {place.path} is not finished; `actprune resume {place.path}` goes on with it"
        )
    dataset, _ = labels.load(config)  # what ships is tuned on the labels the run knew, and on no others
    model = models.build(config.model, dataset, hidden=config.hidden, seed=config.seed, init=config.init)
    masks = {name: mask.bool() for name, mask in _tensors(place.path / "masks.safetensors").items()}
    try:
        model.load_state_dict(_tensors(place.path / "model.safetensors"))
    except RuntimeError as error:
        raise CheckpointError(
            f"{place.path / 'model.safetensors'} does not fit the model {config.model!r}: {error}; the model's code "
            "has changed since the run"
        ) from error
    recipe = recipes.from_dict(place.read("recipe.json"))
    model.eval()
    return FinishedRun(place.path, config, recipe, dataset, model, masks, place.read("summary.json"))


def small(run: FinishedRun, *, round_to: int = 1, gather: bool = True) -> Compaction:
    """The run's network without its dead neurons, as a program."""
    return compaction(run.model, run.masks, example=run.example, form="graph", round_to=round_to, gather=gather)


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; run the experiment again with --overwrite") from error
