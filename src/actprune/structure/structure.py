"""L2: ``Structure``: the classes of a model as bundles that compete, and what each of them holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from actprune.graph import hooked
from actprune.structure import moves, norms, pointwise, products, reductions, windows
from actprune.structure.analysis import Analysis, Rule, analyse
from actprune.structure.classes import PINNED, Solved
from actprune.structure.exact import Norm, WidthNorm, norm_of
from actprune.structure.record import Record
from actprune.structure.recorder import record
from actprune.structure.values import Value, support
from actprune.structure.ways import on_other_ways, unreached

RULES: dict[str, Rule] = {
    **pointwise.RULES, **moves.RULES, **reductions.RULES, **products.RULES, **norms.RULES, **windows.RULES,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Slices:
    """Indices of one axis of one parameter or buffer, by coupled group: entry j belongs to group ``group[j]``.

    index  int64 ``(n,)``, positions along the axis; group  int64 ``(n,)``, 0 .. number of groups - 1
    reads  a product sums over this axis: the group goes in there, and comes out of the others
    scale  it is what a normalisation multiplies its channels by
    """

    name: str
    axis: int
    index: Tensor
    group: Tensor
    reads: bool = False
    scale: bool = False


@dataclass(frozen=True, eq=False)
class Bundle:
    """Coupled groups of one kind, which hold slices of the same tensors, and so compete with each other.

    Such are the channels of a residual stream, the heads of an attention.

    name    the first weight whose rows they hold
    roots   the class of each group, int64 ``(groups,)``
    slices  what they hold
    kind    "head" for heads of an attention, else "channel"
    """

    name: str
    roots: Tensor
    slices: tuple[Slices, ...]
    kind: str = "channel"

    def __len__(self) -> int:
        return len(self.roots)


class Structure:
    """What one eager forward shows of a model: bundles of coupled groups, why the rest stays, who reads whom.

    recorded      of its forward; None: it is followed on the example, and on other ways if some parameters are not read
    exact         norms over channels may be replaced by ones that divide by the width of before
    whole_groups  in the bundles, grouped convolutions lose whole groups, and not the same channel of every group
    """

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        recorded: Record | None = None,
        exact: bool = True,
        whole_groups: bool = False,
    ) -> None:
        self._exact, self._whole_groups = exact, whole_groups
        self.record = (
            on_other_ways(model, _recorded(model, args, kwargs), args, kwargs)[0] if recorded is None else recorded
        )
        self._replaced = {path: each.norm for path, each in model.named_modules() if isinstance(each, WidthNorm)}
        self.norms: dict[str, Norm | None] = {**self._replaced}
        self._model = model
        self.tensors = tensors_of(model)

    def analysis(
        self,
        tensors: Mapping[str, Tensor] | None = None,
        *,
        constants: bool = False,
        whole_groups: bool = False,
    ) -> Analysis:
        """A reading of the record; with ``constants`` what is constant under these tensors is followed, too."""
        values = self.tensors if tensors is None else tensors
        return analyse(
            self.record, values, RULES, constants=constants, norms=self._norm,
            replaced=self._replaced if self._exact else {}, whole_groups=whole_groups, rewrites=self._exact,
        )  # fmt: skip

    def _norm(self, path: str, value: Value) -> str | None:
        if not self._exact:
            return None
        if path not in self.norms:
            self.norms[path] = norm_of(self._model.get_submodule(path))
        found = self.norms[path]
        return None if found is None else found.kind

    @cached_property
    def whole(self) -> tuple[Analysis, Solved]:
        """The reading of the network as it is, in which no first layer loses inputs."""
        found = self.analysis(whole_groups=self._whole_groups)
        for reader in found.readers:
            if reader.bare:
                found.classes.pin(reader.columns, "it reads the model's input")
        return found, squared(found)

    @property
    def unreached(self) -> list[str]:
        """Parameters that no forward has read."""
        return sorted(unreached(self._model, self.record))

    def bundles(self) -> list[Bundle]:
        """Every coupled group that can go, in the order of the forward."""
        found, solved = self.whole
        heads = {root for labels in found.heads for root in solved.roots[labels].reshape(-1).tolist()}
        reading = {(reader.weight, reader.axis) for reader in found.readers}
        made = []
        for each in bundles(found, solved):
            slices = tuple(
                replace(one, reads=(one.name, one.axis) in reading, scale=one.name in found.scales)
                for one in each.slices
                if (one.name, one.axis) not in found.never_zero
            )
            made.append(replace(each, slices=slices, kind="head" if int(each.roots[0]) in heads else "channel"))
        return made


def _recorded(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Record:
    """Without the user's hooks, unless the model cannot do without them."""
    try:
        return record(model, args, kwargs)
    except Exception:
        if not hooked(model):
            raise
        return record(model, args, kwargs, hooks=True)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by their first names."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def squared(found: Analysis) -> Solved:
    """The classes, coupled further until only whole lines of every tensor can go: along its shorter axes."""
    solved = found.classes.solved()
    known: set[int] = set()
    again = True
    while again:
        again = False
        for array in found.wide:
            roots = solved.roots[array]
            if _lines(roots):
                continue
            key = id(array)
            if key in known:
                found.classes.pin(array, "it goes across the lines of a tensor")
            known.add(key)
            longest = max(support(array), key=lambda axis: array.shape[axis])
            first = array
            for axis in support(array) - {longest}:
                first = first.narrow(axis, 0, 1)
            found.classes.join(array, first)
            again = True
        if again:
            solved = found.classes.solved()
    return solved


def _lines(roots: Tensor) -> bool:
    """Whether the classes lie along one axis: a class takes whole lines."""
    if bool((roots == PINNED).all()):
        return True
    for axis in support(roots):
        lines = roots.movedim(axis, 0).flatten(1)
        if bool((lines == lines[:, :1]).all()):
            return True
    return False


def bundles(found: Analysis, solved: Solved) -> list[Bundle]:
    """Classes that hold slices of the same axes, in the order in which they come up first."""
    places: list[tuple[str, int]] = []
    rows: list[Tensor] = []
    for name, axes in found.axes.items():
        for axis, labels in enumerate(axes):
            if labels is None:
                continue
            roots = solved.roots[labels]
            free = roots != PINNED
            if bool(free.any()):
                index = torch.nonzero(free).flatten()
                rows.append(torch.stack([roots[free], torch.full_like(index, len(places)), index]))
                places.append((name, axis))
    if not rows:
        return []
    every = torch.cat(rows, 1)
    return _grouped(every, places)


def _grouped(every: Tensor, places: list[tuple[str, int]]) -> list[Bundle]:
    """every: ``(3, n)`` of class, place, index."""
    root, place, index = every
    keys, count = torch.unique(root * len(places) + place, return_counts=True)
    roots, number = torch.unique(keys // len(places), return_inverse=True)
    generator = torch.Generator().manual_seed(0)
    marks = torch.randint(-(2**62), 2**62, (len(places),), generator=generator)
    signature = torch.zeros(len(roots), dtype=torch.int64)  # equal where the same places are held as many times
    signature.index_add_(0, number, marks[keys % len(places)] * (2 * count + 1) + count)
    _, kind = torch.unique(signature, return_inverse=True)
    own = kind[torch.searchsorted(roots, root)]
    order = torch.argsort(own, stable=True)
    made: list[Bundle] = []
    for here in torch.split(order, torch.bincount(own).tolist()):
        mine, group = torch.unique(root[here], return_inverse=True)
        held = place[here]
        slices = [
            Slices(places[each][0], places[each][1], index[here][held == each], group[held == each])
            for each in torch.unique(held).tolist()
        ]
        made.append(Bundle(_title(slices), mine, tuple(slices)))
    return sorted(made, key=lambda bundle: int(bundle.roots[0]))


def _title(slices: list[Slices]) -> str:
    """The first weight whose rows it holds."""
    return next((each.name for each in slices if each.axis == 0), slices[0].name)
