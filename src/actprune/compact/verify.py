"""L4: the promise: the compacted network computes what the masked one does, or an error names the first difference."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from actprune.compact.plan import Plan
from actprune.errors import CompactionError
from actprune.program import Program

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}  # relative to the largest output


@torch.no_grad()
def check(plan: Plan, masked: Program, small: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, float]:
    """Compare outputs in float64 and float32, on the example and on noise of its size. Largest relative differences.

    Raises CompactionError naming the first layer that differs.
    """
    found = {}
    for dtype, limit in TOLERANCE.items():
        one, other = copy.deepcopy(masked).to(dtype).eval(), copy.deepcopy(small).to(dtype).eval()
        worst = 0.0
        for values in _samples(inputs, dtype):
            with _layers(one) as seen, _layers(other) as small_seen:
                expected, got = _flat(one(**values)), _flat(_called(other, values, masked))
            worst = max(worst, _difference(expected, got))
            if not worst <= limit:
                raise CompactionError(
                    f"the compacted model differs from the masked one by {worst:.2g} of the output's scale in "
                    f"{dtype} (at most {limit:g} is allowed){_first(plan, seen, small_seen, limit)}. This is a defect "
                    "or an unusual model: leave the layer out of the pruning, or use form='graph'"
                )
        found[str(dtype).removeprefix("torch.")] = worst
    return found


def _called(model: nn.Module, values: Mapping[str, Tensor], masked: Program) -> Any:
    return model(**values) if isinstance(model, Program) else model(*(values[name] for name in masked.inputs))


def _samples(inputs: Mapping[str, Tensor], dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
    """The example, and noise like it: activations that happen to be silent on the example fire on the noise."""
    floats = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    yield floats
    generator = torch.Generator().manual_seed(0)
    noise = {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value) * value.abs().amax()
        if value.is_floating_point()
        else value
        for name, value in floats.items()
    }
    yield noise


def _flat(output: Any) -> list[Tensor]:
    return [item for item in torch.utils._pytree.tree_leaves(output) if isinstance(item, Tensor)]


def _difference(expected: list[Tensor], got: list[Tensor]) -> float:
    """Largest absolute difference over the largest absolute output; infinite for other shapes or NaN."""
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in got]:
        return float("inf")
    worst = 0.0
    for one, other in zip(expected, got, strict=True):
        if one.numel() and one.is_floating_point():
            scale = float(one.abs().amax()) or 1.0
            gap = float((one - other).abs().amax()) / scale
            worst = max(worst, float("inf") if math.isnan(gap) else gap)
    return worst


@contextmanager
def _layers(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Outputs of the layers that have weights, by weight name, in order of their first calls."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _, __, out: seen.setdefault(name, out.detach()) if isinstance(out, Tensor) else None

    handles = [
        module.register_forward_hook(keep(f"{path}.weight"))
        for path, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d))
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _first(plan: Plan, seen: Mapping[str, Tensor], small: Mapping[str, Tensor], limit: float) -> str:
    """Which layer is the first to differ in the rows that were kept."""
    for name, full in seen.items():
        rows = plan.keeps.get(name, [None])[0]
        other = small.get(name)
        if other is None:
            continue
        axis = 1 if full.dim() > 2 and plan.masked.tensors()[name].dim() > 2 else -1
        kept = full if rows is None else full.index_select(axis, torch.nonzero(rows).flatten().to(full.device))
        if not _difference([kept], [other]) <= limit:
            return f"; the first layer that differs is {name.removesuffix('.weight')}"
    return "; all layers with weights agree, so the difference lies in what follows them"
