"""L1: singular values of a weight, and what a pruning does to them. A conv weight counts as ``(out, in * kernel)``.

Source of the question: Ganguli & Chong, "Activation-Based Pruning of Neural Networks", Algorithms 17(1):48, 2024: a
pruning shrinks the small singular values more at first (as weighted nuclear norms do), later all alike (nuclear norm).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from actprune.analysis.ranks import Ranks, decomposed, effective, matrix, numerical, stable
from actprune.errors import ModelError

ARTICLE_FLOOR = 0.001
RELATIVE_FLOOR = 1e-4
"""Of the largest singular value: about what float32 can tell from zero in a matrix with 784 columns (784 x eps)."""


@dataclass(frozen=True, eq=False)
class Change:
    """Change of singular values by index, without the indices that were dropped.

    index    0-based, int64 ``(n,)``; 0 is the largest singular value
    position from 0, the largest, to 1, the smallest that is not dropped, in equal steps, float64 ``(n,)``: layers of
             any size and rank compare
    percent  100 * (after / before - 1), float64 ``(n,)``; -100 is a singular value that is gone
    dropped  how many indices were left out
    """

    index: Tensor
    position: Tensor
    percent: Tensor
    dropped: int


def singular_values(weight: Tensor) -> Tensor:
    """Descending singular values, float64 ``(min(out, in * kernel),)``; half precision is decomposed in float32.

    Raises ModelError if a weight is not finite or has fewer than two dimensions.
    """
    return decomposed(weight)[0]


def ranks_of(values: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Ranks:
    """The three ranks of a weight of which only singular values are at hand; ``dtype`` is what it was decomposed in.

    values: float64, descending. shape: of the weight, for the tolerance of the numerical rank.
    """
    _check(values)
    largest = max(matrix(torch.empty(shape, device="meta")).shape)
    tolerance = float(values[0]) * largest * torch.finfo(dtype).eps if values.numel() else 0.0
    return Ranks(numerical=numerical(values, tolerance), stable=stable(values), effective=effective(values))


def relative_change(before: Tensor, after: Tensor, convention: Literal["tolerance", "article"] = "tolerance") -> Change:
    """``100 * (after_i / before_i - 1)`` by index i, for descending singular values ``(r,)``.

    "tolerance"  an index is dropped when its value before is at most ``RELATIVE_FLOOR`` of the largest one before:
                 what rounding alone would move. A value that pruning brings to zero stays, as -100 %
    "article"    as the authors' code plots it: values <= 0.001 are set to 0, and indices with a 0 are dropped, also
                 when only the value after is 0. So directions that a pruning removes altogether are not seen

    Raises ModelError when the two are not of one length, not finite, or not descending.
    """
    _check(before)
    _check(after)
    if before.shape != after.shape:
        raise ModelError(f"{len(before)} singular values before and {len(after)} after; they must be of one weight")
    if convention == "article":
        keep = (before > ARTICLE_FLOOR) & (after > ARTICLE_FLOOR)
    else:
        keep = before > RELATIVE_FLOOR * (before[:1] if before.numel() else 0.0)
    index = keep.nonzero().flatten()
    percent = 100 * (after.double()[index] / before.double()[index] - 1)
    position = torch.arange(len(index), dtype=torch.float64) / max(len(index) - 1, 1)
    return Change(index, position, percent, len(before) - len(index))


def _check(values: Tensor) -> None:
    good = values.ndim == 1 and bool(torch.isfinite(values).all()) and bool((values >= 0).all())
    if not good or bool((values[1:] > values[:-1]).any()):
        raise ModelError(
            f"singular values of shape {tuple(values.shape)} cannot be used; expected (r,) finite numbers >= 0, the "
            "largest first, as analysis.singular_values gives them"
        )
