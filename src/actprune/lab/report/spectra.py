"""L5: the figure and the table of singular values over the pruning steps of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actprune.errors import DataError
from actprune.lab.report.style import (
    GREY,
    MOST_PRUNING_STEPS,
    canvas,
    caption,
    chosen,
    figure_width,
    grid,
    layer_names,
    shades,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = Mapping[str, Mapping[str, ArrayLike]]
"""By layer: descending singular values "before" and "after" a pruning, and "random", after a random mask as large."""
_FLOOR = 1e-4
_HEAD = ("pruning step", "layer", "weights kept", "numerical rank", "stable rank", "effective rank")


def spectra(pruning_steps: Sequence[Values], path: Path, title: str = "") -> None:
    """Three rows of small plots, a column per layer, a shade per pruning step.

    Singular values after the pruning over their index (logarithmic); their change by the pruning in percent, by
    position from the largest (0) to the smallest (1), without those that were below 1e-4 of the largest; and the same
    change for a random mask of the same size, the control. Raises DataError where a step, layer or entry is missing.
    """
    layers = layer_names(pruning_steps)
    for pruning_step in pruning_steps:
        for layer, found in pruning_step.items():
            if missing := [key for key in ("before", "after", "random") if key not in found]:
                raise DataError(f"the spectra of {layer} lack {missing}; expected before, after and random")
    shown = chosen(len(pruning_steps), MOST_PRUNING_STEPS)
    colours = shades(len(shown))
    with canvas(Path(path), max(6.4, figure_width(len(layers))), 6.2) as figure:
        axes = grid(figure, 3, len(layers))
        for column, layer in enumerate(layers):
            for colour, number in zip(colours, shown, strict=True):
                if layer in pruning_steps[number]:
                    _column(
                        [row[column] for row in axes],
                        pruning_steps[number][layer],
                        colour,
                        f"pruning step {number + 1}",
                    )
            _label([row[column] for row in axes], layer, column == 0)
        if (last := next((axis for axis in reversed(axes[0]) if axis.lines), None)) is not None:
            last.legend(loc="best")
        figure.suptitle(caption(title, len(shown), len(pruning_steps)), fontsize=9)


def rank_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, one line per pruning step and layer (see ``lab.spectra.rank_rows``); ranks as before -> after."""
    lines = [_HEAD, (":---", ":---", *["---:"] * (len(_HEAD) - 2))]
    for row in rows:
        before, after = row["before"], row["after"]
        cells = [
            f"{after[key]:.{digits}f}" if before is None else f"{before[key]:.{digits}f} -> {after[key]:.{digits}f}"
            for key, digits in (("numerical", 0), ("stable", 1), ("effective", 1))
        ]
        pruning_step = "end" if row["pruning_step"] is None else str(row["pruning_step"])
        kept = "" if row["kept"] is None else f"{row['kept']:,}"
        lines.append((pruning_step, str(row["layer"]).removesuffix(".weight"), kept, *cells))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _column(axes: Sequence[Axes], found: Mapping[str, ArrayLike], colour: Any, label: str) -> None:
    before, after, random = (np.asarray(found[key], np.float64) for key in ("before", "after", "random"))
    if not before.size or before[0] <= 0:
        return
    live = after > _FLOOR * before[0]
    axes[0].semilogy(np.arange(1, len(after) + 1)[live], after[live], color=colour, lw=1.2, label=label)
    for axis, values in ((axes[1], after), (axes[2], random)):
        axis.plot(*_change(before, values), color=colour, lw=1.0)


def _change(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[Any, Any]:
    keep = before > _FLOOR * before[0]
    position = np.arange(keep.sum()) / max(keep.sum() - 1, 1)
    return position, 100 * (after[keep] / before[keep] - 1)


def _label(axes: Sequence[Axes], layer: str, first: bool) -> None:
    axes[0].set(title=layer.removesuffix(".weight"), xlabel="index")
    axes[2].set(xlabel="position, largest to smallest")
    for axis in axes[1:]:
        axis.axhline(0, color=GREY, lw=0.7)
        axis.set(ylim=(-103, 8), xlim=(-0.02, 1.02))
    if first:
        axes[0].set(ylabel="singular value")
        axes[1].set(ylabel="change (%)")
        axes[2].set(ylabel="by a random mask (%)")
