"""Variational dropout on LeNet-300-100 and LeNet-5-Caffe (MNIST): published figures beside ours, in far fewer epochs.

    python benchmarks/variational_dropout.py                        # what is missing, 3 seeds, then the table
    python benchmarks/variational_dropout.py --only lenet-300-100 --seeds 0
    python benchmarks/variational_dropout.py --report               # only the table, from the results so far

Three variants: *threshold*, as published, log alpha 3 and no retraining; *budget*, the published compression, no
retraining; *budget, recovered*, the same compression after 80 % of the epochs, the rest without noise. One line per
finished run goes to docs/results/variational-dropout.jsonl. MNIST is looked for in ACTPRUNE_DATA; one thread.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from statistics import mean, stdev
from typing import Any

RESULTS = Path("docs/results/variational-dropout.jsonl")
TABLE = Path("docs/results/variational-dropout-table.md")
COMMON = {"data": "mnist", "optimizer": "adam", "lr_schedule": "cosine", "weight_decay": 0.0, "batch_size": 100,
          "full_length": True, "patience": 0, "restore_best": False, "threads": 1}  # fmt: skip
NETS: dict[str, dict[str, Any]] = {
    "lenet-300-100": {"max_epochs": 30, "lr": 2e-3},
    "lenet-5-caffe": {"max_epochs": 6, "lr": 2e-3, "channels_last": True},
}
PAPER = {  # test error in %, compression, sparsity per layer in %; 200 epochs
    "lenet-300-100": {"dense": 1.64, "error": 1.92, "compression": 68, "layers": "98.9 / 97.2 / 62.0"},
    "lenet-5-caffe": {"dense": 0.80, "error": 0.75, "compression": 280, "layers": "67 / 98 / 99.8 / 95"},
}
Line = dict[str, Any]


def variants(net: str) -> dict[str, dict[str, Any]]:
    """Name -> what distinguishes its RunConfig."""
    sparsity = 1 - 1 / PAPER[net]["compression"]
    recovered = {"schedule": "once", "cubic_epochs": NETS[net]["max_epochs"] * 4 // 5}
    return {
        "threshold": {"method": "variational_dropout_threshold", "schedule": "own"},
        "budget": {"method": "variational_dropout", "sparsity": sparsity, "schedule": "own"},
        "budget, recovered": {"method": "variational_dropout", "sparsity": sparsity, **recovered},
    }


def one(net: str, variant: str, seed: int) -> Line:
    """Run one trial. A refusal by the method (a layer that would be emptied) is a result, not a crash."""
    from actprune.errors import ActpruneError
    from actprune.lab import RunConfig, run

    config = RunConfig(model=net, seed=seed, **COMMON, **NETS[net], **variants(net)[variant])
    out = Path("runs/variational-dropout") / f"{net} {variant} {seed}".replace(" ", "-").replace(",", "")
    line: Line = {"net": net, "variant": variant, "seed": seed, "config": config.model_dump(mode="json")}
    try:
        line["summary"] = run(config, out, overwrite=True, plots=False).summary
    except ActpruneError as error:
        line["refused"] = f"{type(error).__name__}: {error}"
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return line


def done() -> list[Line]:
    return [json.loads(row) for row in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def write(lines: list[Line]) -> None:
    """One row per network and variant, mean and standard deviation over seeds, the published one first."""
    text = [
        "Made by `python benchmarks/variational_dropout.py` (MNIST). Mean ± standard deviation over seeds; published:",
        "Molchanov et al. 2017 (arXiv 1701.05369), 200 epochs. Sparsity per layer in %, first to last layer.",
        "",
        "| network | variant | seeds | epochs | compression | sparsity per layer | test error % | CPU seconds |",
        "|" + "---|" * 8,
    ]
    for net, paper in PAPER.items():
        text.append(
            f"| {net} | **published** | | 200 | {paper['compression']}x | {paper['layers']} | {paper['error']} "
            f"(dense {paper['dense']}) | |"
        )
        for variant in variants(net):
            own = [line for line in lines if (line["net"], line["variant"]) == (net, variant)]
            found = [line["summary"] for line in own if "summary" in line]
            text += [_row(net, variant, found)] if found else []
            text += [f"| {net} | {variant}, seed {line['seed']} | | | {line['refused']} | | | |"
                     for line in own if "refused" in line]  # fmt: skip
    TABLE.write_text("\n".join(text) + "\n")


def _row(net: str, variant: str, found: list[dict[str, Any]]) -> str:
    removed = [[100 * (1 - layer["kept"] / layer["total"]) for layer in summary["layers"]] for summary in found]
    layers = " / ".join(f"{mean(column):.1f}" for column in zip(*removed, strict=True))
    return (
        f"| {net} | {variant} | {len(found)} | {found[0]['epochs']} "
        f"| {_spread([summary['compression'] for summary in found], 1)}x | {layers} "
        f"| {_spread([100 * (1 - summary['test_accuracy']) for summary in found], 2)} "
        f"| {mean(summary['cpu_seconds'] for summary in found):.0f} |"
    )


def _spread(values: list[float], digits: int) -> str:
    around = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{around}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--variant", default="", help="only this one")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--report", action="store_true", help="only write the table")
    options = parser.parse_args()
    have = {(line["net"], line["variant"], line["seed"]) for line in done()}
    trials = [(net, name, int(seed)) for seed in options.seeds.split(",") for net in NETS for name in variants(net)]
    for trial in [] if options.report else trials:
        if trial in have or options.only not in trial[0] or options.variant not in ("", trial[1]):
            continue
        line = one(*trial)
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")
        result = line.get("summary", {})
        print(
            f"{trial[0]}, {trial[1]}, seed {trial[2]}: "
            + (line.get("refused") or f"{result['compression']:.1f}x, error {1 - result['test_accuracy']:.2%}"),
            flush=True,
        )
    write(done())


if __name__ == "__main__":
    main()
