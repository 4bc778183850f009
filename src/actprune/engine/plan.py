"""What a pruning needs to know before it starts: layers, facts, signals, and whether anything is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from actprune.core import Choice, Cost, LayerFacts, final_fraction
from actprune.engine.distributed import agree, full, local, reduced, reduced_gradients
from actprune.engine.recovery import check_recovery
from actprune.engine.report import PruneReport, layer_reports
from actprune.errors import ActpruneError, ModelError, ObservationError, RecipeError
from actprune.types import Need, Recipe, Signals, Sums

if TYPE_CHECKING:
    from actprune.engine.pruner import Pruner


@dataclass(frozen=True)
class Job:
    """One pruning about to happen."""

    facts: list[LayerFacts]
    signals: Callable[[str], Signals]
    others: Cost
    moments: dict[str, Sums]


OWN_NEEDS = ("gradient", "weights", "learnt")
"""What a criterion may need that is no statistic of activations."""


def check_fraction(recipe: Recipe, fraction: float | None) -> None:
    """Raise RecipeError for an argument of ``prune()`` that means nothing."""
    if fraction is None:
        return
    if not 0.0 <= fraction < 1.0:
        raise RecipeError(f"prune(fraction={fraction!r}): expected a removed fraction 0 <= f < 1, such as 0.9")
    if recipe.budget.kind == "threshold":
        raise RecipeError(
            f"prune(fraction={fraction!r}): this recipe keeps what scores at least {recipe.budget.value:g}, whatever "
            "fraction that is; call prune() without a fraction, or use a recipe with a sparsity"
        )


def prepare(pruner: Pruner) -> Job:
    """Check everything that can be missing or broken, then gather the facts. Changes nothing."""
    names = pruned_layers(pruner)
    parameters = pruner.parameters
    agree(_local_problem(pruner, names))
    _check_finite({name: parameters[name] for name in names})
    sums = reduced(pruner.observer.sums)
    gradients = reduced_gradients(pruner.state.gradients)
    free = pruner.recipe.regrow == "free"
    outputs = output_layers(pruner)
    facts = [
        LayerFacts(
            name=name,
            shape=tuple(parameters[name].shape),
            positions=_positions(pruner, name),
            mask=None if free else pruner.state.masks.get(name),
            device=local(parameters[name]).device,
            output=name in outputs,
        )
        for name in names
    ]
    moments = _moments(pruner, names)
    unmuted = [name for name in names if _always_fires(pruner, name)]

    def signals(name: str) -> Signals:
        return Signals(
            name=name,
            weight=full(parameters[name]),
            sums={
                **(_fired_always(pruner, name, sums) if name in unmuted else sums.get(name, {})),
                **moments.get(name, {}),
            },
            gradient=gradients.get(name),
            seed=pruner.recipe.seed,
            mask=None if free else pruner.state.masks.get(name),
            learnt={key: value.detach() for key, value in pruner.state.learnt.get(name, {}).items()},
        )

    return Job(facts, signals, _others(pruner, names), moments)


def _always_fires(pruner: Pruner, name: str) -> bool:
    """Whether it is an output layer without a non-linearity: nothing is counted there, every neuron always fires."""
    graph, sums = pruner.observer.graph, pruner.observer.sums
    counts = any(need.statistic == "firing" and need.fires_above is None for need in pruner.recipe.criterion.needs)
    seen = graph is not None and name in graph.outputs and not graph.sites[name].exact_zero
    return counts and seen and bool(sums) and "fired" not in sums.get(name, {})


def _fired_always(pruner: Pruner, name: str, sums: Mapping[str, Sums]) -> Sums:
    """The count of a layer whose neurons fire at each of its own positions of every example that was counted."""
    positions = pruner.observer.positions
    counted = [(layer, own["rows"]) for layer, own in sums.items() if "rows" in own]
    rows = max(rows * positions.get(name, 1) // positions.get(layer, 1) for layer, rows in counted)
    return {"rows": rows, "fired": rows}


def _moments(pruner: Pruner, names: list[str]) -> dict[str, Sums]:
    """Number, sum of |w| and sum of w^2 of every layer, as they were at the first pruning (float64)."""
    wanted = any(need.statistic == "weights" for need in pruner.recipe.criterion.needs)
    if pruner.state.moments or not wanted:
        return pruner.state.moments
    weights = {name: full(pruner.parameters[name]).double() for name in names}
    return {
        name: {
            "weights": weight.new_tensor(weight.numel()),
            "weights_abs": weight.abs().sum(),
            "weights_square": weight.square().sum(),
        }
        for name, weight in weights.items()
    }


def pruned_layers(pruner: Pruner) -> list[str]:
    """Layers this recipe prunes, in execution order once the structure is known, else in registration order."""
    graph = pruner.observer.graph
    names = list(pruner.layers)
    if graph is not None:
        seen = list(graph.sites)
        names = [name for name in seen if name in pruner.layers] + [name for name in names if name not in seen]
    if not pruner.recipe.skip_output:
        return names
    outputs = output_layers(pruner)
    hidden = [name for name in names if name not in outputs]
    if not hidden:
        raise ModelError(
            f"nothing to prune: {names} are output layers and this recipe leaves those alone; "
            "use a model with a hidden layer, or a method that prunes the output layer (magnitude, wanda, snip)"
        )
    return hidden


def output_layers(pruner: Pruner) -> set[str]:
    """Layers whose outputs leave the model; the last one while the structure is not known."""
    graph = pruner.observer.graph
    return set(list(pruner.layers)[-1:]) if graph is None else set(graph.outputs)


def total(pruner: Pruner) -> int:
    """Weights the budget counts."""
    names = pruned_layers(pruner)
    counted = sum(pruner.parameters[name].numel() for name in names)
    return counted + (_others(pruner, names).weights if pruner.recipe.budget.of == "all" else 0)


def on_top_of_dead(pruner: Pruner, job: Job, target: float) -> float:
    """The removal to select for. Dead weights outside the budget do not use it up: what was asked goes on top of them,
    until nothing is left. A budget per layer has no such top: there a dead weight counts as removed in its layer.
    """
    if pruner.recipe.dead_in_budget or not pruner.recipe.remove_dead or pruner.recipe.scope != "global":
        return target
    flop = pruner.recipe.budget.kind == "flop"
    mine = sum(math.prod(fact.shape) * _price(pruner, fact) for fact in job.facts)
    others = (job.others.flop if flop else job.others.weights) if pruner.recipe.budget.of == "all" else 0
    return min(target + pruner.state.dead / (mine + others), mine / (mine + others))


def dead_cost(pruner: Pruner, job: Job, choice: Choice) -> int:
    """Cost of the dead weights that a choice removes."""
    return sum(
        int((choice.selected[fact.name] & ~choice.masks[fact.name]).sum()) * _price(pruner, fact) for fact in job.facts
    )


def _price(pruner: Pruner, fact: LayerFacts) -> int:
    return 2 * fact.positions if pruner.recipe.budget.kind == "flop" else 1


def report(pruner: Pruner, job: Job, masks: Mapping[str, Tensor], target: float) -> PruneReport:
    """Target against actual, in the budget's own denominator."""
    budget = pruner.recipe.budget
    others = job.others if budget.of == "all" else Cost(0, 0)
    weights = sum(mask.numel() for mask in masks.values()) + others.weights
    kept = sum(int(mask.sum()) for mask in masks.values()) + others.weights
    flop = sum(2 * masks[fact.name].numel() * fact.positions for fact in job.facts) + others.flop
    flop_kept = sum(2 * int(masks[fact.name].sum()) * fact.positions for fact in job.facts) + others.flop
    actual = 1 - flop_kept / flop if budget.kind == "flop" else 1 - kept / weights
    return PruneReport(
        pruning_step=pruner.state.pruning_step + 1,
        budget=f"{budget.kind} {budget.value:g} of {budget.of}, final {final_fraction(budget, weights):.4f}",
        target=actual if budget.kind == "threshold" else target,
        actual=actual,
        sparsity=1 - kept / weights,
        compression=weights / kept if kept else float("inf"),
        flop_kept=flop_kept / flop,
        layers=layer_reports(masks),
    )


def _check_finite(parameters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        weight = full(parameter)
        if not bool(torch.isfinite(weight).all()):
            bad = int((~torch.isfinite(weight)).sum())
            raise ModelError(f"{name} has {bad} weights that are NaN or Inf; training has diverged, nothing was pruned")


def _local_problem(pruner: Pruner, names: list[str]) -> ActpruneError | None:
    """What this rank is missing. Raising at once would leave the other ranks waiting for it in the next reduction."""
    try:
        _check_structure(pruner)
        check_recovery(pruner.model, pruner.recipe.recovery, pruner.state)
        counted = [name for name in names if not _always_fires(pruner, name)]
        for need in pruner.recipe.criterion.needs:
            _check_need(need, counted if need.statistic == "firing" else names, pruner)
    except ActpruneError as problem:
        return problem
    return None


def _check_structure(pruner: Pruner) -> None:
    recipe = pruner.recipe
    if recipe.count_on == "train" and pruner.observer.statistics and not pruner.observer.sums:
        raise ObservationError(
            "no training batch was counted although the recipe counts on live batches: attach(optimizer) before "
            "training, train in model.train() mode, and do not send the batches through a torch.compile'd model "
            "(its hooks are deaf; use count_on='observe' there)"
        )
    if recipe.remove_dead and pruner.observer.graph is None:
        raise ObservationError(
            "remove_dead has to see one forward pass to know which layer reads which: run observe(), or give "
            "Pruner(example=...)"
        )


def _check_need(need: Need, names: list[str], pruner: Pruner) -> None:
    if need.statistic == "weights":
        return
    if need.statistic == "learnt":
        _check_learnt(names, pruner)
        return
    gradient = need.statistic == "gradient"
    have: Mapping[str, object] = pruner.state.gradients if gradient else pruner.observer.sums
    if missing := [name for name in names if name not in have]:
        how = "call loss.backward() inside observe()" if gradient else "run observe() first"
        raise ObservationError(
            f"{pruner.recipe.name} needs {need.statistic!r} of {missing}, which was not observed; {how}"
        )
    if not gradient:
        pruner.observer.check(names)


def _check_learnt(names: list[str], pruner: Pruner) -> None:
    if missing := [name for name in names if not pruner.state.learnt.get(name)]:
        raise ObservationError(
            f"{pruner.recipe.name} needs what its penalty learns beside {missing}, but it learns nothing there; give "
            "the recipe the penalty that belongs to its criterion"
        )
    for name in names:
        for key, value in pruner.state.learnt[name].items():
            if not bool(torch.isfinite(value).all()):
                raise ModelError(f"{key} of {name} is NaN or Inf; training has diverged, nothing was pruned")


def _positions(pruner: Pruner, name: str) -> int:
    if name in pruner.observer.positions:
        return pruner.observer.positions[name]
    if pruner.recipe.budget.kind == "flop" and pruner.parameters[name].dim() > 2:
        raise ObservationError(
            f"a FLOP budget needs the number of output positions of {name}: run observe() or give Pruner(example=...)"
        )
    return 1


def _others(pruner: Pruner, names: list[str]) -> Cost:
    """Linear and conv weights that this recipe leaves alone (output layer, skipped, frozen)."""
    mine = {id(pruner.parameters[name]) for name in names}
    weights = flop = 0
    for path, module in pruner.model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) and id(module.weight) not in mine:
            mine.add(id(module.weight))
            weights += module.weight.numel()
            flop += 2 * module.weight.numel() * pruner.observer.positions.get(f"{path}.weight", 1)
    return Cost(weights, flop)
