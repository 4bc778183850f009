"""L4: what to cut from a model under its masks, found by repeating until nothing more can go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actprune.compact.fates import FIXED, Fates, bias_of, constants, decide, settle, used
from actprune.compact.own import Code
from actprune.structure import Mixing, Reader, Structure, squared

Keeps = dict[str, list[Tensor | None]]


@dataclass(frozen=True, eq=False)
class Plan:
    """All that changes.

    fates    which classes go
    tensors  parameters and buffers by name, whole, with the constants of what goes already folded into biases
    keeps    tensor name -> for each axis, bool: which indices stay (None: all)
    gathers  weight whose first columns leave inputs out -> path of its layer
    biases   names of biases that had to be made
    norms    module path -> what is normalised there over channels of which some go
    """

    fates: Fates
    tensors: dict[str, Tensor]
    keeps: Keeps
    gathers: dict[str, str]
    biases: frozenset[str]
    norms: dict[str, Mixing]


@torch.no_grad()
def plan(
    structure: Structure,
    tensors: Mapping[str, Tensor],
    code: Code,
    *,
    round_to: int,
    fixed: Sequence[Tensor] = (),
    folds: bool = True,
    exact: bool = True,
) -> Plan:
    """Look for dead classes until no more are found: what one removal frees, the next one takes.

    tensors  parameters and buffers, masked
    code     what may be changed in the user's own code
    fixed    labels that must stay, as no call of that code can be written without them
    folds    constants may move into biases; False: only what is zero goes
    exact    norms over channels stay the same function, which takes channels that are zero there
    """
    first = _plan(structure, tensors, code, round_to, fixed, folds, exact, True)
    if not first.fates.found.grouped:
        return first
    second = _plan(structure, tensors, code, round_to, fixed, folds, exact, False)
    return min(first, second, key=_left)


def _left(plan: Plan) -> int:
    """Entries that stay."""
    return sum(
        math.prod(length if kept is None else int(kept.sum()) for length, kept in zip(
            plan.tensors[name].shape, axes, strict=True)) for name, axes in plan.keeps.items())  # fmt: skip


def _plan(  # noqa: PLR0917  (as ``plan``)
    structure: Structure, tensors: Mapping[str, Tensor], code: Code, round_to: int, fixed: Sequence[Tensor],
    folds: bool, exact: bool, whole_groups: bool,
) -> Plan:  # fmt: skip
    work = dict(tensors)
    made: set[str] = set()
    while True:
        found = structure.analysis(work, constants=True, whole_groups=whole_groups)
        for labels in fixed:
            found.classes.pin(labels, FIXED)
        fates = decide(found, squared(found), work, code, folds=folds, exact=exact)
        settle(fates, round_to)
        for name in made:
            found.axes[name] = [found.axes[name.removesuffix("bias") + "weight"][0]]
        if not _silenced(work, fates, made):
            return Plan(fates, work, _keeps(fates), _gathers(fates), frozenset(made), _norms(fates))


def _keeps(fates: Fates) -> Keeps:
    return {
        name: [None if labels is None else fates.alive(labels) for labels in axes]
        for name, axes in fates.found.axes.items()
    }


def _gathers(fates: Fates) -> dict[str, str]:
    return {
        reader.weight: reader.module
        for reader in fates.found.readers
        if reader.bare and reader.weight is not None and not bool(fates.alive(reader.columns).all())
    }


def _norms(fates: Fates) -> dict[str, Mixing]:
    return {mixing.module: mixing for mixing in fates.found.mixings if not bool(fates.alive(mixing.labels).all())}


def _silenced(work: dict[str, Tensor], fates: Fates, made: set[str]) -> bool:
    """Constants of what goes are moved into biases, and its weights set to zero: the same function as before.

    True when that has put out a weight which was not zero, so that more may be dead now.
    """
    folded: set[str] = set()
    new: dict[str, Tensor] = {}
    for reader in fates.found.readers:
        if reader.weight is not None and reader.weight not in folded:  # of two readers, both are sent the same
            folded.add(reader.weight)
            _fold(work, new, reader, ~fates.alive(reader.columns), made)
    for name in {reader.weight: None for reader in fates.found.readers if reader.weight is not None}:
        for axis, labels in enumerate(fates.found.axes[name]):
            dead = None if labels is None else ~fates.alive(labels)
            if dead is None or not bool(dead.any()):
                continue
            now = new.get(name, work[name].detach())
            lines = torch.nonzero(dead).flatten().to(now.device)
            if bool(now.index_select(axis, lines).any()):
                new.setdefault(name, now.clone()).index_fill_(axis, lines, 0)
    weights = [name for name in new if name in work and work[name].dim() > 1]
    more = any(int(torch.count_nonzero(work[name])) != int(torch.count_nonzero(new[name])) for name in weights)
    for name, axes in fates.found.axes.items():
        tensor = new.get(name, work.get(name))
        if tensor is None or tensor.dim() != 1 or axes[0] is None or not tensor.is_floating_point():
            continue
        dead = ~fates.alive(axes[0])
        if name.endswith("running_var") or not bool((dead & (tensor != 0).cpu()).any()):
            continue
        new[name] = tensor.detach().clone()
        new[name][dead.to(tensor.device)] = 0
    work.update(new)
    return more


def _fold(work: Mapping[str, Tensor], new: dict[str, Tensor], reader: Reader, dead: Tensor, made: set[str]) -> None:
    """Add what the dead columns send to the bias, which is made where there is none."""
    assert reader.weight is not None
    weight = work[reader.weight].detach()
    sends = dead & used(weight, reader.axis) & (constants(reader) != 0)
    if reader.only_zero or not bool(sends.any()):
        return
    constant = constants(reader)[sends]
    columns = weight.movedim(reader.axis, 0)[torch.nonzero(sends).flatten().to(weight.device)]
    columns = columns.to("cpu", torch.float64).flatten(2).sum(2) if columns.dim() > 2 else columns.cpu().double()
    sent = constant @ columns
    name = bias_of(reader)
    before = new.get(name, work.get(name))
    if before is None:
        made.add(name)
        before = torch.zeros(weight.shape[1 - reader.axis], dtype=weight.dtype, device=weight.device)
    new[name] = (before.detach().double() + sent.to(before.device)).to(before.dtype)
