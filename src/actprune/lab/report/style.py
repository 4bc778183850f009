"""L5: what all figures share: colours, fonts, saving. matplotlib's object interface only, no pyplot state."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from actprune.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

BLUE, GREEN, VERMILION, GREY = "#0072B2", "#009E73", "#D55E00", "#6B6B6B"
"""Okabe and Ito's palette, told apart with every common colour vision deficiency."""

_SETTINGS = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.hashsalt": "actprune",  # equal data gives an equal file, so that committed figures do not change by themselves
}
_METADATA: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None},
}


@contextmanager
def canvas(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of ``width x height`` inches that is saved to ``path`` (.png, .svg or .pdf) when the block ends well.

    Raises DataError for another suffix and CheckpointError when the file cannot be written; a half-written file never
    appears under the final name.
    """
    if path.suffix not in _METADATA:
        raise DataError(f"cannot save a figure as {path}; expected a name that ends in {', '.join(_METADATA)}")
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        partial = path.with_name(f".{path.name}.partial")
        try:
            figure.savefig(partial, format=path.suffix[1:], dpi=150, metadata=_METADATA[path.suffix])
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise CheckpointError(
                f"cannot write {path}: {error.strerror or error}; check folder, rights, space"
            ) from error


MOST_PRUNING_STEPS = 8
"""Rows or lines that can still be told apart; more pruning steps are thinned out evenly, first and last kept."""


def shades(count: int) -> list[Any]:
    """``count`` colours of an ordered, perceptually even scale; the first is light, the last dark."""
    from matplotlib import colormaps

    return [colormaps["viridis"](value) for value in np.linspace(0.85, 0.0, count)] if count > 1 else [BLUE]


def chosen(count: int, most: int) -> list[int]:
    """At most ``most`` of ``range(count)``, evenly spread, first and last included."""
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, most)).round())]


def grid(figure: FigureBase, rows: int, columns: int, shared: bool = False) -> list[list[Axes]]:
    """Axes as a list of rows; ``shared``: x by all of them, y by each column."""
    y: Literal["col", "none"] = "col" if shared else "none"
    axes: list[list[Axes]] = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=y).tolist()
    return axes


def layer_names(pruning_steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every layer of any pruning step, in order of first appearance. Raises DataError when there is none."""
    names = list(dict.fromkeys(name for pruning_step in pruning_steps for name in pruning_step))
    if not names:
        raise DataError(
            f"a figure over {len(pruning_steps)} pruning steps was asked, without a single layer; "
            "run at least one pruning step first"
        )
    return names


def caption(title: str, shown: int, total: int) -> str:
    """The title, with a note when pruning steps were left out."""
    return title if shown == total else f"{title} ({shown} of {total} pruning steps shown)".strip()


def step_names(labels: Sequence[str], count: int) -> list[str]:
    """The labels given, or "pruning step 1" and so on. Raises DataError when there are too many or too few."""
    if labels and len(labels) != count:
        raise DataError(f"{len(labels)} labels for {count} pruning steps; give one per pruning step, or none")
    return list(labels) or [f"pruning step {i + 1}" for i in range(count)]


def figure_width(columns: int) -> float:
    """Inches for so many small plots side by side; beyond a dozen they get narrower instead."""
    return min(1.2 + 1.9 * columns, 24.0)
