"""L5: singular values around each pruning: a panel per layer, and the ranks as a table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from actprune.lab.report.html import words as w
from actprune.lab.report.html.chart import Chart, Legend, swatch
from actprune.lab.report.html.layers import order, thin
from actprune.lab.report.html.page import Cell, Table
from actprune.lab.report.html.read import Array, Run
from actprune.lab.report.html.svg import PANEL, Axis, Plot, Point, steps
from actprune.lab.report.style import chosen

MOST = 4
"""Pruning steps in one panel, of which each has two lines."""

_END = "var(--s2)"
Pair = Mapping[str, Array]


def charts(run: Run) -> list[Chart]:
    """Singular values right before (dashed) and after (solid) each pruning, and at the end; logarithmic."""
    out, numbers = [], list(run.spectra)
    shown = [numbers[i] for i in chosen(len(numbers), MOST)] if numbers else []
    for name in dict.fromkeys(name for n in shown for name in run.spectra[n]):
        pairs = {n: _moments(run.spectra[n][name]) for n in shown if name in run.spectra[n]}
        pairs = {n: pair for n, pair in pairs.items() if pair}
        if pairs:
            out.append(Chart(name, _panel(name, pairs, run.ends.get(name)).render(), small=True))
    return out


def legend(run: Run) -> list[Legend]:
    """Pruning steps from faint to strong, then the end."""
    ends = [swatch("at the end", _END)] if run.ends else []
    return [*order(list(run.spectra), MOST), *ends] if run.spectra else []


def tables(run: Run) -> list[Table]:
    """Numerical, stable and effective rank before and after each pruning."""
    rows = [
        [Cell(f"{number}", "name"), Cell(name, "text"), *cells]
        for number, layers in run.spectra.items()
        for name, found in layers.items()
        if (cells := _ranks(found))
    ]
    kinds = [f"{kind} rank {moment}" for kind in ("numerical", "stable", "effective") for moment in ("before", "after")]
    head = ["pruning step", "layer", *kinds]
    return [Table("Ranks around each pruning", head, rows, folded=True)] if rows else []


def _moments(found: Pair) -> dict[str, Array]:
    """The two moments, falling, without what is not a number."""
    parts = {moment: found[moment].ravel() for moment in ("before", "after") if moment in found}
    return {
        moment: np.sort(np.nan_to_num(part, posinf=0.0, neginf=0.0))[::-1]
        for moment, part in parts.items()
        if part.dtype.kind == "f" and bool((part > 0).any())
    }


def _panel(name: str, pairs: Mapping[int, Pair], end: Array | None) -> Plot:
    parts = [part for pair in pairs.values() for part in pair.values()]
    width, top = max(part.size for part in parts), max(float(part[0]) for part in parts)
    least = min(float(part[part > 0].min()) for part in parts)
    low = max(least, top * 1e-3)  # what lies below is zero but for rounding, or might as well be
    up = Axis("singular value", low * 0.9, top * 1.15, log=True, write=lambda v: f"{v:g}")
    plot = Plot(f"{name}: singular values before and after each pruning", Axis("index", 1, max(width, 2)), up, PANEL)
    for pair, css in zip(pairs.values(), steps(len(pairs)), strict=True):
        for moment, kind in (("before", "dashed thin"), ("after", "thin")):
            if moment in pair:
                plot.line(_line(pair[moment]), css, kind=kind)
    if end is not None and end.size:
        plot.line(_line(np.sort(end.ravel())[::-1]), _END, kind="thin")
    for i in thin(width, 60):
        here = [f"pruning {n}: {_at(p, 'before', i)} → {_at(p, 'after', i)}" for n, p in pairs.items()]
        plot.column(i + 1, "\n".join([f"singular value {i + 1}", *here]))
    return plot


def _line(values: Array) -> list[Point]:
    return [(float(i + 1), float(values[i])) for i in thin(len(values)) if values[i] > 0]


def _at(pair: Pair, moment: str, index: int) -> str:
    values = pair.get(moment)
    return f"{float(values[index]):.3g}" if values is not None and index < values.size else w.DASH


def _ranks(found: Pair) -> list[Cell]:
    """Six cells, or none when the file lacks what they need."""
    import torch

    from actprune.analysis import ranks_of

    shape, moments = found.get("shape"), _moments(found)
    if shape is None or len(moments) < 2:
        return []
    size = tuple(int(n) for n in shape.ravel())
    before, after = (ranks_of(torch.from_numpy(moments[m].copy()), size) for m in ("before", "after"))
    return [
        Cell(w.whole(before["numerical"])), Cell(w.whole(after["numerical"])),
        *[Cell(f"{ranks[kind]:.1f}") for kind in ("stable", "effective") for ranks in (before, after)],
    ]  # fmt: skip
