"""SparseGPT: prune a layer block of columns by block, and let the weights to the right make up for what goes.

Source: E. Frantar, D. Alistarh. SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot. ICML 2023
(arXiv 2301.00774), algorithm 1, and the authors' code.

    layer by layer, in execution order, on inputs that come through the layers pruned before
        H = 2/n X X^T;   inputs that are never active: H_jj = 1, W_j = 0;   H += 0.01 mean(diag H) I
        U = upper Cholesky factor of H^-1
        for each block of 128 columns
            M   the lowest w^2 / U_jj^2 of the block, over all rows; or n of every m columns, in each row
            for each column j of the block
                e = (w_j - w_j M_j) / U_jj;   the columns from j on -= e U_j,j:
        no retraining

Deviations
  - the removed weights of a block are an exact integer, so that those of a layer add up to the budget;
  - in float64; convolutions as the matrix of their unfolded patches;
  - one layer at a time, where the authors' code collects H for all layers of a transformer block at once;
  - a weight that was pruned before stays pruned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from actprune.edit import Edit, Method, Quota, View
from actprune.errors import ModelError, RecipeError
from actprune.evidence import Gram
from actprune.rank.allocate import allocate, round_half_up
from actprune.rank.rows import lowest_of_nm, require_multiple
from actprune.rank.selection import refuse_other_sparsity
from actprune.rank.threshold import Scored, lowest
from actprune.recipes import register
from actprune.schedules import OneShot
from actprune.scopes import NM, Share
from actprune.types import Budget, Evidence, Layer, Schedule


@register
@dataclass(frozen=True, kw_only=True)
class SparseGPT(Method):
    """The method as a recipe. pattern: n:m instead of a ranking within each block of columns."""

    pattern: NM | None = None
    block: int = 128
    damping: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block < 1 or not self.damping > 0:
            raise RecipeError(f"block={self.block} and damping={self.damping}: expected at least 1 column and above 0")
        if self.pattern is not None and self.block % self.pattern.m:
            raise RecipeError(f"block={self.block} is no multiple of the pattern's {self.pattern.m} columns")
        if self.budget.kind in ("threshold", "flop"):
            raise RecipeError(f"SparseGPT removes a share of every layer's weights; found the budget {self.budget}")

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """Products of each layer's inputs."""
        return (Gram(),)

    @property
    def collects_again(self) -> bool:
        """Behind each layer that is done."""
        return True

    def edit(self, view: View, quota: Quota) -> Edit:
        """Masks and updated weights, layer by layer."""
        masks: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {}
        for facts, removed in zip(view.facts, self._removed(view, quota), strict=True):
            layer = view.behind(weights).layer(facts.name)
            mask, weight = self._pruned(layer, removed)
            masks[facts.name], weights[facts.name] = mask.to(facts.device), weight
        return Edit(masks, weights)

    def _removed(self, view: View, quota: Quota) -> list[int]:
        """Weights that each layer loses in all."""
        sizes = [math.prod(facts.shape) for facts in view.facts]
        others = view.others.weights if quota.budget.of == "all" else 0
        if self.pattern is not None:
            for facts in view.facts:
                require_multiple(self.pattern, facts.name, facts.shape)
            refuse_other_sparsity(self.pattern, quota.fraction, sum(sizes) / (sum(sizes) + others))
            return [size - size * self.pattern.n // self.pattern.m for size in sizes]
        shares = [
            Share(facts.name, facts.shape, size, 0, size, facts.output)
            for facts, size in zip(view.facts, sizes, strict=True)
        ]
        return allocate("uniform", shares, round_half_up(quota.fraction * (sum(sizes) + others)))

    def _pruned(self, layer: Layer, removed: int) -> tuple[Tensor, Tensor]:
        """New mask and weight of one layer that loses ``removed`` weights."""
        weight = layer.weight.flatten(1).double()
        gone = torch.zeros_like(weight, dtype=torch.bool) if layer.mask is None else ~layer.mask.flatten(1)
        gone = gone.to(weight.device)
        gram = layer.evidence["gram"].to(weight.device)
        if tuple(gram.shape) != (weight.shape[1],) * 2:
            raise ModelError(
                f"the Gram matrix of {layer.name} is {tuple(gram.shape)}; expected {weight.shape[1]} twice"
            )
        idle = gram.diagonal() == 0
        weight = weight.masked_fill(idle, 0).masked_fill(gone, 0)
        upper = inverse_factor(2 / layer.evidence["in_rows"].item() * gram, idle, self.damping)
        columns, work = weight.shape[1], _Work(layer, weight, gone, upper)
        for start in range(0, columns, self.block):
            stop = min(start + self.block, columns)
            if self.pattern is None:
                work.drop(slice(start, stop), removed * stop // columns - removed * start // columns)
            work.sweep(start, stop, self.pattern)
        return ~gone.view(layer.weight.shape), weight.view(layer.weight.shape).to(layer.weight.dtype)


@dataclass
class _Work:
    """One layer under work, in place. weight: ``(out, in)``, float64. gone: bool, True = removed. upper: U."""

    layer: Layer
    weight: Tensor
    gone: Tensor
    upper: Tensor

    def drop(self, block: slice, due: int) -> None:
        """Choose what goes of a block of columns: the lowest scores over all rows."""
        name, scores = f"{self.layer.name}/{block.start}", self._scores(block).contiguous()
        due = max(due, int(self.gone[:, block].sum()))
        self.gone[:, block] = lowest(lambda: [Scored(name, scores, 1)], due, self.layer.seed).removed[name]

    def sweep(self, start: int, stop: int, pattern: NM | None) -> None:
        """Pass each column's error on to the columns on its right: at once within the block, then beyond it."""
        weight, gone, upper = self.weight, self.gone, self.upper
        errors = torch.zeros_like(weight[:, start:stop])
        for column in range(start, stop):
            if pattern is not None and (column - start) % pattern.m == 0:
                group = slice(column, column + pattern.m)
                lost = lowest_of_nm(pattern, self.layer.name, self._scores(group), ~gone[:, group], self.layer.seed)
                gone[:, group] |= lost
            kept = weight[:, column].masked_fill(gone[:, column], 0)
            error = (weight[:, column] - kept) / upper[column, column]
            weight[:, column:stop] -= error[:, None] * upper[column, column:stop]
            weight[:, column] = kept
            errors[:, column - start] = error
        weight[:, stop:] -= errors @ upper[start:stop, stop:]

    def _scores(self, part: slice) -> Tensor:
        """``w^2 / U_jj^2``; what is gone already scores lowest."""
        scores = self.weight[:, part].square() / self.upper.diagonal()[part].square()
        return scores.masked_fill(self.gone[:, part], -1)


def inverse_factor(hessian: Tensor, idle: Tensor, damping: float) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped Hessian ``(n, n)``; idle: inputs that are never active."""
    hessian = hessian + torch.diag(idle.to(hessian.dtype))
    hessian = hessian + damping * hessian.diagonal().mean() * torch.eye(len(hessian)).to(hessian)
    lower, failed = torch.linalg.cholesky_ex(hessian)
    if failed:
        raise ModelError(
            "the products of a layer's inputs are no positive definite matrix even with damping; show more calibration "
            "data or use a larger damping="
        )
    upper: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return upper


def sparsegpt(
    sparsity: float = 0.5,
    *,
    budget: Budget | None = None,
    pattern: NM | None = None,
    block: int = 128,
    damping: float = 0.01,
    schedule: Schedule | None = None,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> SparseGPT:
    """Every layer loses the same share, and what is left is updated; meant for trained networks, without retraining.

    The calibration inputs shown in ``observe()`` are kept, and run again for every layer.

    pattern  NM(2, 4): n of every m inputs of a row; ``sparsity`` must then be 1 - n/m
    block    columns whose mask is chosen together
    damping  of the Hessian, as a share of its mean diagonal

    >>> sparsegpt(0.5, pattern=NM(2, 4)).pattern
    NM(n=2, m=4)
    """
    return SparseGPT(
        name="sparsegpt",
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        pattern=pattern,
        block=block,
        damping=damping,
        allow_collapse=allow_collapse,
        skip_output=skip_output,
        seed=seed,
    )
