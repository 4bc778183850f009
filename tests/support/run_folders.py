"""Folders for the tests of the report page, written by hand: no training."""

import json

import numpy as np
from safetensors.numpy import save_file

HOSTILE = '<script>alert("x")</script>&amp;'
LAYERS = [
    {"name": "fc1.weight", "shape": [6, 8], "total": 48, "kept": 10, "neurons": 6, "neurons_alive": 4, "rank": 4},
    {"name": "fc2.weight", "shape": [3, 6], "total": 18, "kept": 9, "neurons": 3, "neurons_alive": 3, "rank": 3},
]
NETWORK = {
    "weights": 66, "kept": 19, "biases": 9, "sparsity": 47 / 66, "compression": 66 / 19, "flop": 132, "flop_left": 38,
    "flop_kept": 38 / 132, "prunable": 48, "prunable_kept": 10, "prunable_share": 48 / 66,
    "left_alone": [{"name": "fc2.weight", "kind": "Linear", "shape": [3, 6], "total": 18, "kept": 18, "why": HOSTILE}],
}  # fmt: skip


def config(**changes):
    from actprune.lab import RunConfig

    return {**RunConfig(threads=1).model_dump(mode="json"), **changes}


def summary(**changes):
    return {
        "run": "one", "data": "digits", "model": "article", "method": "activation", "seed": 0, "target": 0.7,
        "actual": 0.7, "compression": 10 / 3, "flop_kept": 0.3, "pruning_steps_done": 2, "pruning_steps_planned": 2,
        "train_accuracy": 0.99, "validation_accuracy": 0.95, "test_accuracy": 0.951, "test_loss": 0.2,
        "dense": {"epoch": 2, "train_accuracy": 0.9, "validation_accuracy": 0.952}, "layers": LAYERS,
        "network": NETWORK, "budget_of": "prunable", "sparsity": 47 / 66, "epochs": 4, "steps": 84,
        "stopped_by": "accuracy", "seconds": 3.2, "remark": None, **changes,
    }  # fmt: skip


def rows(epochs=4):
    return [
        {
            "epoch": epoch, "train_loss": 1 / epoch, "train_accuracy": 1 - 0.3 / epoch, "validation_loss": 1.2 / epoch,
            "validation_accuracy": 1 - 0.4 / epoch, "sparsity": 0.35 * max(0, epoch - 1),
            "pruning_steps": max(0, epoch - 1),
            "pruned": epoch in (2, 3),
            "pruning": {"layers": LAYERS, "after": {"accuracy": 0.5, "loss": 1.0}} if epoch in (2, 3) else None,
        }
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip


def write_run(place, *, settings=None, result=None, epochs=4, tensors=True):
    """A run's folder; ``result`` None: not finished."""
    (place / "pruning_steps").mkdir(parents=True)
    write(place / "config.json", settings or config())
    write(place / "recipe.json", {"type": "Recipe", "name": "activation"})
    write(place / "environment.json", {"torch": "2.13", "cpu": "a cpu"})
    (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(epochs)))
    if result is not None:
        write(place / "summary.json", result)
    if tensors:
        _tensors(place)
    return place


def _tensors(place):
    weight = np.linspace(-1, 1, 48, dtype=np.float32).reshape(6, 8)
    weight[2:4] = 0
    save_file({"fc1.weight": weight, "fc1.bias": np.ones(6, np.float32)}, place / "model.safetensors")
    for pruning_step in (1, 2):
        kept = np.arange(6) // pruning_step
        counts = {"fired": np.arange(6) * 10, "rows": np.array(60), "kept": kept, "fan_in": np.array(8)}
        save_file(
            {f"fc1.weight/{k}": v for k, v in counts.items()},
            place / "pruning_steps" / f"pruning-step-{pruning_step:02d}.safetensors",
        )
        spectra = {
            "before": np.array([3.0, 2, 1, 0.5, 0.2, 0]), "after": np.array([2.0, 1, 0.5, 0, 0, 0]),
            "shape": np.array([6, 8]), "kept": np.array(kept.sum()),
        }  # fmt: skip
        flat = {f"fc1.weight/{k}": v for k, v in spectra.items()}
        save_file(flat, place / "pruning_steps" / f"spectra-{pruning_step:02d}.safetensors")


def trial(baseline, target, seed, test, **changes):
    return {
        "id": f"{baseline}{target}{seed}", "data": "mnist", "model": "lenet-300-100", "baseline": baseline,
        "method": baseline, "note": "gradual", "seed": seed, "target": target, "training": "20 epochs", "status": "ok",
        "reason": None, "actual": target, "kept": round(1000 * (1 - target)), "compression": 1 / (1 - target),
        "flop_kept": 1 - target, "steps": 100, "steps_relative": 1.0, "storage_bytes": None, "seconds": 2.0,
        "cpu_seconds": 2.0, "test_accuracy": test, "validation_accuracy": test - 0.01,
        "config": {"max_epochs": 20, "lr": 0.05, "batch_size": 128, "weight_decay": 5e-4}, **changes,
    }  # fmt: skip


def trials(**changes):
    """Two baselines and dense, three seeds; lamp is ahead at 0.9 by far, nobody at 0.98."""
    found = []
    for seed, noise in enumerate((-0.001, 0, 0.001)):
        found.append(trial("dense", 0.0, seed, 0.984 + noise, **changes))
        for baseline, near, far in (("activation", 0.975, 0.9600), ("lamp", 0.983, 0.9602)):
            found.append(trial(baseline, 0.9, seed, near + noise, **changes))
            found.append(trial(baseline, 0.98, seed, far + noise, **changes))
    return found


def write_compare(place, found):
    place.mkdir(parents=True, exist_ok=True)
    (place / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return place


def write_seeds(place, results):
    """A folder of several seeds; None: begun, not finished."""
    place.mkdir(parents=True, exist_ok=True)
    write(place / "seeds.json", {"seeds": list(range(len(results))), "config": config()})
    for seed, result in enumerate(results):
        write_run(place / f"seed-{seed}", settings=config(seed=seed), result=result)
    return place


def write(path, value):
    path.write_text(json.dumps(value))
