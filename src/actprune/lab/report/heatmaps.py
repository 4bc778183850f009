"""L5: weights as pictures: which entries are there, and how large."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actprune.errors import DataError
from actprune.lab.report.style import canvas, figure_width, grid

MOST_CELLS = 200


def heat_maps(rows: Mapping[str, Mapping[str, ArrayLike]], path: Path, title: str = "") -> None:
    """|w| of every layer, one row of pictures per network, one column per layer; zeros are white.

    rows: by network ("activation, pruned"), then by layer, a weight ``(out, in)`` or ``(out, in, *kernel)``.
    The scale is shared within a column: from 0 to the 99th percentile of its largest picture's non-zero entries. A
    matrix with more than 200 rows or columns is shrunk by the largest |w| of each tile, so that no entry vanishes.
    Raises DataError when there is nothing to show or a value is not finite.
    """
    layers = list(dict.fromkeys(layer for row in rows.values() for layer in row))
    if not layers:
        raise DataError(f"heat maps of {len(rows)} networks without a layer; give at least one weight")
    sizes = {name: {layer: _picture(name, layer, w) for layer, w in row.items()} for name, row in rows.items()}
    with canvas(Path(path), max(6.4, figure_width(len(layers))), 0.6 + 1.7 * len(rows)) as figure:
        axes = grid(figure, len(rows), len(layers))
        for column, layer in enumerate(layers):
            top = max(_top(row[layer]) for row in sizes.values() if layer in row)
            for line, (name, row) in enumerate(sizes.items()):
                axis = axes[line][column]
                axis.set(xticks=[], yticks=[])
                axis.grid(visible=False)
                if layer in row:
                    axis.imshow(row[layer], cmap=_colours(), vmin=0, vmax=top, aspect="auto", interpolation="nearest")
                if column == 0:
                    axis.set_ylabel(name)
                if line == 0:
                    axis.set_title(layer.removesuffix(".weight"))
        figure.suptitle(title, fontsize=9)


def _picture(name: str, layer: str, weight: ArrayLike) -> NDArray[np.float64]:
    values = np.abs(np.asarray(weight, np.float64))
    if values.ndim < 2 or not values.size or not np.isfinite(values).all():
        raise DataError(f"{layer} of {name!r} is {values.shape}; a heat map needs finite values (out, in)")
    flat = values.reshape(len(values), -1)
    for axis in (0, 1):
        length = flat.shape[axis]
        starts = np.linspace(0, length, min(MOST_CELLS, length), endpoint=False).astype(int)
        flat = np.maximum.reduceat(flat, starts, axis=axis)
    return flat


def _top(picture: NDArray[np.float64]) -> float:
    live = picture[picture > 0]
    return float(np.quantile(live, 0.99)) if live.size else 1.0


def _colours() -> Any:
    """White for nothing, then light to dark."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    scale = colormaps["viridis_r"](np.linspace(0.08, 1, 255))
    return ListedColormap(np.vstack([[1.0, 1.0, 1.0, 1.0], scale]))
