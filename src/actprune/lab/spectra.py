"""L5: singular values around every pruning of a run, beside what controls of the same size do to the same weights.

pruning_steps/spectra-01.safetensors  per prunable layer, float64, descending: ``<weight>/before`` and ``/after`` the
                                       pruning, and after a mask with as many weights chosen otherwise:
                                       ``/magnitude`` (the largest) and ``/random`` (seeded); ``/shape`` and
                                       ``/kept`` are int64
pruning_steps/spectra-end.safetensors  ``<weight>/end`` of the final weights, and ``/shape``
pruning_steps/ranks.md                 the ranks per pruning step as a table

"after" is the weight before times the new mask: what the pruning itself does, before a recovery may rewind anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from actprune import analysis
from actprune.edit import Method
from actprune.errors import RecipeError
from actprune.lab import atomic
from actprune.lab.folder import RunFolder
from actprune.lab.seeding import derived_seed

if TYPE_CHECKING:
    from actprune.lab.setup import Setup

MOST_PRUNING_STEPS = 50
CONTROLS = ("magnitude", "random")
Spectra = dict[str, dict[str, Tensor]]


def check(recipe: Method) -> None:
    """Raises RecipeError for a recipe of so many pruning steps that their spectra would be a nuisance."""
    planned = recipe.schedule.pruning_steps
    if planned is not None and planned > MOST_PRUNING_STEPS:
        raise RecipeError(
            f"spectra=True writes singular values around every pruning, and {recipe.name!r} plans {planned}; "
            f"at most {MOST_PRUNING_STEPS} are allowed: use fewer pruning steps, or leave spectra out"
        )


def watch(setup: Setup, folder: RunFolder) -> None:
    """Write a file at every pruning from now on. A resumed run writes those of the pruning steps it does again."""
    held: dict[str, Any] = {}

    def around(moment: str) -> None:
        pruner = setup.pruner
        if moment == "before":
            held["weights"] = {name: weight.detach().clone() for name, weight in pruner.parameters.items()}
            held["masks"] = dict(pruner.masks)
            return
        pruning_step = pruner.state.pruning_step
        _write(
            folder, f"spectra-{pruning_step:02d}", _around(setup, held.pop("weights"), held.pop("masks"), pruning_step)
        )

    setup.pruner.watchers.append(around)


def finish(setup: Setup, folder: RunFolder) -> None:
    """The final weights' singular values, and the table."""
    from actprune.lab.report.tables import rank_table

    weights = setup.pruner.parameters
    end = {name: {"end": analysis.singular_values(own), "shape": _shape(own)} for name, own in weights.items()}
    _write(folder, "spectra-end", end)
    atomic.write_bytes(folder.path / "pruning_steps" / "ranks.md", rank_table(rank_rows(folder.path)).encode())


def read(run: str | Path) -> tuple[list[Spectra], Spectra]:
    """What was written: by pruning step, and at the end ({} while it runs); by weight name, then as above."""
    place = Path(run) / "pruning_steps"
    end = place / "spectra-end.safetensors"
    pruning_steps = [_read(path) for path in sorted(place.glob("spectra-[0-9]*.safetensors"))]
    return pruning_steps, _read(end) if end.exists() else {}


def rank_rows(run: str | Path) -> list[dict[str, Any]]:
    """One row per pruning step and layer, then one per layer for the end: weights kept, ranks before and after."""
    pruning_steps, end = read(run)
    rows: list[dict[str, Any]] = []
    for number, pruning_step in enumerate(pruning_steps, start=1):
        for name, found in pruning_step.items():
            shape = tuple(found["shape"].tolist())
            before, after = (analysis.ranks_of(found[moment], shape) for moment in ("before", "after"))
            rows.append(
                {"pruning_step": number, "layer": name, "kept": int(found["kept"]), "before": before, "after": after}
            )
    for name, found in end.items():
        rows.append({"pruning_step": None, "layer": name, "kept": None, "before": None,
                     "after": analysis.ranks_of(found["end"], tuple(found["shape"].tolist()))})  # fmt: skip
    return rows


def _around(setup: Setup, weights: dict[str, Tensor], masks: dict[str, Tensor], pruning_step: int) -> Spectra:
    found: Spectra = {}
    for name, weight in weights.items():
        mask = setup.pruner.masks.get(name, torch.ones_like(weight, dtype=torch.bool))
        before = analysis.singular_values(weight)
        found[name] = {"before": before, "shape": _shape(weight), "kept": mask.sum()}
        found[name]["after"] = before if bool(mask.all()) else analysis.singular_values(weight * mask)
        seed = derived_seed(setup.recipe.seed, pruning_step, f"control {name}")
        for control, other in _controls(weight, masks.get(name), int(mask.sum()), seed):
            found[name][control] = before if bool(mask.all()) else analysis.singular_values(weight * other)
    return found


def _controls(weight: Tensor, old: Tensor | None, kept: int, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Masks with ``kept`` weights among those that ``old`` has left."""
    drawn = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)).to(weight.device)
    for control, score in zip(CONTROLS, (weight.abs().float(), drawn), strict=True):
        open_ = score if old is None else score.masked_fill(~old, -1.0)
        mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
        mask[open_.flatten().topk(kept).indices] = True
        yield control, mask.view(weight.shape)


def _shape(weight: Tensor) -> Tensor:
    return torch.tensor(weight.shape)


def _write(folder: RunFolder, name: str, spectra: Spectra) -> None:
    from safetensors.torch import save

    flat = {f"{layer}/{key}": value.cpu().clone() for layer, own in spectra.items() for key, value in own.items()}
    place = folder.path / "pruning_steps"
    place.mkdir(exist_ok=True)
    atomic.write_bytes(place / f"{name}.safetensors", save(flat))


def _read(path: Path) -> Spectra:
    from safetensors.torch import load_file

    found: Spectra = {}
    for key, value in load_file(path).items():
        layer, _, part = key.rpartition("/")
        found.setdefault(layer, {})[part] = value
    return found
