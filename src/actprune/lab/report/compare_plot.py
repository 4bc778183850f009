"""L5: the chart of a comparison: accuracy over compression, a panel per data set and network, dense as a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actprune.lab.compare.aggregate import Panel
from actprune.lab.compare.baselines import BASELINES
from actprune.lab.report import words as w
from actprune.lab.report.charts import Chart
from actprune.lab.report.field import Field
from actprune.lab.report.style import INK, SERIES, WIDE, across, canvas, legend, legend_columns, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FAMILIES = ("activation", "magnitude", "once", "data", "published", "tickets")
_MARKERS, _LINES = ("o", "s", "D", "^", "v"), ("-", "--", ":")
_TICKS = (0, 50, 80, 90, 95, 97, 98, 99, 99.5, 99.8)
_CEILING = 100.2  # where the scale ends: errors are drawn on a logarithmic axis, and an error of 0 has no logarithm

Point = tuple[float, float, float]
"""Compression (weights before / after), mean and standard deviation of the test accuracy (fractions)."""


@dataclass(frozen=True)
class Curves:
    """One data set and network: points by baseline, by rising compression. dense: mean and standard deviation."""

    title: str
    lines: Mapping[str, Sequence[Point]]
    sparsities: Sequence[float]
    dense: tuple[float, float] | None = None

    @classmethod
    def of(cls, panel: Panel) -> Curves:
        """From aggregated rows."""
        lines: dict[str, list[Point]] = {}
        for group in panel.groups:
            compression, test = group.spread("compression"), group.test
            if compression and test and group.baseline != "dense":
                lines.setdefault(group.baseline, []).append((compression.mean, test.mean, test.std))
        dense = panel.dense.test if panel.dense else None
        title = f"{panel.title} ({panel.training.split(',')[0]})"
        return cls(title, lines, panel.sparsities, (dense.mean, dense.std) if dense else None)


def accuracy(
    curves: Sequence[Curves], path: Path | None = None, names: Sequence[str] = (), width: float = WIDE
) -> Figure:
    """Mean test accuracy over compression (log), bars: standard deviation over seeds.

    The accuracy axis is logarithmic in the error, so that 98.2 and 98.5 % can be told apart beside 40 %.
    names: of every baseline that may appear, so that one looks the same in figures of their own.
    """
    order = sorted({*names, *(name for each in curves for name in each.lines)}, key=place)
    looks = {name: look(i) for i, name in enumerate(order)}
    keys = [str(i) for i in range(len(curves))]
    columns = across(keys, width, 4.4)
    height = 3.9 * -(-len(curves) // columns) + 0.2 * -(-len(order) // legend_columns(order, width))
    with canvas(width, height, path) as figure:
        handles: dict[str, Any] = {}
        for each, (axes,) in zip(curves, panels(figure, keys, columns).values(), strict=True):
            handles |= _panel(axes, each, looks)
        legend(figure, {name: handles[name] for name in ("dense", *order) if name in handles}, width)
    return figure


def chart(field: Field, names: Sequence[str]) -> list[Chart]:
    """Test accuracy over compression. names: of all baselines of the comparison, so that one always looks the same."""
    lines: dict[str, list[Point]] = {}
    for name in field.baselines:
        for sparsity in field.sparsities:
            point = field.at(name, sparsity)
            if point.test is not None:
                compression = w.average([x for x in w.numbers(point.rows, "compression") if x > 0])
                at = compression if compression is not None else 1 / max(1 - sparsity, 1e-6)
                lines.setdefault(name, []).append((at, point.test, point.spread or 0.0))
    if not lines:
        return []
    dense = None if field.dense.test is None else (field.dense.test, field.dense.spread or 0.0)
    curves = Curves("", lines, field.sparsities, dense)
    best = [f"{w.share(s)}: {r[0][0]} {w.percent(r[0][1])}" for s in field.sparsities if (r := field.ranking(s))]
    label = f"Test accuracy over compression on {field.data} with {field.model}; best at {'; '.join(best)}"
    return [
        Chart(
            "Test accuracy over compression", label,
            lambda width, title: accuracy([curves], None, names, width),
            "Mean over the seeds; upright strokes: one standard deviation. The scale is logarithmic in the error, so "
            "that small differences near the top show. Band: the dense network.",
        )
    ]  # fmt: skip


def look(index: int) -> dict[str, Any]:
    """Colour and mark change together at first, then against each other: no pair comes twice among 35."""
    turn = index // len(SERIES)
    return {
        "color": SERIES[index % len(SERIES)],
        "marker": _MARKERS[(index + turn) % len(_MARKERS)],
        "ls": _LINES[turn % len(_LINES)],
        "lw": 2.0 if index == 0 else 1.4,
    }


def place(name: str) -> tuple[int, int, str]:
    """Order of the legend: by family, as listed in ``BASELINES``; names that it does not know come last."""
    known = BASELINES.get(name)
    if known is None or known.family not in _FAMILIES:
        return len(_FAMILIES), 0, name
    return _FAMILIES.index(known.family), list(BASELINES).index(name), name


def _panel(axes: Axes, curves: Curves, looks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Draw one panel; its legend entries by name."""
    handles: dict[str, Any] = {}
    if curves.dense:
        mean, around = (100 * value for value in curves.dense)
        axes.axhspan(mean - around, mean + around, color=INK, alpha=0.12, lw=0)
        handles["dense"] = axes.axhline(mean, color=INK, lw=1.0)
    heights = [100.0 * mean for points in curves.lines.values() for _, mean, _ in points] or [100.0]
    for name, points in curves.lines.items():
        x, y, spread = np.array(sorted(points), float).T * [[1.0], [100.0], [100.0]]
        ends = (np.minimum(spread, y), np.minimum(spread, np.maximum(100.0 - y, 0)))
        handles[name] = axes.errorbar(x, y, ends, ms=5, mew=0, elinewidth=1.0, **looks[name])
    axes.set_xscale("log")
    axes.set_yscale("function", functions=(_up, _down))
    top = max(*heights, 100 * (curves.dense[0] + 3 * curves.dense[1]) if curves.dense else 0.0)
    axes.set_ylim(max(0.0, min(heights) - 4), min(100.1, top + (100 - top) * 0.25 + 0.05))
    axes.set_yticks([tick for tick in _TICKS if axes.get_ylim()[0] <= tick <= axes.get_ylim()[1]])
    axes.yaxis.set_major_formatter("{x:g}")
    _compressions(axes, curves.sparsities)
    axes.set(title=curves.title, xlabel="compression (weights before / after)")
    axes.set_ylabel("test accuracy (%), error on a log scale")
    return handles


def _compressions(axes: Axes, sparsities: Sequence[float]) -> None:
    """Ticks at the compressions that were asked for; of those that lie too close for two labels, the larger has one."""
    compressions = sorted({1 / max(1 - sparsity, 1e-6) for sparsity in sparsities})
    crowded = [after < 1.35 * value for value, after in pairwise(compressions)] + [False]
    axes.set_xticks(
        compressions, ["" if close else f"{value:.3g}x" for value, close in zip(compressions, crowded, strict=False)]
    )
    axes.minorticks_off()


def _up(accuracy: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(-np.log10(np.maximum(_CEILING - accuracy, 1e-9)))


def _down(height: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(_CEILING - 10.0**-height)
