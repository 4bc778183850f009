"""L5: pictures of weights: size as depth of colour, zeros clear, as PNG inside the page."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actprune.lab.report.html import words as w
from actprune.lab.report.html.read import Array, Run

MOST_PIXELS, MOST_LAYERS = 224, 24
_COLOUR = (47, 138, 208)  # between the accents of the light and the dark page: the same picture serves both
_HIGHEST = 20  # rem
_FAINTEST = 84  # opacity (of 255) of the smallest weight: a step away from an exact zero, which is clear


@dataclass(frozen=True)
class Heat:
    """One layer's picture. ``width``: where it is as high as the page lets it be, in rem; ``shape``: of the weight."""

    name: str
    data: str
    width: float
    shape: tuple[int, int]
    alt: str
    caption: str


def heats(run: Run) -> list[Heat]:
    """Pictures of the run's final weights, in the order of the network."""
    names = [name for name in _ordered(run) if run.weights[name].shape[0] > 1 and run.weights[name].shape[1] > 1]
    return [_heat(name, run.weights[name]) for name in names[:MOST_LAYERS]]


def _ordered(run: Run) -> list[str]:
    known = [row["name"].removesuffix(".weight") for row in run.layers]
    return [name for name in known if name in run.weights] or sorted(run.weights)


def _heat(name: str, weight: Array) -> Heat:
    size = np.abs(weight)
    zeros, empty = float((size == 0).mean()), int((size.max(axis=1) == 0).sum())
    small, block = _blocks(size)
    rows, columns = weight.shape
    dead = f"{empty} of {rows} rows are empty" if empty else "no row is empty"
    scale = "one pixel per weight" if block == (1, 1) else f"a pixel is the mean of {block[0]} x {block[1]} weights"
    return Heat(
        name,
        "data:image/png;base64," + base64.b64encode(png(_indices(small))).decode(),
        round(_HIGHEST * columns / rows, 2),
        (rows, columns),
        f"Sizes of the weights of {name}: {w.percent(zeros)} are zero, {dead}",
        f"{rows} x {columns}, {w.percent(zeros)} zero, {dead}; {scale}",
    )


def _blocks(size: Array) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Means over blocks, so that the longer side fits; a block is zero only when all of its weights are."""
    high, wide = (max(1, -(-length // MOST_PIXELS)) for length in size.shape)
    padded = np.pad(size.astype(np.float64), [(0, -size.shape[0] % high), (0, -size.shape[1] % wide)])
    shape = (padded.shape[0] // high, high, padded.shape[1] // wide, wide)
    return padded.reshape(shape).mean(axis=(1, 3)), (high, wide)


def _indices(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """0 for zero, 1..63 by size; the largest percent share the deepest colour."""
    found = values[values > 0]
    top = float(np.quantile(found, 0.99)) if found.size else 1.0
    depth = np.clip(np.sqrt(values / (top or 1.0)), 0, 1)
    return np.where(values > 0, 1 + np.round(62 * depth), 0).astype(np.uint8)


def png(indices: NDArray[np.uint8]) -> bytes:
    """An 8-bit palette image ``(rows, columns)``; colour 0 is clear. Source: PNG specification (RFC 2083)."""
    height, width = indices.shape
    rows = b"".join(b"\0" + row.tobytes() for row in indices)
    opacity = bytes([0, *(round(_FAINTEST + (255 - _FAINTEST) * i / 62) for i in range(63))])
    return b"\x89PNG\r\n\x1a\n" + b"".join((
        _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        _chunk(b"PLTE", bytes(_COLOUR) * 64),
        _chunk(b"tRNS", opacity),
        _chunk(b"IDAT", zlib.compress(rows, 9)),
        _chunk(b"IEND", b""),
    ))  # fmt: skip


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
