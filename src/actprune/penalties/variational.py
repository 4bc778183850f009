"""L1: sparse variational dropout: Gaussian noise of learnt variance on every weight, and the price of a small variance.

Source: D. Molchanov, A. Ashukha, D. Vetrov, ICML 2017 (arXiv 1701.05369), with the constants of the authors' code.

    w ~ N(theta, sigma2), log_alpha = log sigma2 - log theta^2, clipped to -8 .. 8
    output ~ N(theta x + b, sigma2 x^2)                              local reparametrisation
    KL(log_alpha) ~ k1 - k1 sigmoid(k2 + k3 log_alpha) + log(1 + 1 / alpha) / 2
    loss = cross entropy + rho * sum of KL / examples                rho from 0 to 1 in a warm-up

The additive parametrisation learns ``(theta, log sigma2)``: with ``(theta, log alpha)`` the gradient of theta carries
the noise times sqrt(alpha), too much to learn from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actprune.errors import ModelError, RecipeError
from actprune.types import Penalty

K1, K2, K3 = 0.63576, 1.87320, 1.48695
EPS = 1e-8
"""Keeps the logarithm of a zero weight and the root of a zero variance, and their derivatives, finite."""


def log_alpha(weight: Tensor, log_sigma2: Tensor) -> Tensor:
    """``log_sigma2 - log(weight^2 + 1e-8)``, shape of the weight, at least float32 (1e-8 is 0 in float16)."""
    return log_sigma2 - torch.log(weight.to(log_sigma2.dtype).square() + EPS)


def divergence(log_alpha: Tensor) -> Tensor:
    """KL from the log-uniform prior for each weight, in nats, >= 0, falling to 0 as alpha grows; shape of the input.

    Known up to a constant, which is chosen so; the approximation is within 0.01 (see the tests, by quadrature).
    """
    return K1 * torch.sigmoid(-(K2 + K3 * log_alpha)) + 0.5 * F.softplus(-log_alpha)


def noisy(module: nn.Module, x: Tensor, mean: Tensor, log_sigma2: Tensor) -> Tensor:
    """A layer's output with the noise of its weights: ``mean + sqrt(sigma2 x^2) * N(0, 1)``, one draw per output.

    module: Linear, Conv1d or Conv2d. x: its input. mean: its output, whose shape and dtype are returned. Noise comes
    from torch's global generator of the device. A weight that is exactly 0 has been pruned and is not noisy. Raises
    ModelError for other modules.
    """
    with torch.autocast(x.device.type, enabled=False):  # exp(-18) and squares of inputs do not fit into float16
        sigma2 = torch.exp(log_sigma2) * (_weight(module) != 0)
        square = x.to(sigma2.dtype).square()
        if isinstance(module, nn.Linear):
            variance = F.linear(square, sigma2)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
            variance = module._conv_forward(square, sigma2, None)  # with its stride, padding and groups
        else:
            raise ModelError(
                f"variational dropout was asked for a {type(module).__name__}; it knows Linear, Conv1d and Conv2d: "
                "leave the layer alone with Pruner(skip=...)"
            )
        deviation = torch.sqrt(variance + EPS)
        return mean + (deviation * torch.randn_like(deviation)).to(mean.dtype)


@dataclass(frozen=True)
class VariationalDropout(Penalty):
    """A penalty for ``Method.penalty``; learns ``log_sigma2`` beside each weight. Rank by ``criteria.LogAlpha``.

    examples         training examples: the KL of all weights is divided by it, as the loss is a mean over examples
    ramp_from        optimizer steps before the KL is switched on; its factor grows linearly
    ramp_to          to 1 after this many steps
    log_sigma2_init  log variance to start from
    clip             log alpha is clipped to +-clip in the KL: beyond it, a weight is no longer pushed
    """

    examples: int
    ramp_from: int = 0
    ramp_to: int = 0
    log_sigma2_init: float = -10.0
    clip: float = 8.0

    def __post_init__(self) -> None:
        good = self.examples >= 1 and 0 <= self.ramp_from <= self.ramp_to
        if not good or not math.isfinite(self.log_sigma2_init) or not 0 < self.clip < math.inf:
            raise RecipeError(
                f"{self} cannot be used; expected examples >= 1, steps 0 <= ramp_from <= ramp_to, a finite "
                "log_sigma2_init and clip > 0"
            )

    def factor(self, step: int) -> float:
        """rho, the share 0..1 of the KL in the loss after ``step`` optimizer steps."""
        if step >= self.ramp_to:
            return 1.0
        return max(0.0, (step - self.ramp_from) / (self.ramp_to - self.ramp_from))

    def learnt(self, weight: Tensor) -> dict[str, Tensor]:
        """``log_sigma2``, shape of the weight, at least float32: steps of 1e-3 from -10 are lost in bfloat16."""
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return {"log_sigma2": torch.full_like(weight, self.log_sigma2_init, dtype=dtype, requires_grad=False)}

    def loss(self, weights: Mapping[str, Tensor], learnt: Mapping[str, Mapping[str, Tensor]], step: int) -> Tensor:
        """``rho * sum of KL / examples``, 0-dim."""
        total = torch.zeros((), device=next(iter(weights.values())).device if weights else None)
        share = self.factor(step) / self.examples
        if share == 0:
            return total
        for name, own in learnt.items():
            clipped = log_alpha(weights[name], own["log_sigma2"]).clamp(-self.clip, self.clip)
            total = total + divergence(clipped).sum()
        return share * total

    def forward(self, module: nn.Module, x: Tensor, output: Tensor, learnt: Mapping[str, Tensor]) -> Tensor | None:
        """The noisy output of one layer (see ``noisy``)."""
        return noisy(module, x, output, learnt["log_sigma2"])


def _weight(module: nn.Module) -> Tensor:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        raise ModelError(f"{type(module).__name__} has no weight that could be noisy")
    return weight
