"""Variational dropout on LeNet-300-100 and LeNet-5-Caffe (MNIST): published figures beside ours, in far fewer epochs.

    python benchmarks/variational_dropout.py                        # what is missing, 3 seeds, then the table
    python benchmarks/variational_dropout.py --only lenet-300-100 --seeds 0
    python benchmarks/variational_dropout.py --report               # only the table, from the rows so far

Three variants: *threshold*, as published, log alpha 3 and no retraining; *budget*, the published compression, no
retraining; *budget, recovered*, the same compression after 80 % of the epochs, the rest without noise. Rows:
docs/results/variational-dropout.jsonl. MNIST is looked for in ACTPRUNE_DATA.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from actprune.lab import RunConfig
from actprune.lab.sweep import Row, Trial, main, select, spread, table, train

RESULTS = Path("docs/results/variational-dropout.jsonl")
COMMON = {"data": "mnist", "optimizer": "adam", "lr_schedule": "cosine", "weight_decay": 0.0, "batch_size": 100,
          "full_length": True, "patience": 0, "restore_best": False, "threads": 1}  # fmt: skip
NETS: dict[str, dict[str, Any]] = {
    "lenet-300-100": {"max_epochs": 30, "lr": 2e-3},
    "lenet-5-caffe": {"max_epochs": 6, "lr": 2e-3, "channels_last": True},
}
PAPER: dict[str, dict[str, Any]] = {  # test error in %, compression, sparsity per layer in %; 200 epochs
    "lenet-300-100": {"dense": 1.64, "error": 1.92, "compression": 68, "layers": "98.9 / 97.2 / 62.0"},
    "lenet-5-caffe": {"dense": 0.80, "error": 0.75, "compression": 280, "layers": "67 / 98 / 99.8 / 95"},
}


def variants(net: str) -> dict[str, dict[str, Any]]:
    """Name -> what distinguishes its RunConfig."""
    sparsity = 1 - 1 / PAPER[net]["compression"]
    recovered = {"schedule": "once", "cubic_epochs": NETS[net]["max_epochs"] * 4 // 5}
    return {
        "threshold": {"method": "variational_dropout_threshold", "schedule": "own"},
        "budget": {"method": "variational_dropout", "sparsity": sparsity, "schedule": "own"},
        "budget, recovered": {"method": "variational_dropout", "sparsity": sparsity, **recovered},
    }


def one(net: str, variant: str, seed: int) -> Row:
    folder = Path("runs/variational-dropout") / f"{net} {variant} {seed}".replace(" ", "-").replace(",", "")
    return train(RunConfig(model=net, seed=seed, **COMMON, **NETS[net], **variants(net)[variant]), folder)


TRIALS = [
    Trial({"net": net, "variant": name, "seed": seed}, "variational_dropout:one")
    for seed in (0, 1, 2) for net in NETS for name in variants(net)
]  # fmt: skip


def fields(net: str, variant: str, found: list[Row]) -> tuple[str, ...]:
    """One line of the table."""
    removed = [[100 * (1 - layer["kept"] / layer["total"]) for layer in summary["layers"]] for summary in found]
    return (
        net, variant, str(len(found)), str(found[0]["epochs"]), f"{spread([s['compression'] for s in found], 1)}x",
        " / ".join(f"{mean(column):.1f}" for column in zip(*removed, strict=True)),
        spread([100 * (1 - s["test_accuracy"]) for s in found]), f"{mean(s['cpu_seconds'] for s in found):.0f}",
    )  # fmt: skip


def report(rows: list[Row]) -> None:
    """docs/results/variational-dropout-table.md: one line per network and variant, the published one first."""
    body: list[tuple[str, ...]] = []
    for net, paper in PAPER.items():
        error = f"{paper['error']} (dense {paper['dense']})"
        body.append((net, "**published**", "", "200", f"{paper['compression']}x", paper["layers"], error, ""))
        for variant in variants(net):
            own = select(rows, net=net, variant=variant)
            found = [row["summary"] for row in own if "summary" in row]
            body += [fields(net, variant, found)] if found else []
            body += [(net, f"{variant}, seed {row['seed']}", "", "", row["refused"], "", "", "")
                     for row in own if "refused" in row]  # fmt: skip
    head = ("network", "variant", "seeds", "epochs", "compression", "sparsity per layer", "test error %", "CPU seconds")
    text = [
        "Made by `python benchmarks/variational_dropout.py` (MNIST). Mean ± standard deviation over seeds; published:",
        "Molchanov et al. 2017 (arXiv 1701.05369), 200 epochs. Sparsity per layer in %, first to last layer.",
        "",
        table(head, body),
    ]
    RESULTS.with_name("variational-dropout-table.md").write_text("\n".join(text))


if __name__ == "__main__":
    main(__doc__, TRIALS, RESULTS, report)
