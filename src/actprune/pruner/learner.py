"""Carrying out a recipe's penalty: what is learnt beside the weights, training forwards, a term of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from actprune.errors import CheckpointError, ModelError
from actprune.graph import Hook
from actprune.pruner.distributed import average, full, local, sharded
from actprune.types import Penalty

Learnt = dict[str, dict[str, Tensor]]


class Learner:
    """Live parameters beside the weights of ``layers`` (clean weight name -> module path), which ``find`` looks up.

    They are learnt with full weights in mind: under DDP their gradients are averaged here before every step. Raises
    ModelError for a sharded model (FSDP), which cannot be penalised.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, str],
        find: Callable[[], Mapping[str, nn.Parameter]],
        penalty: Penalty | None,
    ) -> None:
        self.penalty, self._find = penalty, find
        self._stopped: Penalty | None = None
        self.learnt: Learnt = {}
        self._handles: list[RemovableHandle] = []
        self._layers = {name: model.get_submodule(path) for name, path in layers.items()}
        if penalty is None:
            return
        parameters = find()
        if shards := [name for name in layers if sharded(parameters[name])]:
            raise ModelError(
                f"a penalty was asked for, but {shards[0]} is sharded (FSDP), and a penalty needs whole weights; use "
                "DDP or one process, or a method without a penalty"
            )
        for name in layers:
            found = penalty.learnt(full(parameters[name]))
            self.learnt[name] = {key: nn.Parameter(value) for key, value in found.items()}
        self.attach()

    def attach(self) -> None:
        """Put the training forwards on the model, where they are not there already."""
        if self.penalty is not None and not self._handles:
            self._handles = [
                layer.register_forward_hook(_Forward(self.penalty, self.learnt[name]), with_kwargs=True)
                for name, layer in self._layers.items()
            ]

    def detach(self) -> None:
        """Take the training forwards off the model again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def weights(self) -> Mapping[str, nn.Parameter]:
        """The weights by name, looked up: the user may have replaced one."""
        return self._find()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is learnt, for the optimizer."""
        return [value for own in self.learnt.values() for value in own.values() if isinstance(value, nn.Parameter)]

    def loss(self, step: int) -> Tensor:
        """The term of the loss; 0 once stopped."""
        if self.penalty is None:
            return torch.zeros((), device=next(iter(self.weights.values())).device)
        return self.penalty.loss(self.weights, self.learnt, step)

    def before_step(self, dense: Callable[[str, nn.Parameter], Tensor]) -> None:
        """Gradients of what is learnt: set where autograd cannot, and made equal on all ranks.

        dense: a weight with the values behind its mask, by name.
        """
        if self.penalty is not None and self.learnt:
            with torch.no_grad():
                for name, weight in self.weights.items():
                    if weight.grad is not None and self.learnt[name]:
                        self.penalty.before_step(dense(name, weight), weight.grad, self.learnt[name])
        average(value.grad for value in self.parameters if value.grad is not None)

    def after_step(self, step: int) -> None:
        """A proximal step, if the penalty takes one."""
        if self.penalty is not None:
            with torch.no_grad():
                trained = {name: local(weight) for name, weight in self.weights.items() if weight.requires_grad}
                self.penalty.after_step(trained, step)

    def load(self, stored: Learnt) -> None:
        """Put stored values into the live parameters. Raises CheckpointError when they belong to another recipe."""
        if _shapes(stored) != _shapes(self.learnt):
            raise CheckpointError(
                f"the stored state has learnt values beside {sorted(stored)}, the recipe learns some beside "
                f"{sorted(self.learnt)}; resume with the recipe that the state is from"
            )
        with torch.no_grad():
            for name, own in self.learnt.items():
                for key, value in own.items():
                    value.copy_(stored[name][key])

    def stop(self) -> None:
        """No training forward and no term any more; what was learnt stays."""
        self.detach()
        self._stopped, self.penalty = self.penalty or self._stopped, None

    def resume(self) -> None:
        """After ``stop``, when an earlier state was loaded: everything as before it."""
        if self._stopped is not None:
            self._stopped, self.penalty = None, self._stopped
            self.attach()


class _Forward(Hook):
    """The training forward of one layer."""

    def __init__(self, penalty: Penalty, learnt: Mapping[str, Tensor]) -> None:
        self._penalty, self._learnt = penalty, learnt

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Any:
        """The output instead of the layer's own; None: its own."""
        if not (module.training and torch.is_grad_enabled()):
            return None
        return self._penalty.forward(module, args[0] if args else kwargs["input"], output, self._learnt)


def _shapes(learnt: Learnt) -> dict[str, dict[str, tuple[int, ...]]]:
    return {name: {key: tuple(value.shape) for key, value in own.items()} for name, own in learnt.items()}
