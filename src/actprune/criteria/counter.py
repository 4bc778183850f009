"""The founding criteria: how often a neuron fires, alone or times the magnitude of each of its weights.

Source: Ganguli & Chong 2024, Algorithms 17(1):48; what the counter counts has changed in the authors' code, so it is
an option here (``count``). Scores of all weights of one neuron are equal under ``Counter``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from actprune.criteria.magnitude import lamp
from actprune.errors import RecipeError, one_of
from actprune.evidence import Firing, FiringWhereZero, MeanAbs, SmoothActivity
from actprune.types import Evidence, Layer

Count = Literal["nonzero", "zero", "mean_abs"]
Across = Literal["count", "rate", "layer_mean", "lamp"]
Smooth = Literal["mean_abs", "refuse"]

_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Counter:
    """score(w_ij) = activity of neuron i, the same for every weight into the neuron.

    count        "nonzero": activations != 0 (default; the article's text); "zero": activations == 0 (code since July
                 2023: the MOST active neurons score lowest); "mean_abs": mean of abs(activation) (December 2022)
    across       how activities of different layers are compared in a global ranking: "count" as counted (the article);
                 "rate" per example and position; "layer_mean" relative to the mean of the neuron's layer; "lamp"
                 (times the weight only): count x |w| weighed against what its layer keeps, as LAMP weighs |w|
    fires_above  count |activations| > this, in every layer
    smooth       without fires_above: "mean_abs" judges a layer behind GELU, SiLU, tanh or a gate, whose activations are
                 hardly ever zero, by mean |activation| relative to the layer's own mean, and takes a layer without any
                 non-linearity (a projection before a residual sum, queries) as always firing; "refuse": an error, as
                 for "zero", since such layers have no zeros to count
    """

    count: Count = "nonzero"
    across: Across = "count"
    fires_above: float | None = None
    smooth: Smooth = "mean_abs"

    members: ClassVar[tuple[str, ...]] = ("outputs",)
    """It says nothing of the weights that read a neuron."""

    def __post_init__(self) -> None:
        if self.count not in ("nonzero", "zero", "mean_abs"):
            raise RecipeError(f"count={self.count!r} is not known; use 'nonzero', 'zero' or 'mean_abs'")
        if self.across not in ("count", "rate", "layer_mean", "lamp"):
            raise RecipeError(f"across={self.across!r} is not known; use 'count', 'rate', 'layer_mean' or 'lamp'")
        one_of("smooth", self.smooth, get_args(Smooth))
        if self.across == "lamp" and not isinstance(self, CounterTimesWeight):
            raise RecipeError("across='lamp' weighs single weights, but the score is one per neuron; use 'layer_mean'")

    @property
    def needs(self) -> tuple[Evidence, ...]:
        """The firing counts, the sums of absolute activations, or each where it means something."""
        if self.count == "mean_abs":
            return (MeanAbs(),)
        everywhere = self.fires_above is not None or self.count == "zero" or self.smooth == "refuse"
        return (Firing(self.fires_above),) if everywhere else (FiringWhereZero(), SmoothActivity())

    def activity(self, layer: Layer) -> Tensor:
        """Activity per neuron, ``(out,)``: int64 when exact counts are compared as they are, else float64."""
        sums = layer.evidence
        rows = sums["rows"]
        if self.count == "mean_abs":
            activity = sums["out_abs"] / rows
        elif "out_abs" in sums and bool(
            (sums["fired"] == rows).all()
        ):  # never zero: its own mean counts as firing once
            activity = sums["out_abs"] / sums["out_abs"].mean().clamp_min(_TINY) * rows
        else:
            activity = sums["fired"] if self.count == "nonzero" else rows - sums["fired"]
        if activity.dim() == 0:  # one figure for all neurons of an output layer, which always fire
            activity = activity.expand(layer.weight.shape[0])
        if self.across == "rate" and self.count != "mean_abs":
            return activity.double() / rows
        if self.across == "layer_mean":
            activity = activity.double()
            return activity / activity.mean().clamp_min(_TINY)
        return activity

    def score(self, layer: Layer) -> Tensor:
        """``(out, in, *kernel)``, an expanded view of the activity per neuron."""
        weight = layer.weight
        activity = self.activity(layer).to(weight.device)
        return activity.view(-1, *[1] * (weight.dim() - 1)).expand(weight.shape)


@dataclass(frozen=True)
class CounterTimesWeight(Counter):
    """score(w_ij) = activity of neuron i times |w_ij|."""

    def score(self, layer: Layer) -> Tensor:
        """``(out, in, *kernel)`` in float32, or float64 for float64 weights and for "lamp"."""
        dtype = torch.float64 if layer.weight.dtype == torch.float64 else torch.float32
        score = super().score(layer).to(dtype) * layer.weight.abs().to(dtype)
        return lamp(score) if self.across == "lamp" else score
