"""L2: the pure heart. ``select``: recipe, what is known of the layers, and how much is due -> masks.

Nothing here knows a model, an optimizer or a process group, and no input is modified. An asked fraction becomes the
integer ``round_half_up(fraction * total)`` of weights or FLOP; that many go, exactly (or, where one unit costs
several, until that many have gone). Equal scores go in the order of seeded tie keys (``rank.ties``), so the same
inputs give the same masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from actprune.errors import BudgetError, LayerCollapseError, RecipeError
from actprune.rank.contest import Entry, Scores
from actprune.rank.groups import require_multiple
from actprune.rank.selection import Masks, Selection
from actprune.types import NM, Budget, Recipe, Signals, Weight


@dataclass(frozen=True)
class LayerFacts:
    """What ``select`` must know of one layer besides its score.

    name: clean weight name. shape: ``(out, in, *kernel)``. positions: output positions per example, so that a dense
    layer takes ``2 * weights * positions`` FLOP. mask: current mask (True = kept) or None = all kept. device: of the
    new mask. output: whether it is an output layer.
    """

    name: str
    shape: tuple[int, ...]
    positions: int = 1
    mask: Tensor | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    output: bool = False


@dataclass(frozen=True)
class Cost:
    """Weights and FLOP per example."""

    weights: int = 0
    flop: int = 0


def final_fraction(budget: Budget, total_weights: int) -> float:
    """The fraction to be removed in the end: of the weights, or of the FLOP for kind "flop".

    sparsity s -> s; compression c -> 1 - 1/c; parameters p -> 1 - p/total; flop f -> 1 - f; a threshold asks for
    nothing, which is 0. Raises BudgetError when more parameters are to be kept than there are.
    """
    match budget.kind:
        case "sparsity":
            return budget.value
        case "compression":
            return 1 - 1 / budget.value
        case "flop":
            return 1 - budget.value
        case "threshold":
            return 0.0
    if budget.value > total_weights:
        raise BudgetError(
            f"asked to keep {budget.value:.0f} parameters, but there are only {total_weights}; ask for fewer"
        )
    return 1 - budget.value / total_weights


@dataclass(frozen=True)
class Choice:
    """selected: what the scores chose. masks: the same without dead weights, which is what is to be applied."""

    selected: Masks
    masks: Masks


@torch.no_grad()
def select(
    recipe: Recipe,
    layers: Sequence[LayerFacts],
    signals: Callable[[str], Signals],
    fraction: float,
    *,
    pruning_step: int = 0,
    others: Cost = Cost(),
    closure: Callable[[Masks], Masks] | None = None,
) -> Choice:
    """New masks (bool, True = kept, on each layer's device) after which ``fraction`` is removed.

    layers: in execution order. signals: called lazily, possibly several times per layer, so that one layer's scores
    exist at a time. fraction: removal due, 0..1, of weights or (budget kind "flop") FLOP, ``others`` included for
    ``of="all"``; of no meaning to a threshold. pruning_step: for staged allocation, which prunes that layer and those
    before it by ``fraction``.
    closure: masks -> masks that removes dead weights; used when the recipe says ``remove_dead``.

    Raises BudgetError (the fraction cannot be met), LayerCollapseError (a layer would be emptied), RecipeError (unit,
    scope or criterion do not fit), ModelError (NaN scores).
    """
    if not 0 <= fraction <= 1:
        raise BudgetError(
            f"asked to remove a fraction of {fraction!r}; expected 0 <= fraction <= 1, such as 0.9 for 90 %"
        )
    _refuse_misfits(recipe, layers)
    scores = Scores(recipe.criterion, signals, recipe.unit)
    selection = Selection(recipe, [_entry(recipe, facts) for facts in layers], scores, pruning_step)
    alone = others.flop if recipe.budget.kind == "flop" else others.weights
    asked = selection.asked(fraction, alone if recipe.budget.of == "all" else 0)
    if not recipe.remove_dead or closure is None:
        masks = selection.masks(asked)
        choice = Choice(masks, masks)
    elif recipe.dead_in_budget and not isinstance(recipe.unit, NM) and recipe.budget.kind != "threshold":
        choice = _with_dead_in_budget(selection, asked, closure)
    else:
        masks = selection.masks(asked)
        choice = Choice(masks, closure(masks))
    _refuse_collapse(recipe, choice.masks, fraction)
    return choice


def _entry(recipe: Recipe, facts: LayerFacts) -> Entry:
    price = 2 * facts.positions if recipe.budget.kind == "flop" else 1
    mask = facts.mask if recipe.monotone else None
    return Entry.of(
        facts.name, facts.shape, recipe.unit, price=price, mask=mask, device=facts.device, output=facts.output
    )


def _with_dead_in_budget(selection: Selection, asked: int, closure: Callable[[Masks], Masks]) -> Choice:
    """The masks of the smallest selection that, with its dead weights removed as well, reaches ``asked``.

    The closure only removes more, so what is removed in all grows with the selection and bisection finds the place.
    """
    low, high, due = 0, asked, selection.due(asked)

    def closed(need: int) -> Choice:
        masks = selection.masks(need)
        return Choice(masks, closure(masks))

    best = closed(high)
    if selection.removed(best.masks) <= due:
        return best
    while low < high:
        middle = (low + high) // 2
        choice = closed(middle)
        if selection.removed(choice.masks) >= due:
            high, best = middle, choice
        else:
            low = middle + 1
    return best


def _refuse_misfits(recipe: Recipe, layers: Sequence[LayerFacts]) -> None:
    if not layers:
        raise RecipeError("there is no layer to select from; check skip= and include_frozen=")
    if recipe.scope == "row" and not isinstance(recipe.unit, Weight | NM):
        raise RecipeError(
            f"scope 'row' ranks weights within a row, but the unit is {recipe.unit!r}; use scope 'layer' or 'global'"
        )
    if recipe.budget.kind == "threshold" and isinstance(recipe.unit, NM):
        raise RecipeError("an n:m unit fixes the sparsity, so no threshold can; use Budget.sparsity or unit=Weight()")
    if recipe.remove_dead and recipe.regrow == "splice":
        raise RecipeError(
            "remove_dead folds what dead neurons send into the next bias for good, but with regrow='splice' they "
            "may return; use regrow='frozen', or leave the dead weights to compact()"
        )
    for facts in layers:
        if isinstance(recipe.unit, NM):
            require_multiple(recipe.unit, facts.name, facts.shape)
        if facts.mask is not None and tuple(facts.mask.shape) != facts.shape:
            raise RecipeError(f"mask of {facts.name!r} has shape {tuple(facts.mask.shape)}; expected {facts.shape}")


def _refuse_collapse(recipe: Recipe, masks: Masks, fraction: float) -> None:
    emptied = [
        name
        for name, mask in masks.items()
        if not torch.count_nonzero(mask) and not any(fnmatchcase(name, pattern) for pattern in recipe.allow_collapse)
    ]
    if emptied:
        kept = sum(int(torch.count_nonzero(mask)) for mask in masks.values())
        layers = ", ".join(f"{name!r} (0 of {masks[name].numel()} weights kept)" for name in emptied)
        allowed = ", ".join(repr(name) for name in emptied)
        what = f"removing a fraction of {fraction:.6g}"
        if recipe.budget.kind == "threshold":
            what = f"removing all that scores below {recipe.budget.value:g}"
        raise LayerCollapseError(
            f"{what} would empty {layers}, while {kept} weights are kept elsewhere; "
            f"keep some with keep_at_least=1, use scope='layer', ask for less, or set allow_collapse=({allowed},)"
        )
