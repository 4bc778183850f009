"""L5: accuracy over compression, one panel per data set and network; the dense network as a band."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actprune.lab.compare.aggregate import Group, Panel
from actprune.lab.compare.baselines import BASELINES, find
from actprune.lab.report.style import BLUE, GREEN, GREY, VERMILION, canvas, grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A family has a hue and a line style, its members have shades and markers: twenty lines can be found in the legend.
_LOOKS: dict[str, tuple[Any, float, tuple[str, ...]]] = {
    "activation": ("-", 2.0, (VERMILION, "#E69F00", "#8C3B00", "#C9A400", "#F4A582", "#5A1A00")),
    "magnitude": ((0, (5, 1.5)), 1.3, (BLUE, "#56B4E9", "#003F66", "#8FA9C4")),
    "once": ((0, (1, 1)), 1.3, (VERMILION, BLUE, "#8FA9C4")),
    "data": ((0, (3, 1, 1, 1)), 1.3, (GREEN, "#004D38", "#66C9A8", "#8A9A00")),
    "published": ("-", 1.0, ("#CC79A7", "#7B3294", "#4A0E5C", "#E3B5D2")),
    "tickets": ((0, (5, 1.5)), 1.0, ("#000000", "#7A5230", "#B08D57", "#555555", "#A0A0A0")),
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_TICKS = (0, 50, 80, 90, 95, 97, 98, 99, 99.5, 99.8)
_CEILING = 100.2  # where the scale ends: errors are drawn on a logarithmic axis, and an error of 0 has no logarithm


def accuracy(panels: Sequence[Panel], path: Path) -> None:
    """Mean test accuracy over compression (log), bars: standard deviation over seeds.

    The accuracy axis is logarithmic in the error, so that 98.2 and 98.5 % can be told apart beside 40 %.
    """
    shown = [panel for panel in panels if panel.baselines]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    with canvas(path, 5.6 * columns + 2.2, 4.4 * rows + 0.3) as figure:
        plots = [axes for line in grid(figure, rows, columns) for axes in line]
        for axes in plots[len(shown) :]:
            axes.set_axis_off()
        handles: dict[str, Any] = {}
        for axes, panel in zip(plots, shown, strict=False):
            handles |= _panel(axes, panel)
        order = sorted(handles, key=_place)
        figure.legend(
            [handles[name] for name in order], order, loc="outside right upper", handlelength=4.2, borderaxespad=0.2
        )


def _panel(axes: Axes, panel: Panel) -> dict[str, Any]:
    """Draw one panel; its legend entries by name."""
    handles: dict[str, Any] = {}
    dense = panel.dense.test if panel.dense else None
    if dense:
        low, high = 100 * (dense.mean - dense.std), 100 * (dense.mean + dense.std)
        axes.axhspan(low, high, color=GREY, alpha=0.25, lw=0)
        handles["dense"] = axes.axhline(100 * dense.mean, color=GREY, lw=1.2)
    lowest = 100.0
    for name in panel.baselines:
        points = _points([group for group in panel.groups if group.baseline == name and group.test])
        if len(points):
            handles[name] = _line(axes, name, points)
            lowest = min(lowest, float(points[:, 1].min()))
    axes.set_xscale("log")
    axes.set_yscale("function", functions=(_up, _down))
    top = 100 * (dense.mean + 3 * dense.std) if dense else 100.0
    axes.set_ylim(max(0.0, lowest - 4), min(100.0, top + (100 - top) * 0.25))
    axes.set_yticks([tick for tick in _TICKS if axes.get_ylim()[0] <= tick <= axes.get_ylim()[1]])
    axes.yaxis.set_major_formatter("{x:g}")
    _compressions(axes, panel)
    axes.set(title=f"{panel.title} ({panel.training.split(',')[0]})", xlabel="compression (weights before / after)")
    axes.set_ylabel("test accuracy (%), error on a log scale")
    return handles


def _line(axes: Axes, name: str, points: NDArray[np.float64]) -> Any:
    x, y, spread = points.T
    below = np.minimum(spread, y)
    colour, marker, style, width = _look(name)
    drawn = axes.errorbar(
        x, y, (below, np.minimum(spread, 100.0 - y)), color=colour, marker=marker, ms=4, lw=width, ls=style,
        elinewidth=0.8, capsize=2,
    )  # fmt: skip
    return drawn


def _points(groups: Sequence[Group]) -> NDArray[np.float64]:
    """(compression, accuracy, spread) by rising compression; percent."""
    found = []
    for group in groups:
        compression, test = group.spread("compression"), group.test
        if compression and test:
            found.append((compression.mean, 100 * test.mean, 100 * test.std))
    return np.array(sorted(found), float).reshape(-1, 3)


def _look(name: str) -> tuple[str, str, Any, float]:
    """Colour, marker, line style and width of a baseline: always the same ones."""
    place = _place(name)[1]
    style, width, colours = _LOOKS[find(name).family]
    return colours[place % len(colours)], _MARKERS[place % len(_MARKERS)], style, width


def _place(name: str) -> tuple[int, int]:
    """(family, number within it)."""
    if name == "dense":
        return -1, 0
    family = find(name).family
    return list(_LOOKS).index(family), [e.name for e in BASELINES.values() if e.family == family].index(name)


def _compressions(axes: Axes, panel: Panel) -> None:
    """Ticks at the compressions that were asked for; of those that lie too close for two labels, the larger has one."""
    compressions = sorted({1 / (1 - sparsity) for sparsity in panel.sparsities})
    crowded = [after < 1.35 * value for value, after in itertools.pairwise(compressions)] + [False]
    axes.set_xticks(
        compressions, ["" if close else f"{value:.3g}x" for value, close in zip(compressions, crowded, strict=True)]
    )
    axes.minorticks_off()


def _up(accuracy: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(-np.log10(np.maximum(_CEILING - accuracy, 1e-9)))


def _down(height: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(_CEILING - 10.0**-height)
