"""L4: what a compaction did, per layer, and what it had to leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from actprune.compact.plan import Plan
from actprune.program import Program


@dataclass(frozen=True)
class Layer:
    """One layer. ``kept``: how many dead units had to stay, by reason."""

    name: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    kept: dict[str, int]


@dataclass(frozen=True)
class CompactReport:
    """Shapes before and after (of weights), sizes of everything, and the largest differences that were measured.

    parameters      numbers in all tensors, before and after
    difference      largest difference from the masked model, relative to the outputs' scale, by dtype
    inputs_read     of how many input features how many are read, where a first layer leaves any out
    """

    layers: tuple[Layer, ...]
    parameters: tuple[int, int]
    difference: dict[str, float]
    inputs_read: tuple[int, int] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "layers": [vars(layer) for layer in self.layers],
            "parameters": self.parameters,
            "difference": self.difference,
            "inputs_read": self.inputs_read,
        }

    def __str__(self) -> str:
        wide = max((len(layer.name) for layer in self.layers), default=5)
        rows = [f"{layer.name:{wide}}  {_shape(layer.before)} -> {_shape(layer.after)}" for layer in self.layers]
        for layer in self.layers:
            rows += [f"{layer.name}: {number} dead units stay, because {why}" for why, number in layer.kept.items()]
        before, after = self.parameters
        rows.append(f"parameters {before:,} -> {after:,} ({before / max(after, 1):.1f}x fewer)")
        if self.inputs_read:
            rows.append(f"inputs read: {self.inputs_read[1]} of {self.inputs_read[0]}")
        rows += [
            f"largest difference from the masked model, {name}: {gap:.1e}" for name, gap in self.difference.items()
        ]
        return "\n".join(rows)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(str(length) for length in shape)


def report(plan: Plan, masked: Program, tensors: Mapping[str, Tensor], difference: dict[str, float]) -> CompactReport:
    """Compare the masked program with the small tensors."""
    before = masked.tensors()
    weights = dict.fromkeys(reader.weight for reader in plan.fates.flow.readers)
    weights |= dict.fromkeys(name for name in plan.fates.flow.axes if name in before and before[name].dim() > 1)
    layers = tuple(
        Layer(
            name.removesuffix(".weight"),
            tuple(before[name].shape),
            tuple(tensors[name].shape),
            _kept(plan, name, before[name]),
        )
        for name in weights
    )
    total = sum(tensor.numel() for tensor in before.values()), sum(tensor.numel() for tensor in tensors.values())
    read = next((plan.keeps[weight][1] for weight in plan.gathers.values()), None)
    inputs = None if read is None else (len(read), int(read.sum()))
    return CompactReport(layers, total, difference, inputs)


def _kept(plan: Plan, name: str, weight: Tensor) -> dict[str, int]:
    """Units without any weight left that are still there, by reason."""
    kept, axes = plan.keeps.get(name), plan.fates.flow.axes.get(name)
    if not kept or not axes:  # a tied weight that something else than a layer reads as well: followed one by one
        return {}
    rows, ids = kept[0], axes[0]
    if rows is None or ids is None:
        return {}
    empty = ~(weight != 0).flatten(1).any(1).cpu() & rows
    return dict(Counter(plan.fates.why(member) for member in ids[empty].tolist()))
