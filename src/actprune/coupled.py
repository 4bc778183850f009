"""L2: units that span layers: coupled channels and attention heads, scored once, removed as one.

    score(group)   each layer that makes the group's outputs scores its rows, each that reads them its columns (a
                   criterion without evidence also those of transposed convolutions, embeddings, recurrent cells); lines
                   of one layer are averaged, and divided by the layer's mean, so that layers count alike; several
                   layers are reduced to one score
    rank           all groups by score (scope "global"), or by their place within their bundle (scope "layer")
    remove         the lowest, as many as the budget asks for, which counts what is really gone: parameters, FLOP, bytes
                   of the compacted network, or channels
    mask           every slice of the group: rows, columns, biases, scales of norms

What the group's slices are is found by ``structure``. Source of the noun: Fang et al., DepGraph: Towards Any Structural
Pruning, CVPR 2023 (a group is scored by its members and removed as one). Deviation: a group is all that has to be zero
for the removal to be exact, norms included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor

from actprune.errors import BudgetError, ModelError, RecipeError, one_of
from actprune.rank.ties import unit_keys
from actprune.structure import Bundle, Costs, Size, Slices
from actprune.types import Budget, LayerFacts

Reduce = Literal["mean", "sum", "max"]
Members = Literal["outputs", "inputs", "all"]
Masks = dict[str, Tensor]
Score = Callable[[Bundle], Tensor | None]


@dataclass(frozen=True)
class Channel:
    """Unit: all slices of all tensors that can only be removed together.

    Channels that meet in residual sums and concatenations, GLU pairs, attention heads, hidden units of an LSTM.

    members    which lines of weights score a group: "outputs", the rows that make it; "inputs", the columns that read
               it (its rows where no column can be scored); "all"; None: as the criterion says, "all" unless it does
    reduce     how the scores of several layers become the group's: "mean", "sum" or "max"
    normalize  scores of a layer are divided by their mean first, so that layers of other scales count alike
    round_to   widths that are left are multiples of this (or as they were)
    at_most    share of a bundle's groups that may go, 0..1: one number, or pairs of an fnmatch pattern of a weight's
               name and a number, of which the first that fits counts
    uniform    bundles that are alike but for the numbers in their names (the same place in every block) lose equally
               many groups, so that one number in a configuration can say how wide they are
    whole_groups  grouped convolutions lose whole groups, and not the same channel of every group
    """

    members: Members | None = None
    reduce: Reduce = "max"
    normalize: bool = True
    round_to: int = 1
    at_most: float | tuple[tuple[str, float], ...] = 1.0
    uniform: bool = False
    whole_groups: bool = False

    kinds: ClassVar[tuple[str, ...]] = ("channel", "head")
    """Which bundles of the structure compete."""

    def groups(self, view: Any, price: Callable[[LayerFacts], int]) -> Sequence[Any]:
        """The bundles that compete."""
        return [bundle for bundle in view.coupling.bundles if bundle.kind in self.kinds]

    def __post_init__(self) -> None:
        if self.members is not None:
            one_of("members", self.members, get_args(Members))
        one_of("reduce", self.reduce, get_args(Reduce))
        if isinstance(self.round_to, bool) or not isinstance(self.round_to, int) or self.round_to < 1:
            raise RecipeError(f"round_to={self.round_to!r}: use a whole number, round_to >= 1")
        shares = [self.at_most] if isinstance(self.at_most, (int, float)) else [share for _, share in self.at_most]
        if not all(0 <= share <= 1 for share in shares):
            raise RecipeError(f"at_most={self.at_most!r}: expected a share 0..1 of the groups that may go")


@dataclass(frozen=True)
class Head(Channel):
    """Unit: one head of an attention, with its rows of query, key and value and its columns of the output (heads that
    share keys and values go with them).
    """

    kinds: ClassVar[tuple[str, ...]] = ("head",)


class Coupling(Protocol):
    """What the structure says: bundles, costs, shapes of every parameter that they hold."""

    @property
    def bundles(self) -> Sequence[Bundle]:
        """Those that may be pruned."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What stays, and why."""
        ...

    @property
    def costs(self) -> Costs:
        """Sizes of the network without some of them."""
        ...

    def blank(self, name: str) -> Tensor:
        """A mask of a parameter, all True."""
        ...


@dataclass(frozen=True, eq=False)
class Chosen:
    """Masks of every parameter that holds a slice; target and actual in the budget's terms; notes for the report."""

    masks: Masks
    actual: float
    notes: tuple[str, ...]


@dataclass(eq=False)
class _Ranking:
    """One bundle: unit scores, those that are gone already, and how many may go in all."""

    bundle: Bundle
    scores: Tensor
    gone: Tensor
    most: int
    order: Tensor = field(init=False)  # groups from the lowest, those that are gone first

    def __post_init__(self) -> None:
        self.order = torch.empty(0, dtype=torch.int64)


def choose(  # noqa: PLR0917  (what is ranked, by what, how much)
    unit: Channel,
    coupling: Coupling,
    score: Score,
    before: Mapping[str, Tensor],
    budget: Budget,
    fraction: float,
    *,
    scope: str,
    keep_at_least: int,
    seed: int,
) -> Chosen:
    """The groups that go, as masks.

    score     one score per group of a bundle, float64; None: no evidence
    before    masks so far: what they have removed stays removed
    fraction  to be removed in all, in the budget's terms

    Raises BudgetError when so much cannot be removed, ModelError when there is nothing to remove.
    """
    wanted = [bundle for bundle in coupling.bundles if bundle.kind in unit.kinds]
    if not wanted:
        raise ModelError(
            f"unit={type(unit).__name__}() finds nothing that could be removed; "
            + ("; ".join(coupling.notes) or "the model has none")
        )
    rankings, notes = [], list(coupling.notes)
    for bundle in wanted:
        scores = score(bundle)
        if scores is None:
            notes.append(f"{bundle.name} and what goes with it stay: the criterion has no evidence of them")
            continue
        gone = _gone(bundle, before)
        share = _at_most(unit, bundle)
        most = min(len(bundle) - keep_at_least, int(share * len(bundle)))
        rankings.append(_Ranking(bundle, scores, gone, max(most, int(gone.sum()))))
    if not rankings:
        raise ModelError(f"nothing can be scored, so nothing is removed; {'; '.join(notes)}")
    order = _order(_families(unit, rankings), rankings, scope, seed)
    count, actual = _met(unit, rankings, order, coupling.costs, budget, fraction)
    removed = _removed(unit, rankings, order, count)
    return Chosen(_masks(coupling, rankings, removed, before), actual, tuple(notes))


# ---- scores ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class GroupScores:
    """Scores of a bundle's groups: each member's lines averaged, brought to a mean of 1, reduced to one number.

    lines    the criterion's scores of a parameter along the axis of some slices, ``(length,)``; None: no evidence
    members  which members count
    """

    unit: Channel
    lines: Callable[[Slices], Tensor | None]
    members: Members

    def __post_init__(self) -> None:
        self._known: dict[tuple[str, int], Tensor | None] = {}  # a residual stream's layers hold several bundles

    def __call__(self, bundle: Bundle) -> Tensor | None:
        """Float64, ``(groups,)``; None where the criterion can say nothing of them."""
        found = [] if self.members == "outputs" else self._of(bundle, reads=True)
        if self.members != "inputs" or not found:
            found = self._of(bundle, reads=False) + found
        if not found:
            return None
        every = torch.stack(found)
        if self.unit.reduce == "max":
            return every.amax(0)
        return every.sum(0) if self.unit.reduce == "sum" else every.mean(0)

    def _of(self, bundle: Bundle, reads: bool) -> list[Tensor]:
        """One score per group of each member on one side."""
        made = []
        for slices in bundle.slices:
            values = self._values(slices) if slices.reads == reads else None
            if values is None:
                continue
            total = torch.zeros(len(bundle), dtype=torch.float64).index_add_(0, slices.group, values[slices.index])
            made.append(total / torch.bincount(slices.group, minlength=len(bundle)).clamp(min=1))
        return made

    def _values(self, slices: Slices) -> Tensor | None:
        key = slices.name, slices.axis
        if key not in self._known:
            made = self.lines(slices)
            self._known[key] = None if made is None else self._normal(made.double().cpu())
        return self._known[key]

    def _normal(self, values: Tensor) -> Tensor:
        mean = float(values.mean())
        return values / mean if self.unit.normalize and mean != 0 else values


def _at_most(unit: Channel, bundle: Bundle) -> float:
    if isinstance(unit.at_most, (int, float)):
        return float(unit.at_most)
    names = [slices.name for slices in bundle.slices]
    return next((share for pattern, share in unit.at_most if any(fnmatchcase(n, pattern) for n in names)), 1.0)


def _gone(bundle: Bundle, before: Mapping[str, Tensor]) -> Tensor:
    """Groups of which masks have taken everything that makes their outputs already."""
    kept = torch.zeros(len(bundle), dtype=torch.int64)
    for slices in bundle.slices:
        if slices.reads:
            continue
        mask = before.get(slices.name)
        if mask is None:
            return torch.zeros(len(bundle), dtype=torch.bool)
        lines = mask.movedim(slices.axis, 0)
        alive = lines.reshape(len(lines), -1).any(1).cpu()[slices.index]
        kept.index_add_(0, slices.group, alive.long())
    return kept == 0


# ---- which go -------------------------------------------------------------------------------------------------------


def _families(unit: Channel, rankings: list[_Ranking]) -> list[list[int]]:
    """Places of the rankings that lose groups together: each for itself, unless widths are to be uniform."""
    if not unit.uniform:
        return [[number] for number in range(len(rankings))]
    found: dict[Any, list[int]] = {}
    for number, ranking in enumerate(rankings):
        bundle = ranking.bundle
        places = sorted((re.sub(r"\d+", "*", each.name), each.axis, len(each.index)) for each in bundle.slices)
        found.setdefault((bundle.kind, len(bundle), tuple(places)), []).append(number)
    return list(found.values())


@dataclass(frozen=True, eq=False)
class _Order:
    """The order in which groups go, int64: entry i is of family ``owner[i]``, and ``gone[i]`` groups of each of its
    rankings are gone with it.
    """

    families: list[list[int]]
    owner: Tensor
    gone: Tensor

    def __len__(self) -> int:
        return len(self.owner)

    def first(self, count: int) -> list[int]:
        """How many groups of each family's rankings are gone with the first ``count`` entries."""
        most = torch.zeros(len(self.families), dtype=torch.int64)
        return most.scatter_reduce_(0, self.owner[:count], self.gone[:count], "amax").tolist()


def _order(families: list[list[int]], rankings: list[_Ranking], scope: str, seed: int) -> _Order:
    """By score or by place, equal ones by a number drawn for each."""
    for ranking in rankings:
        ranking.order = _sorted(ranking, seed)
    values, keys, owners, places = [], [], [], []
    for number, family in enumerate(families):
        first = rankings[family[0]]
        already = min(int(rankings[each].gone.sum()) for each in family)
        place = torch.arange(already, max(already, min(rankings[each].most for each in family)))
        value = (place.double() + 0.5) / len(first.bundle)
        if scope == "global":
            value = torch.stack([rankings[each].scores[rankings[each].order[place]] for each in family]).mean(0)
        ties = unit_keys(first.bundle.name, len(first.bundle), seed, torch.device("cpu"))
        values.append(value)
        keys.append(ties[first.order[place]])
        owners.append(torch.full_like(place, number))
        places.append(place + 1)
    owner = torch.cat(owners)
    order = _by(owner, torch.cat(keys), torch.cat(values))
    return _Order(families, owner[order], torch.cat(places)[order])


def _by(*columns: Tensor) -> Tensor:
    """The order of rows by several columns, of which the last counts most."""
    order = torch.arange(len(columns[0]))
    for column in columns:
        order = order[torch.argsort(column[order], stable=True)]
    return order


def _sorted(ranking: _Ranking, seed: int) -> Tensor:
    """Groups from the lowest, those that are gone first; equal scores by a number drawn for each."""
    keys = unit_keys(ranking.bundle.name, len(ranking.bundle), seed, torch.device("cpu"))
    return _by(keys, ranking.scores, ~ranking.gone)


def _counts(unit: Channel, rankings: list[_Ranking], order: _Order, count: int) -> list[int]:
    """How many groups of each bundle go once ``count`` have gone in all; fewer where widths are rounded."""
    counts = [int(ranking.gone.sum()) for ranking in rankings]
    for family, gone in zip(order.families, order.first(count), strict=True):
        for number in family:
            counts[number] = max(counts[number], gone)
    if unit.round_to == 1:
        return counts
    return [_rounded(unit, ranking, asked) for ranking, asked in zip(rankings, counts, strict=True)]


def _rounded(unit: Channel, ranking: _Ranking, asked: int) -> int:
    """The most that may go so that what is left of every weight is a multiple (or nothing)."""
    widths = {len(slices.index) // len(ranking.bundle) for slices in ranking.bundle.slices if slices.axis == 0}
    least = int(ranking.gone.sum())
    for removed in range(asked, least, -1):
        if all((len(ranking.bundle) - removed) * width % unit.round_to == 0 for width in widths):
            return removed
    return least


def _removed(unit: Channel, rankings: list[_Ranking], order: _Order, count: int) -> list[Tensor]:
    """Bool by group, of every bundle."""
    found = []
    for ranking, number in zip(rankings, _counts(unit, rankings, order, count), strict=True):
        removed = torch.zeros(len(ranking.bundle), dtype=torch.bool)
        removed[ranking.order[:number]] = True
        found.append(removed)
    return found


def _met(  # noqa: PLR0917  (as ``choose``)
    unit: Channel,
    rankings: list[_Ranking],
    order: _Order,
    costs: Costs,
    budget: Budget,
    fraction: float,
) -> tuple[int, float]:
    """The fewest groups with which the budget is met, and what is removed then, in its terms."""
    total = sum(len(ranking.bundle) for ranking in rankings)
    whole = costs.size(costs.none())

    def share(count: int) -> float:
        removed = _removed(unit, rankings, order, count)
        if budget.kind == "channels":
            return sum(int(each.sum()) for each in removed) / total
        gone = costs.none()
        for ranking, each in zip(rankings, removed, strict=True):
            gone[ranking.bundle.roots[each]] = True
        return _share(budget, costs.size(gone), whole)

    low, high = 0, len(order)
    most = share(high)
    if most < fraction - 1e-12:
        raise BudgetError(
            f"asked to remove a fraction of {fraction:.6g} ({_WORDS[budget.kind]}); whole {_plural(unit)} can remove "
            f"at most {most:.6g}; ask for less, raise at_most=, lower keep_at_least= to 1, or prune more layers"
        )
    while low < high:
        middle = (low + high) // 2
        if share(middle) >= fraction - 1e-12:
            high = middle
        else:
            low = middle + 1
    return low, share(low)


def _plural(unit: Channel) -> str:
    return "heads" if isinstance(unit, Head) else "coupled channels"


_WORDS = {
    "sparsity": "of the compacted network's parameters", "compression": "of the compacted network's parameters",
    "parameters": "of the compacted network's parameters", "flop": "of its FLOP", "bytes": "of its bytes",
    "channels": "of the coupled channels",
}  # fmt: skip


def _share(budget: Budget, left: Size, whole: Size) -> float:
    """Removed fraction."""
    if budget.kind == "flop":
        return 1 - left.flop / max(whole.flop, 1)
    if budget.kind == "bytes":
        return 1 - left.bytes / max(whole.bytes, 1)
    return 1 - left.parameters / max(whole.parameters, 1)


# ---- masks ----------------------------------------------------------------------------------------------------------


def _masks(coupling: Coupling, rankings: list[_Ranking], removed: list[Tensor], before: Mapping[str, Tensor]) -> Masks:
    """Of every parameter that holds a slice of what goes, and of those that were masked before."""
    masks: Masks = {name: mask.clone() for name, mask in before.items()}
    for ranking, gone in zip(rankings, removed, strict=True):
        for slices in ranking.bundle.slices:
            index = slices.index[gone[slices.group]]
            if not len(index):
                continue
            if slices.name not in masks:
                masks[slices.name] = coupling.blank(slices.name)
            masks[slices.name].index_fill_(slices.axis, index.to(masks[slices.name].device), False)
    return masks
