"""What a block pattern costs in accuracy and buys in speed: 1x4 blocks against single weights, at equal sparsity.

    python benchmarks/blocks.py                 # trains the block trials (3 seeds, two data sets), times them, reports
    python benchmarks/blocks.py --report        # only the table, from the rows so far

Same network, training and budget as benchmarks/founding.py, whose unstructured trials are the comparison; the latency
trials (`--only latency`, with nothing else running) time networks that both left in runs/. Rows:
docs/results/blocks.jsonl.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import founding
from actprune.lab.sweep import Row, Trial, main, rows, select, spread, table

RESULTS = Path("docs/results/blocks.jsonl")
SPARSITIES = (0.9, founding.HIGH)
PATHS = ("litert sparse", "litert blocks", "numba sparse", "mkl sparse", "onnxruntime compact")
SINGLE = {"global": "guarded neuron_weight layer_mean at {:g}", "layer": "guarded neuron_weight per layer at {:g}"}


def settings() -> dict[str, dict[str, Any]]:
    """Name of a trial -> what distinguishes its RunConfig. Inputs of the layers are multiples of 4: no edge tiles."""
    return {
        f"block(1, 4) {scope} at {of_all:g}": {
            "method": "activation",
            "sparsity": of_all * founding.ALL / founding.HIDDEN,
            "options": {"score": "neuron_weight", "scope": scope, "unit": "block(1, 4)"},
        }
        for of_all in SPARSITIES
        for scope in SINGLE
    }


def one(trial: str, data: str, seed: int) -> Row:
    return founding.computed(settings()[trial], trial, data, seed)


def timed() -> dict[str, tuple[str, float, str]]:
    """Name of a latency trial -> pattern, removed, and the trial whose network is timed."""
    patterns = {"single weights": SINGLE["layer"], "1x4 blocks": "block(1, 4) layer at {:g}"}
    return {
        f"latency, {pattern} at {of_all:g}": (pattern, of_all, trial.format(of_all))
        for of_all in SPARSITIES
        for pattern, trial in patterns.items()
    }


def faster(trial: str, data: str, seed: int) -> Row:
    """Times faster than dense, by batch size and path: every path that reads zeros, and the dense ones. One thread.

    Reads the run's folder, so the network must have been trained on this machine.
    """
    import torch

    from actprune.lab import shipped
    from actprune.lab.latency import measure
    from actprune.runtime import prepared

    torch.set_num_threads(1)
    found = shipped.read(founding.folder(timed()[trial][2], data, seed))
    images = found.dataset.validation[0][:4096]
    job = prepared(shipped.small(found).model, images[:2], dense=found.model)
    return {
        "times_faster": {
            str(batch.size): {row.path: round(batch.dense / row.median_s, 1) for row in batch.rows if row.median_s}
            for batch in measure(job, (1, 32, 256), images, 3.0)
        }
    }


TRIALS = [
    *(Trial({"trial": name, "data": data, "seed": seed}, "blocks:one")
      for seed in (0, 1, 2) for data in founding.RETRAIN_TO for name in settings()),
    *(Trial({"trial": name, "data": "mnist", "seed": 0}, "blocks:faster") for name in timed()),
]  # fmt: skip


def accuracies(found: list[Row], trial: str, data: str) -> list[float]:
    """Test accuracies by seed."""
    return [row["summary"]["test_accuracy"] for row in select(found, trial=trial, data=data) if "summary" in row]


def accuracy_table(found: list[Row]) -> str:
    """Both patterns side by side."""
    single, body = rows(founding.RESULTS), []
    for of_all in SPARSITIES:
        for scope, name in SINGLE.items():
            for data in founding.RETRAIN_TO:
                one, four = (accuracies(single, name.format(of_all), data),
                             accuracies(found, f"block(1, 4) {scope} at {of_all:g}", data))  # fmt: skip
                if one and four:
                    gap = f"{100 * (mean(four) - mean(one)):+.2f}"
                    body.append((f"{of_all:.2%}", scope, data, spread(one, 2, 100), spread(four, 2, 100), gap))
    return table(("removed", "scope", "data", "single weights", "1x4 blocks", "difference"), body)


def latency_table(found: list[Row]) -> str:
    """Times faster than dense."""
    body = []
    for name, (pattern, of_all, _) in timed().items():
        for row in select(found, trial=name):
            for batch, times in row["times_faster"].items():
                cells = (f"{times[path]:.1f}x" if path in times else "" for path in PATHS)
                body.append((f"{of_all:.2%}", pattern, batch, *cells))
    return table(("removed", "pattern", "batch", *PATHS), body)


def report(found: list[Row]) -> None:
    """docs/results/blocks-table.md."""
    text = [
        accuracy_table(found),
        "Times faster than the fastest dense runtime (MNIST, per layer, seed 0, 1 thread):\n",
        latency_table(found),
    ]
    RESULTS.with_name("blocks-table.md").write_text("\n".join(text))


if __name__ == "__main__":
    main(__doc__, TRIALS, RESULTS, report)
