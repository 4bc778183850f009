"""L4: which classes can go, and why the others stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from actprune.compact.own import Code
from actprune.structure import PINNED, Analysis, Reader, Solved, Value

NO_CONSTANT = "what it sends on varies, or is not the same at every position"
PADDED = "it sends a constant through zero padding or groups, which no bias can replace"
NO_BIAS = "the bias of its reader cannot take its constant"
SHAPE = "it is added to, or shares an axis with, what has to stay"
TIED = "it is the input or output of the network, or goes through an operation that mixes channels"
MIXED = "a normalisation over channels takes it in, and it is not zero there"
FIXED = "a size in the model's own code needs it, and that cannot be rewritten"
LAST = "a layer must keep one"
ROUNDED = "widths are rounded up"


@dataclass(eq=False)
class Fates:
    """For every class, by its root: whether it goes, and a reason where it stays."""

    found: Analysis
    solved: Solved
    gone: Tensor
    reasons: dict[int, str] = field(default_factory=dict)

    def alive(self, labels: Tensor) -> Tensor:
        """Bool, of the shape of ``labels``."""
        return ~self.gone[self.solved.roots[labels]]

    def keep(self, labels: Tensor, why: str) -> bool:
        """Classes of ``labels`` stay after all. True when any of them was about to go."""
        back = torch.unique(self.solved.roots[labels])
        back = back[self.gone[back]]
        self.gone[back] = False
        for root in back.tolist():
            self.reasons.setdefault(root, why)
        return len(back) > 0

    def why(self, member: int) -> str:
        """Why a class stays."""
        root = int(self.solved.roots[member])
        return self.reasons.get(root, TIED if root == PINNED else SHAPE)

    def lines(self, value: Value) -> list[Tensor | None]:
        """For each axis of a value: which indices stay; None: all."""
        kept: list[Tensor | None] = [None] * len(value.shape)
        for labels in value.labels:
            alive = self.alive(labels)
            if bool(alive.all()):
                continue
            for axis, length in enumerate(alive.shape):
                if length > 1:
                    line = alive.movedim(axis, 0).flatten(1).any(1) if alive.dim() > 1 else alive
                    known = kept[axis]
                    kept[axis] = line if known is None else known & line
        return [None if line is None or bool(line.all()) else line for line in kept]

    def shape(self, value: Value) -> tuple[int, ...]:
        """The value's shape once what goes is gone."""
        lines = self.lines(value)
        return tuple(
            length if line is None else int(line.sum()) for length, line in zip(value.shape, lines, strict=True)
        )


def decide(
    found: Analysis,
    solved: Solved,
    tensors: Mapping[str, Tensor],
    code: Code,
    *,
    folds: bool = True,
    exact: bool = True,
) -> Fates:
    """A class goes when every column that reads it is zero, or gets a constant that its bias can take."""
    gone = torch.zeros(len(solved.roots), dtype=torch.bool)
    held = [labels for axes in found.axes.values() for labels in axes if labels is not None]
    if held:
        gone[solved.roots[torch.cat(held)]] = True
    gone[PINNED] = False
    fates = Fates(found, solved, gone)
    for reader in found.readers:
        _judge(fates, reader, tensors, code, folds)
    for mixing in found.mixings if exact else ():
        _judge_mixing(fates, mixing.labels, mixing.constant)
    return fates


def _judge_mixing(fates: Fates, labels: Tensor, constant: Tensor | None) -> None:
    """What a normalisation over channels takes in must be zero."""
    zero = torch.zeros(len(labels), dtype=torch.bool) if constant is None else (constant == 0).expand(len(labels))
    fates.keep(labels[~zero], MIXED)


def used(weight: Tensor, axis: int) -> Tensor:
    """Bool ``(n,)``: which indices of an axis have a weight that is not zero."""
    others = [each for each in range(weight.dim()) if each != axis]
    return (weight.any(others) if others else weight != 0).cpu()


def _judge(fates: Fates, reader: Reader, tensors: Mapping[str, Tensor], code: Code, folds: bool) -> None:
    """Keep the classes that this reader cannot do without."""
    columns = reader.columns
    live = torch.ones(len(columns), dtype=torch.bool)
    if reader.weight is not None:
        live = used(tensors[reader.weight], reader.axis)
    if reader.bare and not code.leaves_inputs_out(reader.weight):
        fates.keep(columns, TIED)
    constant = constants(reader)
    fates.keep(columns[live & constant.isnan()], NO_CONSTANT)
    sent = live & ~constant.isnan() & (constant != 0)
    if reader.only_zero:
        fates.keep(columns[sent], PADDED)
    elif bool(sent.any()) and not (folds and _takes(fates, reader, sent, tensors, code)):
        fates.keep(columns[sent], NO_BIAS)


def constants(reader: Reader) -> Tensor:
    """What arrives at each column, NaN where that varies."""
    if reader.constant is None:
        return torch.full((len(reader.columns),), torch.nan, dtype=torch.float64)
    return reader.constant.expand(len(reader.columns))


def bias_of(reader: Reader) -> str:
    """The name of the bias that goes with a reader's weight."""
    assert reader.weight is not None
    head, _, leaf = reader.weight.rpartition(".")
    name = leaf.replace("weight", "bias")
    return f"{head}.{name}" if head else name


def _takes(fates: Fates, reader: Reader, sent: Tensor, tensors: Mapping[str, Tensor], code: Code) -> bool:
    """Whether its bias can take these constants; a bias of several readers must be sent the same by all of them."""
    if reader.weight is None or "weight" not in reader.weight.rpartition(".")[2]:
        return False
    name = bias_of(reader)
    if name in fates.found.axes:
        if not code.owns_bias(reader.module, reader.weight, name):
            return False
    elif not code.takes_bias(tensors, reader.weight):
        return False
    others = [other for other in fates.found.readers if other.weight == reader.weight]
    shared = [slot for slot, stored in fates.found.record.names.items() if stored == name]
    reads = [node for node in fates.found.record.nodes if any(slot in shared for slot in node.slots())]
    if len(reads) > len(others):  # it is also that of a layer that reads every channel for itself
        return False
    return all(torch.equal(constants(other)[sent], constants(reader)[sent]) for other in others)


def settle(fates: Fates, round_to: int) -> None:
    """Bring classes back until no axis is empty and widths are rounded."""
    axes = {name: [labels for labels in found if labels is not None] for name, found in fates.found.axes.items()}
    arrays = _distinct([labels for value in fates.found.values.values() for labels in value.labels])
    changed = True
    while changed:
        changed = any([_not_empty(fates, labels) for labels in arrays])  # noqa: C419  (each must be looked at)
        for name, labels in ((name, labels) for name, found in axes.items() for labels in found):
            changed |= _not_empty(fates, labels)
            if round_to > 1 and fates.found.tensors[name].dim() > 1:
                changed |= _rounded(fates, labels, round_to)


def _distinct(arrays: list[Tensor]) -> list[Tensor]:
    """Each array once."""
    return list({(array.data_ptr(), tuple(array.shape), array.stride()): array for array in arrays}.values())


def _not_empty(fates: Fates, labels: Tensor) -> bool:
    """Along every axis of a label array one index stays."""
    alive = fates.alive(labels)
    if bool(alive.any()):
        return False
    return fates.keep(labels.reshape(-1)[:1], LAST)


def _rounded(fates: Fates, labels: Tensor, multiple: int) -> bool:
    """Bring back the first few, until the width is a multiple (or as it was)."""
    alive = fates.alive(labels)
    missing = min(-int(alive.sum()) % multiple, int((~alive).sum()))
    return fates.keep(labels[~alive][:missing], ROUNDED) if missing else False
