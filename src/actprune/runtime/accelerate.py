"""L4: ``accelerate``: measure every way to run a model on this machine, then take the fastest right one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from actprune.errors import RuntimePathError
from actprune.runtime.base import Array, Model, Run
from actprune.runtime.candidates import candidates, torch_threads
from actprune.runtime.prepare import Source, as_array, prepared
from actprune.runtime.table import Row, speedup, timed, verdict

Inputs = TypeVar("Inputs", Tensor, npt.NDArray[Any])


@dataclass(frozen=True, eq=False)
class Accelerated:
    """A model that runs on the path that was fastest here. Not to be called from two threads at once.

    table    one row per path: medians and 95th percentiles in seconds, or why it was left out
    verdict  in words: how many times faster than the fastest dense runtime, or that it is not
    run      the bare path, for loops that count microseconds: float32 C-contiguous numpy in, a buffer that the next
             call overwrites out
    """

    path: str
    table: list[Row]
    verdict: str
    run: Run = field(repr=False)
    shape: tuple[int, ...]

    @property
    def speedup(self) -> float:
        """Times faster than the fastest dense runtime here; 1 when that one is what runs."""
        return speedup(self.table)[0]

    def __call__(self, x: Inputs) -> Inputs:
        """``(batch, *shape)`` of any batch size, numpy or torch -> float32 ``(batch, outputs)`` of the same kind.

        The result is the caller's to keep. Raises RuntimePathError on other shapes or kinds of numbers.
        """
        array = as_array(x)
        if array.shape[1:] != self.shape:
            raise RuntimePathError(
                f"the model was accelerated for inputs (batch, {', '.join(map(str, self.shape))}); got {array.shape}"
            )
        result: npt.NDArray[np.float32] = self.run(array).copy()
        return torch.from_numpy(result).to(x.device) if isinstance(x, Tensor) else result


def accelerate(
    model_or_file: Source,
    example: Any,
    *,
    threads: int = 1,
    dense: Source | None = None,
    paths: Sequence[str] | None = None,
    inputs: Sequence[Any] = (),
    min_seconds: float = 0.2,
) -> Accelerated:
    """Try every execution path that is installed, check each against PyTorch, time them interleaved, take the fastest.

    model_or_file  a module (compacted or masked), a program, or a saved artifact
    example        float numbers ``(batch, *shape)``, numpy or torch; the timing is for this batch size
    threads        threads a call may use; eager PyTorch uses its own setting once this function has returned
    dense          the original dense model; ratios refer to its fastest dense runtime. Default: the model run dense,
                   which costs the same. It is only chosen where its results are those of the pruned model
    paths          names of the paths to try (default: all); dense references are always measured
    inputs         more real inputs of the example's shape: timing takes turns, because paths that skip zeros depend on
                   what they are shown
    min_seconds    time to spend per path

    The dense runtimes are among the candidates, so the result is never slower than the fastest of them. Raises
    RuntimePathError when no path can run the model, and whatever ``prepared`` raises.
    """
    model = prepared(model_or_file, example, threads=threads, dense=dense)
    shown = [model.example, *_like(model.example, inputs)]
    with torch_threads(threads):
        found = candidates(model, paths)
        rows = timed(found, shown, min_seconds)
    best = next(row.path for row in rows if row.chosen)
    run = next(item.run for item in found if item.path.name == best and item.run is not None)
    return Accelerated(best, rows, verdict(rows, model), run, model.example.shape[1:])


def _like(example: Array, inputs: Sequence[Any]) -> list[Array]:
    arrays = [as_array(x) for x in inputs]
    if other := [x.shape for x in arrays if x.shape != example.shape]:
        raise RuntimePathError(f"inputs must have the example's shape {example.shape}; got {other[0]}")
    return arrays


def bench_table(
    model: Model,
    batches: Sequence[int] = (1, 32, 256),
    *,
    data: Array | None = None,
    paths: Sequence[str] | None = None,
    min_seconds: float = 0.2,
) -> dict[int, list[Row]]:
    """The rows of every path at each batch size, timed on up to 16 different batches of ``data``.

    model: from ``prepared``; data: real examples ``(n, *shape)``, repeated where they are too few; default the
    model's example. A model with a fixed batch size is measured at that one only.
    """
    examples = as_array(model.example if data is None else data)
    if (least := min(batches, default=1)) < 1:  # before minutes of building
        raise RuntimePathError(f"batch sizes must be positive; got {least}")
    fixed = [batch for batch in (model.small.batch, model.dense.batch) if batch is not None]
    table = {}
    with torch_threads(model.threads):
        found = candidates(model, paths)
        for batch in fixed[:1] or batches:
            table[batch] = timed(found, _batches(examples, batch), min_seconds)
    return table


def _batches(examples: Array, batch: int, most: int = 16) -> list[Array]:
    count = max(1, min(most, len(examples) // batch))
    return [np.take(examples, range(i * batch, (i + 1) * batch), axis=0, mode="wrap") for i in range(count)]
