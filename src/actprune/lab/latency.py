"""L5: a shipped file measured beside the dense original: latency per batch size, sizes, and the verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actprune import analysis
from actprune.lab import shipped
from actprune.lab.predict import example_of
from actprune.program import Program
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
    before = _bytes(dense) if place is None else (place / "model.safetensors").stat().st_size
    return Latency(
        measure(model, sizes, data, seconds),
        {
            "bytes": (before, Path(file).stat().st_size),
            "parameters": (_parameters(dense), _parameters(program)),
            "non-zero weights": (_weights(dense), _kept(program)),
            "FLOP of one example": (_flop(dense, data[:1], dense=True), _flop(program, data[:1], dense=False)),
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


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _weights(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)


def _kept(program: Program) -> int:
    return sum(int(torch.count_nonzero(weight)) for weight in program.parameters() if weight.dim() > 1)


@torch.no_grad()
def _flop(model: nn.Module, x: Tensor, *, dense: bool) -> int:
    """Two for each weight (each non-zero one, unless ``dense``) and output position of Linear and conv layers."""
    weights: dict[str, Tensor] = {}
    positions: dict[str, int] = {}

    def seen(name: str, layer: nn.Module) -> Any:
        def hook(_: nn.Module, __: Any, out: Tensor) -> None:
            weight = layer.get_parameter("weight")
            weights[name] = torch.ones_like(weight) if dense else weight
            positions[name] = positions.get(name, 0) + out.numel() // len(weight)

        return hook

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, kinds)]
    handles = [layer.register_forward_hook(seen(name, layer)) for name, layer in layers]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return analysis.flop(weights, positions).total


def _bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in model.state_dict().values())
