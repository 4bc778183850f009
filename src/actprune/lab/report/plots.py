"""L5: the charts of a run. Each function takes plain numbers, returns a figure, and saves it where a path is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actprune.errors import DataError
from actprune.lab.report.heatmaps import heat_maps
from actprune.lab.report.spectra import spectra
from actprune.lab.report.style import (
    BLUE,
    EDGE,
    GREEN,
    MOST_PRUNING_STEPS,
    MUTED,
    SERIES,
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

__all__ = ["firing_histograms", "heat_maps", "neurons", "seed_curves", "spectra", "survival", "training_curves"]

Counts = NDArray[np.float64]
Fired = Mapping[str, tuple[ArrayLike, int]]
MOST_MARKED = 60
"""Pruning steps that are marked in a training; more lines side by side would hide the curves."""


def training_curves(
    records: Sequence[Mapping[str, Any]],
    path: Path | None = None,
    title: str = "",
    score: str = "accuracy",
    width: float = WIDE,
) -> Figure:
    """Accuracy, or whatever ``score`` names, then loss where it is known, then sparsity; every pruning step marked.

    records: one mapping per epoch with "epoch", "train_accuracy", "validation_accuracy", "sparsity" (fractions 0..1)
    and "pruned" (whether the epoch ended with a pruning step; "sparsity" is that after it); "train_loss" and
    "validation_loss" may be there. Further keys are ignored, None leaves a gap.
    Raises DataError when there is no record or a key is missing.
    """
    _require_keys(records, ("epoch", "train_accuracy", "validation_accuracy", "sparsity", "pruned"))
    epoch, removed = _column(records, "epoch"), _column(records, "sparsity")
    losses = any(np.isfinite(_column(records, f"{part}_loss")).any() for part in ("train", "validation"))
    heights = (2, 1.2, 1.2) if losses else (2, 1.2)
    with canvas(width, 1.2 * sum(heights) + 0.6, path) as figure:
        rows = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        _both(rows[0], records, "accuracy", 100)
        rows[0].set(ylabel=f"{score} (%)", title=title)
        if losses:
            _both(rows[1], records, "loss", 1)
            rows[1].set(ylabel="loss", ylim=(0, None))
        _removed(rows[-1], epoch, removed)
        _mark(rows, [float(record["epoch"]) for record in records if record["pruned"]])
        rows[0].legend(loc="best")
    return figure


def seed_curves(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    pruned: Mapping[str, Sequence[float]],
    path: Path | None = None,
    score: str = "accuracy",
    width: float = WIDE,
) -> Figure:
    """Validation accuracy, or whatever ``score`` names, of every seed over epochs; dots: pruning steps.

    lines: (epoch, fraction) of each seed, by name. pruned: the epochs that ended with a pruning step.
    """
    from matplotlib.ticker import MaxNLocator

    with canvas(width, 3.4, path) as figure:
        axes, handles = figure.subplots(), {}
        for i, (name, line) in enumerate(lines.items()):
            colour = SERIES[i % len(SERIES)]
            marked = [n for n, (epoch, _) in enumerate(line) if epoch in pruned.get(name, ())]
            (handles[name],) = axes.plot(
                [epoch for epoch, _ in line], [100 * value for _, value in line], color=colour, lw=1.5,
                ls=("-", "--", ":")[i // len(SERIES) % 3], marker="o", ms=4, markevery=marked,
            )  # fmt: skip
        axes.set(xlabel="epoch", ylabel=f"validation {score} (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        legend(figure, handles, width)
    return figure


def survival(
    pruning_steps: Sequence[Mapping[str, ArrayLike]],
    path: Path | None = None,
    fan_in: Mapping[str, int] | None = None,
    *,
    title: str = "",
    labels: Sequence[str] = (),
    width: float = WIDE,
) -> Figure:
    """The share of its weights that each layer still has after each pruning step: a line per layer, a dot per step.

    pruning_steps: of each, by layer, kept incoming weights ``(neurons,)``, as ``analysis.survival`` gives them: what is
    left of the whole network, not what the step took. fan_in: incoming weights of a neuron before pruning, by layer.
    labels: "pruning step 1", .. if left out. The scale is logarithmic; a layer without a weight has a 0 at the edge.
    Raises DataError on no pruning step, a layer without fan-in, or more weights kept than there were.
    """
    layers, names = layer_names(pruning_steps), step_names(labels, len(pruning_steps))
    counts = _counted(pruning_steps)
    _check(counts, layers, fan_in or {})
    shares = [
        {name: float(kept.sum()) / (kept.size * (fan_in or {})[name]) for name, kept in here.items()} for here in counts
    ]
    sizes = {name: next(here[name] for here in counts if name in here).size * (fan_in or {})[name] for name in layers}
    shown = chosen(len(counts), MOST_PRUNING_STEPS)
    with canvas(width, 1.3 + 0.3 * len(layers), path) as figure:
        axes, handles = figure.subplots(), {}
        for step, colour in zip(shown, shades(len(shown)), strict=True):
            found = [(i, shares[step][name]) for i, name in enumerate(layers) if shares[step].get(name)]
            handles[names[step]] = axes.scatter(
                [100 * share for _, share in found], [i for i, _ in found], s=42, color=colour, zorder=3, lw=0
            )
        for i, name in enumerate(layers):
            _say(axes, i, [shares[step][name] for step in shown if name in shares[step]])
        axes.set_yticks(range(len(layers)), [f"{brief(name)}, {sizes[name]:,} weights" for name in layers])
        axes.set(
            ylim=(len(layers) - 0.5, -0.6), xlabel="weights kept (%)", title=caption(title, len(shown), len(counts))
        )
        _log_percent(axes, [share for here in shares for share in here.values()])
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        legend(figure, handles, width)
    return figure


def neurons(
    pruning_steps: Sequence[Mapping[str, ArrayLike]],
    path: Path | None = None,
    title: str = "",
    labels: Sequence[str] = (),
    width: float = WIDE,
) -> Figure:
    """How many incoming weights each neuron still has after each pruning step, most first: a panel per layer.

    pruning_steps, labels: as in ``survival``. Raises DataError on no pruning step.
    """
    layers, names, counts = layer_names(pruning_steps), step_names(labels, len(pruning_steps)), _counted(pruning_steps)
    shown = chosen(len(counts), MOST_PRUNING_STEPS)
    columns = across(layers, width, 2.9)
    with canvas(width, 0.6 + 2.0 * -(-len(layers) // columns), path) as figure:
        handles: dict[str, Any] = {}
        for name, (axes,) in panels(figure, layers, columns).items():
            for step, colour in zip(shown, shades(len(shown)), strict=True):
                if name in counts[step]:
                    kept = np.sort(counts[step][name])[::-1]
                    at = np.array([*chosen(len(kept), 160)])
                    (handles[names[step]],) = axes.step(
                        [*at, len(kept)], [*kept[at], kept[-1]], where="post", color=colour, lw=1.4
                    )
            axes.set_title(brief(name), loc="left", fontweight="bold")
            axes.set(ylim=(0, None), xlim=(0, None), xlabel="neurons, most first", ylabel="weights kept per neuron")
        order = {name: handles[name] for i in shown if (name := names[i]) in handles}
        legend(figure, order, width)
        figure.suptitle(caption(title, len(shown), len(counts)))
    return figure


def firing_histograms(
    pruning_steps: Sequence[Fired],
    path: Path | None = None,
    title: str = "",
    labels: Sequence[str] = (),
    width: float = WIDE,
) -> Figure:
    """How often neurons fire: a panel per layer, in it a histogram per pruning step, the first on top.

    pruning_steps: of each, by layer, ``(counts, rows)``: firing counts ``(neurons,)`` and the number of examples, or
    examples x positions, they were counted on. labels: of the pruning steps ("pruning step 1", .. if left out).
    A neuron that never fired stands apart, left of zero. Each histogram has its own height. Whether a count includes
    those of earlier pruning steps is for the caller to say. Raises DataError on no pruning step or no rows.
    """
    layers, names = layer_names(pruning_steps), step_names(labels, len(pruning_steps))
    shown = chosen(len(pruning_steps), MOST_PRUNING_STEPS)
    columns = across(layers, width, 2.9)
    rates = [{name: firing_rate(name, *found) for name, found in here.items()} for here in pruning_steps]
    with canvas(width, 0.4 + (0.75 + 0.45 * len(shown)) * -(-len(layers) // columns), path) as figure:
        for i, (layer, (axes,)) in enumerate(panels(figure, layers, columns).items()):
            for place, step in enumerate(shown):
                if layer in rates[step]:
                    _ridge(axes, len(shown) - 1 - place, rates[step][layer])
            first = i % columns == 0
            axes.set_yticks(range(len(shown)), [names[step] if first else "" for step in reversed(shown)], va="bottom")
            axes.set_xticks([-9, 50, 100], ["never", "50", "100"])
            axes.set(xlim=(-14, 101), ylim=(-0.04, len(shown)), xlabel="examples on which a neuron fired (%)")
            axes.tick_params(axis="y", length=0)
            axes.grid(visible=False, axis="x")
            axes.set_title(brief(layer), loc="left", fontweight="bold")
        figure.suptitle(caption(title, len(shown), len(pruning_steps)))
    return figure


def firing_rate(layer: str, counts: ArrayLike, rows: int) -> NDArray[np.float64]:
    """Counts / rows, 0..1. Raises DataError when they cannot be such a fraction."""
    found = np.asarray(counts, np.float64)
    if rows < 1 or found.ndim != 1 or (found < 0).any() or (found > rows).any():
        raise DataError(
            f"firing counts of {layer}: shape {found.shape}, largest {found.max(initial=0):g}, counted on {rows} rows; "
            f"expected shape (neurons,) and 0 <= count <= rows, rows at least 1"
        )
    return found / rows


_FEW = 15  # epochs up to which the single points are marked; a line through one point would be invisible
_AT_RIGHT: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False}


def _column(records: Sequence[Mapping[str, Any]], key: str) -> NDArray[np.float64]:
    return np.array([np.nan if record.get(key) is None else record[key] for record in records], float)


def _both(axes: Axes, records: Sequence[Mapping[str, Any]], what: str, scale: float) -> None:
    """Training solid, validation dashed, over epochs; the legend has the value reached."""
    epoch, mark = _column(records, "epoch"), "o" if len(records) <= _FEW else None
    for part, look, colour in (("train", "-", BLUE), ("validation", "--", VERMILION)):
        values = scale * _column(records, f"{part}_{what}")
        there = values[np.isfinite(values)]
        name = "training" if part == "train" else part
        label = f"{name}, last {there[-1]:.2f} %" if there.size else name
        axes.plot(epoch, values, look, color=colour, label=label, lw=1.6, marker=mark, ms=3)


def _removed(axes: Axes, epoch: NDArray[np.float64], removed: NDArray[np.float64]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.step(epoch, 100 * removed, color=GREEN, where="post", lw=1.6)
    axes.fill_between(epoch, 100 * removed, step="post", color=GREEN, alpha=0.15, lw=0)
    axes.set(ylabel="weights removed (%)", xlabel="epoch", ylim=(0, 103))
    axes.set_xlim(float(epoch.min()) - 0.5, float(epoch.max()) + 0.5)
    there = removed[np.isfinite(removed)]
    if there.size:
        height = 100 * min(max(there[-1], 0.0), 1.0)
        axes.annotate(f"{100 * there[-1]:.2f} %", (1, height), xycoords=("axes fraction", "data"), **_AT_RIGHT)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _mark(rows: Sequence[Axes], pruned: Sequence[float]) -> None:
    """A dotted line through all axes at every pruning step."""
    for axes in rows if len(pruned) <= MOST_MARKED else ():
        for i, when in enumerate(pruned):
            axes.axvline(when, color=MUTED, lw=0.9, ls=":", label="pruning step" if i == 0 else None)


def _counted(pruning_steps: Sequence[Mapping[str, ArrayLike]]) -> list[dict[str, Counts]]:
    return [{name: np.asarray(value, np.float64) for name, value in here.items()} for here in pruning_steps]


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


def _say(axes: Axes, place: int, shares: Sequence[float]) -> None:
    """The line through a layer's dots, and what is left at the end: left of its dot, a 0 at the edge."""
    live = [100 * share for share in shares if share > 0]
    if live:
        axes.plot([min(live), max(live)], [place, place], color=EDGE, lw=1.2, zorder=2)
    if not shares[-1]:
        axes.annotate("0", (0, place), xycoords=("axes fraction", "data"), **{**_AT_RIGHT, "color": VERMILION})
    elif live:
        axes.annotate(f"{live[-1]:.2g}", (min(live), place), **{**_AT_RIGHT, "xytext": (-6, 0), "ha": "right"})


def _log_percent(axes: Axes, shares: Sequence[float]) -> None:
    """A logarithmic axis that shows 0.5 % next to 100 %: whole numbers as ticks, room left of the smallest."""
    from matplotlib.ticker import LogLocator, NullLocator

    smallest = min((100 * share for share in shares if share > 0), default=10.0)
    axes.set(xscale="log", xlim=(min(10.0, 0.4 * smallest), 115))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if smallest > 0.5 else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")


_BINS = [4.0 * i for i in range(26)]


def _ridge(axes: Axes, base: float, rate: NDArray[np.float64]) -> None:
    """One histogram that stands at ``base``, as high as it has room; silent neurons apart and in words."""
    silent, heights = int((rate == 0).sum()), np.histogram(100 * rate[rate > 0], _BINS)[0]
    scale = 0.6 / max(silent, int(heights.max()), 1)
    axes.bar(_BINS[:-1], heights * scale, 3.6, bottom=base, align="edge", color=BLUE, lw=0)
    axes.bar(-9, silent * scale, 6, bottom=base, color=VERMILION, lw=0)
    axes.text(101, base + 0.93, f"{silent} of {len(rate)} silent", ha="right", va="top", color=MUTED)


def _require_keys(records: Sequence[Mapping[str, Any]], keys: tuple[str, ...]) -> None:
    """At least one record, and every key in every record."""
    if not records:
        raise DataError("the training curves were asked without a single epoch; train at least one epoch first")
    for i, record in enumerate(records):
        if missing := [key for key in keys if key not in record]:
            raise DataError(f"training curves: record {i} lacks {', '.join(missing)}; expected {', '.join(keys)}")
