"""Gradients of the training loss: taken inside a block and kept away from the user's optimizer, or read as they are."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from actprune.errors import ObservationError
from actprune.evidence import HessianGradient, SquaredGradient
from actprune.pruner.distributed import agree, averaged_gradients, full
from actprune.pruner.model import PrunableModel
from actprune.pruner.source import Kinds


@contextmanager
def collected(model: PrunableModel, into: dict[str, Tensor], kinds: Kinds, needed: Kinds) -> Iterator[None]:
    """Whatever ``backward()`` leaves in ``.grad`` inside the block is added to ``into``; ``.grad`` is then as before.

    kinds: what the recipe looks at; needed: what the next pruning step does. Raises ObservationError when a prunable
    weight received no gradient, or one that is not finite.
    """
    # where there is other evidence this may be for that one alone: a step brings its own gradients
    required = needed.training_gradient and not needed.activations
    before: dict[nn.Parameter, Tensor | None] = {parameter: parameter.grad for parameter in model.root.parameters()}
    for parameter in before:
        parameter.grad = None
    squares: dict[str, Tensor] = {}
    try:
        with _squared(model, squares) if kinds.form is SquaredGradient else nullcontext(), warnings.catch_warnings():
            if kinds.form is HessianGradient:  # of a graph that holds its own gradients; it is let go below
                warnings.filterwarnings("ignore", r"Using backward\(\) with create_graph=True")
            yield
        if not required and not squares and all(each.grad is None for each in model.parameters().values()):
            return
        if kinds.form is HessianGradient:
            into.update(hessian_products(model))
            return
        found = _sound(model, squares) if kinds.form is SquaredGradient else present(model, _IN_A_BLOCK)
        for name, gradient in found.items():
            into[name] = into[name] + gradient if name in into else gradient
    finally:
        for parameter, was in before.items():
            parameter.grad = was


_IN_A_BLOCK = "call loss.backward() inside observe()"


@contextmanager
def _squared(model: PrunableModel, into: dict[str, Tensor]) -> Iterator[None]:
    """The square of what each backward pass leaves in ``.grad`` is added to ``into``, and ``.grad`` emptied."""

    def add(name: str, parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        square = full(parameter.grad).float().square()
        into[name] = into[name] + square if name in into else square
        parameter.grad = None

    weights = [(name, weight) for name, weight in model.evident().items() if weight.requires_grad]
    handles = [weight.register_post_accumulate_grad_hook(partial(add, name)) for name, weight in weights]  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def of_step(model: PrunableModel, kinds: Kinds) -> dict[str, Tensor]:
    """What is needed of the gradients that a step finds in ``.grad``. Raises ObservationError as ``present`` does."""
    found = present(model, "call loss.backward() before optimizer.step()")
    if kinds.form is SquaredGradient:
        return {name: gradient.float().square() for name, gradient in found.items()}
    return found


def present(model: PrunableModel, how: str) -> dict[str, Tensor]:
    """Copies of the gradients that are in ``.grad``, full ones, of all weights that are scored and have one.

    Raises ObservationError when a prunable weight has none, or a gradient is not finite. how: words on what to do.
    """
    every = {name: parameter.grad for name, parameter in model.evident().items() if parameter.grad is not None}
    return _sound(model, {name: full(gradient).clone() for name, gradient in every.items()}, how)


def _sound(model: PrunableModel, found: dict[str, Tensor], how: str = _IN_A_BLOCK) -> dict[str, Tensor]:
    missing = [name for name in model.parameters() if name not in found]
    if missing:
        raise ObservationError(
            f"no gradient reached {missing}; {how}, and leave frozen or unused layers out with skip="
        )
    for name, gradient in found.items():
        if not bool(torch.isfinite(gradient).all()):
            raise ObservationError(f"the gradient of {name} is not finite (NaN or Inf); check the loss and its inputs")
    return found


def hessian_products(model: PrunableModel) -> dict[str, Tensor]:
    """The Hessian times the gradient that ``backward(create_graph=True)`` has left in ``.grad``, by weight.

    It is the gradient of <g, stop(g)>, the second of which is the mean over all ranks: a collective call. Raises
    ObservationError as ``present`` does, and for a gradient without a graph.
    """
    problem: ObservationError | None = None
    try:
        own = present(model, "call loss.backward(create_graph=True) inside observe()")
    except ObservationError as error:
        problem = error
    agree(problem)
    whole = averaged_gradients(own)
    known = {name: weight for name, weight in model.evident().items() if weight.grad is not None}
    gradients = [weight.grad for weight in known.values() if weight.grad is not None]
    if all(gradient.grad_fn is None for gradient in gradients):
        raise ObservationError(
            "the gradient cannot be differentiated once more; call loss.backward(create_graph=True) inside observe(), "
            "on what pruner.model returns (not on a DDP or FSDP wrapper of it)"
        )
    parts = [(whole[name] * gradient).sum() for name, gradient in zip(known, gradients, strict=True)]
    product = torch.stack(parts).sum()
    found = torch.autograd.grad(product, list(known.values()), allow_unused=True)
    made = {
        name: torch.zeros_like(weight) if part is None else part.detach()
        for (name, weight), part in zip(known.items(), found, strict=True)
    }
    if odd := [name for name, part in made.items() if not bool(torch.isfinite(part).all())]:
        raise ObservationError(f"the Hessian times the gradient of {odd[0]} is not finite; use float32 or float64")
    return made
