"""L4: what was measured, row by row, and the verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from actprune.errors import RuntimePathError
from actprune.program import Program, chain
from actprune.runtime.base import Array, Model
from actprune.runtime.candidates import Candidate, Status
from actprune.runtime.measure import measure

WORTH = 1.05  # a smaller gain is noise on most machines


@dataclass(frozen=True)
class Row:
    """One path at one batch size. Seconds per call (not per example), None when it was not timed."""

    path: str
    batch: int
    dense: bool
    median_s: float | None
    p95_s: float | None
    status: Status
    reason: str = ""
    chosen: bool = False


def timed(found: Sequence[Candidate], inputs: Sequence[Array], min_seconds: float) -> list[Row]:
    """Time all candidates that run, interleaved; the fastest one whose results are right is ``chosen``.

    Raises RuntimePathError, with every path's reason, when none can be chosen.
    """
    runs = {item.path.name: item.run for item in found if item.run is not None}
    times = measure(runs, inputs, min_seconds=min_seconds)
    usable = [item.path.name for item in found if item.status == "ok"]
    if not usable:
        reasons = "; ".join(f"{item.path.name}: {item.reason}" for item in found)
        raise RuntimePathError(f"no execution path can run this model here ({reasons})")
    best = min(usable, key=lambda name: times[name].median)
    rows = []
    for item in found:
        row = Row(item.path.name, len(inputs[0]), item.path.dense, None, None, item.status, item.reason)
        if time := times.get(item.path.name):
            row = replace(row, median_s=time.median, p95_s=time.p95, chosen=item.path.name == best)
        rows.append(row)
    return rows


def speedup(rows: Sequence[Row]) -> tuple[float, Row, Row]:
    """How many times faster the chosen path is than the fastest dense one; the two rows. Rows of one batch size."""
    chosen = next(row for row in rows if row.chosen)
    dense = min((row for row in rows if row.dense and row.median_s), key=lambda row: row.median_s or 0.0)
    return (dense.median_s or 0.0) / (chosen.median_s or 1.0), chosen, dense


def verdict(rows: Sequence[Row], model: Model) -> str:
    """One sentence about rows of one batch size, and a second one where zeros were expected to help and cannot."""
    gain, chosen, dense = speedup(rows)
    if not chosen.dense and gain >= WORTH:
        words = f"{gain:.1f}x faster than the fastest dense runtime here ({dense.path}), with {chosen.path}"
    elif model.small is not model.dense:
        words = f"smaller but not faster on this machine: use the compact dense form (fastest: {chosen.path})"
    else:
        words = f"not faster than dense on this machine: no path gains from these zeros (fastest: {chosen.path})"
    return words + _advice(model)


def _advice(model: Model) -> str:
    if chain(model.small, model.example.shape[1:]) is None and _scattered_zeros(model.small) > 0.3:
        return "; no runtime gains from scattered zeros in such layers: remove whole channels or neurons for speed"
    return ""


def _scattered_zeros(program: Program) -> float:
    """Fraction of zeros in the weights (of two dimensions or more)."""
    weights = [tensor for tensor in program.parameters() if tensor.dim() > 1]
    total = sum(tensor.numel() for tensor in weights)
    return 1 - sum(int(torch.count_nonzero(tensor)) for tensor in weights) / total if total else 0.0
