"""L4: ``compact``: really remove what is dead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from actprune.compact.carry import move_optimizer, move_state, names_held
from actprune.compact.cut import as_module, as_program, masked_program, small_tensors
from actprune.compact.own import Code, refuse_uncuttable
from actprune.compact.plan import plan
from actprune.compact.report import CompactReport, report
from actprune.compact.verify import EXAMPLES, as_they_are, check, hooks_change
from actprune.errors import CompactionError
from actprune.graph import unhooked, unwrap
from actprune.program import Program, example_args, export, first_names, outline
from actprune.state import PruneState

Form = Literal["module", "graph"]


@dataclass(frozen=True, eq=False)
class Compaction:
    """A small model, what was done to get it, and the pruning state cut alike (None when only masks were given)."""

    model: nn.Module
    report: CompactReport
    state: PruneState | None


def compaction(
    model: nn.Module,
    state: PruneState | Mapping[str, Tensor] | None = None,
    *,
    example: Any = None,
    form: Form = "module",
    gather: bool = True,
    round_to: int = 1,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    inplace: bool = False,
    verify: bool = True,
) -> Compaction:
    """``compact`` with its report and the pruning state of the small model. See ``compact`` for the arguments."""
    _check_kinds(model, state, round_to)
    own = unwrap(model)
    _check_options(own, form, round_to, inplace)
    optimizers = _listed(optimizer)
    held = [names_held(each, own) for each in optimizers]
    refuse_uncuttable(own)
    masks = state.masks if isinstance(state, PruneState) else dict(state or {})
    example = _example(own, state, example)
    args, kwargs = example_args(example)
    # Hooks that only look are left out of it; those that change values are traced as part of the model.
    computes = not isinstance(own, Program) and hooks_change(own, args, kwargs)
    with nullcontext() if computes else unhooked(own):
        masked = masked_program(export(own, example), masks, own)
    inputs = {name: value.detach().cpu() for name, value in masked.bound(args, kwargs).items()}
    like = {**masked.tensors(), **dict(own.named_buffers()), **dict(own.state_dict(keep_vars=True))}
    device = next((tensor.device for tensor in like.values()), torch.device("cpu"))
    user = None if form == "graph" or isinstance(own, Program) else own
    # Nothing is decided by the examples' values, so two of them show as much as a whole batch.
    few = {name: value[:2] if value.dim() and masked.batch is None else value for name, value in inputs.items()}
    job = plan(masked.cpu(), few, Code(user, gather), round_to=round_to)
    tensors = small_tensors(job, like)
    small = as_program(job, tensors) if user is None else as_module(job, user, tensors)
    with nullcontext() if computes else unhooked(small):
        differences = check(job, masked, small.cpu(), inputs, tuple(kwargs)) if verify else {}
    small.to(device)
    as_they_are(own, masks, small, *_some(args, kwargs, masked.batch), compare=verify)
    if inplace:
        small = _take_over(own, small)
    small.actprune_example = outline(_some(args, kwargs, masked.batch, 2))  # so that save() needs none
    moved = move_state(state, job.keeps, first_names(own)) if isinstance(state, PruneState) else None
    for each, names in zip(optimizers, held, strict=True):
        move_optimizer(each, names, small, job.keeps)
    return Compaction(small, report(job, masked, tensors, differences), moved)


def compact(
    model: nn.Module,
    state: PruneState | Mapping[str, Tensor] | None = None,
    *,
    example: Any = None,
    form: Form = "module",
    gather: bool = True,
    round_to: int = 1,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    inplace: bool = False,
    verify: bool = True,
) -> nn.Module:
    """A smaller model that computes what ``model`` computes with its masks applied.

    Removed are neurons and channels without weights (the constant that they still send moves into the next biases, also
    through BatchNorm and pooling), those that nobody reads, and inputs that no first layer uses; over and over, until
    nothing more can go. Channels that meet in sums, concatenations, depthwise or grouped convolutions and attention
    heads go together or not at all. (A grouped convolution that this leaves depthwise or plain is one from then on: a
    second call may find more in it.)

    state      ``pruner.state``, masks by weight name (True = kept), or None: the weights that are zero already
    example    one input (tensor or tuple of positional arguments); left out, the one that the pruner has seen
    form       "module": a copy of your own class with smaller layers, except where its code insists on a fixed size;
               "graph": a ``Program`` of standard operations with such sizes rewritten (heads, ``view(-1, 800)``)
    gather     leave inputs out that no first layer reads, by an index (False: the first layer keeps all its columns)
    round_to   make widths multiples of this, as some hardware wants
    optimizer  one or several: their states are cut along and they are pointed at the small model, so that training goes
               on; one whose state cannot be cut (LBFGS, preconditioners) is refused
    inplace    change ``model`` itself (form "module" only)
    verify     compare with the masked model on the example and on noise (float64 1e-5, float32 1e-4 of the output's
               scale), and as both are, in their own types and with the hooks that you have put on

    Every tensor keeps its type; the result carries no data of the example. Your hooks see the example, at most 32 of
    its examples, once on either model and nothing else.

    Raises CompactionError (a difference, masks that do not fit, another model's optimizer), ModelError (NaN weights, a
    model that cannot be turned into a graph). Nothing is changed then.
    """
    return compaction(
        model, state, example=example, form=form, gather=gather, round_to=round_to, optimizer=optimizer,
        inplace=inplace, verify=verify,
    ).model  # fmt: skip


def _example(model: nn.Module, state: Any, example: Any) -> Any:
    if example is not None:
        return example
    if isinstance(state, PruneState) and state.example is not None:
        return state.example
    known = getattr(model, "actprune_example", None)
    if known is None:
        raise CompactionError(
            "compact() follows one input through the model, and none is known; give example=, such as the first batch"
        )
    return known


def _listed(optimizer: Optimizer | Sequence[Optimizer] | None) -> list[Optimizer]:
    if optimizer is None:
        return []
    found = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    for each in found:
        if not isinstance(each, Optimizer):
            raise CompactionError(
                f"optimizer holds a {type(each).__name__}; give torch optimizers, and make anything else anew for the "
                "small model"
            )
    return found


def _some(args: tuple[Any, ...], kwargs: dict[str, Any], batch: int | None, most: int = EXAMPLES) -> Any:
    """At most so many of the examples, where the model takes batches of any size."""
    if batch is not None:
        return args, kwargs

    def cut(item: Tensor) -> Tensor:
        return item[:most] if item.dim() else item

    return tuple(map(cut, args)), {name: cut(item) for name, item in kwargs.items()}


def _check_kinds(model: Any, state: Any, round_to: Any) -> None:
    if not isinstance(model, nn.Module):
        raise CompactionError(f"compact() takes a model (nn.Module); got a {type(model).__name__}")
    if state is not None and not isinstance(state, (PruneState, Mapping)):
        raise CompactionError(f"state is a {type(state).__name__}; give pruner.state, masks by weight name, or nothing")
    if isinstance(round_to, bool) or not isinstance(round_to, int):
        raise CompactionError(f"round_to={round_to!r}: use a whole number, round_to >= 1")


def _check_options(model: nn.Module, form: str, round_to: int, inplace: bool) -> None:
    if form not in ("module", "graph") or round_to < 1:
        raise CompactionError(f"form={form!r}, round_to={round_to}: use form='module' or 'graph' and round_to >= 1")
    if inplace and form == "graph" and not isinstance(model, Program):
        raise CompactionError("inplace=True keeps your own class; it cannot be used with form='graph'")


def _take_over(model: nn.Module, small: nn.Module) -> nn.Module:
    """``model`` itself, with the contents of ``small``."""
    model.__dict__.clear()
    model.__dict__.update(small.__dict__)
    return model
