"""L5: pictures: which weights are there and how large, and what an autoencoder makes of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actprune.errors import DataError
from actprune.lab.report.style import MUTED, WIDE, across, brief, canvas, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CELLS = 200
MOST = 10
"""Images of a reconstruction side by side; more are left out."""


def heat_maps(
    rows: Mapping[str, Mapping[str, ArrayLike]], path: Path | None = None, title: str = "", width: float = WIDE
) -> Figure:
    """|w| of every layer, one row of pictures per network, one column per layer; zeros are left blank.

    rows: by network ("activation, pruned"), then by layer, a weight ``(out, in)`` or ``(out, in, *kernel)``.
    The scale is shared within a column: from 0 to the 99th percentile of its largest picture's non-zero entries. A
    matrix with more than 200 rows or columns is shrunk by the largest |w| of each tile, so that no entry vanishes.
    Raises DataError when there is nothing to show or a value is not finite.
    """
    layers = list(dict.fromkeys(layer for row in rows.values() for layer in row))
    if not layers:
        raise DataError(f"heat maps of {len(rows)} networks without a layer; give at least one weight")
    pictures = {name: {layer: _picture(name, layer, w) for layer, w in row.items()} for name, row in rows.items()}
    columns = across(layers, width, 1.8)
    with canvas(width, 0.3 + 1.9 * len(rows) * -(-len(layers) // columns), path) as figure:
        for i, (layer, column) in enumerate(panels(figure, layers, columns, len(rows)).items()):
            top = max(_top(row[layer]) for row in pictures.values() if layer in row)
            column[0].set_title(brief(layer.removesuffix(".weight")), loc="left", fontweight="bold")
            for axes, (name, row) in zip(column, pictures.items(), strict=True):
                axes.set(xticks=[], yticks=[], ylabel=name if i % columns == 0 else "")
                axes.grid(visible=False)
                axes.spines[:].set_visible(True)
                if layer in row:
                    axes.imshow(row[layer], cmap=_colours(), vmin=0, vmax=top, aspect="auto", interpolation="none")
        figure.suptitle(title)
    return figure


def described(weight: ArrayLike) -> str:
    """A weight in words: ``6 x 8, 79 % zero, 2 of 6 rows empty``."""
    size = np.abs(np.asarray(weight, np.float64)).reshape(len(np.asarray(weight)), -1)
    empty = int((size.max(axis=1) == 0).sum())
    dead = f"{empty} of {len(size)} rows empty" if empty else "no row empty"
    return f"{size.shape[0]} x {size.shape[1]}, {100 * (size == 0).mean():.2f} % zero, {dead}"


def reconstruction(inputs: NDArray[Any], outputs: NDArray[Any], path: Path | None = None, title: str = "") -> Figure:
    """Inputs above, outputs below, one column per image, all on the scale of the inputs.

    Both ``(N, C, H, W)``; one channel is drawn in grey, three in colour, of any other number the first.
    Raises DataError when the shapes differ or are no images.
    """
    if inputs.shape != outputs.shape or inputs.ndim != 4 or not len(inputs):
        raise DataError(
            f"a reconstruction of inputs {inputs.shape} by outputs {outputs.shape}; expected two equal (N, C, H, W)"
        )
    count = min(len(inputs), MOST)
    low, high = float(inputs.min()), float(inputs.max())
    with canvas(0.75 * count + 0.6, 2.1, path) as figure:
        axes = figure.subplots(2, count, squeeze=False)
        for row, (name, images) in enumerate((("input", inputs), ("output", outputs))):
            for spot, image in zip(axes[row], images, strict=False):
                spot.imshow(_drawable(image, low, high), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
                spot.set(xticks=[], yticks=[])
                spot.grid(visible=False)
                spot.spines[:].set_visible(False)
            axes[row, 0].set_ylabel(name)
        figure.suptitle(title, color=MUTED)
    return figure


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
    """Clear for nothing, then one blue from faint to full: the same picture serves a light and a dark page."""
    from matplotlib.colors import ListedColormap

    blue = np.tile([47 / 255, 138 / 255, 208 / 255], (64, 1))
    opacity = np.concatenate([[0.0], 0.33 + 0.67 * np.sqrt(np.linspace(0, 1, 63))])
    return ListedColormap(np.column_stack([blue, opacity]))


def _drawable(image: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    """``(H, W)`` or ``(H, W, 3)`` in 0..1; values beyond the inputs' range are cut off."""
    scaled = np.clip((image - low) / max(high - low, 1e-12), 0.0, 1.0)
    return np.moveaxis(scaled, 0, 2) if len(image) == 3 else scaled[0]
