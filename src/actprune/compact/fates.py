"""L4: which classes can go, and why the others stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from actprune.compact.classes import EXTERNAL, PINNED
from actprune.compact.flow import Flow, Reader, Seen
from actprune.compact.own import Code
from actprune.program import tensor_at
from actprune.program.nodes import refs_in

NO_CONSTANT = "what it sends on varies, or is not the same at every position"
PADDED = "it sends a constant through zero padding or groups, which no bias can replace"
NO_BIAS = "the bias of its reader cannot take its constant"
SHAPE = "it is added to, or shares an axis with, what has to stay"
TIED = "it is the input or output of the network, or goes through an operation that mixes channels"
FIXED = "a reshape to a fixed size in the model's own code needs it (form='graph' rewrites such sizes)"
LAST = "a layer must keep one"
ROUNDED = "widths are rounded up"


@dataclass(eq=False)
class Fates:
    """For every member of every class, by the root of its class: whether it goes, and a reason where it stays."""

    flow: Flow
    roots: Tensor
    gone: Tensor
    reasons: dict[int, str] = field(default_factory=dict)

    def alive(self, ids: Tensor) -> Tensor:
        """Bool, of the shape of ``ids``."""
        return ~self.gone[self.roots[ids]]

    def keep(self, ids: Tensor, why: str) -> bool:
        """Classes of ``ids`` stay after all. True when any of them was about to go."""
        back = torch.unique(self.roots[ids])
        back = back[self.gone[back]]
        self.gone[back] = False
        for root in back.tolist():
            self.reasons.setdefault(root, why)
        return len(back) > 0

    def why(self, member: int) -> str:
        """Why a class stays."""
        root = int(self.roots[member])
        return self.reasons.get(root, TIED if root in (PINNED, EXTERNAL) else SHAPE)


def decide(flow: Flow, code: Code) -> Fates:
    """A class goes when every column that reads it is zero, or gets a constant that its bias can take."""
    for ref in refs_in(flow.program.result):
        for seen in _each(flow.values.get(ref.name)):
            flow.classes.pin(seen.ids)
    members = torch.arange(len(flow.classes._parent))
    roots = flow.classes.roots(members)
    gone = torch.zeros(len(members), dtype=torch.bool)
    gone[roots] = True
    gone[torch.tensor([PINNED, EXTERNAL])] = False
    fates = Fates(flow, roots, gone)
    fates.keep(torch.tensor([flow.classes.root(PINNED), flow.classes.root(EXTERNAL)]), TIED)
    for reader in flow.readers:
        _judge(fates, reader, code)
    return fates


def _each(item: object) -> Iterator[Seen]:
    if isinstance(item, Seen):
        yield item
    elif isinstance(item, list):
        for inner in item:
            yield from _each(inner)


def _judge(fates: Fates, reader: Reader, code: Code) -> None:
    """Keep the classes that this reader cannot do without."""
    weight = tensor_at(fates.flow.program, reader.weight).detach()
    used = (weight != 0).transpose(0, 1).flatten(1).any(1)
    if reader.external and not code.leaves_inputs_out(reader.weight):
        fates.keep(reader.columns, TIED)
    fates.keep(reader.columns[used & reader.constant.isnan()], NO_CONSTANT)
    sent = used & ~reader.constant.isnan() & (reader.constant != 0)
    if reader.only_zero:
        fates.keep(reader.columns[sent], PADDED)
    elif bool(sent.any()) and not _takes(fates.flow, reader, sent, code):
        fates.keep(reader.columns[sent], NO_BIAS)


def _takes(flow: Flow, reader: Reader, sent: Tensor, code: Code) -> bool:
    """Whether its bias can take these constants; a bias of several readers must be sent the same by all of them."""
    if reader.bias in flow.elements or (reader.bias is None and not code.takes_bias(flow.program, reader.weight)):
        return False
    others = [other for other in flow.readers if other.slot == reader.slot]
    if reader.bias is not None:
        uses = [ref for step in flow.program.steps for ref in step.refs() if ref.name == reader.bias]
        if len(uses) != len(others):  # it is also that of a layer that reads every channel for itself
            return False
    return all(
        other.weight == reader.weight and torch.equal(other.constant[sent], reader.constant[sent]) for other in others
    )


def settle(fates: Fates, round_to: int) -> None:
    """Bring classes back until every tensor is cut along whole lines, no axis is empty, and widths are rounded."""
    tensors = [seen.ids for value in fates.flow.values.values() for seen in _each(value)]
    tensors += list(fates.flow.elements.values())
    axes = {name: [ids for ids in axes if ids is not None] for name, axes in fates.flow.axes.items()}
    changed = True
    while changed:
        changed = any([_square(fates, ids) for ids in tensors])  # noqa: C419  (each must be looked at)
        for name, ids in ((name, ids) for name, found in axes.items() for ids in found):
            changed |= _not_empty(fates, ids)
            if round_to > 1 and name.endswith("weight"):
                changed |= _rounded(fates, ids, round_to)


def lines(fates: Fates, ids: Tensor) -> list[Tensor]:
    """For each axis: which indices keep any element."""
    alive = fates.alive(ids)
    return [alive.movedim(axis, 0).flatten(1).any(1) if alive.dim() > 1 else alive for axis in range(alive.dim())]


def _square(fates: Fates, ids: Tensor) -> bool:
    """Only whole lines can be cut: an element whose lines all stay stays with them."""
    if ids.dim() == 0:
        return fates.keep(ids, TIED)
    alive = fates.alive(ids)
    if bool(alive.all()):
        return False
    if not bool(alive.any()):
        return fates.keep(ids.flatten()[:1], LAST)
    hull = torch.ones_like(alive)
    for axis, kept in enumerate(lines(fates, ids)):
        shape = [1] * ids.dim()
        shape[axis] = -1
        hull &= kept.reshape(shape)
    return fates.keep(ids[hull & ~alive], SHAPE)


def _not_empty(fates: Fates, ids: Tensor) -> bool:
    return False if bool(fates.alive(ids).any()) else fates.keep(ids[:1], LAST)


def _rounded(fates: Fates, ids: Tensor, multiple: int) -> bool:
    """Bring back the first few, until the width is a multiple (or as it was)."""
    alive = fates.alive(ids)
    missing = min(-int(alive.sum()) % multiple, int((~alive).sum()))
    return fates.keep(ids[~alive][:missing], ROUNDED) if missing else False
