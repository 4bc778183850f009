"""L5: the pictures of a run, drawn from its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from actprune.lab.folder import RunFolder
from actprune.lab.report.style import WIDE, save

if TYPE_CHECKING:
    from actprune.lab.setup import Setup


def draw(folder: RunFolder, title: str) -> list[Path]:
    """training, firing, survival, neurons and spectra as .svg and .png in ``plots/``; what has no data is left out."""
    from actprune.lab.report.charts import of_run  # only a run that draws needs it
    from actprune.lab.report.read import read_run

    target = folder.path / "plots"
    target.mkdir(exist_ok=True)
    drawn: list[Path] = []
    for chart in of_run(read_run(folder.path)):
        figure = chart.draw(WIDE, title)
        for suffix in ("svg", "png"):
            drawn.append(target / f"{chart.file}.{suffix}")
            save(figure, drawn[-1])
    return drawn


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


def flattened(counts: dict[str, dict[str, Tensor]], masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file of a pruning step: ``<layer>/<sum>`` as observed, ``<layer>/kept`` per neuron, ``<layer>/fan_in``."""
    from actprune.analysis import survival

    flat = {f"{name}/{key}": value.cpu().contiguous() for name, sums in counts.items() for key, value in sums.items()}
    for name, mask in masks.items():
        if mask.dim() < 2:  # biases and scales of channels that are gone
            continue
        kept = survival(mask).cpu()
        flat[f"{name}/kept"] = kept
        flat[f"{name}/fan_in"] = kept.new_tensor(mask.numel() // max(mask.shape[0], 1))
    return flat


def run_title(config: dict[str, Any]) -> str:
    """One line that says which run it is."""
    budget = config["options"].get("budget")
    asked = f"{100 * config['sparsity']:g} % asked" if budget is None else f"budget {budget}"
    return f"{config['data']}, {config['method']}, {asked}, seed {config['seed']}"
