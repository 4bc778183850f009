"""L5: the plot of a comparison: test accuracy over compression, mean and spread per baseline, dense as a band."""

from __future__ import annotations

from collections.abc import Sequence

from actprune.lab.report.html import words as w
from actprune.lab.report.html.chart import Chart, colour, dashed, entry, shape, swatch
from actprune.lab.report.html.field import OURS, Field
from actprune.lab.report.html.layers import limits
from actprune.lab.report.html.svg import Axis, Plot, both

NEAR = (0.03, 0.1, 0.3)
"""Depths of a close-up below the best mean: the first that holds half of the points."""


def of_field(field: Field, names: Sequence[str]) -> list[Chart]:
    """A close-up of the accuracies that matter where some are far below them, then everything.

    names: of all baselines of the comparison, so that one has the same colour and mark on every data set.
    """
    means = [mean for point in field.points.values() if (mean := point.test) is not None]
    if not means:
        return []
    whole = [*means, *([field.dense.test] if field.dense.test is not None else [])]
    ends = [m + sign * (p.spread or 0) for p in field.points.values() if (m := p.test) is not None for sign in (-1, 1)]
    charts, top = [], max(whole)
    depth = next((depth for depth in NEAR if sum(m >= top - depth for m in means) * 2 >= len(means)), None)
    if depth is not None and top - min(whole) > 1.8 * depth:
        near = (top - depth, min(top + depth / 20, 1.0))
        note = f"Close-up: the {100 * depth:g} points below the best; hollow marks at the lower edge lie below it."
        charts.append(_chart(field, names, "Test accuracy over compression, close-up", near, note))
    title = "Test accuracy over compression" + (", everything" if charts else "")
    charts.append(_chart(field, names, title, limits([*whole, *ends]), ""))
    return charts


def _chart(field: Field, names: Sequence[str], title: str, span: tuple[float, float], note: str) -> Chart:
    own = {name: names.index(name) for name in field.baselines}

    def draw(size: tuple[int, int]) -> Plot:
        plot = Plot(_spoken(field), _across(field), _up(span), size)
        _dense(plot, field)
        for name in reversed(field.baselines):  # the best ones on top
            _baseline(plot, field, name, own[name])
        for sparsity in field.sparsities:
            plot.column(_compression(field, field.baselines, sparsity), _tip(field, sparsity))
        return plot

    legend = [entry(name, own[name]) for name in field.baselines]
    if field.dense.test is not None:
        legend.append(swatch("dense", "var(--ink)", "thin"))
    caption = f"{note} Mean over the seeds; upright strokes: one standard deviation.".strip()
    return Chart(title, both(draw), caption, legend)


def _baseline(plot: Plot, field: Field, name: str, index: int) -> None:
    line = []
    for sparsity in field.sparsities:
        point = field.at(name, sparsity)
        if point.test is not None:
            x = _compression(field, [name], sparsity)
            line.append((x, point.test))
            if point.spread:
                ends = [(x, point.test - point.spread), (x, point.test + point.spread)]
                plot.line(ends, colour(index), kind="stroke", series=name)
    plot.line(line, colour(index), kind=f"{dashed(index)}{' own' * (name == OURS)}", series=name)
    for x, y in line:
        plot.dot((x, y), colour(index), f"{name}\n{w.percent(y)} at {w.times(x)}", shape=shape(index), series=name)


def _dense(plot: Plot, field: Field) -> None:
    middle, around = field.dense.test, field.dense.spread or 0.0
    if middle is None:
        return
    low, high = plot.x.low, plot.x.high
    if around:
        bottom, top = middle - around, middle + around
        plot.band([(low, bottom), (high, bottom)], [(low, top), (high, top)], "var(--ink)", series="dense")
    plot.line([(low, middle), (high, middle)], "var(--ink)", kind="thin", series="dense")


def _compression(field: Field, names: Sequence[str], sparsity: float) -> float:
    """What was reached, or what the target comes to where nothing was."""
    found = [value for name in names if (value := field.at(name, sparsity).mean("compression")) is not None]
    middle = w.average([value for value in found if value > 0])
    return middle if middle is not None else 1 / max(1 - sparsity, 1e-6)


def _across(field: Field) -> Axis:
    every = [
        _compression(field, [name], s) for name in field.baselines for s in field.sparsities if field.at(name, s).rows
    ]
    low, high = min(every), max(every)
    if high / low < 1.5:
        return Axis("compression, weights before / after", low / 1.3, high * 1.3, log=True, write=_times)
    return Axis("compression, weights before / after", low / 1.12, high * 1.12, log=True, write=_times)


def _times(value: float) -> str:
    return f"{value:.3g}x"


def _up(span: tuple[float, float]) -> Axis:
    return Axis("test accuracy (%)", span[0], span[1], write=lambda v: f"{100 * v:g}")


def _tip(field: Field, sparsity: float) -> str:
    lines = [f"{w.share(sparsity)} removed"]
    for name, mean in field.ranking(sparsity):
        around = field.at(name, sparsity).spread
        lines.append(f"{w.percent(mean)}{f' ± {100 * around:.2f}' if around is not None else ''}  {name}")
    return "\n".join(lines)


def _spoken(field: Field) -> str:
    best = [f"{w.share(s)}: {r[0][0]} {w.percent(r[0][1])}" for s in field.sparsities if (r := field.ranking(s))]
    return f"Test accuracy over compression on {field.data} with {field.model}; best at {'; '.join(best)}"
