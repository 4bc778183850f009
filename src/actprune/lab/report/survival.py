"""L5: the figure of surviving weights."""

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
    step_names,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Counts = NDArray[np.float64]


def survival(
    pruning_steps: Sequence[Mapping[str, ArrayLike]],
    path: Path,
    fan_in: Mapping[str, int],
    title: str = "",
    labels: Sequence[str] = (),
) -> None:
    """Which weights survive: share kept per layer and pruning step (bars), kept weights per neuron, sorted (curves).

    pruning_steps: of each, by layer, kept incoming weights ``(neurons,)``, as ``analysis.survival`` gives them.
    fan_in: incoming weights of a neuron before pruning, by layer. labels: "pruning step 1", .. if left out.
    Raises DataError on no pruning step, a layer without fan-in, or more weights kept than there were.
    """
    layers, names = layer_names(pruning_steps), step_names(labels, len(pruning_steps))
    counts = [
        {name: np.asarray(value, np.float64) for name, value in pruning_step.items()} for pruning_step in pruning_steps
    ]
    _check(counts, layers, fan_in)
    shown = chosen(len(pruning_steps), MOST_PRUNING_STEPS)
    colours = shades(len(shown))
    with canvas(Path(path), max(6.4, figure_width(len(layers))), 5.4) as figure:
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.15, 1))[:, 0]
        bars = above.subplots()
        for rank, pruning_step in enumerate(shown):
            here = counts[pruning_step]
            shares = {i: here[n].sum() / (here[n].size * fan_in[n]) for i, n in enumerate(layers) if n in here}
            _bars(bars, shares, (rank, len(shown)), colours[rank], names[pruning_step])
        sizes = {name: next(c[name] for c in counts if name in c).size * fan_in[name] for name in layers}
        bars.set_xticks(range(len(layers)), [f"{name}\n{size:,} weights" for name, size in sizes.items()])
        bars.tick_params(axis="x", rotation=30 if len(layers) > _MANY else 0)
        bars.set(ylabel="weights kept (%)", xlim=(-0.6, len(layers) - 0.4))
        _log_percent(bars, [c[n].sum() / (c[n].size * fan_in[n]) for c in counts for n in c])
        bars.grid(visible=False, axis="x")
        bars.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        for axes, name in zip(grid(below, 1, len(layers))[0], layers, strict=True):
            for pruning_step, colour in zip(shown, colours, strict=True):
                if name in counts[pruning_step]:
                    _curve(axes, counts[pruning_step][name], colour)
            axes.set(title=name, ylim=(-0.03 * fan_in[name], 1.05 * fan_in[name]), xlabel="neurons, sorted")
        below.supylabel("weights kept per neuron", fontsize=9)
        figure.suptitle(caption(title, len(shown), len(pruning_steps)), fontsize=10)


def _check(pruning_steps: Sequence[Mapping[str, Counts]], layers: Sequence[str], fan_in: Mapping[str, int]) -> None:
    """Fan-ins known, counts possible."""
    lacking = [name for name in layers if fan_in.get(name, 0) < 1]
    if lacking:
        raise DataError(f"survival plot: fan_in of {', '.join(lacking)} is missing or zero; pass it for every layer")
    for name, kept in ((name, kept) for pruning_step in pruning_steps for name, kept in pruning_step.items()):
        if kept.ndim != 1 or not kept.size or kept.min() < 0 or kept.max() > fan_in[name]:
            raise DataError(
                f"survival plot: kept weights of {name} have shape {kept.shape} and reach {kept.max(initial=0):g}; "
                f"expected shape (neurons,) and 0 <= kept <= fan_in = {fan_in[name]}"
            )


def _log_percent(axes: Axes, shares: Sequence[float]) -> None:
    """A logarithmic axis that shows 0.5 % next to 100 %: whole numbers as ticks, room below the smallest bar."""
    from matplotlib.ticker import LogLocator, NullLocator

    smallest = min((100 * share for share in shares if share > 0), default=10.0)
    axes.set(yscale="log", ylim=(min(10.0, 10.0 ** np.floor(np.log10(0.8 * smallest))), 130))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def _bars(axes: Axes, shares: Mapping[int, float], place: tuple[int, int], colour: Any, label: str) -> None:
    """One step's bars, at ``place = (rank, of how many)`` inside each layer's group; an emptied layer gets a 0."""
    rank, of = place
    width = 0.84 / of
    at = {i: i + (rank - (of - 1) / 2) * width for i in shares}
    axes.bar(
        [at[i] for i in shares], [100 * share for share in shares.values()], width * 0.92, color=colour, label=label
    )
    for i, share in shares.items():
        if share == 0:
            axes.annotate("0", (at[i], 0), xycoords=("data", "axes fraction"), **_ABOVE)
        elif rank == of - 1:
            axes.annotate(f"{100 * share:.2g}", (at[i], 100 * share), **_ABOVE)


def _curve(axes: Axes, counts: Counts, colour: Any) -> None:
    """Kept weights per neuron, most first, as steps one neuron wide."""
    axes.stairs(np.sort(counts)[::-1], np.arange(len(counts) + 1), baseline=None, color=colour, lw=1.4)


_MANY = 6  # layers from which on the labels would touch each other
_ABOVE: dict[str, Any] = {
    "xytext": (0, 1.5),
    "textcoords": "offset points",
    "ha": "center",
    "va": "bottom",
    "fontsize": 7,
    "color": GREY,
}
