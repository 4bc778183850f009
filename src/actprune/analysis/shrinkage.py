"""L1: is a shrinkage of singular values weighted (small ones more), uniform, or inverse? A test, not a plot.

Nuclear norm minimisation takes the same amount off every singular value, weighted nuclear norm minimisation more off
the smaller ones (Gu et al., CVPR 2014). Any masking shrinks singular values (a mask removes energy), so a slope means
something only beside the slope of controls: random masks and magnitude masks with as many zeros from the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from actprune.analysis.spectra import Change, relative_change
from actprune.analysis.student import t_quantile
from actprune.errors import RecipeError

Verdict = Literal["weighted", "uniform", "inverse", "undecided"]


@dataclass(frozen=True)
class Interval:
    """Mean of ``n`` values with its two-sided Student confidence interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Fit:
    """Observed drops ``d_i = s_i(before) - s_i(after)`` against what two penalties would take off.

    nnm, wnnm  root mean square residual, as a fraction of the root mean square drop (0 explains all, 1 nothing), of
               ``d_i = min(s_i, c)`` and ``d_i = min(s_i, c + g * position_i)``, c >= 0 and g >= 0: proximal steps
    constant   c of the first. start, growth: c and g of the second, in units of singular values
    weighted   how much of the squared residual of the first the second removes, 0..1 (it has one parameter more)
    """

    nnm: float
    wnnm: float
    constant: float
    start: float
    growth: float
    weighted: float


def slope(change: Change, how: Literal["least_squares", "theil_sen"] = "least_squares") -> float:
    """Percentage points of relative change from the largest (position 0) to the smallest singular value (1).

    Negative: small singular values shrink more. "theil_sen" is the median of all pairwise slopes, which few outliers
    cannot move. NaN when fewer than two indices are left.
    """
    x, y = change.position, change.percent
    if len(x) < 2:
        return math.nan
    if how == "theil_sen":
        first, second = torch.triu_indices(len(x), len(x), 1)
        return float(np.median(((y[second] - y[first]) / (x[second] - x[first])).numpy()))  # torch: 16M values at most
    centred = x - x.mean()
    return float((centred * y).sum() / centred.square().sum())


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t interval for the mean of independent values, one per seed; it needs three or more.

    Raises RecipeError for fewer, for values that are not finite, and for a confidence outside 0..1.
    """
    if len(values) < 3 or not all(map(math.isfinite, values)) or not 0 < confidence < 1:
        raise RecipeError(
            f"a confidence interval of {confidence} over {list(values)} cannot be given; expected finite values of "
            "three seeds or more, and 0 < confidence < 1"
        )
    centre, n = mean(values), len(values)
    half = t_quantile(0.5 + confidence / 2, n - 1) * stdev(values) / math.sqrt(n)
    return Interval(centre, centre - half, centre + half, n)


def verdict(slopes: Interval, margin: float = 0.0) -> Verdict:
    """What an interval of slopes (or of differences of slopes from a control's) says.

    "weighted" lies below zero, "inverse" above; "uniform" lies within +-margin, or, without a margin, contains zero
    (which only says that nothing was shown). With a margin, an interval that reaches beyond it and contains zero is
    "undecided". The margin, in percentage points, wins over the sign: so small a slope counts as none.
    """
    if -margin <= slopes.low and slopes.high <= margin:
        return "uniform"
    if slopes.high < 0:
        return "weighted"
    if slopes.low > 0:
        return "inverse"
    return "undecided" if margin else "uniform"


def fit_penalties(before: Tensor, after: Tensor) -> Fit:
    """Fit the drops of singular values ``(r,)`` by a proximal step of NNM (constant) and of WNNM (increasing).

    A least-squares search over (c, g) on a grid that is refined; drops below zero (growth) no penalty explains.
    """
    live = relative_change(before, after)
    s, drops, position = before.double()[live.index], (before - after).double()[live.index], live.position
    scale = float(drops.square().mean().sqrt()) if len(drops) else 0.0
    if scale == 0:
        return Fit(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    top = float(s[0])
    flat, one = _search(s, drops, position, [(0.0, top), (0.0, 0.0)])
    ramp, two = min(_search(s, drops, position, [(0.0, top), (0.0, top)]), (flat, one), key=lambda found: found[0])
    return Fit(math.sqrt(flat) / scale, math.sqrt(ramp) / scale, one[0], two[0], two[1], 1 - ramp / flat if flat else 0)


def _search(s: Tensor, drops: Tensor, x: Tensor, ranges: list[tuple[float, float]]) -> tuple[float, tuple[float, ...]]:
    """Mean squared residual and (c, g) of the best ``min(s, c + g x)``; each round zooms in around the best."""
    limits = list(ranges)
    best: tuple[float, tuple[float, ...]] = (math.inf, (0.0, 0.0))
    for _ in range(8):
        c, g = (torch.linspace(low, high, 21 if high > low else 1, dtype=torch.float64) for low, high in limits)
        curve = torch.minimum(s, c[:, None, None] + g[None, :, None] * x)
        error = (drops - curve).square().mean(-1)
        i, j = divmod(int(error.argmin()), len(g))
        best = min(best, (float(error[i, j]), (float(c[i]), float(g[j]))), key=lambda found: found[0])
        limits = [_around(at, limit) for at, limit in zip(best[1], limits, strict=True)]
    return best


def _around(at: float, limit: tuple[float, float]) -> tuple[float, float]:
    """A fifth of the range, around the best value and not below zero."""
    reach = (limit[1] - limit[0]) / 10
    return max(0.0, at - reach), at + reach
