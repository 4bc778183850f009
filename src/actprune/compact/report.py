"""L4: what a compaction did, per layer, and what it had to leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from actprune.compact.plan import Plan


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
    changes         what was changed in the model besides its tensors: norms, sizes in its code
    """

    layers: tuple[Layer, ...]
    parameters: tuple[int, int]
    difference: dict[str, float]
    inputs_read: tuple[int, int] | None
    changes: tuple[str, ...] = ()

    def then(self, second: CompactReport) -> CompactReport:
        """The report of this compaction and another behind it."""
        after = {layer.name: layer for layer in second.layers}
        layers = tuple(
            replace(layer, after=after[layer.name].after, kept=after[layer.name].kept) if layer.name in after else layer
            for layer in self.layers
        )
        kinds = self.difference.keys() | second.difference.keys()
        worst = {kind: max(each.difference.get(kind, 0.0) for each in (self, second)) for kind in sorted(kinds)[::-1]}
        return CompactReport(
            layers, (self.parameters[0], second.parameters[1]), worst, second.inputs_read or self.inputs_read,
            (*self.changes, *second.changes),
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "layers": [vars(layer) for layer in self.layers],
            "parameters": self.parameters,
            "difference": self.difference,
            "inputs_read": self.inputs_read,
            "changes": list(self.changes),
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
        rows += self.changes
        rows += [
            f"largest difference from the masked model, {name}: {gap:.1e}" for name, gap in self.difference.items()
        ]
        return "\n".join(rows)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(str(length) for length in shape)


def report(
    plan: Plan, masked: Mapping[str, Tensor], small: nn.Module, difference: dict[str, float], changes: Sequence[str]
) -> CompactReport:
    """Compare the masked tensors with those of the small model."""
    after = {**dict(small.named_parameters()), **dict(small.named_buffers())}
    weights = dict.fromkeys(reader.weight for reader in plan.fates.found.readers if reader.weight is not None)
    weights |= dict.fromkeys(name for name in plan.fates.found.axes if name in masked and masked[name].dim() > 1)
    layers = tuple(
        Layer(
            name.removesuffix(".weight"),
            tuple(masked[name].shape),
            tuple(after[name].shape),
            _kept(plan, name, plan.tensors[name]),
        )
        for name in weights
        if name in after
    )
    total = sum(tensor.numel() for tensor in masked.values()), sum(tensor.numel() for tensor in after.values())
    read = next((plan.keeps[weight][1] for weight in plan.gathers), None)
    inputs = None if read is None else (len(read), int(read.sum()))
    return CompactReport(layers, total, difference, inputs, tuple(changes))


def _kept(plan: Plan, name: str, weight: Tensor) -> dict[str, int]:
    """Units without any weight left that are still there, by reason."""
    rows = plan.keeps[name][0]
    labels = plan.fates.found.axes[name][0]
    if rows is None or labels is None:
        return {}
    empty = ~(weight != 0).flatten(1).any(1).cpu() & rows
    return dict(Counter(plan.fates.why(member) for member in labels[empty].tolist()))
