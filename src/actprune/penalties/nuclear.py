"""L1: nuclear norms, plain and weighted, as a term of the loss or as a proximal step.

Sources: J.-F. Cai, E. J. Candes, Z. Shen, SIAM J. Optim. 20, 2010 (arXiv 0810.3286), theorem 2.1: singular value
thresholding; S. Gu, L. Zhang, W. Zuo, X. Feng, CVPR 2014: weights; T. Ganguli, E. K. P. Chong, Algorithms 17(1):48,
2024: activation-based pruning is held to shrink singular values like these two, and its code has weights w_i = i.

    plain      sum_i s_i                                        (NNM)
    weighted   sum_i w_i s_i, 0 <= w_1 <= w_2 <= .., s descending   (WNNM)

Scaling. Here a proximal step minimises ``1/2 |X - Y|_F^2 + sum_i t_i s_i(X)``, so it takes t_i off s_i. Gu et al. write
``|X - Y|_F^2 + sum_i w_i s_i(X)``, twice our first term: their closed form ``(s_i - w_i / 2)_+`` is ours with
``t_i = w_i / 2``. Descending weights make the problem non-convex, without that closed form, and are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from actprune.errors import ModelError, RecipeError
from actprune.types import Penalty

Weights = Literal["uniform", "index", "inverse"]
How = Literal["proximal", "subgradient"]
_LIVE = 16
"""Singular values below ``s_1 * 16 eps * columns`` are zero: there the norm has no gradient, and 0 is one of its
subgradients."""


def shrink(matrix: Tensor, amount: float | Tensor, name: str = "the matrix") -> Tensor:
    """Proximal step: every singular value s_i becomes ``(s_i - t_i)_+``. Same shape and dtype as ``matrix`` ``(m, n)``.

    amount  t: one number (NNM), or a non-descending tensor ``(min(m, n),)`` (WNNM), in units of singular values

    Raises ModelError for NaN or Inf (naming ``name``), RecipeError for amounts that are negative or descending.
    """
    u, s, v = _svd(matrix, name)
    t = torch.as_tensor(amount, dtype=s.dtype, device=s.device).expand(s.shape)
    if bool((t < 0).any()) or bool((t[1:] < t[:-1]).any()) or not bool(torch.isfinite(t).all()):
        raise RecipeError(f"singular values cannot be shrunk by {amount}; expected finite amounts >= 0, not descending")
    return ((u * (s - t).clamp(min=0)) @ v).to(matrix.dtype)


def direction(matrix: Tensor, weights: Weights = "uniform", eps: float = 1e-2, name: str = "the matrix") -> Tensor:
    """A subgradient ``U diag(w) V^T`` of ``sum_i w_i s_i``, from a detached decomposition; 0 where s_i is 0.

    Its inner product with ``matrix`` is the norm itself. Equal singular values are harmless: nothing is divided by
    their differences, as differentiating through a decomposition would.
    """
    u, s, v = _svd(matrix, name)
    floor = float(s[0]) * _LIVE * max(matrix.shape) * torch.finfo(s.dtype).eps if s.numel() else 0.0
    w = torch.where(s > floor, factors(s, weights, eps), torch.zeros_like(s))
    return (u * w) @ v


def factors(s: Tensor, weights: Weights, eps: float = 1e-2) -> Tensor:
    """The weights w of descending singular values ``s`` ``(r,)``; none of the three descends.

    uniform  1. index: 1, 2, .. r (the code of Ganguli & Chong). inverse: ``(s_1 + e) / (s_i + e)`` with
    ``e = eps * s_1``, so from 1 up to about 1 / eps; Gu et al. have ``c / (s_i + 1e-16)``, c from a noise level that
    training does not have, and without a bound for vanishing s_i.
    """
    if weights == "uniform":
        return torch.ones_like(s)
    if weights == "index":
        return torch.arange(1, len(s) + 1, dtype=s.dtype, device=s.device)
    e = eps * s[:1]
    return torch.where(s[:1] > 0, (s[:1] + e) / (s + e).clamp(min=torch.finfo(s.dtype).tiny), torch.ones_like(s))


@dataclass(frozen=True)
class NuclearNorm(Penalty):
    """A penalty for ``Method.penalty``: the (weighted) nuclear norm of every prunable weight, ``(out, in * kernel)``.

    strength  "subgradient": the factor of the norm in the loss. "proximal": what is taken off the singular values
              (times w_i) per application; for a penalised loss that is learning rate x factor x ``every``, and with
              momentum m 1 / (1 - m) times as much
    weights   see ``factors``
    how       "proximal": exact zeros, after the optimizer's step; "subgradient": no exact zeros
    every     steps between two applications; the subgradient's is then ``every`` times as strong
    horizon   proximal: steps over which its amount falls to 0 like half a cosine, as a cosine learning rate does (a
              constant amount would win against a vanishing learning rate); None: it stays
    """

    strength: float
    weights: Weights = "uniform"
    how: How = "proximal"
    every: int = 1
    horizon: int | None = None
    eps: float = 1e-2

    def __post_init__(self) -> None:
        good = math.isfinite(self.strength) and self.strength >= 0 and self.every >= 1 and 0 < self.eps < math.inf
        if not good or (self.horizon is not None and self.horizon < 1):
            raise RecipeError(f"{self} cannot be used; expected strength >= 0, every >= 1, horizon >= 1 and eps > 0")
        if self.weights not in ("uniform", "index", "inverse") or self.how not in ("proximal", "subgradient"):
            raise RecipeError(
                f"{self} cannot be used; weights: 'uniform', 'index' or 'inverse'; how: 'proximal' or 'subgradient'"
            )

    def loss(self, weights: Mapping[str, Tensor], learnt: Mapping[str, Mapping[str, Tensor]], step: int) -> Tensor:
        """``every * strength * sum of norms`` at steps that are multiples of ``every``, else 0; 0-dim."""
        total = torch.zeros((), device=next(iter(weights.values())).device if weights else None)
        if self.how == "proximal" or self.strength == 0 or step % self.every:
            return total
        for name, weight in weights.items():
            flat = weight.flatten(1)
            towards = direction(flat.detach(), self.weights, self.eps, name)
            total = total + (flat.to(towards.dtype) * towards).sum()
        return self.every * self.strength * total

    @torch.no_grad()
    def after_step(self, weights: Mapping[str, Tensor], step: int) -> None:
        """The proximal step, in place, after steps that are multiples of ``every``."""
        amount = self.amount(step)
        if self.how == "subgradient" or amount == 0 or step % self.every:
            return
        for name, weight in weights.items():
            flat = weight.flatten(1)
            if self.weights == "uniform":
                smaller = shrink(flat, amount, name)
            else:
                s = torch.linalg.svdvals(_checked(flat, name))
                smaller = shrink(flat, amount * factors(s, self.weights, self.eps), name)
            weight.copy_(smaller.view_as(weight))

    def amount(self, step: int) -> float:
        """What a proximal step takes off (times w_i) at this optimizer step."""
        if self.horizon is None:
            return self.strength
        done = min(max(step, 0), self.horizon) / self.horizon
        return self.strength * 0.5 * (1 + math.cos(math.pi * done))


def _svd(matrix: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Reduced, descending; half precision in float32."""
    u, s, v = torch.linalg.svd(_checked(matrix, name), full_matrices=False)
    return u, s, v


def _checked(matrix: Tensor, name: str) -> Tensor:
    values = matrix.detach()
    if not bool(torch.isfinite(values).all()):
        raise ModelError(
            f"the nuclear norm of {name} was asked; it holds NaN or Inf: training diverged, use a smaller learning "
            "rate or a smaller strength"
        )
    return values if values.dtype in (torch.float32, torch.float64) else values.float()
