"""L5: the figures of a run. Each function takes plain numbers and writes one file (.png, .svg or .pdf)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actprune.errors import DataError
from actprune.lab.report.heatmaps import heat_maps
from actprune.lab.report.spectra import spectra
from actprune.lab.report.style import (
    BLUE,
    GREEN,
    GREY,
    MOST_PRUNING_STEPS,
    VERMILION,
    canvas,
    caption,
    chosen,
    figure_width,
    grid,
    layer_names,
    step_names,
)
from actprune.lab.report.survival import survival

__all__ = ["firing_histograms", "heat_maps", "spectra", "survival", "training_curves"]


def training_curves(records: Sequence[Mapping[str, Any]], path: Path, title: str = "", score: str = "accuracy") -> None:
    """Accuracy, or whatever ``score`` names (above) and sparsity (below) over epochs, every pruning marked.

    records: one mapping per epoch with "epoch", "train_accuracy", "validation_accuracy", "sparsity" (fractions 0..1)
    and "pruned" (whether the epoch ended with a pruning; "sparsity" is that after it). Further keys are ignored, None
    leaves a gap.
    Raises DataError when there is no record or a key is missing.
    """
    keys = ("epoch", "train_accuracy", "validation_accuracy", "sparsity", "pruned")
    _require_keys(records, keys)
    epoch, train, validation, removed = (
        np.array([np.nan if record[key] is None else record[key] for record in records], float) for key in keys[:4]
    )
    pruning_steps = [float(record["epoch"]) for record in records if record["pruned"]]
    from matplotlib.ticker import MaxNLocator

    with canvas(Path(path), 7.2, 5.2) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        style: dict[str, Any] = {"lw": 1.6, "marker": "o" if len(records) <= _FEW else None, "ms": 3}
        above.plot(epoch, 100 * train, "-", color=BLUE, label=_with_last("training", train), **style)
        above.plot(epoch, 100 * validation, "--", color=VERMILION, label=_with_last("validation", validation), **style)
        below.step(epoch, 100 * removed, color=GREEN, where="post", lw=1.6)
        below.fill_between(epoch, 100 * removed, step="post", color=GREEN, alpha=0.15, lw=0)
        for axes in (above, below):
            for i, when in enumerate(pruning_steps):
                axes.axvline(when, color=GREY, lw=0.9, ls=":", label="pruning" if i == 0 else None)
        above.set(ylabel=f"{score} (%)", title=title)
        above.legend(loc="lower right")
        below.set(ylabel="weights removed (%)", xlabel="epoch", ylim=(0, 103))
        below.set_xlim(float(epoch.min()) - 0.5, float(epoch.max()) + 0.5)
        if (last := _last(removed)) is not None:
            below.annotate(f"{100 * last:.2f} %", (1, 100 * last), xycoords=("axes fraction", "data"), **_AT_RIGHT)
        below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def firing_histograms(
    pruning_steps: Sequence[Mapping[str, tuple[ArrayLike, int]]],
    path: Path,
    title: str = "",
    labels: Sequence[str] = (),
) -> None:
    """How often neurons fire: one histogram per pruning step (row) and layer (column).

    pruning_steps: of each, by layer, ``(counts, rows)``: firing counts ``(neurons,)`` and the number of examples, or
    examples x positions, they were counted on. labels: of the pruning steps ("pruning step 1", .. if left out).
    A neuron that never fired stands apart, left of zero. Raises DataError on no pruning step or no rows.
    """
    layers, names = layer_names(pruning_steps), step_names(labels, len(pruning_steps))
    rows, bins = chosen(len(pruning_steps), MOST_PRUNING_STEPS), [4.0 * i for i in range(26)]
    from matplotlib.ticker import MaxNLocator

    with canvas(Path(path), figure_width(len(layers)), 0.9 + 1.25 * len(rows)) as figure:
        plots = grid(figure, len(rows), len(layers), shared=True)
        for line, pruning_step in zip(plots, rows, strict=True):
            for axes, layer in zip(line, layers, strict=True):
                if layer in pruning_steps[pruning_step]:
                    rate = _firing_rate(layer, *pruning_steps[pruning_step][layer])
                    silent = int((rate == 0).sum())
                    axes.hist(100 * rate[rate > 0], bins=bins, color=BLUE)
                    axes.bar(-9, silent, width=6, color=VERMILION)
                    axes.set_title(f"{silent} of {len(rate)} silent", loc="right", **_SMALL)
                axes.set_xlim(-13.5, 101)
                axes.set_xticks([-9, 50, 100], ["never", "50", "100"])
                axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
                axes.grid(visible=False, axis="x")
            line[0].set_ylabel(f"{names[pruning_step]}\nneurons")
        for axes, layer in zip(plots[0], layers, strict=True):
            axes.set_title(layer, loc="left", fontweight="bold")
        figure.supxlabel("examples (for a conv: x positions) on which the neuron fired (%)", fontsize=9)
        figure.suptitle(caption(title, len(rows), len(pruning_steps)), fontsize=10)


_AT_RIGHT: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False}
_SMALL: dict[str, Any] = {"fontsize": 7, "color": VERMILION, "pad": 2}
_FEW = 15  # epochs up to which the single points are marked; a line through one point would be invisible


def _last(values: NDArray[np.float64]) -> float | None:
    """The last value that is there."""
    there = values[np.isfinite(values)]
    return float(there[-1]) if there.size else None


def _with_last(name: str, values: NDArray[np.float64]) -> str:
    """Legend entry with the value reached."""
    last = _last(values)
    return name if last is None else f"{name}, last {100 * last:.2f} %"


def _firing_rate(layer: str, counts: ArrayLike, rows: int) -> NDArray[np.float64]:
    """Counts / rows, 0..1. Raises DataError when they cannot be such a fraction."""
    found = np.asarray(counts, np.float64)
    if rows < 1 or found.ndim != 1 or (found < 0).any() or (found > rows).any():
        raise DataError(
            f"firing counts of {layer}: shape {found.shape}, largest {found.max(initial=0):g}, counted on {rows} rows; "
            f"expected shape (neurons,) and 0 <= count <= rows, rows at least 1"
        )
    return found / rows


def _require_keys(records: Sequence[Mapping[str, Any]], keys: tuple[str, ...]) -> None:
    """At least one record, and every key in every record."""
    if not records:
        raise DataError("the training curves were asked without a single epoch; train at least one epoch first")
    for i, record in enumerate(records):
        if missing := [key for key in keys if key not in record]:
            raise DataError(f"training curves: record {i} lacks {', '.join(missing)}; expected {', '.join(keys)}")
