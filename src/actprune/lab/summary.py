"""L5: the figures that a run comes down to."""

from __future__ import annotations

from typing import Any

import torch

from actprune import analysis
from actprune.lab.evaluate import evaluate
from actprune.lab.loop import Standing
from actprune.lab.setup import Setup
from actprune.schedules import AccuracyTriggered, LayerByLayer
from actprune.types import Schedule

Summary = dict[str, Any]


def restore_best(setup: Setup, at: Standing) -> int:
    """Put the best weights after the last pruning into the model, if wanted and any; the epoch they are from."""
    if not setup.config.restore_best or at.best_epoch is None:
        return at.epoch
    setup.model.load_state_dict(at.best)
    return at.best_epoch


def summarise(setup: Setup, at: Standing, weights_from: int, name: str) -> Summary:
    """Plain values. Accuracies are of the weights now in the model, in evaluation mode, whole data sets.

    What they and the losses are is in ``score_name`` and ``loss_name``: see ``lab.task``. target and actual are in the
    budget's own terms (of the weights that the method may prune, or of all); sparsity, compression, flop_kept and
    network are of the whole network.
    """
    pruner, config = setup.pruner, setup.config
    report, layers, network = at.report or {}, _layers(setup), pruner.account().to_dict()
    scores = {
        part: evaluate(setup.model, pair, setup.forward, setup.task)
        for part, pair in (("train", setup.train), ("validation", setup.validation), ("test", setup.test))
    }
    return {
        "run": name,
        "data": config.data,
        "model": config.network,
        "method": setup.recipe.name,
        "task": config.task,
        "score_name": setup.task.score_name,
        "loss_name": setup.task.loss_name,
        "seed": config.seed,
        "target": report.get("target", 0.0) if setup.recipe.budget.kind == "threshold" else pruner.final_target,
        "actual": report.get("actual", 0.0),
        "budget_of": setup.recipe.budget.of,
        **{key: network[key] for key in ("sparsity", "compression", "flop_kept")},
        "network": network,
        "pruning_steps_done": pruner.state.pruning_step,
        "pruning_steps_planned": pruner.pruning_steps,
        "train_accuracy": scores["train"].accuracy,
        "validation_accuracy": scores["validation"].accuracy,
        "test_accuracy": scores["test"].accuracy,
        "train_loss": scores["train"].loss,
        "validation_loss": scores["validation"].loss,
        "test_loss": scores["test"].loss,
        "dense": at.dense,
        "layers": layers,
        "ranks": {row["name"]: row["rank"] for row in layers},
        "epochs": at.epoch,
        "steps": pruner.state.step,
        "weights_from_epoch": weights_from,
        "stopped_by": at.stop,
    }


def remark(summary: Summary, schedule: Schedule, config_start: float) -> str | None:
    """What must be said of a run that did not do what was asked, else None."""
    done, planned = summary["pruning_steps_done"], summary["pruning_steps_planned"]
    if done >= planned:
        return None
    if not isinstance(schedule, (AccuracyTriggered, LayerByLayer)):
        return (
            f"{done} of {planned} pruning steps done: the run ended by {summary['stopped_by']!r} after "
            f"{summary['steps']} optimizer steps, before the others were due ({schedule}), so the target was not "
            "reached; allow more epochs (--epochs), or a schedule that fits into these (--schedule cubic, say)"
        )
    return (
        f"{done} of {planned} pruning steps done: the training {summary['score_name']} did not reach the next "
        f"threshold before the run ended by {summary['stopped_by']!r}, so the target was not reached; "
        "allow more epochs (--epochs), a larger learning rate (--lr), or lower thresholds "
        f"(--start-at {config_start:g} now, --retrain-to)"
    )


def _layers(setup: Setup) -> list[dict[str, Any]]:
    """Per prunable layer: kept weights, neurons that still have an input, numerical rank of the weight as it is now."""
    rows = []
    for name in setup.pruner.layers:
        weight = setup.model.get_parameter(name).detach()
        mask = setup.pruner.masks.get(name)
        per_neuron = analysis.survival(torch.ones_like(weight, dtype=torch.bool) if mask is None else mask)
        rows.append({
            "name": name,
            "shape": list(weight.shape),
            "total": weight.numel(),
            "kept": int(per_neuron.sum()),
            "neurons": len(per_neuron),
            "neurons_alive": int((per_neuron > 0).sum()),
            "rank": analysis.numerical_rank(weight),
        })  # fmt: skip
    return rows
