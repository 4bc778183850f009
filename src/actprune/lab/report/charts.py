"""L5: the charts of a run: what its folder holds, cut to what can be drawn, with the words that belong to each chart.

The files in ``plots/`` and the HTML page are made from these, so that both say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from actprune.lab.report import heatmaps, plots, spectra
from actprune.lab.report import words as w
from actprune.lab.report.read import Array, Run
from actprune.lab.report.style import NARROW, PANEL, WIDE, chosen, inline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
Steps = dict[int, dict[str, Any]]
MOST_EPOCHS, MOST_LAYERS = 300, 24


@dataclass(frozen=True)
class Chart:
    """A chart with its heading and a sentence on how to read it. ``label``: what it shows, read out aloud.

    draw: gives the figure for a width in inches, under a title where it stands alone. file: what its file is called.
    small: one of several side by side, drawn at one width; others are drawn for a wide screen and for a phone, where a
    wide one's letters would be too small, and CSS shows one.
    """

    title: str
    label: str
    draw: Callable[[float, str], Figure]
    caption: str = ""
    file: str = ""
    small: bool = False

    def svg(self, numbers: Iterator[int]) -> str:
        """The chart as inline SVG, which escapes what it shows. numbers: for ids of its own."""
        sizes = [("", PANEL)] if self.small else [("wide", WIDE), ("narrow", NARROW)]
        return "".join(inline(self.draw(width, ""), f"c{next(numbers)}", self.label, kind) for kind, width in sizes)


def of_run(run: Run) -> list[Chart]:
    """Those that are also files of the run."""
    return [*training(run), *firing(run), *survival(run), *neurons(run), *singular_values(run)]


def thinned(rows: Sequence[Row]) -> list[Row]:
    """Evenly spread epochs of a long training, those with a pruning kept where they are not too many either."""
    shown = set(chosen(len(rows), MOST_EPOCHS))
    pruned = [i for i, row in enumerate(rows) if row.get("pruned")]
    shown |= set(pruned if len(pruned) <= plots.MOST_MARKED else ())
    return [row for i, row in enumerate(rows) if i in shown]


def training(run: Run) -> list[Chart]:
    """Accuracy, loss and sparsity, where the run has epochs with some."""
    keys = [f"{part}_{what}" for what in ("accuracy", "loss") for part in ("train", "validation")]
    rows = thinned([row for row in run.rows if w.number(row.get("epoch")) is not None])
    if not any(w.numbers(rows, key) for key in keys):
        return []
    records = [
        {key: w.number(row.get(key)) for key in ("epoch", "sparsity", *keys)} | {"pruned": bool(row.get("pruned"))}
        for row in rows
    ]
    last, pruned = records[-1], sum(bool(record["pruned"]) for record in records)
    label = (
        f"{run.score.capitalize()}, loss and share of weights removed over {w.plural(len(rows), 'epoch')}; at the end "
        f"training {w.percent(last['train_accuracy'])}, validation {w.percent(last['validation_accuracy'])}, "
        f"{w.percent(last['sparsity'])} removed"
    )
    marked = 0 < pruned <= plots.MOST_MARKED
    note = f"Dotted lines: {w.plural(pruned, 'pruning step')}." if marked else ""
    return [
        Chart(
            f"{run.score.capitalize()}, loss and weights removed", label,
            lambda width, title: plots.training_curves(records, None, title, run.score, width), note, "training",
        )
    ]  # fmt: skip


def seeds(runs: Sequence[Run]) -> list[Chart]:
    """Validation accuracy of every seed, in one chart."""
    lines = {
        run.name: [
            (epoch, value)
            for row in thinned(run.rows)
            if (epoch := w.number(row.get("epoch"))) is not None
            and (value := w.number(row.get("validation_accuracy"))) is not None
        ]
        for run in runs
    }
    lines = {name: line for name, line in lines.items() if line}
    if not lines:
        return []
    pruned, score = {run.name: w.numbers(run.pruned, "epoch") for run in runs}, runs[0].score
    ends = w.listed([f"{name} {w.percent(line[-1][1])}" for name, line in lines.items()])
    label = f"Validation {score} over the epochs of {w.plural(len(lines), 'seed')}; at the end {ends}"
    return [
        Chart(
            f"Validation {score} of each seed", label,
            lambda width, title: plots.seed_curves(lines, pruned, None, score, width), "Dots: pruning steps.",
        )
    ]  # fmt: skip


def survival(run: Run) -> list[Chart]:
    """What each layer still has after each pruning step."""
    steps, fan_in = _kept(run)
    if not steps:
        return []
    last = max(steps)
    ends = [
        f"{name} {w.percent(kept.sum() / (kept.size * fan_in[name]))}" for name, kept in steps[last].items()
    ]  # fmt: skip
    label = f"Weights kept per layer after each pruning step; after pruning step {last} {', '.join(ends)}"
    note = (
        "What is left of each layer after each pruning step, in percent of its weights before the first; faint: the "
        "first step, strong: the last. Logarithmic; a layer that lost everything has a 0 at the edge."
    )
    return [
        Chart(
            "Weights kept, layer by layer", label,
            lambda width, title: plots.survival(
                [*steps.values()], None, fan_in, title=title, labels=_after(steps), width=width
            ), note, "survival",
        )
    ]  # fmt: skip


def neurons(run: Run) -> list[Chart]:
    """What each neuron still has after each pruning step."""
    steps, _ = _kept(run)
    if not steps:
        return []
    ends = [f"{name} {(kept > 0).sum()} of {kept.size}" for name, kept in steps[max(steps)].items()]
    label = f"Weights kept per neuron, sorted; neurons with any after pruning step {max(steps)}: {', '.join(ends)}"
    return [
        Chart(
            "Weights kept, neuron by neuron", label,
            lambda width, title: plots.neurons([*steps.values()], None, title, _after(steps), width),
            "Incoming weights that each neuron still has after each pruning step; each line has its own order.",
            "neurons",
        )
    ]  # fmt: skip


def firing(run: Run) -> list[Chart]:
    """How often neurons fire; the caption says which examples the counts are of."""
    steps: Steps = {}
    for number, layers in run.pruning_steps.items():
        for name, sums in layers.items():
            fired, rows = sums.get("fired"), _first(sums.get("rows"))
            if fired is not None and fired.size and rows >= 1 and fired.min() >= 0 and fired.max() <= rows:
                steps.setdefault(number, {})[name] = (fired.ravel(), rows)
    if not steps:
        return []
    silent = [f"{name} {(counts == 0).sum()} of {counts.size}" for name, (counts, _) in steps[max(steps)].items()]
    label = f"How often neurons fire; neurons that never do up to pruning step {max(steps)}: {', '.join(silent)}"
    names, counted = [f"pruning step {number}" for number in steps], _counted(run.recipe.get("reset_counts"))
    note = (
        f"{counted} A bar's height is the number of neurons, each row to its own scale; silent neurons stand apart on "
        "the left."
    )
    return [
        Chart(
            "How often neurons fire", label,
            lambda width, title: plots.firing_histograms(
                [*steps.values()], None, title and f"{title}\n{counted}", names, width
            ), note, "firing",
        )
    ]  # fmt: skip


def singular_values(run: Run) -> list[Chart]:
    """Singular values after each pruning, what it changed, and at the end."""
    steps: Steps = {}
    for number, layers in run.spectra.items():
        for name, found in layers.items():
            if {"before", "after"} <= set(moments(found)):
                steps.setdefault(number, {})[name] = moments(found)
    if not steps:
        return []
    control = all("random" in found for layers in steps.values() for found in layers.values())
    ends = {name: found["end"] for name, values in run.ends.items() if (found := moments({"end": values}))}
    names = [f"pruning step {number}" for number in steps]
    note = "Upper row: right after each pruning step, logarithmic. Below: what the pruning step changed in each value"
    note += ", and what a random mask of the same size would have changed." if control else "."
    return [
        Chart(
            "Singular values around each pruning step", f"Singular values of {', '.join(steps[max(steps)])}",
            lambda width, title: spectra.spectra(
                [*steps.values()], None, title, control=control, width=width, labels=names, ends=ends
            ), note, "spectra",
        )
    ]  # fmt: skip


def moments(found: Mapping[str, Array]) -> dict[str, Array]:
    """The singular values of each moment, falling, without what is no number; only those as many as before."""
    parts = {key: found[key].ravel() for key in ("before", "after", "random", "end") if key in found}
    size = next(iter(parts.values())).size if parts else 0
    return {
        key: np.sort(np.nan_to_num(part.astype(float), posinf=0.0, neginf=0.0))[::-1]
        for key, part in parts.items()
        if part.dtype.kind == "f" and part.size == size and bool((part > 0).any())
    }


def weights(run: Run) -> list[Chart]:
    """A picture of each layer's final weights, in the order of the network."""
    known = [row["name"].removesuffix(".weight") for row in run.layers]
    names = [name for name in known if name in run.weights] or sorted(run.weights)
    return [_picture(name, run.weights[name]) for name in names if min(run.weights[name].shape) > 1][:MOST_LAYERS]


def _picture(name: str, weight: Array) -> Chart:
    words = heatmaps.described(weight)
    return Chart(
        name, f"Sizes of the weights of {name}: {words}",
        lambda width, title: heatmaps.heat_maps({"": {"": weight}}, None, title, width), words, small=True,
    )  # fmt: skip


def _counted(reset: Any) -> str:
    """Which examples each row of the firing chart is of. reset: the recipe's ``reset_counts``."""
    if reset is False:
        return "Counts are cumulative: each row is of all examples up to that pruning step."
    if reset is True:
        return "Each row is of the examples since the pruning step before."
    return "Whether a row includes the examples of earlier ones is not recorded."


def _kept(run: Run) -> tuple[Steps, dict[str, int]]:
    """Kept weights per neuron by pruning step and layer, and the layers' fan-in; what cannot be is left out."""
    fan_in: dict[str, int] = {}
    for layers in run.pruning_steps.values():
        for name, sums in layers.items():
            fan_in[name] = max(fan_in.get(name, 0), _first(sums.get("fan_in")))
    steps: Steps = {}
    for number, layers in run.pruning_steps.items():
        for name, sums in layers.items():
            kept = sums.get("kept")
            if kept is not None and kept.size and kept.min() >= 0 and kept.max() <= fan_in[name] > 0:
                steps.setdefault(number, {})[name] = kept.ravel()
    return steps, fan_in


def _first(values: Array | None) -> int:
    return int(values.flat[0]) if values is not None and values.size and np.isfinite(values.flat[0]) else 0


def _after(steps: Steps) -> list[str]:
    return [f"after pruning step {number}" for number in steps]
