"""L5: the pictures of a run, drawn from its folder alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from actprune.lab import spectra
from actprune.lab.folder import RunFolder
from actprune.lab.report.style import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from actprune.lab.setup import Setup

PruningStep = dict[str, dict[str, Tensor]]


def draw(folder: RunFolder, title: str, score: str = "accuracy") -> list[Path]:
    """training, firing, survival, neurons and spectra as .svg and .png in ``plots/``; what has no data is left out.

    score: what the figures called accuracy in the folder are, see ``lab.task``.
    """
    charts = _charts(folder, title, score)
    target = folder.path / "plots"
    target.mkdir(exist_ok=True)
    drawn: list[Path] = []
    for name, chart in charts.items():
        figure = chart()
        for suffix in ("svg", "png"):
            drawn.append(target / f"{name}.{suffix}")
            save(figure, drawn[-1])
    return drawn


def _charts(folder: RunFolder, title: str, score: str) -> dict[str, Callable[[], Figure]]:
    """What there is to draw, by the name of its file."""
    from actprune.lab.report import plots  # matplotlib is slow to import

    rows, pruning_steps = folder.rows(), _pruning_steps(folder)
    values, end = spectra.read(folder.path)
    around = [{short(name): own for name, own in pruning_step.items()} for pruning_step in values]
    ends = {short(name): own["end"].numpy() for name, own in end.items()}
    fired = [
        {
            short(name): (sums["fired"].numpy(), int(sums["rows"]))
            for name, sums in pruning_step.items()
            if "fired" in sums
        }
        for pruning_step in pruning_steps
    ]
    kept = [
        {short(name): sums["kept"].numpy() for name, sums in pruning_step.items() if "kept" in sums}
        for pruning_step in pruning_steps
    ]
    fan_in = {
        short(name): int(sums["fan_in"])
        for pruning_step in pruning_steps
        for name, sums in pruning_step.items()
        if "fan_in" in sums
    }
    labels = [f"after pruning step {i + 1}" for i in range(len(kept))]
    charts: dict[str, Callable[[], Figure]] = {}
    if rows:
        charts["training"] = lambda: plots.training_curves(rows, None, title, score)
    if fired and all(fired):
        counted = f"{title}\nof {plots.counted_since(fired)}"
        charts["firing"] = lambda: plots.firing_histograms(fired, None, counted)
    if kept:
        charts["survival"] = lambda: plots.survival(kept, None, fan_in, title=title, labels=labels)
        charts["neurons"] = lambda: plots.neurons(kept, None, title, labels)
    if around:
        charts["spectra"] = lambda: plots.spectra(around, None, title, ends=ends)
    return charts


def draw_reconstruction(folder: RunFolder, setup: Setup, title: str) -> None:
    """What an autoencoder makes of the first validation images, as plots/reconstruction.png; only for images."""
    from actprune.lab.report.heatmaps import MOST, reconstruction

    x = setup.validation[0][:MOST]
    if x.ndim != 4:
        return
    setup.model.eval()
    with torch.no_grad():
        out = setup.forward(x).float().reshape(x.shape)
    target = folder.path / "plots"
    target.mkdir(exist_ok=True)
    reconstruction(x.cpu().numpy(), out.cpu().numpy(), target / "reconstruction.png", title)


def short(name: str) -> str:
    """``fc1.weight`` -> ``fc1``."""
    return name.removesuffix(".weight")


def flattened(counts: dict[str, dict[str, Tensor]], masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file of a pruning step: ``<layer>/<sum>`` as observed, ``<layer>/kept`` per neuron, ``<layer>/fan_in``."""
    from actprune.analysis import survival

    flat = {f"{name}/{key}": value.cpu().contiguous() for name, sums in counts.items() for key, value in sums.items()}
    for name, mask in masks.items():
        kept = survival(mask).cpu()
        flat[f"{name}/kept"] = kept
        flat[f"{name}/fan_in"] = kept.new_tensor(mask.numel() // max(mask.shape[0], 1))
    return flat


def _pruning_steps(folder: RunFolder) -> list[PruningStep]:
    from safetensors.torch import load_file

    found: list[PruningStep] = []
    for path in sorted((folder.path / "pruning_steps").glob("pruning-step-*.safetensors")):
        pruning_step: PruningStep = {}
        for key, value in load_file(path).items():
            name, _, part = key.rpartition("/")
            pruning_step.setdefault(name, {})[part] = value
        found.append(pruning_step)
    return found


def run_title(config: dict[str, Any]) -> str:
    """One line that says which run it is."""
    return f"{config['data']}, {config['method']}, {100 * config['sparsity']:g} % asked, seed {config['seed']}"
