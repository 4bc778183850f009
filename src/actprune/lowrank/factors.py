"""L4: one weight as the product of two: truncated SVD, PCA, and truncation that knows the layer's inputs.

Sources: C. Eckart, G. Young, Psychometrika 1, 1936 (the truncated SVD is the nearest matrix of rank k); PCA as in the
code of Ganguli & Chong 2024: scikit-learn's PCA on the kernel with its rows, the inputs, as samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from actprune.analysis import matrix
from actprune.errors import ModelError, RecipeError, unknown_name

Kind = Literal["svd", "pca", "activation"]


@dataclass(frozen=True, eq=False)
class Factors:
    """``weight ~ second @ first`` with the weight as ``(out, in * kernel)``, in the weight's dtype.

    first   ``(directions, in * kernel)``. second ``(out, directions)``. Balanced: ``first @ first.T`` equals
            ``second.T @ second``, so that both train alike
    rank    as asked; ``directions`` is one more for "pca": the mean it adds back is a direction that must be stored
    """

    first: Tensor
    second: Tensor
    rank: int

    @property
    def directions(self) -> int:
        """Width between the two factors."""
        return self.first.shape[0]

    @property
    def weights(self) -> int:
        """Numbers stored: directions * (out + in * kernel)."""
        return self.first.numel() + self.second.numel()

    @property
    def product(self) -> Tensor:
        """The matrix ``(out, in * kernel)`` that the factors stand for."""
        return self.second @ self.first


def factorise(weight: Tensor, rank: int, kind: Kind = "svd", moment: Tensor | None = None) -> Factors:
    """Factors of rank ``rank`` for a weight ``(out, in, *kernel)``; computed in float64.

    svd         nearest in Frobenius and spectral norm
    pca         the mean over inputs of each output's weights stays exact, the rest is truncated: up to rank + 1
                directions, all of them stored and counted
    activation  nearest on the data: least ``E |W x - W' x|^2``, from ``moment = E[x x^T]``, ``(in * kernel, ) * 2``,
                as ``input_moments`` gives it. It is the truncated SVD of ``W C^(1/2)``, multiplied back; since that is
                ``U_k U_k^T W``, nothing is inverted and inputs that are always 0 do no harm

    Raises ModelError (NaN, no matrix, a moment that does not fit), RecipeError (rank outside 1..min(sides), kind).
    """
    flat = matrix(weight.detach())
    _check(flat, rank, kind)
    wide = flat.double()
    if kind == "svd":
        second, first = _truncated(wide, rank)
    elif kind == "pca":
        second, first = _with_mean(wide, rank)
    else:
        second, first = _on_data(wide, rank, _moment(moment, wide))
    second, first = _balanced(second, first)
    return Factors(first.to(weight.dtype), second.to(weight.dtype), rank)


def _truncated(wide: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    u, s, v = torch.linalg.svd(wide, full_matrices=False)
    return u[:, :rank] * s[:rank], v[:rank]


def _with_mean(wide: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    mean = wide.mean(1, keepdim=True)
    second, first = _truncated(wide - mean, rank)
    return torch.cat([second, mean], 1), torch.cat([first, torch.ones_like(wide[:1])])


def _on_data(wide: Tensor, rank: int, moment: Tensor) -> tuple[Tensor, Tensor]:
    _, vectors = torch.linalg.eigh(wide @ moment @ wide.T)  # ascending; of W C W^T = (W C^(1/2)) (W C^(1/2))^T
    second = vectors[:, -rank:].flip(1)
    return second, second.T @ wide


def _balanced(second: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with equal singular values in both factors."""
    q, r = torch.linalg.qr(second)
    p, t = torch.linalg.qr(first.T)
    u, s, v = torch.linalg.svd(r @ t.T, full_matrices=False)
    root = s.sqrt()
    return q @ (u * root), root[:, None] * (v @ p.T)


def _check(flat: Tensor, rank: int, kind: str) -> None:
    if kind not in get_args(Kind):
        raise RecipeError(unknown_name("kind of factors", kind, get_args(Kind)))
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(flat.shape):
        raise RecipeError(f"rank {rank!r} for a weight of {tuple(flat.shape)}; expected 1 to {min(flat.shape)}")
    if not bool(torch.isfinite(flat).all()):
        raise ModelError(f"a weight of {tuple(flat.shape)} cannot be factorised; it holds NaN or Inf")


def _moment(moment: Tensor | None, wide: Tensor) -> Tensor:
    side = wide.shape[1]
    if moment is None or tuple(moment.shape) != (side, side) or not bool(torch.isfinite(moment).all()):
        found = "none" if moment is None else f"{tuple(moment.shape)}, finite or not"
        raise ModelError(
            f"kind='activation' needs the second moment E[x x^T] of the inputs, ({side}, {side}) and finite; got "
            f"{found}: take it from lowrank.input_moments(model, batches)"
        )
    return moment.to(wide)
