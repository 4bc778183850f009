"""L5: plots of what survives: weights per layer and pruning, kept weights per neuron, firing rates, spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actprune.lab.report.html import words as w
from actprune.lab.report.html.chart import Chart, Legend, colour, entry, shape, swatch
from actprune.lab.report.html.read import Array, Run
from actprune.lab.report.html.svg import PANEL, Axis, Plot, Point, around, both, steps
from actprune.lab.report.style import MOST_PRUNING_STEPS, chosen

PruningSteps = Mapping[int, Mapping[str, Mapping[str, Array]]]


def survival(run: Run) -> list[Chart]:
    """Share of weights kept per layer over the pruning steps; logarithmic, since 0.5 % counts beside 100 %."""
    lines: dict[str, list[tuple[int, float]]] = {}
    numbers = [list(run.pruning_steps)[i] for i in thin(len(run.pruning_steps))] if run.pruning_steps else []
    for number, layers in ((number, run.pruning_steps[number]) for number in numbers):
        for name, sums in layers.items():
            share = _share(sums)
            if share is not None:
                lines.setdefault(name, [(0, 1.0)]).append((number, share))
    if not lines:
        return []
    floor = min((share for line in lines.values() for _, share in line if share > 0), default=1.0)
    last = max(run.pruning_steps)

    def draw(size: tuple[int, int]) -> Plot:
        ends = ", ".join(f"{name} {w.percent(line[-1][1])}" for name, line in lines.items())
        across = Axis("pruning step", 0, last, ticks=chosen(last + 1, 11))
        up = Axis("weights kept (%)", min(floor * 0.8, 0.5), 1.06, log=True, write=lambda v: f"{100 * v:g}")
        plot = Plot(f"Weights kept per layer after each pruning; at the end {ends}", across, up, size)
        for index, (name, line) in enumerate(lines.items()):
            plot.line([*line], colour(index), series=name)
            for point in line:
                plot.dot(point, colour(index), f"{name}: {w.percent(point[1])}", shape=shape(index), series=name)
        for number in (0, *numbers):
            here = [f"{name} {w.percent(dict(line)[number])}" for name, line in lines.items() if number in dict(line)]
            plot.column(number, "\n".join([f"after pruning {number}" if number else "before", *here]))
        return plot

    note = "Logarithmic. A layer that lost everything is drawn at the lower edge."
    return [Chart("Weights kept, layer by layer", both(draw), note, [entry(n, i) for i, n in enumerate(lines)])]


def _share(sums: Mapping[str, Array]) -> float | None:
    """Kept weights / all weights of a layer."""
    kept, fan_in = sums.get("kept"), sums.get("fan_in")
    if kept is None or fan_in is None or not kept.size or not fan_in.size or int(fan_in.flat[0]) < 1:
        return None
    return float(kept.sum()) / (kept.size * int(fan_in.flat[0]))


def neurons(run: Run) -> list[Chart]:
    """Kept weights of each neuron, sorted, one panel per layer."""

    def curve(sums: Mapping[str, Array]) -> list[Point] | None:
        kept = sums.get("kept")
        if kept is None or not kept.size:
            return None
        values = np.sort(kept.ravel())[::-1].astype(float)
        at = thin(len(values))
        return [(float(i), float(values[i])) for i in at]

    def draw(name: str, lines: dict[int, list[Point]], colours: list[str]) -> Plot:
        width = max(len(run.pruning_steps[n][name]["kept"]) for n in lines)
        top = max(y for line in lines.values() for _, y in line)
        alive = int((run.pruning_steps[max(lines)][name]["kept"] > 0).sum())
        label = f"{name}: kept weights per neuron, sorted; {alive} of {width} neurons have any at the end"
        plot = Plot(label, Axis("neurons, most first", 0, max(width - 1, 1)), Axis("weights kept", 0, top or 1), PANEL)
        for line, css in zip(lines.values(), colours, strict=True):
            plot.line(line, css)
        for i, _ in next(iter(lines.values())):
            here = [f"after {n}: {dict(line)[i]:.0f} weights" for n, line in lines.items() if i in dict(line)]
            plot.column(i, "\n".join([f"neuron {i + 1:.0f} of {width}", *here]))
        return plot

    return _panels(run.pruning_steps, curve, draw)


def firing(run: Run) -> list[Chart]:
    """Histograms of firing rates, one panel per layer, a row of bars per pruning."""
    charts = []
    numbers = [
        number for number, layers in run.pruning_steps.items() if any("fired" in sums for sums in layers.values())
    ]
    shown = [numbers[i] for i in chosen(len(numbers), MOST_PRUNING_STEPS)] if numbers else []
    names = dict.fromkeys(name for n in shown for name, sums in run.pruning_steps[n].items() if "fired" in sums)
    for name in names:
        rates = {n: rate for n in shown if (rate := _rates(run.pruning_steps[n].get(name, {}))) is not None}
        if rates:
            charts.append(Chart(name, _ridges(name, rates).render(), small=True))
    return charts


def _rates(sums: Mapping[str, Array]) -> NDArray[np.float64] | None:
    fired, rows = sums.get("fired"), sums.get("rows")
    if fired is None or rows is None or not fired.size or not rows.size or int(rows.flat[0]) < 1:
        return None
    return np.clip(fired.ravel() / int(rows.flat[0]), 0, 1)


_BINS = 20


def _ridges(name: str, rates: Mapping[int, NDArray[np.float64]]) -> Plot:
    """Histograms above each other, first pruning on top."""
    count = len(rates)
    silent = int((rates[max(rates)] == 0).sum())
    label = f"{name}: how often neurons fire; before the last pruning {silent} of {len(rates[max(rates)])} never do"
    marks = {count - i - 1: f"{number}" for i, number in enumerate(rates)}
    up = Axis("pruning step", 0, count, ticks=sorted(marks), write=lambda v: marks.get(round(v), ""))
    size = (PANEL[0], max(PANEL[1], 60 + 34 * count))
    plot = Plot(label, Axis("firing rate (%)", 0, 1, write=lambda v: f"{100 * v:g}"), up, size)
    for i, (number, rate) in enumerate(rates.items()):
        heights = np.histogram(rate, _BINS, (0, 1))[0]
        base = count - i - 1
        for bin_, height in enumerate(heights):
            span = f"{100 * bin_ / _BINS:g} to {100 * (bin_ + 1) / _BINS:g} %"
            tip = f"pruning {number}: {w.plural(int(height), 'neuron')} at {span}"
            if height:
                top = base + 0.9 * float(height) / float(heights.max())
                plot.bar(((bin_ + 0.08) / _BINS, base), ((bin_ + 0.92) / _BINS, top), steps(count)[i], tip)
    return plot


def thin(count: int, most: int = 120) -> list[int]:
    """At most so many of ``range(count)``: more points than pixels only make the page heavy."""
    return chosen(count, most)


def _panels(pruning_steps: PruningSteps, curve: Any, draw: Any) -> list[Chart]:
    """One panel per layer, a line per pruning."""
    charts = []
    shown = [list(pruning_steps)[i] for i in chosen(len(pruning_steps), MOST_PRUNING_STEPS)] if pruning_steps else []
    for name in dict.fromkeys(name for n in shown for name in pruning_steps[n]):
        lines = {
            n: line for n in shown if name in pruning_steps[n] and (line := curve(pruning_steps[n][name])) is not None
        }
        if lines:
            charts.append(Chart(name, draw(name, lines, steps(len(lines))).render(), small=True))
    return charts


def order(numbers: Sequence[int], most: int = MOST_PRUNING_STEPS) -> list[Legend]:
    """The legend of the ordered scale."""
    shown = [numbers[i] for i in chosen(len(numbers), most)] if numbers else []
    return [swatch(f"pruning {n}", css) for n, css in zip(shown, steps(len(shown)), strict=True)] if shown else []


def limits(values: Sequence[float]) -> tuple[float, float]:
    """For accuracies: with room, inside 0..1."""
    low, high = around(values, least=0.02)
    return max(low, 0.0), min(high, 1.002)
