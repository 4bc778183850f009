"""Holding zeros at zero: masks applied in place after the optimizer step.

Masking gradients alone is not enough (momentum and AdamW revive pruned weights), so weights are zeroed after the step;
``mask_grads`` is an extra that keeps dead gradients out of global-norm clipping.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from actprune.engine.distributed import local, local_part
from actprune.engine.wrappers import Closure
from actprune.errors import ModelError

_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes per element: the integer type that a weight's memory is looked at through."""


class Enforcer:
    """Zeroes the pruned weights of a model and of copies of it (EMA).

    dense: where a splicing recipe keeps the dense weights behind the mask; None for every other.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], dense: dict[str, Tensor] | None = None) -> None:
        self.dense = dense
        self._shown = False
        self.targets: list[Mapping[str, nn.Parameter]] = [parameters]
        self.parameters = parameters
        self._masks: dict[str, Tensor] = {}  # this rank's part, True = kept
        self._bits: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        self._grad_hooks: dict[str, RemovableHandle] = {}

    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Take over new full masks (True = kept)."""
        self._masks = {name: local_part(mask, self.parameters[name]) for name, mask in masks.items()}
        self._bits.clear()

    def add_copy(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Also zero the same weights of a copy, such as an exponential moving average."""
        missing = sorted(set(self.parameters) - set(parameters))
        if missing:
            raise ModelError(f"the copy has no parameters {missing}; attach(copies=) wants copies of the pruned model")
        self.targets.append(parameters)

    def show(self) -> None:
        """Put the dense weights behind the mask back, for a splicing recipe: an optimizer step follows, or a pruning
        that looks at them.
        """
        if self.dense and not self._shown:
            with torch.no_grad():
                for name, values in self.dense.items():  # only behind zeros: the others are the user's to change
                    weight = local(self.parameters[name])
                    weight.copy_(torch.where(self._masks[name], weight, values.to(weight.device)))
        self._shown = bool(self.dense)

    def forget(self) -> None:
        """Drop the dense weights behind the mask: what is pruned starts again from zero."""
        if self.dense is not None:
            self.dense.clear()

    @torch.no_grad()
    def settle(self) -> None:
        """After a step or a pruning: zero what is pruned; a splicing recipe remembers the values first."""
        if self.dense is not None and (self._shown or not self.dense):
            for name in self._masks:
                self.dense[name] = local(self.parameters[name]).clone()
        self._shown = False
        self.apply()

    def settle_if_shown(self) -> None:
        """After a pruning that failed: as it was."""
        if self._shown:
            self.settle()

    def masked(self, closure: Closure) -> Closure:
        """A closure of ``Optimizer.step`` that computes with zeros, although the values behind them are shown then."""

        def run() -> Any:
            shown = self._shown
            self.settle_if_shown()
            loss = closure()
            if shown:
                self.show()
            return loss

        return run

    @torch.no_grad()
    def apply(self, parameters: Mapping[str, nn.Parameter] | None = None) -> None:
        """Zero what is pruned."""
        for target in self.targets if parameters is None else [parameters]:
            for name in self._masks:
                self._zero(name, local(target[name]))

    def mask_gradients(self) -> None:
        """From now on zero the gradients of pruned weights as soon as they are accumulated."""
        for name, parameter in self.parameters.items():
            if name not in self._grad_hooks and parameter.requires_grad:
                self._grad_hooks[name] = parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    self._gradient_hook(name)
                )

    def _gradient_hook(self, name: str) -> Any:
        def zero(parameter: Tensor) -> None:
            if name in self._masks and parameter.grad is not None:
                self._zero(name, local(parameter.grad))

        return zero

    def _zero(self, name: str, values: Tensor) -> None:
        """Clear all bits of pruned entries.

        This runs in every step: on a CPU it is 14 times faster than ``masked_fill_``, and unlike a product it makes 0
        of a NaN.
        """
        key = name, values.dtype, values.device
        if key not in self._bits:
            whole_numbers = _INTEGER[values.element_size()]
            self._bits[key] = self._masks[name].to(values.device, whole_numbers).neg_()  # kept: -1, all bits set
        bits = self._bits[key]
        values.view(bits.dtype).bitwise_and_(bits)

    def remove(self) -> None:
        """Take the gradient hooks off again."""
        for handle in self._grad_hooks.values():
            handle.remove()
        self._grad_hooks.clear()
