"""L5: what a run's folder holds, read for its charts and its page.

A missing or damaged part becomes a note, not a failure. Absolute paths are cut down to their last part right here, so
that no later step can show one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actprune.errors import CheckpointError
from actprune.lab import atomic
from actprune.lab.folder import RunFolder
from actprune.lab.report.words import number

Array = NDArray[Any]
_ABSOLUTE = re.compile(r"(?<![\w.])(?:/|~/|[A-Za-z]:\\|\\\\)[^\s'\"]*[\\/]")


@dataclass(frozen=True)
class Run:
    """One run. ``summary`` is empty as long as the run is not over; ``notes`` say which parts could not be read.

    rows      an object per epoch (metrics.jsonl)
    pruning_steps   by number of the pruning and layer: ``fired``, ``rows``, ``kept``, ``fan_in``
    spectra   by number of the pruning and layer: singular values ``before`` and ``after``, ``shape``, ``kept``
    ends      by layer: singular values at the end
    weights   by layer, ``(out, in)``, in the order of the network
    """

    name: str
    config: dict[str, Any]
    recipe: dict[str, Any]
    environment: dict[str, Any]
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    pruning_steps: dict[int, dict[str, dict[str, Array]]]
    spectra: dict[int, dict[str, dict[str, Array]]]
    ends: dict[str, Array]
    weights: dict[str, Array]
    notes: list[str] = field(default_factory=list)

    @property
    def score(self) -> str:
        """What the run calls its ``.._accuracy``: an autoencoder has explained variance there."""
        plain = "explained variance" if self.config.get("task") == "autoencode" else "accuracy"
        return str(self.summary.get("score_name") or plain)

    @property
    def layers(self) -> list[dict[str, Any]]:
        """Layers as the summary tells them, or else as the last pruning left them."""
        found = self.summary.get("layers")
        if not found and self.pruned:
            found = (self.pruned[-1].get("pruning") or {}).get("layers")
        rows = found if isinstance(found, list) else []
        return [row for row in rows if isinstance(row, dict) and isinstance(row.get("name"), str)]

    @property
    def pruned(self) -> list[dict[str, Any]]:
        """The epochs that ended with a pruning."""
        return [row for row in self.rows if row.get("pruned") and isinstance(row.get("pruning"), dict)]


def read_run(folder: Path) -> Run:
    """Everything of one run. Raises CheckpointError only when its config.json is missing or damaged."""
    notes: list[str] = []
    config = RunFolder(folder).read("config.json")
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / 'config.json'} holds a {type(config).__name__}; expected a run's settings")
    return Run(
        name=folder.resolve().name,
        config=shown(config),
        recipe=_json(folder / "recipe.json", notes),
        environment=_json(folder / "environment.json", notes),
        rows=lines(folder / "metrics.jsonl", notes),
        summary=_json(folder / "summary.json", notes),
        pruning_steps=_pruning_steps(folder, "pruning-step", notes),
        spectra=_pruning_steps(folder, "spectra", notes),
        ends=_ends(folder, notes),
        weights=_matrices(tensors(folder / "model.safetensors", notes)),
        notes=notes,
    )


def lines(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; damaged lines are left out and counted in ``notes``."""
    try:
        every = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        notes.append(f"{path.name} could not be read ({error.strerror})")
        return []
    found, bad = [], 0
    for line in every:
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            row, bad = None, bad + 1
        if isinstance(row, dict):
            found.append(shown(row))
    if bad:
        notes.append(f"{path.name}: {bad} damaged line{'s' * (bad > 1)} left out")
    return found


def tensors(path: Path, notes: list[str]) -> dict[str, Array]:
    """A safetensors file as arrays (never runs code), {} when it is missing."""
    from safetensors.torch import load_file

    if not path.exists():
        return {}
    try:
        return {name: _array(value) for name, value in load_file(path).items()}
    except Exception as error:  # the format's own error is no subclass of anything stable
        notes.append(f"{path.name} could not be read ({type(error).__name__})")
        return {}


def without_paths(text: str) -> str:
    """An absolute path shrinks to its last part: ``/home/ada/data/digits`` -> ``digits``."""
    return _ABSOLUTE.sub("", text)


def shown(value: Any) -> Any:
    """A plain value of a JSON file without absolute paths, at any depth."""
    if isinstance(value, str):
        return without_paths(value)
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    return [shown(item) for item in value] if isinstance(value, list) else value


def network(config: Mapping[str, Any]) -> str:
    """The model of a run's configuration, with the sizes of its hidden layers where those were given."""
    sizes = "-".join(map(str, config.get("hidden") or ()))
    return f"{config.get('model')} {sizes}".strip()


def short(name: str) -> str:
    """``fc1.weight`` -> ``fc1``."""
    return name.removesuffix(".weight")


def _array(tensor: Any) -> Array:
    """As numpy, which lacks bfloat16."""
    values: Array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return values


def _json(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = atomic.read_json(path)
    except CheckpointError:
        value = None
    if not isinstance(value, dict):
        notes.append(f"{path.name} is damaged and was left out")
        return {}
    return dict(shown(value))


def _pruning_steps(folder: Path, prefix: str, notes: list[str]) -> dict[int, dict[str, dict[str, Array]]]:
    """``pruning_steps/<prefix>-03.safetensors`` with keys ``<layer>/<what>`` -> {3: {layer: {what: values}}}."""
    found: dict[int, dict[str, dict[str, Array]]] = {}
    for path in sorted((folder / "pruning_steps").glob(f"{prefix}-*.safetensors")):
        which = re.fullmatch(rf"{prefix}-(\d+)", path.stem)
        for key, value in tensors(path, notes).items() if which else ():
            layer, _, what = key.rpartition("/")
            found.setdefault(int(which[1]) if which else 0, {}).setdefault(short(layer), {})[what] = value
    return dict(sorted(found.items()))


def _ends(folder: Path, notes: list[str]) -> dict[str, Array]:
    found = tensors(folder / "pruning_steps" / "spectra-end.safetensors", notes)
    return {short(name.removesuffix("/end")): value for name, value in found.items() if name.endswith("/end")}


def _matrices(values: dict[str, Array]) -> dict[str, Array]:
    """Weights as ``(out, in * kernel)``; biases and running statistics are left out."""
    return {
        short(name): np.nan_to_num(value.reshape(value.shape[0], -1))
        for name, value in values.items()
        if value.ndim >= 2 and value.size and value.dtype.kind == "f"
    }


def dense(run: Run) -> dict[str, float]:
    """Accuracies and epoch just before the first pruning, {} when there was none or it came before training."""
    found = run.summary.get("dense")
    if not isinstance(found, dict):
        return {}
    return {key: value for key in found if (value := number(found[key])) is not None}
