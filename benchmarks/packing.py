"""How small the founding method's 94x network gets as a file: dense, masked, compacted, packed; beside the bound.

    python benchmarks/packing.py                    # seeds 0, 1, 2 of the article's network on MNIST at 98.94 %
    python benchmarks/packing.py --only "0.1, 20"   # only those that may lose 0.1 point of validation accuracy

The networks are those of benchmarks/founding.py, trained now where runs/ does not hold them. Rows:
docs/results/packing.jsonl, one per seed and limit (points of validation accuracy that may be lost).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import founding
from actprune.lab.sweep import Row, Trial, main, table

TRIAL = "guarded neuron_weight per layer at 0.9894"
RESULTS = Path("docs/results/packing.jsonl")
TRIALS = [
    Trial({"seed": seed, "max_loss": limit, "epochs": 20}, "packing:one") for limit in (0.0, 0.1) for seed in (0, 1, 2)
]


def one(seed: int, max_loss: float, epochs: int) -> Row:
    import torch

    from actprune.lab import shipped
    from actprune.lab.packing import pack_run

    torch.set_num_threads(1)
    folder = founding.folder(TRIAL, "mnist", seed)
    if not (folder / "summary.json").exists():
        founding.one(TRIAL, "mnist", seed)
    found = shipped.read(folder)
    result = pack_run(found, max_loss=max_loss / 100, epochs=epochs)
    bound = result.info.bound
    return {
        "sizes": result.sizes,
        "dense_parameter_bytes": sum(4 * tensor.numel() for tensor in found.model.parameters()),
        "header_bytes": result.info.header_bytes, "table_bytes": bound.tables,
        "bound": {"positions": bound.positions, "values": bound.values},
        "validation": result.validation, "test": result.test,
        "values": {row.name: row.values for row in result.info.tensors},
        "tensors": [asdict(row) for row in result.info.tensors],
        "tried": [asdict(row) for row in result.tried],
    }  # fmt: skip


def fields(row: Row) -> tuple[str, ...]:
    """One line of the table."""
    file, dense = row["sizes"]["packed"], row["dense_parameter_bytes"]
    coded = file - row["header_bytes"] - row["table_bytes"]
    bound = row["bound"]["positions"] + row["bound"]["values"]
    pairs = (f"{100 * row[part][0]:.2f} -> {100 * row[part][1]:.2f}" for part in ("validation", "test"))
    return (
        str(row["seed"]), f"{row['max_loss']:g}", f"{dense:,}", f"{row['sizes']['compacted, float32']:,}",
        f"**{file:,}**", f"**{dense / file:.0f}x**", f"{row['header_bytes']:.0f}", str(row["table_bytes"]),
        f"{coded:,.0f}", f"{bound:,.0f}", f"{coded / bound:.3f}", *pairs,
    )  # fmt: skip


def report(rows: list[Row]) -> None:
    """docs/results/packing-table.md."""
    head = ("seed", "may lose", "dense", "compacted fp32", "packed file", "times", "header", "codebooks", "coded",
            "bound", "coded/bound", "validation", "test")  # fmt: skip
    text = [
        "Made by `python benchmarks/packing.py`. *Bound*: entropy of positions (log2 C(n, k) after compaction) and of",
        "values, at the chosen precision; *coded*: the file without its header and codebooks. Accuracies in %, before",
        "and after packing. *Times*: dense float32 parameters over the whole file.",
        "",
        table(head, map(fields, sorted(rows, key=lambda row: (row["max_loss"], row["seed"])))),
    ]
    RESULTS.with_name("packing-table.md").write_text("\n".join(text))


if __name__ == "__main__":
    main(__doc__, TRIALS, RESULTS, report)
