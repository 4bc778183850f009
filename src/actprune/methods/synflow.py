"""SynFlow: prune before training and without data, by the flow of synaptic strength, in many rounds.

Source: H. Tanaka, D. Kunin, D. L. K. Yamins, S. Ganguli. Pruning neural networks without any data by iteratively
conserving synaptic flow. NeurIPS 2020 (arXiv 2006.05467), algorithm 1.

    for k = 1 .. n                                                           n = 100
        R = sum of f(1; |theta * M|)        evaluation mode, an input of ones, every parameter by its absolute value
        S = |dR/dtheta * theta|
        keep the share rho^(k/n) with the highest S, in one global ranking   rho = final density

Deviations
  - in float64, as deep networks overflow float32 (the call is commented out in the authors' code);
  - biases take part in R but are never pruned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from actprune.criteria import Saliency
from actprune.ranked import Ranked
from actprune.recipes import register
from actprune.schedules import OneShot
from actprune.scopes import Scope
from actprune.types import Budget, Schedule


@register
@dataclass(frozen=True)
class SynapticFlow:
    """R = sum of the outputs for an input of ones, with the absolute values of all parameters and buffers.

    Eq. 4 of the paper. Only the shape of the input is looked at. Integer inputs and buffers stay as they are.
    """

    needs_data: ClassVar[bool] = False

    def __call__(self, model: nn.Module, inputs: Any) -> Tensor:
        """0-dim, float64, differentiable by the model's parameters."""
        state = {name: _wide(tensor.abs()) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
        args, kwargs = inputs
        out = functional_call(model, state, _ones(args), _ones(kwargs))
        tensors = [out] if isinstance(out, Tensor) else [part for part in _leaves(out) if part.is_floating_point()]
        return torch.stack([part.sum() for part in tensors]).sum()


def synflow(
    sparsity: float = 0.9,
    *,
    budget: Budget | None = None,
    rounds: int = 100,
    scope: Scope = "global",
    schedule: Schedule | None = None,
    keep_at_least: int = 1,
    allow_collapse: tuple[str, ...] = (),
    skip_output: bool = False,
    seed: int = 0,
) -> Ranked:
    """Synaptic saliency of the flow, 100 rounds within one pruning step, normally before training.

    No data is needed, but the shape of an input is: give ``Pruner(example=...)``. Non-linearities must be linear where
    their input is positive (ReLU and its kin).

    >>> synflow(0.99).rounds
    100
    """
    return Ranked(
        name="synflow",
        criterion=Saliency(SynapticFlow()),
        budget=budget or Budget.sparsity(sparsity),
        schedule=schedule or OneShot(),
        scope=scope,
        rounds=rounds,
        keep_at_least=keep_at_least,
        allow_collapse=allow_collapse,
        skip_output=skip_output,
        seed=seed,
    )


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _leaves(item: Any) -> list[Tensor]:
    leaves, _ = torch.utils._pytree.tree_flatten(item)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _ones(item: Any) -> Any:
    """Ones instead of every floating-point tensor, one example of each."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        return torch.ones_like(leaf[:1], dtype=torch.float64)

    return torch.utils._pytree.tree_map(one, item)
