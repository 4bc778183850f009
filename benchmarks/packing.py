"""How small the founding method's 94x network gets as a file: dense, masked, compacted, packed; beside the bound.

    python benchmarks/packing.py                    # seeds 0, 1, 2 of the article's network on MNIST at 98.94 %
    python benchmarks/packing.py --max-loss 0       # no loss of validation accuracy at all

The networks are those of benchmarks/founding.py ("guarded neuron_weight per layer at 0.9894"), trained now where runs/
does not hold them. One line per seed and limit goes to docs/results/packing.jsonl, the table to packing-table.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import founding

TRIAL = "guarded neuron_weight per layer at 0.9894"
RESULTS = Path("docs/results/packing.jsonl")


def packed(seed: int, max_loss: float, epochs: int) -> dict[str, Any]:
    from actprune.lab import shipped
    from actprune.lab.packing import pack_run

    folder = Path("runs/founding") / f"mnist {seed} {TRIAL}".replace(" ", "-")
    if not (folder / "summary.json").exists():
        founding.one(TRIAL, "mnist", seed)
    found = shipped.read(folder)
    result = pack_run(found, max_loss=max_loss / 100, epochs=epochs)
    bound = result.info.bound
    return {
        "seed": seed, "max_loss": max_loss, "epochs": epochs, "sizes": result.sizes,
        "dense_parameter_bytes": sum(4 * tensor.numel() for tensor in found.model.parameters()),
        "header_bytes": result.info.header_bytes, "table_bytes": bound.tables,
        "bound": {"positions": bound.positions, "values": bound.values},
        "validation": result.validation, "test": result.test,
        "values": {row.name: row.values for row in result.info.tensors},
        "tensors": [asdict(row) for row in result.info.tensors],
        "tried": [asdict(row) for row in result.tried],
    }  # fmt: skip


def table(lines: list[dict[str, Any]]) -> str:
    rows = [
        "Made by `python benchmarks/packing.py`. *Bound*: entropy of positions (log2 C(n, k) after compaction) and of",
        "values, at the chosen precision; *coded*: the file without its header and codebooks. Accuracies in %, before",
        "and after packing. *Times*: dense float32 parameters over the whole file.",
        "",
        "| seed | may lose | dense | compacted fp32 | packed file | times | header | codebooks | coded | bound "
        "| coded/bound | validation | test |",
        "|" + "---|" * 13,
    ]
    for line in lines:
        file, dense = line["sizes"]["packed"], line["dense_parameter_bytes"]
        coded = file - line["header_bytes"] - line["table_bytes"]
        bound = line["bound"]["positions"] + line["bound"]["values"]
        rows.append(
            f"| {line['seed']} | {line['max_loss']:g} | {dense:,} | {line['sizes']['compacted, float32']:,} "
            f"| **{file:,}** | **{dense / file:.0f}x** | {line['header_bytes']:.0f} | {line['table_bytes']} "
            f"| {coded:,.0f} | {bound:,.0f} | {coded / bound:.3f} "
            f"| {_pair(line['validation'])} | {_pair(line['test'])} |"
        )
    return "\n".join(rows) + "\n"


def _pair(values: list[float]) -> str:
    return f"{100 * values[0]:.2f} -> {100 * values[1]:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--max-loss", type=float, default=0.1, help="points of validation accuracy")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [json.loads(row) for row in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    for seed in (int(seed) for seed in options.seeds.split(",")):
        if any((line["seed"], line["max_loss"]) == (seed, options.max_loss) for line in lines):
            continue
        lines.append(packed(seed, options.max_loss, options.epochs))
        with RESULTS.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        print(f"seed {seed}: {lines[-1]['sizes']['packed']:,} bytes", flush=True)
    RESULTS.with_name("packing-table.md").write_text(
        table(sorted(lines, key=lambda line: (line["max_loss"], line["seed"])))
    )


if __name__ == "__main__":
    main()
