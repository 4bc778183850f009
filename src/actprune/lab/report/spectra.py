"""L5: the chart of singular values over the pruning steps of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actprune.errors import DataError
from actprune.lab.report.style import (
    EDGE,
    MOST_PRUNING_STEPS,
    VERMILION,
    WIDE,
    across,
    brief,
    canvas,
    caption,
    chosen,
    layer_names,
    legend,
    panels,
    shades,
    step_names,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = Mapping[str, Mapping[str, ArrayLike]]
"""By layer: descending singular values "before" and "after" a pruning, and "random", after a random mask as large."""
_FLOOR = 1e-4


def spectra(
    pruning_steps: Sequence[Values],
    path: Path | None = None,
    title: str = "",
    *,
    control: bool = True,
    width: float = WIDE,
    labels: Sequence[str] = (),
    ends: Mapping[str, ArrayLike] | None = None,
) -> Figure:
    """Small plots below each other, a column per layer, a shade per pruning step.

    Singular values after the pruning over their index (logarithmic); their change by the pruning in percent, by
    position from the largest (0) to the smallest (1), without those that were below 1e-4 of the largest; and, as the
    control, the same change for a random mask of the same size (``control=False``: without).
    labels: of the pruning steps ("pruning step 1", .. if left out). ends: values at the end, by layer, dashed.
    Raises DataError where a step, layer or entry is missing.
    """
    layers, names = layer_names(pruning_steps), step_names(labels, len(pruning_steps))
    parts = ("before", "after", "random") if control else ("before", "after")
    for pruning_step in pruning_steps:
        for layer, found in pruning_step.items():
            if missing := [key for key in parts if key not in found]:
                raise DataError(f"the spectra of {layer} lack {missing}; expected {', '.join(parts)}")
    shown = chosen(len(pruning_steps), MOST_PRUNING_STEPS)
    columns, rows = across(layers, width, 1.75), len(parts)
    with canvas(width, 0.7 + 1.65 * rows * -(-len(layers) // columns), path) as figure:
        handles: dict[str, Any] = {}
        for i, (layer, axes) in enumerate(panels(figure, layers, columns, rows).items()):
            for colour, number in zip(shades(len(shown)), shown, strict=True):
                line = _column(axes, pruning_steps[number].get(layer, {}), colour)
                handles |= {names[number]: line} if line else {}
            if layer in (ends or {}):
                values = np.asarray((ends or {})[layer], np.float64)
                (last,) = axes[0].plot(*_live(values, values.max()), "--", color=VERMILION, lw=1.2)
                handles |= {"at the end": last}
            _label(axes, layer, i % columns == 0)
        order = [*(names[number] for number in shown), "at the end"]
        legend(figure, {name: handles[name] for name in order if name in handles}, width)
        figure.suptitle(caption(title, len(shown), len(pruning_steps)))
    return figure


def _column(axes: Sequence[Axes], found: Mapping[str, ArrayLike], colour: Any) -> Any:
    """One layer at one pruning step; the line of its singular values, or None where there are none."""
    values = {key: np.asarray(found[key], np.float64) for key in ("before", "after", "random") if key in found}
    before = values.pop("before", np.zeros(0))
    if not before.size or before[0] <= 0:
        return None
    for axis, after in zip(axes[1:], values.values(), strict=False):
        axis.plot(*_change(before, after), color=colour, lw=1.2)
    return axes[0].plot(*_live(values["after"], before[0]), color=colour, lw=1.4)[0]


def _live(values: NDArray[np.float64], top: float) -> tuple[Any, Any]:
    """Index and value, without what is zero but for rounding."""
    live = values > _FLOOR * top
    return np.arange(1, len(values) + 1)[live], values[live]


def _change(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[Any, Any]:
    keep = before > _FLOOR * before[0]
    position = np.arange(keep.sum()) / max(keep.sum() - 1, 1)
    return position, 100 * (after[keep] / before[keep] - 1)


def _label(axes: Sequence[Axes], layer: str, first: bool) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes[0].set_title(brief(layer.removesuffix(".weight")), loc="left", fontweight="bold")
    axes[0].set(xlabel="index", yscale="log")
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=5))
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[-1].set(xlabel="largest to smallest")
    for axis in axes[1:]:
        axis.axhline(0, color=EDGE, lw=0.7)
        axis.set(ylim=(-103, 8), xlim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(-100, -50, 0))
    for axis, name in zip(axes, ("singular value", "change (%)", "random mask (%)"), strict=False):
        axis.set(ylabel=name if first else "")
