"""One pruning, from what is known to masks in force."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actprune.core import final_fraction, select
from actprune.engine import plan
from actprune.engine.dead import fold_constants
from actprune.engine.report import PruneReport
from actprune.errors import RecipeError
from actprune.graph import without_dead

if TYPE_CHECKING:
    from actprune.engine.pruner import Pruner


def decide(pruner: Pruner, fraction: float | None) -> PruneReport:
    """Select masks for ``fraction``, or for the schedule's next target, and put them in force.

    Everything that can fail comes before the first change.
    """
    job = plan.prepare(pruner)
    asked = target(pruner) if fraction is None else fraction
    graph, state = pruner.observer.graph, pruner.state
    closes = pruner.recipe.remove_dead and graph is not None
    choice = select(
        pruner.recipe,
        job.facts,
        job.signals,
        plan.on_top_of_dead(pruner, job, asked),
        pruning_step=state.pruning_step,
        others=job.others,
        closure=(lambda m: without_dead(graph, m)) if closes and graph is not None else None,
    )
    report = plan.report(pruner, job, choice.masks, asked)
    for watch in pruner.watchers:
        watch("before")
    if closes and graph is not None:
        fold_constants(pruner.model, graph, pruner.layers, choice, pruner.observer.example)
    state.dead += plan.dead_cost(pruner, job, choice)
    state.moments = job.moments
    pruner.take_over(choice.masks)
    pruner.last_report = report
    return report


def target(pruner: Pruner) -> float:
    """The removal that the schedule plans now. Raises RecipeError when all of its pruning steps are done."""
    if pruner.finished:
        raise RecipeError(
            f"all {pruner.pruning_steps} pruning steps of this recipe are done; give prune(fraction=) "
            "or a longer schedule"
        )
    return pruner.recipe.schedule.target(
        pruner.state.progress, final_fraction(pruner.recipe.budget, plan.total(pruner))
    )
