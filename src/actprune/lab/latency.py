"""L5: a shipped file measured beside the dense original: latency per batch size, sizes, and the verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from actprune.accounting import measured
from actprune.lab import shipped
from actprune.lab.predict import example_of
from actprune.runtime import Model, Row, bench_table, prepared, verdict


@dataclass(frozen=True)
class Batch:
    """Rows of one batch size. ``eager`` and ``dense``: seconds of eager PyTorch and of the fastest dense runtime."""

    size: int
    rows: list[Row]
    eager: float
    dense: float
    verdict: str


@dataclass(frozen=True)
class Latency:
    """What was measured. ``sizes``: name -> (dense original, this file), ``has_dense``: whether it is known."""

    batches: list[Batch]
    sizes: dict[str, tuple[int, int]]
    threads: int
    has_dense: bool


def measure_file(file: str | Path, run: Path | None, sizes: Sequence[int], threads: int, seconds: float) -> Latency:
    """Measure every path on this machine, with real inputs where the run is known.

    run: the run whose network it was, for the dense original and its data; default: the folder of the file, if it
    holds one. Without it the file's own network, run dense, is the reference.
    """
    place = Path(file).parent if run is None and (Path(file).parent / "config.json").exists() else run
    program, noise = example_of(file)
    origin = None if place is None else shipped.read(place)
    data = noise if origin is None else origin.dataset.validation[0][:4096]
    dense: nn.Module = program if origin is None else origin.model
    model = prepared(program, data[:2], threads=threads, dense=None if origin is None else origin.model)
    was, now = measured(dense, data[:2]), measured(program, data[:2])
    before = _bytes(dense) if place is None else (place / "model.safetensors").stat().st_size
    return Latency(
        measure(model, sizes, data, seconds),
        {
            "bytes": (before, Path(file).stat().st_size),
            "parameters": (was.weights + was.biases, now.weights + now.biases),
            "non-zero weights": (was.weights, now.kept),
            "FLOP of one example, zeros skipped": (was.flop or 0, now.flop_kept or 0),
        },
        threads,
        origin is not None,
    )


def measure(model: Model, sizes: Sequence[int], data: Tensor, seconds: float) -> list[Batch]:
    """Interleaved medians of every path at every batch size; ``seconds`` per batch size, about."""
    found = []
    for batch, rows in bench_table(model, sizes, data=data.numpy(), min_seconds=seconds / 10).items():
        dense = min(row.median_s for row in rows if row.dense and row.median_s)
        eager = next(row.median_s or dense for row in rows if row.path == "torch eager")
        found.append(Batch(batch, rows, eager, dense, verdict(rows, model)))
    return found


def _bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in model.state_dict().values())
