"""L2: ``Ranked``, the standard method: score every weight, let units compete, remove the lowest within a budget.

    for each of ``rounds``                              (one, as a rule)
        score(layer)        by ``criterion``, from weight and evidence
        units compete       within ``scope``, as ``allocation`` shares the budget out
        the lowest go       exactly as many as the quota says
    grow, if asked for      drop a share more, and bring as many back by a second ranking over the pruned ones

An asked fraction becomes the integer ``round_half_up(fraction * total)`` of weights or FLOP; that many go, exactly (or,
where one unit costs several, until that many have gone). Equal scores go in the order of seeded tie keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from actprune.coupled import Channel, GroupScores, Members, Score, choose
from actprune.edit import Edit, Masks, Method, Quota, View, price
from actprune.errors import RecipeError, one_of
from actprune.evidence import Gradient
from actprune.rank.allocate import round_half_up
from actprune.rank.candidates import UnitScores
from actprune.rank.rows import require_multiple
from actprune.rank.selection import Rules, Selection
from actprune.rank.threshold import Scored, lowest
from actprune.rank.units import Neuron, Weight
from actprune.scopes import ALLOCATIONS, NM, SCOPES, Allocation, Densities, Scope
from actprune.structure import Slices
from actprune.types import Criterion, Evidence, Layer, Progress, Unit


@dataclass(frozen=True)
class Grow:
    """A second ranking, over what is pruned: the best of it come back, as many as are dropped for them, per layer.

    At a pruning step after the first a layer drops ``share`` of its kept weights (the lowest by the method's
    criterion) and grows as many of those that were pruned before (the highest by ``criterion``), starting from 0.

    share  of the kept weights of each layer, 0..1
    until  optimizer steps over which the share falls to 0 like half a cosine (RigL); None: it stays (SET)
    """

    criterion: Criterion
    share: float = 0.3
    until: int | None = None

    def __post_init__(self) -> None:
        Method._must("grow", self.criterion, Criterion, "Grow(criteria.GradientMagnitude())")
        if not 0 <= self.share < 1 or (self.until is not None and self.until < 1):
            raise RecipeError(f"{self}: expected a share 0 <= share < 1, and until of at least one optimizer step")

    def share_at(self, progress: Progress) -> float:
        """``share / 2 * (1 + cos(pi * step / until))``; 0 from ``until`` on."""
        if self.until is None:
            return self.share
        return self.share / 2 * (1 + math.cos(math.pi * min(progress.step, self.until) / self.until))


@dataclass(frozen=True, kw_only=True)
class Ranked(Method):
    """Independent slots, comparable, printable (``eval(repr(r)) == r``), serialisable. Others: see ``Method``.

    criterion      layer -> score of every weight, larger = keep
    unit           what is removed as one piece
    scope          where units compete: "row", "layer", "global" or NM(n, m)
    allocation     how layers share the budget: "uniform", "erk", "staged", Rates(..) or an object with ``densities``;
                   of no meaning to scope "global", where they compete
    monotone       what is pruned stays pruned; False: every pruning step chooses anew among all weights
    keep_at_least  units per layer that never go, so that no layer is emptied
    rounds         the quota is approached in so many rounds within one pruning step, each removing the same share of
                   what is left, evidence collected again behind the one before (SynFlow)
    grow           a second ranking over what is pruned (RigL, SET)
    first          the criterion of the first pruning step, if another: a network that starts sparse (Random)
    """

    criterion: Criterion
    unit: Unit = Weight()  # noqa: RUF009  (frozen)
    scope: Scope = "global"
    allocation: Allocation = "uniform"
    monotone: bool = True
    keep_at_least: int = 1
    rounds: int = 1
    grow: Grow | None = None
    first: Criterion | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._must("criterion", self.criterion, Criterion, "criteria.Magnitude()")
        self._must("unit", self.unit, Unit, "Weight(), Neuron() or Block(1, 4)")
        if not isinstance(self.scope, NM):
            one_of("scope", self.scope, SCOPES)
        if isinstance(self.allocation, str) or not isinstance(self.allocation, Densities):
            one_of("allocation", self.allocation, ALLOCATIONS)
        for slot, least in (("keep_at_least", 0), ("rounds", 1)):
            value = getattr(self, slot)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise RecipeError(f"{slot}={value!r} cannot be used; expected a whole number of at least {least}")
        if self.grow is not None:
            self._must("grow", self.grow, Grow, "Grow(criteria.GradientMagnitude())")
        if self.first is not None:
            self._must("first", self.first, Criterion, "criteria.Random()")
        _refuse_misfits(self)

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """What the criteria and a fitted allocation need, each once."""
        parts = [self.criterion, *([self.grow.criterion] if self.grow else []), *([self.first] if self.first else [])]
        needs = [need for part in parts for need in part.needs] + list(getattr(self.allocation, "needs", ()))
        return tuple(dict.fromkeys(needs))

    def needed(self, progress: Progress) -> tuple[Evidence, ...]:
        """At the first pruning step what ``first`` needs; growth begins with the second."""
        if progress.pruning_step == 0 and self.first is not None:
            return self.first.needs
        return self.evidence

    @property
    def collects_again(self) -> bool:
        """With several rounds."""
        return self.rounds > 1

    def edit(self, view: View, quota: Quota) -> Edit:
        """Masks; with ``grow`` also what grew."""
        _check_layers(self, view)
        if isinstance(self.unit, Channel):
            return self._coupled(view, quota, self.unit)
        first = self.first is not None and view.progress.pruning_step == 0
        criterion = fitted(self.first if first and self.first else self.criterion, view)
        for done in range(1, self.rounds):
            share = 1 - (1 - quota.fraction) ** (done / self.rounds)
            masks = self._masks(view, criterion, Quota(share, quota.budget))
            view = _behind(view, masks)
            criterion = fitted(self.criterion, view)
        if self.grow is None or view.progress.pruning_step == 0:
            return Edit(self._masks(view, criterion, quota))
        return self._exchange(view, self._masks(view, criterion, quota), criterion, self.grow)

    @property
    def spans(self) -> bool:
        """Whether its units span layers, so that other parameters than the layers' weights have masks as well."""
        return isinstance(self.unit, Channel)

    @property
    def members(self) -> Members:
        """Which members of a coupled group are scored: as the unit says, else as the criterion does."""
        asked = self.unit.members if isinstance(self.unit, Channel) else None
        return asked or _members(self.criterion)[0]

    @property
    def scores_readers(self) -> bool:
        """Whether layers that read a unit help to score it, also those that are left alone themselves."""
        return self.spans and self.members != "outputs"

    def _coupled(self, view: View, quota: Quota, unit: Channel) -> Edit:
        """Coupled groups, scored by their members."""
        criterion = fitted(self.criterion, view)
        score: Score = GroupScores(unit, lambda slices: self._lines(view, criterion, slices), self.members)
        if (drawn := getattr(criterion, "of_groups", None)) is not None:
            score = lambda bundle: drawn(bundle.name, len(bundle), self.seed, view.progress).double()  # noqa: E731
        chosen = choose(
            unit, view.coupling, score, view.source.masks(), quota.budget, quota.fraction,
            scope="global" if self.scope == "global" else "layer", keep_at_least=self.keep_at_least,
            seed=self.seed,
        )  # fmt: skip
        blank = {facts.name: view.coupling.blank(facts.name) for facts in view.facts if facts.name not in chosen.masks}
        return Edit({**blank, **chosen.masks}, actual=chosen.actual, notes=chosen.notes)

    def _lines(self, view: View, criterion: Criterion, slices: Slices) -> Tensor | None:
        """Scores along the axis of some slices; None: there is no evidence of them."""
        of_scales = getattr(criterion, "reads_scales", False)
        if slices.scale or of_scales:
            layer = Layer(slices.name, view.tensor(slices.name), seed=self.seed, progress=view.progress)
            return criterion.score(layer) if slices.scale and of_scales else None
        if criterion.needs:
            known = slices.name in (view.scored if slices.reads else view.names)
            return line_scores(criterion, view.layer(slices.name), slices.axis) if known else None
        if slices.name in view.names:
            return line_scores(criterion, view.layer(slices.name), slices.axis)
        weight = view.tensor(slices.name)
        if weight.dim() < 2:
            return None
        return line_scores(criterion, Layer(slices.name, weight, seed=self.seed, progress=view.progress), slices.axis)

    def _masks(self, view: View, criterion: Criterion, quota: Quota) -> Masks:
        """The masks that the ranking chooses; what is dead under them is still there, but counted if it counts."""
        if not (self.monotone or self.grow):
            view = view.without_masks()
        scores = UnitScores(lambda name: criterion.score(view.layer(name)))
        rules = Rules(
            quota.budget, self.scope, fitted(self.allocation, view), self.keep_at_least, self.allow_collapse, self.seed
        )
        candidates = self.unit.groups(view, lambda facts: price(quota.budget, facts))
        selection = Selection(rules, candidates, scores, view.progress.pruning_step)
        others = view.others.flop if quota.budget.kind == "flop" else view.others.weights
        target = selection.target(self._on_top(view, quota), others if quota.budget.of == "all" else 0)
        inside = all(repair.in_budget for repair in self.closing) and quota.budget.kind != "threshold"
        graph = view.graph
        if self.closing and inside and graph is not None and not isinstance(self.scope, NM):

            def closure(masks: Masks) -> Masks:
                for repair in self.closing:
                    masks = repair.closes(graph, masks)
                return masks

            return _with_dead_inside(selection, target, closure)
        return selection.masks(target)

    def _on_top(self, view: View, quota: Quota) -> float:
        """The fraction to select for. Dead weights outside the budget do not use it up: what was asked goes on top of
        them, until nothing is left. A budget per layer has no such top: there a dead weight counts in its layer.
        """
        outside = any(not repair.in_budget for repair in self.closing)
        if not outside or self.scope != "global":
            return quota.fraction
        mine = sum(math.prod(facts.shape) * price(quota.budget, facts) for facts in view.facts)
        flop = quota.budget.kind == "flop"
        others = (view.others.flop if flop else view.others.weights) if quota.budget.of == "all" else 0
        return min(quota.fraction + view.dead / (mine + others), mine / (mine + others))

    def _exchange(self, view: View, masks: Masks, criterion: Criterion, grow: Grow) -> Edit:
        """Drop a share more of every layer, and grow as many."""
        share, second = grow.share_at(view.progress), fitted(grow.criterion, view)
        after: Masks = {}
        born: Masks = {}
        for facts in view.facts:
            name, mask = facts.name, masks[facts.name]
            layer = view.layer(name)
            before = torch.ones_like(mask) if facts.mask is None else facts.mask.to(mask.device)
            dead = ~before
            count = min(round_half_up(share * int(mask.sum())), int(dead.sum()))
            dropped = _lowest(name, criterion.score(layer), mask, count, self.seed)
            grown = _lowest(name, -second.score(layer).double(), dead, count, self.seed)
            born[name] = grown.to(mask.device)
            after[name] = (mask & ~dropped.to(mask.device)) | born[name]
        return Edit(after, born=born)


_NEAR = 1 << 20
"""So close together selections are looked up among the units between them, in order."""


def fitted(part: Any, view: View) -> Any:
    """A criterion or an allocation that must see all layers first, having seen them."""
    return part.fit(view) if hasattr(part, "fit") else part


def line_scores(criterion: Criterion, layer: Layer, axis: int) -> Tensor:
    """Scores of the lines of a weight along an axis, ``(length,)``: rows (0), columns (1).

    As the criterion says in ``lines(layer, axis)``, if it does; else the mean of the line's weights.
    """
    if hasattr(criterion, "lines"):
        found: Tensor = criterion.lines(layer, axis)
        return found
    if criterion.needs:
        return Neuron().scores(criterion.score(layer).detach().movedim(axis, 0).contiguous())
    mask = None if layer.mask is None else layer.mask.movedim(axis, 0)
    moved = replace(layer, weight=layer.weight.movedim(axis, 0), mask=mask)
    return Neuron().scores(criterion.score(moved).detach().contiguous())


def _lowest(name: str, scores: Tensor, competing: Tensor, count: int, seed: int) -> Tensor:
    """Bool: the ``count`` lowest of those that compete."""
    scores = scores.contiguous()
    alive = competing.to(scores.device).contiguous()
    return lowest(lambda: [Scored(name, scores, 1, alive)], count, seed).removed[name]


def _behind(view: View, masks: Masks) -> View:
    """The view behind these masks, which are its own from then on."""
    weights = {name: view.layer(name).weight * mask for name, mask in masks.items()}
    facts = tuple(replace(each, mask=masks[each.name]) for each in view.facts)
    return replace(view.behind(weights), facts=facts)


def _with_dead_inside(selection: Selection, target: int, closure: Callable[[Masks], Masks]) -> Masks:
    """The masks of the smallest selection that, with what is dead removed as well, reaches ``target``.

    The closure only removes more, so what is removed in all grows with the selection and bisection finds the place.
    """
    low, high, due = 0, target, selection.due(target)
    select: Callable[[int], Masks] = selection.masks
    best = select(high)
    if selection.removed(closure(best)) <= due:
        return best
    while low < high:
        if high - low <= _NEAR and select == selection.masks:
            select = selection.between(low, high)
        middle = (low + high) // 2
        masks = select(middle)
        if selection.removed(closure(masks)) >= due:
            high, best = middle, masks
        else:
            low = middle + 1
    return best


def _members(criterion: Criterion) -> tuple[Members, ...]:
    """Members of a coupled group of which a criterion says something, the best first."""
    found: tuple[Members, ...] = getattr(criterion, "members", ("all", "outputs", "inputs"))
    return ("outputs",) if getattr(criterion, "reads_scales", False) else found


_COUPLED_BUDGETS = ("channels", "bytes")


def _refuse_coupled_misfits(recipe: Ranked) -> None:
    """Slots that a unit which spans layers cannot be combined with, and budgets that need one."""
    if not recipe.spans:
        if getattr(recipe.criterion, "reads_scales", False):
            raise RecipeError(
                f"{type(recipe.criterion).__name__} scores the scales of norms, which belong to no weight; use "
                f"unit=Channel(), found unit={recipe.unit!r}"
            )
        if recipe.budget.kind in _COUPLED_BUDGETS:
            raise RecipeError(
                f"Budget.{recipe.budget.kind} counts what is really removed, which single weights and neurons are not; "
                "use unit=Channel() or Head(), or Budget.sparsity"
            )
        return
    name = type(recipe.unit).__name__
    if recipe.members not in (known := _members(recipe.criterion)):
        raise RecipeError(
            f"{type(recipe.criterion).__name__} says nothing of the members that {name}(members={recipe.members!r}) "
            f"asks for; use members={known[0]!r}, or leave it out"
        )
    if recipe.scope not in ("global", "layer") or recipe.allocation != "uniform":
        raise RecipeError(
            f"unit={name}() ranks groups over all bundles (scope='global') or within each (scope='layer'), with "
            f"allocation='uniform'; found scope={recipe.scope!r}, allocation={recipe.allocation!r}"
        )
    if recipe.budget.kind == "threshold":
        raise RecipeError(f"unit={name}() needs a budget; found a threshold; use Budget.channels(0.5)")
    if recipe.keep_at_least < 1 or recipe.allow_collapse:
        raise RecipeError(
            f"unit={name}() always leaves one group of each bundle; keep_at_least={recipe.keep_at_least} and "
            f"allow_collapse={recipe.allow_collapse!r} would have no effect: use keep_at_least=1 or more, and leave "
            "allow_collapse= out"
        )
    odd = {
        "rounds": recipe.rounds > 1,
        "grow": recipe.grow is not None,
        "first": recipe.first is not None,
        "regrow": recipe.regrow != "frozen",
        "remove_dead": bool(recipe.closing),
        "monotone": not recipe.monotone,
    }
    if found := [slot for slot, present in odd.items() if present]:
        raise RecipeError(
            f"unit={name}() takes whole groups out, and nothing of them is left to {', '.join(found)}; leave "
            "these out (remove_dead=False, regrow='frozen')"
        )


def _refuse_misfits(recipe: Ranked) -> None:
    """Slots that contradict one another, or would have no effect."""
    _refuse_coupled_misfits(recipe)
    if recipe.scope == "row" and not isinstance(recipe.unit, Weight):
        raise RecipeError(
            f"scope 'row' ranks weights within a row, but the unit is {recipe.unit!r}; use scope 'layer' or 'global'"
        )
    if isinstance(recipe.scope, NM) and not isinstance(recipe.unit, Weight):
        raise RecipeError(f"scope {recipe.scope!r} ranks single weights, but the unit is {recipe.unit!r}; use Weight()")
    if recipe.allocation != "uniform" and recipe.scope not in ("layer", "row"):
        raise RecipeError(
            f"allocation={recipe.allocation!r} would have no effect: with scope={recipe.scope!r} no budget is shared "
            "out among layers; use scope='layer' or 'row', or leave allocation= out"
        )
    if recipe.budget.kind == "threshold" and isinstance(recipe.scope, NM):
        raise RecipeError("an n:m scope fixes the sparsity, so no threshold can; use Budget.sparsity or another scope")
    if recipe.budget.kind == "threshold" and recipe.rounds > 1:
        raise RecipeError(
            "rounds approach a sparsity, which a threshold does not have; use rounds=1 or Budget.sparsity"
        )
    if recipe.closing and recipe.regrow.startswith("dense"):
        raise RecipeError(
            f"remove_dead folds what dead neurons send into the next bias for good, but with regrow={recipe.regrow!r} "
            "they may return; use regrow='frozen', or leave what is dead to compact()"
        )
    single = isinstance(recipe.unit, Weight) and not isinstance(recipe.scope, NM) and recipe.regrow == "frozen"
    if recipe.grow is not None and (recipe.closing or not single):
        raise RecipeError(
            "grow brings single weights back, starting from 0: it goes with unit=Weight(), regrow='frozen', a "
            f"scope that is no n:m pattern, and without remove_dead; found unit={recipe.unit!r}, "
            f"scope={recipe.scope!r}, regrow={recipe.regrow!r}, repairs={recipe.repairs!r}"
        )
    needs = [need for need in recipe.evidence if isinstance(need, Gradient) and need.of is None]
    if recipe.rounds > 1 and needs:
        raise RecipeError(
            f"rounds={recipe.rounds} collects evidence again within one pruning step, but the gradient of the training "
            "loss is your loop's; give the criterion an objective, Saliency(of=...), or use rounds=1"
        )


def _check_layers(recipe: Ranked, view: View) -> None:
    """Raise RecipeError where scope or masks do not fit the layers."""
    for facts in view.facts:
        if isinstance(recipe.scope, NM):
            require_multiple(recipe.scope, facts.name, facts.shape)
        if facts.mask is not None and tuple(facts.mask.shape) != facts.shape:
            raise RecipeError(f"mask of {facts.name!r} has shape {tuple(facts.mask.shape)}; expected {facts.shape}")
