"""L1: how many directions a weight matrix still uses. A conv weight counts as the matrix ``(out, in * kernel)``."""

from __future__ import annotations

import math
from typing import TypedDict

import torch
from torch import Tensor

from actprune.errors import ModelError


class Ranks(TypedDict):
    """Three ranks of one weight, all 0 when every weight is 0."""

    numerical: int
    stable: float
    effective: float


def ranks(weight: Tensor) -> Ranks:
    """The three ranks of a weight ``(out, in, *kernel)`` from one singular value decomposition.

    Half precision is decomposed in float32, other dtypes in their own. Raises ModelError if a weight is not finite
    or has fewer than two dimensions.
    """
    sigma, tolerance = decomposed(weight)
    return Ranks(numerical=numerical(sigma, tolerance), stable=stable(sigma), effective=effective(sigma))


def numerical_rank(weight: Tensor) -> int:
    """Number of singular values above ``sigma_max * max(rows, columns) * eps``, eps of the dtype decomposed.

    Source: the default of numpy.linalg.matrix_rank, which is what the founding article's code calls.
    """
    return numerical(*decomposed(weight))


def stable_rank(weight: Tensor) -> float:
    """``||W||_F^2 / ||W||_2^2``, at most the numerical rank and insensitive to small singular values.

    Source: Rudelson and Vershynin, "Sampling from large matrices", J. ACM 54(4), 2007.
    """
    return stable(decomposed(weight)[0])


def effective_rank(weight: Tensor) -> float:
    """``exp(H(p))``, H the entropy (nats) of ``p_i = sigma_i / sum(sigma)``.

    Source: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    return effective(decomposed(weight)[0])


def matrix(weight: Tensor) -> Tensor:
    """The weight as ``(out, in * kernel)``. Raises ModelError for fewer than two dimensions."""
    if weight.ndim < 2:
        raise ModelError(
            f"a weight of shape {tuple(weight.shape)} is no matrix; expected (out, in) or (out, in, *kernel)"
        )
    return weight.flatten(1)


def decomposed(weight: Tensor) -> tuple[Tensor, float]:
    """Descending singular values as float64, and the tolerance below which they count as zero."""
    values = matrix(weight.detach())
    if not torch.isfinite(values).all():
        raise ModelError(f"the rank of a weight of shape {tuple(weight.shape)} was asked; it holds NaN or Inf")
    if values.dtype not in (torch.float32, torch.float64):
        values = values.float()
    if values.numel() == 0:
        return values.new_zeros(0, dtype=torch.float64), 0.0
    sigma = torch.linalg.svdvals(values)
    tolerance = float(sigma[0]) * max(values.shape) * torch.finfo(values.dtype).eps
    return sigma.double(), tolerance


def numerical(sigma: Tensor, tolerance: float) -> int:
    """How many of the descending singular values ``sigma`` (float64) lie above ``tolerance``."""
    return int((sigma > tolerance).sum())


def stable(sigma: Tensor) -> float:
    """Stable rank from descending singular values (float64)."""
    if sigma.numel() == 0 or sigma[0] == 0:
        return 0.0
    return float((sigma / sigma[0]).square().sum())


def effective(sigma: Tensor) -> float:
    """Effective rank from descending singular values (float64)."""
    if sigma.numel() == 0 or sigma[0] == 0:
        return 0.0
    shares = sigma / sigma.sum()
    return math.exp(float(-torch.special.xlogy(shares, shares).sum()))
