"""L5: plots of a training: accuracy and loss over epochs, pruning steps marked; seeds as mean and single lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from actprune.lab.report.html import words as w
from actprune.lab.report.html.chart import Chart, colour, swatch
from actprune.lab.report.html.read import Run
from actprune.lab.report.html.svg import Axis, Plot, Point, around, both
from actprune.lab.report.style import chosen

Row = dict[str, Any]


MOST_EPOCHS, MOST_PRUNING_STEPS = 300, 60


def thinned(rows: Sequence[Row]) -> list[Row]:
    """Evenly spread epochs of a long training, those with a pruning kept where they are not too many either."""
    shown = set(chosen(len(rows), MOST_EPOCHS))
    pruned = [i for i, row in enumerate(rows) if row.get("pruned")]
    shown |= set(pruned if len(pruned) <= MOST_PRUNING_STEPS else ())
    return [row for i, row in enumerate(rows) if i in shown]


def of_run(run: Run) -> list[Chart]:
    """Accuracy and loss, where the run has epochs."""
    rows = thinned(_numbered(run.rows))
    charts = []
    for what, title, write in (("accuracy", run.score.capitalize(), w.percent), ("loss", "Loss", _loss)):
        values = [v for part in ("train", "validation") for v in w.numbers(rows, f"{part}_{what}")]
        if values:
            charts.append(_curves(rows, what, title, values, write))
    return charts


def _curves(rows: Sequence[Row], what: str, title: str, values: list[float], write: Callable[[float], str]) -> Chart:
    def draw(size: tuple[int, int]) -> Plot:
        plot = Plot(_spoken(rows, what, title), _epochs(rows), _vertical(title.lower(), values), size)
        _pruning_steps(plot, rows)
        for index, part in enumerate(("train", "validation")):
            line = _line(rows, f"{part}_{what}")
            plot.line(line, colour(index))
            if len(line) == 1:
                plot.dot(line[0], colour(index))
        for row in rows:
            plot.column(float(row["epoch"]), _tip(row, what, write))
        return plot

    legend = [
        swatch("training", colour(0)),
        swatch("validation", colour(1)),
        swatch("pruning step", "var(--muted)", "upright"),
    ]
    pruned = sum(bool(row.get("pruned")) for row in rows)
    marked = 0 < pruned <= MOST_PRUNING_STEPS
    note = f"Upright lines: {w.plural(pruned, 'pruning step')}, with the share removed after it." if marked else ""
    return Chart(title, both(draw), note, legend if marked else legend[:2])


def _pruning_steps(plot: Plot, rows: Sequence[Row]) -> None:
    """Lines at the pruning steps; texts where they do not touch each other."""
    if sum(bool(row.get("pruned")) for row in rows) > MOST_PRUNING_STEPS:
        return  # lines side by side would hide the curves
    free = -1e9
    for row in rows:
        if not row.get("pruned"):
            continue
        at, text = plot.place((float(row["epoch"]), plot.y.low))[0], w.percent(row.get("sparsity"), 0)
        room = at > free and at < plot.size[0] - 42
        plot.upright(float(row["epoch"]), text if room else "")
        free = at + 36 if room else free


def _tip(row: Row, what: str, write: Callable[[float], str]) -> str:
    lines = [f"epoch {w.whole(row.get('epoch'))}"]
    for part in ("train", "validation"):
        value = w.number(row.get(f"{part}_{what}"))
        lines += [f"{'training' if part == 'train' else part} {write(value)}"] if value is not None else []
    report = row.get("pruning") if row.get("pruned") else None
    if isinstance(report, dict):
        after = report.get("after")
        lines.append(f"pruned: {w.percent(row.get('sparsity'))} removed")
        value = w.number(after.get(what)) if isinstance(after, dict) else None
        lines += [f"validation right after {write(value)}"] if value is not None else []
    return "\n".join(lines)


def _spoken(rows: Sequence[Row], what: str, title: str) -> str:
    last = rows[-1]
    write = w.percent if what == "accuracy" else _loss
    return (
        f"{title} over {w.plural(len(rows), 'epoch')}; at the end training {write(last.get(f'train_{what}'))}, "
        f"validation {write(last.get(f'validation_{what}'))}"
    )


def _loss(value: Any) -> str:
    found = w.number(value)
    return w.DASH if found is None else f"{found:.3g}"


def _numbered(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if w.number(row.get("epoch")) is not None]


def _line(rows: Sequence[Row], key: str) -> list[Point]:
    return [(float(row["epoch"]), value) for row in rows if (value := w.number(row.get(key))) is not None]


def _epochs(rows: Sequence[Row]) -> Axis:
    first, last = float(rows[0]["epoch"]), float(rows[-1]["epoch"])
    few = [float(row["epoch"]) for row in rows] if len(rows) <= 5 else None
    return Axis("epoch", first, max(last, first + 1), ticks=few)


def _vertical(what: str, values: Sequence[float]) -> Axis:
    if what == "loss":
        return Axis("loss", 0.0, max(values) * 1.06 or 1.0)
    low, high = around(values, least=0.02)
    return Axis(
        f"{what} (%)", max(low, 0.0 if what == "accuracy" else -0.5), min(high, 1.005), write=lambda v: f"{100 * v:g}"
    )


def of_seeds(runs: Sequence[Run]) -> list[Chart]:
    """Validation accuracy of every seed, in one plot."""
    lines = {run.name: _line(thinned(_numbered(run.rows)), "validation_accuracy") for run in runs}
    lines = {name: line for name, line in lines.items() if line}
    if not lines:
        return []
    every = [point for line in lines.values() for point in line]

    def draw(size: tuple[int, int]) -> Plot:
        rows = [{"epoch": epoch} for epoch in sorted({epoch for epoch, _ in every})]
        label = f"Validation {runs[0].score} over the epochs of {w.plural(len(lines), 'seed')}"
        plot = Plot(label, _epochs(rows), _vertical(runs[0].score, [value for _, value in every]), size)
        for index, (name, line) in enumerate(lines.items()):
            plot.line(line, colour(index), series=name)
            run = next(run for run in runs if run.name == name)
            marked = {float(row["epoch"]) for row in run.pruned if w.number(row.get("epoch")) is not None}
            for point in line:
                if point[0] in marked:
                    plot.dot(point, colour(index), series=name)
        for row in rows:
            here = [
                f"{name} {w.percent(dict(line)[row['epoch']])}"
                for name, line in lines.items()
                if row["epoch"] in dict(line)
            ]
            plot.column(row["epoch"], "\n".join([f"epoch {row['epoch']:.0f}", *here]))
        return plot

    legend = [swatch(name, colour(index)) for index, name in enumerate(lines)]
    return [Chart(f"Validation {runs[0].score} of each seed", both(draw), "Dots: pruning steps.", legend)]
