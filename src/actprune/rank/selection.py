"""Scope, allocation and budget applied to candidates: cost to be removed -> masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from actprune.errors import BudgetError, RecipeError
from actprune.rank.allocate import allocate, round_half_up
from actprune.rank.between import Between
from actprune.rank.candidates import Candidates, Reader, UnitScores, removed_weights
from actprune.rank.rows import lowest_of_nm, lowest_of_rows, row_counts
from actprune.rank.threshold import lowest, refuse_nan
from actprune.rank.ties import unit_keys
from actprune.scopes import NM, Allocation, Scope
from actprune.types import Budget

Masks = dict[str, Tensor]
_NM_TOLERANCE = 1e-3  # "0.667" means the 2/3 of a 1:3 pattern


@dataclass(frozen=True)
class Rules:
    """How units compete.

    keep_at_least: units of every layer that stay whatever they score. allow_collapse: fnmatch patterns of weights to
    which that does not apply.
    """

    budget: Budget
    scope: Scope = "global"
    allocation: Allocation = "uniform"
    keep_at_least: int = 1
    allow_collapse: tuple[str, ...] = ()
    seed: int = 0

    def kept_of(self, name: str) -> int:
        """Units of one layer that stay."""
        return 0 if any(fnmatchcase(name, pattern) for pattern in self.allow_collapse) else self.keep_at_least


class Selection:
    """``target`` (cost removed in all) -> masks; everything else is fixed. pruning_step: for staged allocation."""

    def __init__(self, rules: Rules, candidates: Sequence[Candidates], scores: UnitScores, pruning_step: int) -> None:
        self.rules, self.candidates, self.scores, self.pruning_step = rules, list(candidates), scores, pruning_step
        self._spared = not rules.keep_at_least or isinstance(rules.scope, NM)
        self._counted = sum(each.total for each in candidates)

    def target(self, fraction: float, others: int) -> int:
        """The cost to be removed in all, what is removed already included; ``others``: cost of layers left alone that
        count. Raises BudgetError if that is more than may be removed, RecipeError if an n:m pattern removes another
        fraction.
        """
        total = sum(each.total for each in self.candidates)
        target = round_half_up(fraction * (total + others))
        if isinstance(self.rules.scope, NM):
            refuse_other_sparsity(self.rules.scope, fraction, total / (total + others))
            return target
        self._counted = total + others
        self._refuse_too_much(target)
        return target

    def masks(self, target: int) -> Masks:
        """New masks after which a cost of ``target`` is removed; the best ``keep_at_least`` units of everyone stay."""
        masks = self._masks(target)
        if self._spared or not self._emptied(masks):
            return masks
        # Taking the best out of the ranking changes nothing unless they would have gone, so it is done only then.
        self._spare()
        if self.rules.budget.kind != "threshold":
            self._refuse_too_much(target)
        return self._masks(target)

    def between(self, low: int, high: int) -> Callable[[int], Masks]:
        """``masks`` for targets from ``low`` to ``high``, faster where they lie close together.

        Ask for ``masks(high)`` first: it settles what is spared.
        """
        if self.rules.scope != "global":
            return self.masks
        gone = sum(each.gone for each in self.candidates)
        read, seed = Reader(self.candidates, self.scores), self.rules.seed
        least, most = (lowest(read, max(0, target - gone), seed) for target in (low, high))
        near = Between(read, least, most, seed)

        def masks(target: int) -> Masks:
            removed = near.lowest(max(0, target - gone))
            return {name: mask for each in self.candidates for name, mask in each.masks(removed[each.name]).items()}

        return masks

    def due(self, target: int) -> int:
        """What ``masks(target)`` removes by plan: ``target``, or less while staged layers wait for their turn."""
        return target if self.rules.scope == "global" else sum(self._budgets(target))

    def removed(self, masks: Masks) -> int:
        """Cost that the masks remove."""
        return sum(removed_weights(masks[each.name]) * each.price for each in self.candidates)

    def _masks(self, target: int) -> Masks:
        removed: dict[str, Tensor] = {}
        if isinstance(self.rules.scope, NM):
            for each in self.candidates:
                removed[each.name] = self._nm(self.rules.scope, each)
        elif self.rules.budget.kind == "threshold":
            removed = {each.name: self._below(each) for each in self.candidates}
        elif self.rules.scope == "global":
            need = target - sum(each.gone for each in self.candidates)
            removed = lowest(Reader(self.candidates, self.scores), need, self.rules.seed).removed if need > 0 else {}
        else:
            for each, budget in zip(self.candidates, self._budgets(target), strict=True):
                if budget > each.gone:
                    removed[each.name] = self._of_layer(each, budget)
        masks: Masks = {}
        for each in self.candidates:
            masks |= each.masks(removed.pop(each.name, None))
        return masks

    def _emptied(self, masks: Masks) -> bool:
        return any(each.kept_units(masks[each.name]) < self.rules.kept_of(each.name) for each in self.candidates)

    def _spare(self) -> None:
        if not self._spared:
            self.candidates = [self._sparing(each) for each in self.candidates]
            self._spared = True

    def _sparing(self, each: Candidates) -> Candidates:
        units = self.rules.kept_of(each.name)
        return each.sparing_best(units, self.scores(each), self.rules.seed) if units else each

    def _refuse_too_much(self, target: int) -> None:
        possible, counted = sum(each.removable for each in self.candidates), self._counted
        if target > possible:
            word = "FLOP" if self.rules.budget.kind == "flop" else "weights"
            only = ", or count only the prunable ones (of='prunable')" if self.rules.budget.of == "all" else ""
            raise BudgetError(
                f"asked to remove {target} of {counted} {word} (fraction {target / counted:.6g}); only {possible} may "
                f"be removed (fraction {possible / counted:.6g}, keep_at_least={self.rules.keep_at_least}); ask for "
                f"less, lower keep_at_least=, or prune more layers{only}"
            )

    def _below(self, each: Candidates) -> Tensor:
        """Units that compete and score less than the threshold."""
        scores = self.scores(each)
        refuse_nan(each.name, scores)
        below = scores < self.rules.budget.value
        return below if each.alive is None else below & each.alive.to(scores.device)

    def _budgets(self, target: int) -> list[int]:
        return allocate(self.rules.allocation, [each.share for each in self.candidates], target, self.pruning_step)

    def _of_layer(self, each: Candidates, budget: int) -> Tensor:
        scores = self.scores(each)
        if self.rules.scope == "layer":
            return lowest(lambda: [each.scored(scores)], budget - each.gone, self.rules.seed).removed[each.name]
        refuse_nan(each.name, scores)
        return self._rows(each, scores, -(-budget // each.price))

    def _rows(self, each: Candidates, scores: Tensor, weights: int) -> Tensor:
        rows, width = each.shape[0], math.prod(each.shape[1:])

        def per_row(chosen: Tensor | None, otherwise: int) -> Tensor:
            return torch.full((rows,), otherwise) if chosen is None else chosen.flatten(1).sum(1).cpu()

        gone = width - per_row(each.mask, width)
        most = gone + per_row(each.alive, width)
        keys = unit_keys(each.name, rows, self.rules.seed, gone.device)
        counts = row_counts(weights, gone, most, keys) - gone
        alive = None if each.alive is None else each.alive.to(scores.device)
        return lowest_of_rows(each.name, scores, alive, counts, self.rules.seed)

    def _nm(self, scope: NM, each: Candidates) -> Tensor:
        scores = self.scores(each)
        refuse_nan(each.name, scores)
        alive = None if each.alive is None else each.alive.to(scores.device)
        return lowest_of_nm(scope, each.name, scores, alive, self.rules.seed)


def refuse_other_sparsity(scope: NM, fraction: float, share: float) -> None:
    """Raise RecipeError. share: of the counted cost that lies in the layers to be pruned."""
    fixed = (1 - scope.n / scope.m) * share
    if abs(fraction - fixed) > _NM_TOLERANCE:
        raise RecipeError(
            f"the {scope.n}:{scope.m} pattern removes a fraction of {fixed:.6g}, no more and no less, but "
            f"{fraction:.6g} was asked for; set the budget to {fixed:.6g} and prune in one pruning step, or use "
            "another scope"
        )
