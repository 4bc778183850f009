"""A run of seconds on digits."""

from actprune.lab import RunConfig, run

QUICK = {
    "model": "mlp", "hidden": (24, 16), "lr": 0.1, "batch_size": 32, "max_epochs": 12, "pruning_steps": 2,
    "start_at": 0.5, "retrain_to": 0.9, "sparsity": 0.5, "threads": 1,
}  # fmt: skip


def quick(**changes):
    return RunConfig(**{**QUICK, **changes})


def go(tmp_path, **changes):
    return run(quick(**changes), tmp_path / "run", plots=False)
