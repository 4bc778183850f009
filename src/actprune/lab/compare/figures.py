"""L5: the columns of one trial, from its finished run."""

from __future__ import annotations

from typing import Any

from actprune.lab.run import RunResult

_SAME = (
    "train_accuracy", "validation_accuracy", "test_accuracy", "train_loss", "validation_loss", "test_loss",
    "pruning_steps_done", "pruning_steps_planned", "epochs", "stopped_by", "remark", "seconds", "cpu_seconds",
)  # fmt: skip


def figures(result: RunResult, budget_steps: int) -> dict[str, Any]:
    """Plain values. Weights, sparsity, compression and FLOP are of the whole network, its output layer included.

    storage_bytes: of a baseline that codes its weights, biases included, else None; dense_bytes: of float32.
    """
    summary = result.summary
    layers, network = summary["layers"], summary["network"]
    dense = summary["dense"] or {}
    coded = summary.get("storage_bytes")
    return {
        "weights": network["weights"],
        "kept": network["kept"],
        "actual": network["sparsity"],
        "compression": network["compression"] if network["kept"] else None,
        "flop_kept": network["flop_kept"],
        "neurons_alive": [layer["neurons_alive"] for layer in layers],
        "kept_per_layer": [layer["kept"] for layer in layers],
        "ranks": [layer["rank"] for layer in layers],
        "validation_before_pruning": dense.get("validation_accuracy"),
        "steps": summary["steps"],
        "steps_relative": summary["steps"] / budget_steps,
        "storage_bytes": coded,
        "dense_bytes": 4 * sum(parameter.numel() for parameter in result.model.parameters()),
        **{key: summary[key] for key in _SAME if key in summary},
    }
