"""What a pruning step did: target against actual, in total and per layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from actprune.accounting import Account
from actprune.edit import Edit, Method, View, final_fraction
from actprune.evidence import OfActivations
from actprune.types import Cost


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
    """Result of one ``prune()``.

    target, actual  removed fractions in the budget's own terms, which ``budget`` says ("of prunable", "of all")
    network         the whole network before and after, layers left alone included
    layers          those that were pruned
    notes           how layers were looked at, where that differs between them
    """

    pruning_step: int
    budget: str
    target: float
    actual: float
    network: Account
    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...] = ()

    @property
    def sparsity(self) -> float:
        """Removed fraction of all weights of the network, 0..1."""
        return self.network.sparsity

    @property
    def compression(self) -> float:
        """Weights of the network before / after."""
        return self.network.compression

    @property
    def flop_kept(self) -> float | None:
        """Fraction of the network's FLOP that is left, if zeros are skipped; None: no forward pass was seen."""
        return self.network.flop_share

    def to_dict(self) -> dict[str, Any]:
        """Plain values, JSON-ready. Figures of the whole network stand at the top level as well."""
        network = self.network.to_dict()
        return {
            "pruning_step": self.pruning_step,
            "budget": self.budget,
            "target": self.target,
            "actual": self.actual,
            **{key: network[key] for key in ("sparsity", "compression", "flop_kept")},
            "network": network,
            "layers": [asdict(layer) for layer in self.layers],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        of = "prunable weights" if "of prunable" in self.budget else "weights"
        if "of the compacted network" in self.budget:
            kind = self.budget.partition(" ")[0]
            of = {"flop": "FLOP", "bytes": "bytes", "channels": "coupled channels"}.get(kind, "parameters")
        head = (
            f"pruning step {self.pruning_step}: removed {self.actual:.2%} of the {of}, target {self.target:.2%} "
            f"({self.budget})"
        )
        rows = [("layer", "shape", "kept", "of", "kept %", "neurons")]
        rows += [
            (r.name, "x".join(map(str, r.shape)), str(r.kept), str(r.total), f"{100 * r.kept / r.total:.2f}",
             f"{r.neurons_alive}/{r.neurons}")
            for r in self.layers
        ]  # fmt: skip
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([head, str(self.network), *self.notes, *lines])


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
        if mask.dim() > 1
    )


def report(method: Method, view: View, edit: Edit, target: float, network: Account) -> PruneReport:
    """Target against actual in the budget's own denominator, and the whole network."""
    budget, masks = method.budget, edit.masks
    if edit.actual is not None:
        return PruneReport(
            view.progress.pruning_step + 1, f"{budget.kind} {budget.value:g} of the compacted network", target,
            edit.actual, network, layer_reports(masks), (*_notes(method, view), *edit.notes),
        )  # fmt: skip
    others = view.others if budget.of == "all" else Cost(0, 0)
    weights = sum(mask.numel() for mask in masks.values()) + others.weights
    kept = sum(int(mask.sum()) for mask in masks.values()) + others.weights
    actual = 1 - kept / weights
    if budget.kind == "flop":
        flop = sum(2 * masks[facts.name].numel() * facts.positions for facts in view.facts) + others.flop
        left = sum(2 * int(masks[facts.name].sum()) * facts.positions for facts in view.facts) + others.flop
        actual = 1 - left / flop
    return PruneReport(
        pruning_step=view.progress.pruning_step + 1,
        budget=f"{budget.kind} {budget.value:g} of {budget.of}, final {final_fraction(budget, weights):.4f}",
        target=actual if budget.kind == "threshold" else target,
        actual=actual,
        network=network,
        layers=layer_reports(masks),
        notes=_notes(method, view),
    )


def _notes(method: Method, view: View) -> tuple[str, ...]:
    if view.graph is None:
        return ()
    sites = {name: view.graph.sites.get(name) for name in view.names}
    told = (each.told(sites) for each in method.needed(view.progress) if isinstance(each, OfActivations))
    return tuple(words for words in told if words)
