"""What a pruning step did: target against actual, in total and per layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from actprune.edit import View, final_fraction
from actprune.types import Budget, Cost


@dataclass(frozen=True)
class LayerReport:
    """One layer: kept weights of total, and neurons that still have an input."""

    name: str
    shape: tuple[int, ...]
    total: int
    kept: int
    neurons: int
    neurons_alive: int


@dataclass(frozen=True)
class PruneReport:
    """Result of one ``prune()``. ``target`` and ``actual`` are removed fractions in the budget's own terms.

    compression: weights before / after over all prunable-type layers the budget counts. flop_kept: fraction of those
    layers' dense FLOP.
    """

    pruning_step: int
    budget: str
    target: float
    actual: float
    sparsity: float
    compression: float
    flop_kept: float
    layers: tuple[LayerReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, JSON-ready."""
        return asdict(self)

    def __str__(self) -> str:
        head = (
            f"pruning step {self.pruning_step}: target {self.target:.2%}, actual {self.actual:.2%} ({self.budget}); "
            f"sparsity {self.sparsity:.2%}, compression {self.compression:.1f}x, FLOP kept {self.flop_kept:.2%}"
        )
        rows = [("layer", "shape", "kept", "of", "kept %", "neurons")]
        rows += [
            (r.name, "x".join(map(str, r.shape)), str(r.kept), str(r.total), f"{100 * r.kept / r.total:.2f}",
             f"{r.neurons_alive}/{r.neurons}")
            for r in self.layers
        ]  # fmt: skip
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([head, *lines])


def layer_reports(masks: Mapping[str, Tensor]) -> tuple[LayerReport, ...]:
    """Count kept weights and alive neurons of every mask."""
    return tuple(
        LayerReport(
            name=name,
            shape=tuple(mask.shape),
            total=mask.numel(),
            kept=int(mask.sum()),
            neurons=mask.shape[0],
            neurons_alive=int(mask.flatten(1).any(1).sum()),
        )
        for name, mask in masks.items()
    )


def report(budget: Budget, view: View, masks: Mapping[str, Tensor], target: float) -> PruneReport:
    """Target against actual, in the budget's own denominator."""
    others = view.others if budget.of == "all" else Cost(0, 0)
    weights = sum(mask.numel() for mask in masks.values()) + others.weights
    kept = sum(int(mask.sum()) for mask in masks.values()) + others.weights
    flop = sum(2 * masks[facts.name].numel() * facts.positions for facts in view.facts) + others.flop
    flop_kept = sum(2 * int(masks[facts.name].sum()) * facts.positions for facts in view.facts) + others.flop
    actual = 1 - flop_kept / flop if budget.kind == "flop" else 1 - kept / weights
    return PruneReport(
        pruning_step=view.progress.pruning_step + 1,
        budget=f"{budget.kind} {budget.value:g} of {budget.of}, final {final_fraction(budget, weights):.4f}",
        target=actual if budget.kind == "threshold" else target,
        actual=actual,
        sparsity=1 - kept / weights,
        compression=weights / kept if kept else float("inf"),
        flop_kept=flop_kept / flop,
        layers=layer_reports(masks),
    )
