"""L5: what an autoencoder makes of its inputs, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actprune.errors import DataError
from actprune.lab.report.style import canvas

MOST = 10
"""Images side by side; more are left out."""


def reconstruction(inputs: NDArray[Any], outputs: NDArray[Any], path: Path, title: str = "") -> None:
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
    with canvas(path, 0.75 * count + 0.6, 2.1) as figure:
        axes = figure.subplots(2, count, squeeze=False)
        for row, (name, images) in enumerate((("input", inputs), ("output", outputs))):
            for column in range(count):
                spot = axes[row, column]
                spot.imshow(
                    _drawable(images[column], low, high), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest"
                )
                spot.set(xticks=[], yticks=[])
                spot.grid(visible=False)
                spot.spines[:].set_visible(False)
            axes[row, 0].set_ylabel(name)
        figure.suptitle(title, fontsize=9)


def _drawable(image: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    """``(H, W)`` or ``(H, W, 3)`` in 0..1; values beyond the inputs' range are cut off."""
    scaled = np.clip((image - low) / max(high - low, 1e-12), 0.0, 1.0)
    return np.moveaxis(scaled, 0, 2) if len(image) == 3 else scaled[0]
