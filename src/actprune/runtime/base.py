"""L4: what an execution path is: one small file behind one interface."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from actprune.errors import RuntimePathError
from actprune.program import Dense, Program, chain

Array = npt.NDArray[np.float32]
Run = Callable[[Array], Array]
"""float32, C-contiguous ``(batch, *shape)`` -> float32 ``(batch, outputs)``. The result may be a buffer that the next
call overwrites: copy what you keep. Not to be called from two threads at once."""

KEPT_SIZES = 8  # how many batch sizes stay prepared; a ninth one pushes the oldest out


@dataclass(frozen=True, eq=False)
class Model:
    """What a path is given.

    dense     the original structure with the masked (zeroed) weights
    small     the compacted program; the same object as ``dense`` when nothing was compacted
    example   float32, C-contiguous, ``(batch, *shape)``
    threads   threads that a call may use
    original  the user's own module behind ``dense``, where there is one: what eager PyTorch would really run
    shared    what one path worked out and another can use (translations take seconds)
    """

    dense: Program
    small: Program
    example: Array
    threads: int = 1
    original: nn.Module | None = None
    shared: dict[tuple[str, int], bytes] = field(default_factory=dict, repr=False)


class Path(Protocol):
    """One way to run a model.

    name   as printed: "onnxruntime dense", "numba sparse"
    extra  name of the optional extra it needs, None when it is always there
    dense  whether it runs the original structure, that is, whether it is a reference for ratios
    """

    name: str
    extra: str | None
    dense: bool

    def build(self, model: Model) -> Run:
        """Prepare everything that can be prepared. Raises RuntimePathError with the reason when it cannot be built."""
        ...


def required(module: str, path: Path) -> Any:
    """Import an optional library, or say how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RuntimePathError(
            f"{path.name} needs {module.partition('.')[0]}, which is not installed here; "
            f"pip install 'actprune[{path.extra}]'"
        ) from error


def compacted(model: Model, path: Path) -> Program:
    """The small program. Raises RuntimePathError when it is the dense one, which another path measures already."""
    if model.small is model.dense:
        raise RuntimePathError(f"{path.name}: the model was not compacted, so it is the dense form")
    return model.small


def layers(model: Model) -> list[Dense]:
    """The fully connected layers of the small program. Raises RuntimePathError unless it is a chain of them."""
    found = chain(model.small, model.example.shape[1:])
    if found is None:
        raise RuntimePathError("not a chain of fully connected layers")
    return found


def features(model: Model) -> int:
    """Numbers in one example."""
    return int(np.prod(model.example.shape[1:]))


def matrices(model: Model) -> list[tuple[Array, Array, bool]]:
    """``(weight (out, in), bias (out,), relu)`` of every layer of the small chain, in the order they run.

    A sparse first layer needs no gather: its columns are put back where they were among the features of the example.
    Arrays are float32 and C-contiguous. Raises RuntimePathError for anything but a chain whose widths fit together:
    sparse kernels read memory without looking.
    """
    found, width = [], features(model)
    for layer in layers(model):
        weight = _wide(layer, width)
        bias = np.zeros(len(weight), np.float32) if layer.bias is None else _float32(layer.bias)
        if weight.shape[1] != width or bias.shape != weight.shape[:1] or not weight.size:
            raise RuntimePathError(
                f"{layer.name} has weights {weight.shape} and bias {bias.shape} for {width} inputs; "
                "give an example of the shape that the model was made for, and no empty layers"
            )
        found.append((weight, bias, layer.activation == "relu"))
        width = len(weight)
    return found


def _float32(tensor: torch.Tensor) -> Array:
    return np.ascontiguousarray(tensor.detach().to(torch.float32).cpu().numpy())


def _wide(layer: Dense, width: int) -> Array:
    """The weights over all ``width`` features. Raises RuntimePathError when a column lies outside."""
    weight = _float32(layer.weight)
    if layer.columns is None:
        return weight
    columns = layer.columns.cpu().numpy()
    if len(columns) != weight.shape[1] or (columns < 0).any() or (columns >= width).any():
        raise RuntimePathError(
            f"{layer.name} reads features {columns.min(initial=0)} to {columns.max(initial=0)}, an example has "
            f"{width}; give an example of the shape that the model was made for"
        )
    wide = np.zeros((len(weight), width), np.float32)
    np.add.at(wide.T, columns, weight.T)  # a feature that is read twice counts twice
    return wide


def csr(weight: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Row starts ``(rows + 1,)`` and columns ``(non-zeros,)`` of the non-zero entries, in row order."""
    rows, columns = np.nonzero(weight)
    starts = np.zeros(weight.shape[0] + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=weight.shape[0]), out=starts[1:])
    return starts, columns.astype(np.int32)


def sized(prepare: Callable[[int], Run], shape: tuple[int, ...]) -> Run:
    """One prepared run per batch size, made when first met. The look-up by shape is the only check a call pays for.

    prepare: makes the run for one batch size; shape: that of one example. Raises RuntimePathError on other shapes.
    """
    runs: dict[tuple[int, ...], Run] = {}

    def fresh(x: Array) -> Run:
        if x.shape[1:] != shape or x.ndim == 0 or not x.size:
            raise wrong_shape(x, shape)
        while len(runs) >= KEPT_SIZES:
            del runs[next(iter(runs))]
        runs[x.shape] = made = prepare(len(x))
        return made

    def run(x: Array) -> Array:
        return (runs.get(x.shape) or fresh(x))(x)

    return run


def wrong_shape(x: Array, shape: tuple[int, ...]) -> RuntimePathError:
    """The error for an input that is not ``(batch, *shape)``, or empty."""
    return RuntimePathError(
        f"this path was built for inputs (batch, {', '.join(map(str, shape))}); got {tuple(x.shape)}; "
        "pass a non-empty batch of that shape, or build again with an example of yours"
    )
