"""A recipe's unit, scope and budget applied to layers that are ready to compete: cost to be removed -> masks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from actprune.errors import BudgetError, RecipeError
from actprune.rank.allocate import allocate, round_half_up
from actprune.rank.contest import Entry, Reader, Scores, removed_weights
from actprune.rank.exact import cut
from actprune.rank.field import refuse_nan
from actprune.rank.groups import lowest_of_nm, lowest_of_rows, row_counts
from actprune.rank.ties import unit_keys
from actprune.types import NM, Recipe

Masks = dict[str, Tensor]
_NM_TOLERANCE = 1e-3  # "0.667" means the 2/3 of a 1:3 pattern


class Selection:
    """``asked`` (cost removed in all) -> masks; everything else is fixed."""

    def __init__(self, recipe: Recipe, entries: Sequence[Entry], scores: Scores, pruning_step: int) -> None:
        self.recipe, self.entries, self.scores, self.pruning_step = recipe, entries, scores, pruning_step
        if recipe.keep_at_least and not isinstance(recipe.unit, NM):
            self.entries = [
                entry.sparing_best(recipe.keep_at_least, scores(entry.name, entry.shape), recipe.seed)
                for entry in entries
            ]

    def asked(self, fraction: float, others: int) -> int:
        """The cost to be removed in all, what is removed already included; ``others``: cost of layers left alone that
        count. Raises BudgetError if that is more than may be removed, RecipeError if an n:m pattern removes another
        fraction.
        """
        total = sum(entry.total for entry in self.entries)
        asked = round_half_up(fraction * (total + others))
        if isinstance(self.recipe.unit, NM):
            _refuse_other_sparsity(self.recipe.unit, fraction, total / (total + others))
            return asked
        possible = sum(entry.removable for entry in self.entries)
        if asked > possible:
            word = "FLOP" if self.recipe.budget.kind == "flop" else "weights"
            raise BudgetError(
                f"asked to remove {asked} of {total + others} {word} (fraction {fraction:.6g}); only {possible} may be "
                f"removed (fraction {possible / (total + others):.6g}, keep_at_least={self.recipe.keep_at_least}); ask "
                "for less, lower keep_at_least, prune more layers, or count only the prunable ones (of='prunable')"
            )
        return asked

    def masks(self, asked: int) -> Masks:
        """New masks after which a cost of ``asked`` is removed."""
        removed: dict[str, Tensor] = {}
        if isinstance(self.recipe.unit, NM):
            for entry in self.entries:
                removed[entry.name] = self._nm(self.recipe.unit, entry)
        elif self.recipe.budget.kind == "threshold":
            removed = {entry.name: self._below(entry) for entry in self.entries}
        elif self.recipe.scope == "global":
            need = asked - sum(entry.gone for entry in self.entries)
            removed = cut(Reader(self.entries, self.scores), need, self.recipe.seed).removed if need > 0 else {}
        else:
            for entry, budget in zip(self.entries, self._budgets(asked), strict=True):
                if budget > entry.gone:
                    removed[entry.name] = self._of_layer(entry, budget)
        return {entry.name: entry.mask_without(removed.pop(entry.name, None)) for entry in self.entries}

    def due(self, asked: int) -> int:
        """What ``masks(asked)`` removes by plan: ``asked``, or less while staged layers wait for their turn."""
        return asked if self.recipe.scope == "global" else sum(self._budgets(asked))

    def _below(self, entry: Entry) -> Tensor:
        """Units that compete and score less than the threshold."""
        scores = self.scores(entry.name, entry.shape)
        refuse_nan(entry.name, scores)
        below = scores < self.recipe.budget.value
        return below if entry.alive is None else below & entry.alive.to(scores.device)

    def removed(self, masks: Masks) -> int:
        """Cost that the masks remove."""
        return sum(removed_weights(masks[entry.name]) * entry.price for entry in self.entries)

    def _budgets(self, asked: int) -> list[int]:
        return allocate(self.recipe.allocation, [entry.share for entry in self.entries], asked, self.pruning_step)

    def _of_layer(self, entry: Entry, budget: int) -> Tensor:
        scores = self.scores(entry.name, entry.shape)
        if self.recipe.scope == "layer":
            return cut(lambda: [entry.piece(scores)], budget - entry.gone, self.recipe.seed).removed[entry.name]
        refuse_nan(entry.name, scores)
        return self._rows(entry, scores, -(-budget // entry.price))

    def _rows(self, entry: Entry, scores: Tensor, weights: int) -> Tensor:
        rows, width = entry.shape[0], math.prod(entry.shape[1:])

        def per_row(chosen: Tensor | None, otherwise: int) -> Tensor:
            return torch.full((rows,), otherwise) if chosen is None else chosen.flatten(1).sum(1).cpu()

        gone = width - per_row(entry.mask, width)
        most = gone + per_row(entry.alive, width)
        keys = unit_keys(entry.name, rows, self.recipe.seed, gone.device)
        counts = row_counts(weights, gone, most, keys) - gone
        alive = None if entry.alive is None else entry.alive.to(scores.device)
        return lowest_of_rows(entry.name, scores, alive, counts, self.recipe.seed)

    def _nm(self, unit: NM, entry: Entry) -> Tensor:
        scores = self.scores(entry.name, entry.shape)
        refuse_nan(entry.name, scores)
        alive = None if entry.alive is None else entry.alive.to(scores.device)
        return lowest_of_nm(unit, entry.name, scores, alive, self.recipe.seed)


def _refuse_other_sparsity(unit: NM, fraction: float, share: float) -> None:
    """``share``: of the counted cost that lies in the layers to be pruned."""
    fixed = (1 - unit.n / unit.m) * share
    if abs(fraction - fixed) > _NM_TOLERANCE:
        raise RecipeError(
            f"the {unit.n}:{unit.m} pattern removes a fraction of {fixed:.6g}, no more and no less, but {fraction:.6g} "
            f"was asked for; set the budget to {fixed:.6g} and prune in one shot, or use another unit"
        )
