"""L5: ``run`` and ``resume``: a configuration -> a trained, pruned network and a folder full of evidence."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from actprune import recipes
from actprune.edit import Method
from actprune.errors import CheckpointError
from actprune.lab import atomic, figures, lock, spectra
from actprune.lab.config import RunConfig
from actprune.lab.environment import compare, environment, threads
from actprune.lab.folder import RunFolder
from actprune.lab.listener import Listener, Silent
from actprune.lab.loop import Outcome, Standing, prune_before_training, train
from actprune.lab.setup import Setup, build
from actprune.lab.sharing import share
from actprune.lab.summary import remark, restore_best, summarise
from actprune.pruner.pruner import Pruner


@dataclass(frozen=True, eq=False)
class RunResult:
    """A finished run. ``model`` has the final weights (zeros in place); ``summary`` is what summary.json holds."""

    folder: Path
    summary: dict[str, Any]
    model: nn.Module
    pruner: Pruner


def run(
    config: RunConfig,
    out: str | Path,
    *,
    recipe: Method | None = None,
    overwrite: bool = False,
    plots: bool = True,
    listener: Listener | None = None,
) -> RunResult:
    """Train and prune as ``config`` says, into the folder ``out``, which is made.

    recipe     instead of the one that ``config``'s method, options and schedule describe; stored, so a resume knows it
    overwrite  replace a run that is already there
    plots      draw the figures at the end (some seconds)

    Raises DataError, ModelError or RecipeError before anything is written; CheckpointError when ``out`` holds another
    run, is in use, or cannot be written; ModelError when training diverges (the last checkpoint is kept).
    """
    listener = listener or Silent()
    with threads(config.threads):
        setup = build(config, recipe)
        if config.spectra:
            spectra.check(setup.recipe)
        folder = RunFolder(out)
        with lock.locked(folder.path):
            folder.claim(overwrite)
            folder.describe(config.model_dump(mode="json"), recipes.to_dict(setup.recipe), environment(setup))
            return _carry_out(setup, folder, None, plots, listener)


def resume(
    folder: str | Path, *, checkpoint: str = "last", plots: bool = True, listener: Listener | None = None
) -> RunResult:
    """Go on with a run that was interrupted; weights, masks and metrics come out bit for bit as without interruption.

    checkpoint  "last", or "pruning-step-03" to go back to the moment after the third pruning step

    A finished run is read back, its final files written again. Raises CheckpointError when there is no run, it is in
    use, its checkpoint is damaged (naming those that are not), or its data has changed.
    """
    listener, place = listener or Silent(), RunFolder(folder)
    if not place.path.is_dir():
        raise CheckpointError(f"{place.path} is no folder; `actprune resume` wants the folder of a run")
    with lock.locked(place.path):
        config = RunConfig(**place.read("config.json"))
        before = place.read("environment.json")
        with threads(before.get("threads")):
            setup = build(config, recipes.from_dict(place.read("recipe.json")))
            compare(before, environment(setup), listener)
            return _carry_out(setup, place, place.load(checkpoint), plots, listener)


def _carry_out(
    setup: Setup, folder: RunFolder, stored: dict[str, Any] | None, plots: bool, listener: Listener
) -> RunResult:
    """Load what there is, train on, write the end. The folder is locked."""
    at = Standing() if stored is None else _restored(setup, stored)
    setup.pruner.attach(setup.optimizer)
    if setup.config.spectra:
        spectra.watch(setup, folder)
    folder.truncate(at.epoch if stored is not None else -1)
    (folder.path / "summary.json").unlink(missing_ok=True)  # a run that goes on is not finished
    title = figures.run_title(setup.config.model_dump())
    listener.started(title, at.epoch, setup.config.max_epochs, setup.steps)
    keep = _Keeper(setup, folder)
    if stored is None:
        first = prune_before_training(setup, at)
        if first is None:
            keep.checkpoint(at, None)
        else:
            keep(first)
            listener.epoch_done(first.row)
            at = first.standing
    at = train(setup, at, keep, listener)
    return _finish(setup, folder, at, plots, listener)


class _Keeper:
    """Writes what an epoch leaves behind: its lines first, its checkpoint last, so that the lines are never behind."""

    def __init__(self, setup: Setup, folder: RunFolder) -> None:
        self.setup, self.folder = setup, folder
        self.since, self.since_cpu = time.perf_counter(), time.process_time()

    def __call__(self, outcome: Outcome) -> None:
        pruning_step = self.setup.pruner.state.pruning_step if outcome.row["pruned"] else None
        if pruning_step is not None:
            flat = figures.flattened(outcome.counts or {}, self.setup.pruner.masks)
            _write_tensors(self.folder.path / "pruning_steps" / f"pruning-step-{pruning_step:02d}.safetensors", flat)
        now, now_cpu = time.perf_counter(), time.process_time()
        self.folder.append(outcome.row, now - self.since, now_cpu - self.since_cpu)
        self.since, self.since_cpu = now, now_cpu
        self.checkpoint(outcome.standing, pruning_step)

    def checkpoint(self, at: Standing, pruning_step: int | None) -> None:
        """Everything a resume needs."""
        values = {
            "model": self.setup.model.state_dict(),
            "optimizer": self.setup.optimizer.state_dict(),
            "pruner": self.setup.pruner.state_dict(),
            "standing": at.to_dict(),
        }
        self.folder.save(values, pruning_step)


def _restored(setup: Setup, stored: dict[str, Any]) -> Standing:
    """Put a checkpoint back into model, optimizer and pruner. Raises CheckpointError when it does not fit."""
    try:
        setup.model.load_state_dict(stored["model"])
        setup.optimizer.load_state_dict(stored["optimizer"])
        setup.pruner.load_state_dict(stored["pruner"])
        at = Standing.from_dict(stored["standing"])
    except (KeyError, RuntimeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"the checkpoint does not fit the model {setup.config.model!r}: {error}; the model's code has changed, or "
            "the file is from another run"
        ) from error
    best = {name: tensor.to(setup.device) for name, tensor in at.best.items()}
    return Standing(**{**vars(at), "best": best})


def _finish(setup: Setup, folder: RunFolder, at: Standing, plots: bool, listener: Listener) -> RunResult:
    """Final weights, summary and figures. summary.json goes last: it marks a finished run."""
    weights_from = restore_best(setup, at)
    coded, spent = _shared(setup, at, listener)
    timings = folder.rows("timings.jsonl")
    summary = summarise(setup, at, weights_from, folder.path.name)
    summary["storage_bytes"] = coded
    for key, more in spent.items():
        summary[key] = round(more + sum(row.get(key, 0.0) for row in timings), 3)
    summary["remark"] = remark(summary, setup.recipe.schedule, setup.config.start_at)
    _write_tensors(folder.path / "model.safetensors", setup.model.state_dict())
    _write_tensors(folder.path / "masks.safetensors", dict(setup.pruner.masks))
    if setup.config.spectra:
        spectra.finish(setup, folder)
    if plots:
        title = figures.run_title(setup.config.model_dump())
        figures.draw(folder, title)
        if setup.config.task == "autoencode":
            figures.draw_reconstruction(folder, setup, title)
    atomic.write_json(folder.path / "summary.json", summary)
    setup.pruner.detach()
    listener.finished(summary)
    return RunResult(folder.path, summary, setup.model, setup.pruner)


def _shared(setup: Setup, at: Standing, listener: Listener) -> tuple[int | None, dict[str, float]]:
    """The phase that a recipe with ``sharing`` ends with: bytes of the coded network, and the time it took."""
    if not setup.recipe.sharing or not at.report:
        return None, {"seconds": 0.0, "cpu_seconds": 0.0}
    wall, cpu = time.perf_counter(), time.process_time()
    coded = share(setup, at.epoch, listener)
    return coded, {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """A safetensors file, atomically. Every entry is copied: tied weights share memory, which the format refuses."""
    from safetensors.torch import save

    atomic.write_bytes(
        path, save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    )
