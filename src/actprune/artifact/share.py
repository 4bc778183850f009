"""L4: weight sharing: every tensor has a few values, and a fine-tuning that moves equal weights together."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from actprune.artifact.values import Init, centroids, nearest
from actprune.errors import ArtifactError

Gradient = Literal["sum", "mean"]


class SharedWeights:
    """Clusters the non-zero weights of each tensor: at most ``2**bits`` different values, zeros stay zero.

    what      a module (all its floating-point parameters) or tensors by name; they are changed in place by ``apply``
    bits      for every tensor, or by name (names left out are not shared)
    init      "linear", as published, or "exact": the least squared error (see ``values.centroids``)
    gradient  "sum": a centroid moves by the sum of its weights' gradients (Han et al. 2016, section 3); "mean"

        shared = SharedWeights(model, bits=4)
        shared.apply()
        with shared.attach(optimizer):
            ...                                  # the user's own loop; equal weights stay equal
        shared.apply()                           # centroids as a file stores them (fp16)

    Raises ArtifactError for bits outside 1 to 8, unknown names, and weights that are not finite.
    """

    def __init__(
        self,
        what: nn.Module | Mapping[str, Tensor],
        bits: int | Mapping[str, int],
        init: Init = "linear",
        gradient: Gradient = "sum",
    ) -> None:
        self.tensors = _tensors(what, bits)
        self.bits = {name: bits if isinstance(bits, int) else bits[name] for name in self.tensors}
        self.init, self.gradient = init, gradient
        if wrong := {name: width for name, width in self.bits.items() if not 1 <= width <= 8}:
            raise ArtifactError(f"weights can be shared with 1 to 8 bits; asked for {wrong}")
        self.codebooks: dict[str, Tensor] = {}
        """float32 ``(clusters,)``, ascending when made."""
        self.assignments: dict[str, Tensor] = {}
        """int64, shape of the tensor: 0 where the weight is zero, else 1 + its cluster."""
        self.reassign()

    def reassign(self) -> None:
        """Cluster anew, from the weights as they are now; the weights do not change until ``apply``."""
        for name, tensor in self.tensors.items():
            flat = tensor.detach().float().cpu().numpy().ravel()
            if not np.isfinite(flat).all():
                raise ArtifactError(f"{name} holds NaN or infinite weights, which cannot be clustered; train again")
            kept = flat != 0
            table = centroids(flat[kept], 1 << self.bits[name], self.init)
            assigned = np.zeros(flat.size, np.int64)
            assigned[kept] = 1 + nearest(flat[kept], table)
            self.assignments[name] = torch.from_numpy(assigned).reshape(tensor.shape).to(tensor.device)
            self.codebooks[name] = torch.from_numpy(table.astype(np.float32)).to(tensor.device)

    @torch.no_grad()
    def apply(self) -> None:
        """Set every weight to its centroid, rounded to fp16 as files store it. A centroid never becomes zero."""
        for name, table in self.codebooks.items():
            halves = table.half().float()
            self.codebooks[name] = torch.where((halves == 0) & (table != 0), table.sign() * 2.0**-24, halves)
            self._write(name)

    def _write(self, name: str) -> None:
        table = torch.cat([self.codebooks[name].new_zeros(1), self.codebooks[name]])
        self.tensors[name].copy_(table[self.assignments[name]])

    @torch.no_grad()
    def tie_gradients(self) -> None:
        """Replace every gradient by the sum (or mean) over its cluster; zeros get none."""
        for name, tensor in self.tensors.items():
            if tensor.grad is not None:
                tensor.grad.copy_(self._pooled(name, tensor.grad, mean=self.gradient == "mean")[self.assignments[name]])

    @torch.no_grad()
    def tie_weights(self) -> None:
        """Make clusters exactly equal again after an optimizer step: each takes its mean."""
        for name, tensor in self.tensors.items():
            self.codebooks[name] = self._pooled(name, tensor, mean=True)[1:]
            self._write(name)

    def _pooled(self, name: str, values: Tensor, mean: bool) -> Tensor:
        """Sum or mean over every cluster, in float64 on the way; entry 0 (the zeros) is 0."""
        places, size = self.assignments[name].reshape(-1), len(self.codebooks[name]) + 1
        pooled = torch.zeros(size, dtype=torch.float64, device="cpu")
        pooled.index_add_(0, places.cpu(), values.reshape(-1).double().cpu())
        if mean:
            pooled /= torch.bincount(places.cpu(), minlength=size).clamp(min=1)
        pooled[0] = 0
        return pooled.to(values)

    def attach(self, optimizer: Optimizer) -> Attached:
        """Tie gradients before and weights after every step of ``optimizer``, until ``close`` or the end of a block."""
        return Attached(self, optimizer)


class Attached:
    """Hooks of one SharedWeights on one optimizer; a context manager."""

    def __init__(self, shared: SharedWeights, optimizer: Optimizer) -> None:
        held = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
        if missing := [
            name for name, tensor in shared.tensors.items() if tensor.requires_grad and id(tensor) not in held
        ]:
            raise ArtifactError(
                f"{missing[0]} is shared but not in this optimizer; make the optimizer from the same model"
            )
        self._hooks = ExitStack()
        self._hooks.callback(optimizer.register_step_pre_hook(_calling(shared.tie_gradients)).remove)
        self._hooks.callback(optimizer.register_step_post_hook(_calling(shared.tie_weights)).remove)

    def close(self) -> None:
        """Remove the hooks."""
        self._hooks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _calling(action: Any) -> Any:
    def hook(*_: Any) -> None:
        action()

    return hook


def _tensors(what: nn.Module | Mapping[str, Tensor], bits: int | Mapping[str, int]) -> dict[str, Tensor]:
    every = dict(what.named_parameters()) if isinstance(what, nn.Module) else dict(what)
    floats = {name: tensor for name, tensor in every.items() if tensor.is_floating_point()}
    if isinstance(bits, int):
        return floats
    if unknown := [name for name in bits if name not in floats]:
        raise ArtifactError(f"{unknown[0]!r} is no floating-point parameter; known: {', '.join(floats)}")
    return {name: floats[name] for name in bits}
