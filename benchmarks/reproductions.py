"""What the compared papers report on LeNet-300-100 and LeNet-5-Caffe (MNIST), done again with their methods.

    python benchmarks/reproductions.py                        # every row, seeds 0,1,2, then the table
    python benchmarks/reproductions.py --only lenet-5 --jobs 2
    python benchmarks/reproductions.py --report               # only the table, from the results so far

One line per finished run goes to docs/results/reproductions.jsonl; a row that is there is never computed twice.
Budgets are far below the papers' (24, 6 or 5 epochs a training where they have 50 to 250), the same for every row of a
network; each row's published figure, and that of the paper's own dense network, stand in ROWS.
"""

from __future__ import annotations

import argparse
import json
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    group: str = field(default="lenet-300-100")


def tickets(rounds: int) -> float:
    """Sparsity after so many rounds of 20 % per layer, 10 % in the output layer."""
    return 1 - (265_200 * 0.8**rounds + 1_000 * 0.9**rounds) / 266_200


def ticket(rounds: int, variant: str, note: str) -> Row:
    schedule = {"schedule": "rounds", "pruning_steps": rounds, "max_epochs": ROUND * (rounds + 1)}
    return Row(
        {**TICKET, **schedule, "method": "lottery", "sparsity": tickets(rounds), "options": {"variant": variant}},
        "Frankle & Carbin 2019", note=note, group="tickets",
    )  # fmt: skip


def rows() -> dict[str, Row]:
    """Name of a row -> what it is."""
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


def one(name: str, seed: int) -> dict[str, Any]:
    """Run one row in a folder of its own and return its line."""
    from actprune.errors import ActpruneError
    from actprune.lab import RunConfig, run

    config = RunConfig(seed=seed, **rows()[name].config)
    out = Path("runs/reproductions") / f"{name} {seed}".replace(" ", "-").replace(",", "").replace("%", "")
    line: dict[str, Any] = {"row": name, "seed": seed, "config": config.model_dump(mode="json")}
    try:
        line["summary"] = run(config, out, overwrite=True, plots=False).summary
    except ActpruneError as error:
        line["refused"] = f"{type(error).__name__}: {error}"
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return line


def done() -> list[dict[str, Any]]:
    return [json.loads(row) for row in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def sweep(seeds: list[int], only: list[str], jobs: int) -> None:
    """Compute what is missing, seed by seed, so that an early look sees every row."""
    have = {(line["row"], line["seed"]) for line in done()}
    todo = [key for seed in seeds for name in rows() if (key := (name, seed)) not in have]
    todo = [(name, seed) for name, seed in todo if not only or name in only or rows()[name].group in only]
    with ProcessPoolExecutor(jobs) as pool:
        for number, future in enumerate(as_completed([pool.submit(one, *key) for key in todo]), 1):
            line = future.result()
            with RESULTS.open("a") as file:
                file.write(json.dumps(line) + "\n")
            said = line.get("refused") or (
                f"{line['summary']['actual']:.2%} removed, error {1 - line['summary']['test_accuracy']:.2%}"
            )
            print(f"{number}/{len(todo)} {line['row']}, seed {line['seed']}: {said}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="rows or groups (lenet-300-100, tickets, lenet-5-caffe), with ;")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="only write the table")
    options = parser.parse_args()
    if not options.report:
        sweep([int(seed) for seed in options.seeds.split(",")], [o for o in options.only.split(";") if o], options.jobs)
    from reproductions_report import write

    write(done(), rows())


if __name__ == "__main__":
    main()
