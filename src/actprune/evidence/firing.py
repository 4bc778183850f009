"""Firing counts: on how many rows (examples x positions) each neuron was active. Exact, int64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from actprune.errors import RecipeError
from actprune.evidence.activations import OfActivations, Scratch, count, other_axes, rows_of, total, zeros
from actprune.nodes import Site
from actprune.types import Sums

EXACT = 2**24
"""Up to here float32 counts without rounding."""


@dataclass(frozen=True)
class Firing(OfActivations):
    """Rows on which a neuron fires: sums ``fired`` int64 ``(units,)`` and ``rows`` int64 scalar.

    fires_above: None counts ``value != 0`` (for ReLU and its kin), a number counts ``|value| > fires_above`` (for
    activations that are never exactly zero). NaN counts as firing under ``!= 0``: look for it elsewhere.
    """

    fires_above: float | None = None
    sees: ClassVar[Literal["input", "output"]] = "output"

    def __post_init__(self) -> None:
        if self.fires_above is not None and not 0 <= self.fires_above < math.inf:
            raise RecipeError(
                f"fires_above={self.fires_above!r} cannot be used; expected a finite number of at least 0, which "
                "|activation| is compared with, or None for != 0"
            )

    def init(self, units: int, like: Tensor) -> Sums:
        """Zero sums on the device of ``like``."""
        return {"fired": zeros(units, like, torch.int64), "rows": count(like)}

    def update(self, sums: Sums, values: Tensor, axis: int) -> None:
        """Add one batch in place."""
        values = values.detach()
        fires = values != 0 if self.fires_above is None else values.abs() > self.fires_above
        sums["fired"] += total(fires, axis, torch.int64)
        sums["rows"] += rows_of(values, axis)

    def accumulator(self, scratch: Scratch) -> Tally:
        """A faster one."""
        return Tally(self, scratch)

    def counted_at(self, site: Site, *, output: bool) -> bool:
        """``!= 0`` is not counted at an output layer without a non-linearity, where every neuron would always fire."""
        return self.fires_above is not None or not output or site.exact_zero

    def stand_in(self, rows: Tensor) -> Sums:
        """Every neuron fires on every row: one figure for all of them."""
        return {"rows": rows, "fired": rows} if self.fires_above is None else {}

    def problem(self, site: Site, sums: Sums | None) -> str | None:
        """``!= 0`` means nothing where an activation is never exactly zero."""
        if self.fires_above is not None or site.exact_zero:
            return None
        always = sums is not None and "fired" in sums and bool((sums["fired"] == sums["rows"]).all())
        return _never_zero(site) if always or (site.known and (sums is None or "fired" in sums)) else None


@dataclass(frozen=True)
class FiringWhereZero(Firing):
    """Firing counts where an activation can be exactly zero (ReLU and its kin, unknown modules); elsewhere every neuron
    counts as firing on every row. See ``SmoothActivity`` for what tells smooth activations apart.
    """

    everywhere: ClassVar[bool] = False

    def counted_at(self, site: Site, *, output: bool) -> bool:
        """Where zeros mean something."""
        return site.exact_zero or not (site.known or output)

    def problem(self, site: Site, sums: Sums | None) -> str | None:
        """None: it means something everywhere."""
        return None

    def told(self, sites: Mapping[str, Site | None]) -> str:
        """How each layer was judged, in one line. None: a function read its weight, so that no site is known."""
        kinds: dict[str, list[str]] = {kind: [] for kind in (_COUNTED, _SEEN, _SMOOTH, _ALWAYS)}
        for name, site in sites.items():
            kinds[_treatment(site)].append(name.removesuffix(".weight"))
        return "; ".join(f"{kind} {', '.join(names)}" for kind, names in kinds.items() if names)


_COUNTED, _SMOOTH, _ALWAYS = "firing counted at", "mean |activation| at", "always firing:"
_SEEN = "firing counted if ever zero, else mean |activation|, behind modules of your own or torch.where at"


def _treatment(site: Site | None) -> str:
    if site is None or not site.smooth:
        return _ALWAYS
    if site.exact_zero:
        return _COUNTED
    return _SMOOTH if site.known else _SEEN


def _never_zero(site: Site) -> str:
    what = (
        "no non-linearity that we know follows it"
        if site.operation == "none"
        else f"its activation is {site.operation}"
    )
    return (
        f"{site.layer}: {what}, so it is never exactly zero and every neuron would count as firing on every example; "
        "give a threshold above which a neuron fires, fires_above=0.0 for instance, or leave the layer out: "
        f"skip=[{site.layer.removesuffix('.weight')!r}]"
    )


class Tally:
    """The same counts for the hot path of a training loop: a few cheap operations per call instead of a slow one.

    Reducing a bool tensor to int64 is 3 to 6 times slower on a CPU than writing 1.0 / 0.0 in the activation's own type
    and summing that, because only the latter is vectorised; a product with a row of ones sums and accumulates at once.
    Ones add up exactly in float32 to 2**24, so the float counts are moved into int64 before they get there.
    """

    def __init__(self, statistic: Firing, scratch: Scratch | None = None) -> None:
        self._statistic = statistic
        self._threshold = statistic.fires_above
        self._scratch = Scratch() if scratch is None else scratch
        self._rows = 0  # kept by Python: one tensor operation less per call
        self._room = 0  # rows that may still be added before float32 would round
        self._recent = torch.zeros(1, 0)
        self._whole: Tensor | None = None
        self._shape, self._axis, self._each = torch.Size(), 0, 0  # what is known of the last batch holds for the next
        self._axes: tuple[int, ...] = ()
        self._bar = torch.zeros(())
        self._view: Tensor | None = None
        self._ones: Tensor | None = None

    def add(self, values: Tensor, axis: int) -> None:
        """Count one batch. ``values`` is neither changed nor kept."""
        bar = self._bar
        if (
            values.shape != self._shape
            or values.dtype is not bar.dtype
            or values.device != bar.device
            or axis != self._axis
        ):
            self._plan(values, axis)
        if self._each > self._room:
            self._carry(values, axis)
            if self._each > EXACT:
                self._slowly(values, axis)
                return
        fires = self._view if self._view is not None else torch.empty_like(values)
        if self._threshold is None:
            torch.ne(values, self._bar, out=fires)
        else:
            torch.abs(values.detach(), out=fires)
            torch.gt(fires, self._threshold, out=fires)
        if self._ones is not None:
            self._recent.addmm_(self._ones, fires)  # in place, hence never in lower precision under autocast
        else:
            self._recent.add_(fires.sum(self._axes, dtype=torch.float32) if self._axes else fires)
        self._room -= self._each
        self._rows += self._each

    def take(self, sums: Sums) -> None:
        """Add what was counted elsewhere."""
        fired = sums["fired"]
        self._whole = fired.clone() if self._whole is None else self._whole + fired.to(self._whole.device)
        self._rows += int(sums["rows"])

    def flush(self) -> Sums:
        """All that was counted since the last flush, as int64 sums; empty when nothing was. Starts again from zero."""
        if self._rows == 0:
            return {}
        fired = self._so_far()
        sums = {"fired": fired, "rows": torch.full((), self._rows, dtype=torch.int64, device=fired.device)}
        self._rows = self._room = 0
        self._whole, self._recent = None, torch.zeros(1, 0)
        return sums

    def _so_far(self) -> Tensor:
        recent = self._recent[0].to(torch.int64)
        if self._whole is not None and not recent.numel():
            return self._whole
        return recent if self._whole is None else self._whole + recent.to(self._whole.device)

    def _plan(self, values: Tensor, axis: int) -> None:
        """Batches of another shape, type or device than before."""
        if values.device != self._bar.device:
            self._room = 0  # the float counts are still on the old device
        self._shape, self._axis = values.shape, axis
        self._each = rows_of(values, axis)
        self._axes = other_axes(values, axis)
        self._view = self._scratch.view(values)
        flat = values.dtype is torch.float32 and axis == -1 and values.dim() == 2
        with torch.inference_mode(False):
            self._bar = torch.zeros((), dtype=values.dtype, device=values.device)
            self._ones = torch.ones(1, self._each, device=values.device) if flat and self._each <= EXACT else None

    def _carry(self, values: Tensor, axis: int) -> None:
        """Move the float counts into int64 and start afresh, on the device the values are on now."""
        if self._recent.numel():
            self._whole = self._so_far().to(values.device)
        self._recent = zeros(values.shape[axis], values, torch.float32)[None]
        self._room = EXACT

    def _slowly(self, values: Tensor, axis: int) -> None:
        """A batch of more than 2**24 rows."""
        sums = self._statistic.init(values.shape[axis], values)
        self._statistic.update(sums, values, axis)
        self._whole = self._so_far() + sums["fired"]
        self._recent.zero_()
        self._rows += self._each
