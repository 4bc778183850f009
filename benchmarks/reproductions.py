"""What the compared papers report on LeNet-300-100 and LeNet-5-Caffe (MNIST), done again with their methods.

    python benchmarks/reproductions.py                        # every row, seeds 0,1,2, then the table
    python benchmarks/reproductions.py --only "DNS 300;dense 300" --jobs 2
    python benchmarks/reproductions.py --report               # only the table, from the rows so far

Rows: docs/results/reproductions.jsonl. Budgets are far below the papers' (24, 6 or 5 epochs a training where they
have 50 to 250), the same for every row of a network; each row's published figure, and that of the paper's own dense
network, stand in `published`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from actprune.lab import RunConfig, sweep
from actprune.lab.sweep import Trial, main, select, spread, table, train

RESULTS = Path("docs/results/reproductions.jsonl")
SGD = {"optimizer": "sgd", "momentum": 0.9, "lr_schedule": "cosine", "weight_decay": 5e-4, "data": "mnist",
       "full_length": True, "patience": 0, "restore_best": False, "threads": 1}  # fmt: skip
L300 = {**SGD, "model": "lenet-300-100", "lr": 0.1, "batch_size": 128, "max_epochs": 24}
L5 = {**SGD, "model": "lenet-5-caffe", "lr": 0.05, "batch_size": 64, "max_epochs": 6, "channels_last": True}
# the tickets' own training: Adam at 1.2e-3; 5 epochs of batch 128 a round, where the paper has 50,000 steps of 60
TICKET = {**SGD, "model": "lenet-300-100", "optimizer": "adam", "lr": 1.2e-3, "lr_schedule": "constant",
          "weight_decay": 0.0, "batch_size": 128}  # fmt: skip
ADAM = {"optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0}
ROUND = 5


@dataclass(frozen=True)
class Row:
    """config: fields of a RunConfig. error, dense: published test errors in percent; None: not published."""

    config: dict[str, Any]
    paper: str
    error: float | None = None
    dense: float | None = None
    note: str = ""
    group: str = "lenet-300-100"


def tickets(rounds: int) -> float:
    """Sparsity after so many rounds of 20 % per layer, 10 % in the output layer."""
    return 1 - (265_200 * 0.8**rounds + 1_000 * 0.9**rounds) / 266_200


def ticket(rounds: int, variant: str, note: str) -> Row:
    schedule = {"schedule": "rounds", "pruning_steps": rounds, "max_epochs": ROUND * (rounds + 1)}
    return Row(
        {**TICKET, **schedule, "method": "lottery", "sparsity": tickets(rounds), "options": {"variant": variant}},
        "Frankle & Carbin 2019", note=note, group="tickets",
    )  # fmt: skip


def published() -> dict[str, Row]:
    """Name of a row -> what it is; the first of a group is its dense network."""
    kept300 = [["fc1*", 0.08], ["fc2*", 0.09], ["fc3*", 0.26]]
    kept5 = [["conv1*", 0.66], ["conv2*", 0.12], ["fc1*", 0.08], ["fc2*", 0.19]]
    # a tenth of a rate that a cosine has brought down already would not retrain anything
    han = {"method": "han", "schedule": "rounds", "lr_schedule": "constant"}
    snip = {"method": "snip", "schedule": "before", "calibration_images": 100}
    dns = {"method": "dns", "schedule": "decaying"}
    ours = {"method": "activation", "schedule": "cubic", "calibration_images": 512, "options": {"scope": "layer"}}
    dense = {"method": "magnitude", "sparsity": 0.0, "schedule": "before"}
    share300 = 1 - (235_200 * 0.08 + 30_000 * 0.09 + 1_000 * 0.26) / 266_200
    share5 = 1 - (500 * 0.66 + 25_000 * 0.12 + 400_000 * 0.08 + 5_000 * 0.19) / 430_500
    five = "lenet-5-caffe"
    return {
        "dense 300": Row({**L300, **dense}, "ours"),
        "Han 300": Row({**L300, **han, "pruning_steps": 3, "sparsity": share300, "options": {"kept": kept300}},
                       "Han et al. 2015", 1.59, 1.64),
        "DNS 300": Row({**L300, **dns, "lr": 0.05, "sparsity": 0.982}, "Guo et al. 2016", 1.99, 2.28),
        "SNIP 300, 95 %": Row({**L300, **snip, "sparsity": 0.95}, "Lee et al. 2019", 1.6, 1.7),
        "SNIP 300, 98 %": Row({**L300, **snip, "sparsity": 0.98}, "Lee et al. 2019", 2.4, 1.7),
        "activation 300, 98.2 %": Row({**L300, **ours, "pruning_steps": 8, "sparsity": 0.982}, "ours"),
        "ticket dense": Row({**TICKET, **dense, "max_epochs": ROUND}, "Frankle & Carbin 2019", group="tickets"),
        "ticket 7": ticket(7, "ticket", "better than the control"),
        "control 7": ticket(7, "control", "worse than dense"),
        "ticket 9": ticket(9, "ticket", "more than 0.3 points better than dense"),
        "ticket 15": ticket(15, "ticket", "equal to dense"),
        "dense 5": Row({**L5, **dense}, "ours", group=five),
        "Han 5": Row({**L5, **han, "pruning_steps": 2, "sparsity": share5, "options": {"kept": kept5}},
                     "Han et al. 2015", 0.77, 0.80, group=five),
        "DNS 5": Row({**L5, **dns, "lr": 0.02, "sparsity": 0.991}, "Guo et al. 2016", 0.91, 0.91, group=five),
        "SNIP 5, 98 %": Row({**L5, **snip, "sparsity": 0.98}, "Lee et al. 2019", 0.8, 0.9, group=five),
        "SNIP 5, 99 %": Row({**L5, **snip, "sparsity": 0.99}, "Lee et al. 2019", 1.1, 0.9, group=five),
        "activation 5, 99.1 %": Row({**L5, **ours, "pruning_steps": 3, "options": {"across": "lamp"},
                                     "sparsity": 0.991},
                                    "ours", group=five),
    }  # fmt: skip


def one(row: str, seed: int) -> sweep.Row:
    folder = Path("runs/reproductions") / f"{row} {seed}".replace(" ", "-").replace(",", "").replace("%", "")
    return train(RunConfig(seed=seed, **published()[row].config), folder)


TRIALS = [Trial({"row": name, "seed": seed}, "reproductions:one") for seed in (0, 1, 2) for name in published()]


def errors(rows: Sequence[sweep.Row]) -> list[float]:
    """Test errors in percent, by seed."""
    return [100 * (1 - row["summary"]["test_accuracy"]) for row in rows if "summary" in row]


def fields(name: str, row: Row, found: Sequence[sweep.Row], dense: Sequence[float]) -> list[str]:
    """One line of the table."""
    own = errors(found)
    if not own:
        return [name, row.paper, f"refused: {found[0]['refused']}", *[""] * 6]
    kept = 1 - mean(each["summary"]["actual"] for each in found if "summary" in each)
    paper = "-" if row.error is None else f"{row.error:.2f} ({row.dense:.2f})"
    change = row.note or ("-" if row.error is None or row.dense is None else f"{row.error - row.dense:+.2f}")
    return [
        name, row.paper, f"{100 * kept:.2f}", f"{1 / kept:.1f}x", paper,
        f"{spread(own)} ({mean(dense):.2f})" if dense else spread(own), change,
        f"{mean(own) - mean(dense):+.2f}" if dense else "-", str(len(own)),
    ]  # fmt: skip


def report(found: list[sweep.Row]) -> None:
    """docs/results/reproductions-table.md: one table per group."""
    head = ("row", "paper", "weights kept %", "compression", "published error % (its dense)", "our error % (our dense)",
            "change, published", "change, ours", "seeds")  # fmt: skip
    text = [
        "Written by `python benchmarks/reproductions.py --report`. Errors on the test set, mean ± std over seeds.\n"
    ]
    for group in dict.fromkeys(row.group for row in published().values()):
        own = {name: row for name, row in published().items() if row.group == group}
        dense = errors(select(found, row=next(iter(own))))
        body = [fields(name, row, rows, dense) for name, row in own.items() if (rows := select(found, row=name))]
        text += [f"### {group}\n", table(head, body)]
    RESULTS.with_name("reproductions-table.md").write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main(__doc__, TRIALS, RESULTS, report)
