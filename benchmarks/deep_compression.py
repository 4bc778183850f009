"""Deep Compression on LeNet-300-100 and LeNet-5-Caffe: the published codec, and the smallest file of equal error.

    python benchmarks/deep_compression.py                      # trains what is missing, then everything, 3 seeds
    python benchmarks/deep_compression.py --only lenet-300-100 --seeds 0
    python benchmarks/deep_compression.py --report             # only the table, from the rows so far

For each seed a network is pruned by activation to the paper's sparsity (8 % of the weights left) and shipped twice:
*published*: per-layer codebooks of the paper's width, evenly initialised, centroids fine-tuned by the summed gradients
of fixed clusters, 5-bit gaps with filler zeros, Huffman codes; *ours*: compacted, codebooks and assignments trained,
and positions and values range-coded, at most 0.1 point of validation accuracy lost. Sparser networks show how small a
file of the paper's error can be. Rows:
docs/results/deep-compression.jsonl.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from actprune.lab.sweep import Row, Trial, main, select, spread, table

RESULTS = Path("docs/results/deep-compression.jsonl")
COMMON = {"data": "mnist", "method": "activation", "schedule": "cubic", "pruning_steps": 8, "lr": 0.05,
          "weight_decay": 0.0005,
          "lr_schedule": "cosine", "stop_at": 1.0, "patience": 0, "restore_best": False, "threads": 1,
          "options": {"scope": "layer"}}  # fmt: skip
NETS: dict[str, dict[str, Any]] = {
    "lenet-300-100": {"max_epochs": 60, "batch_size": 32},
    "lenet-5-caffe": {"max_epochs": 20, "batch_size": 64},
}
SPARSITIES = {"lenet-300-100": (0.92, 0.96, 0.975), "lenet-5-caffe": (0.92, 0.98)}
TUNING = {"lenet-300-100": 10, "lenet-5-caffe": 2}  # epochs of each fine-tuning of trained codebooks
BITS = {"lenet-300-100": 6, "lenet-5-caffe": {"conv1.weight": 8, "conv2.weight": 8, "fc1.weight": 5, "fc2.weight": 5}}
PAPER: dict[str, dict[str, Any]] = {
    "lenet-300-100": {"bytes": "27 KB", "ratio": 40, "error": 1.58, "before": 1.64},
    "lenet-5-caffe": {"bytes": "44 KB", "ratio": 39, "error": 0.74, "before": 0.80},
}


def finished(net: str, sparsity: float, seed: int) -> Any:
    """The run, trained now if runs/ does not hold it."""
    from actprune.lab import RunConfig, run, shipped

    out = Path("runs/deep-compression") / f"{net}-{sparsity:g}-{seed}"
    if not (out / "summary.json").exists():
        run(RunConfig(model=net, sparsity=sparsity, seed=seed, **COMMON, **NETS[net]), out, overwrite=True, plots=False)
    return shipped.read(out)


def published(found: Any, epochs: int = 2, lr: float = 1e-4) -> dict[str, Any]:
    """The paper's codec on the network as it is, neither compacted nor coded better."""
    from actprune.artifact import SharedWeights, build, published, to_bytes
    from actprune.artifact.deep_compression import layer_size
    from actprune.lab.codebooks import train_shared
    from actprune.lab.evaluate import evaluate
    from actprune.program import export

    program = export(found.model, found.example)
    asked = BITS[found.config.model]
    weights = [name for name, tensor in program.named_parameters() if tensor.dim() > 1]
    bits = {name: asked if isinstance(asked, int) else asked[name] for name in weights}
    shared = SharedWeights(program, bits, "linear")
    shared.apply()
    rounded = evaluate(program, found.dataset.validation).accuracy
    train_shared(program, shared, found.dataset.train, epochs=epochs, lr=lr, seed=found.config.seed)
    document = published(program.structure(), program.tensors(), bits, {})
    decoded = build(document)
    rows = [asdict(layer_size(spec, document.parts[spec.name])) for spec in document.header.specs if spec.name in bits]
    biases = sum(4 * tensor.numel() for name, tensor in program.named_parameters() if name not in bits)
    return {
        "layers": rows,
        "fixed_bytes": sum(row["fixed_bytes"] for row in rows) + biases,
        "coded_bytes": sum(row["coded_bytes"] for row in rows) + biases,
        "file_bytes": len(to_bytes(document)),
        "validation_before_tuning": rounded,
        "test_accuracy": evaluate(decoded, found.dataset.test).accuracy,
    }


def ours(found: Any, epochs: int) -> dict[str, Any]:
    """Our codec, the way `actprune pack` goes."""
    from actprune.lab.packing import pack_run

    result = pack_run(found, max_loss=0.001, epochs=epochs)
    return {
        "file_bytes": result.info.bytes,
        "bound_bytes": result.info.bound.bytes,
        "header_bytes": result.info.header_bytes,
        "table_bytes": result.info.bound.tables,
        "test_accuracy": result.test[1],
        "test_before": result.test[0],
        "validation": result.validation,
        "sizes": result.sizes,
        "values": {row.name: row.values for row in result.info.tensors},
        "tried": [asdict(row) for row in result.tried],
    }


def one(net: str, sparsity: float, seed: int) -> Row:
    import torch

    torch.set_num_threads(1)
    epochs = TUNING[net]
    found = finished(net, sparsity, seed)
    row = {
        "dense_bytes": sum(4 * tensor.numel() for tensor in found.model.parameters()),
        "tuning_epochs": epochs,
        "pruned_test_accuracy": found.summary["test_accuracy"],
        "weights_kept": 1 - found.summary["sparsity_with_unpruned_layers"],
    }
    if sparsity == SPARSITIES[net][0]:
        row["published"] = published(found)
    return {**row, "ours": ours(found, epochs)}


TRIALS = [
    Trial({"net": net, "sparsity": sparsity, "seed": seed}, "deep_compression:one")
    for net in NETS for sparsity in SPARSITIES[net] for seed in (0, 1, 2)
]  # fmt: skip


def fields(name: str, rows: list[Row], codec: str, size: str) -> tuple[str, ...]:
    """One line of the table: a codec at one sparsity."""
    sizes = [row[codec][size] for row in rows]
    return (
        rows[0]["net"], f"{100 * mean(row['weights_kept'] for row in rows):.1f} %", name, str(len(rows)),
        spread(sizes, 0), f"{spread([row['dense_bytes'] / size for row, size in zip(rows, sizes, strict=True)], 1)}x",
        spread([100 * (1 - row[codec]["test_accuracy"]) for row in rows]),
        spread([100 * (1 - row["pruned_test_accuracy"]) for row in rows]),
    )  # fmt: skip


def layers(rows: list[Row]) -> str:
    """Bits per stored weight, seed 0: the paper's columns."""
    body = []
    for row in select(rows, seed=0):
        for layer in row.get("published", {}).get("layers", []):
            dense = 4 * layer["weights"]
            body.append((
                row["net"], layer["name"].removesuffix(".weight"), f"{100 * layer['kept'] / layer['weights']:.1f}",
                f"{layer['fillers']:,}", f"{layer['weight_bits']} -> {layer['weight_bits_coded']:.1f}",
                f"{layer['index_bits']} -> {layer['index_bits_coded']:.1f}",
                f"{100 * layer['fixed_bytes'] / dense:.2f} -> {100 * layer['coded_bytes'] / dense:.2f}",
            ))  # fmt: skip
    head = ("network", "layer", "kept %", "fillers", "weight bits, coded", "index bits, coded", "% of fp32, coded")
    return table(head, body)


def report(rows: list[Row]) -> None:
    """docs/results/deep-compression-table.md: one line per network, sparsity and codec, the paper's first."""
    body: list[tuple[str, ...]] = []
    for net, paper in PAPER.items():
        body.append((net, "8 %", "**paper** (Han et al. 2016)", "", paper["bytes"], f"{paper['ratio']}x",
                     str(paper["error"]), f"{paper['before']} (its dense net)"))  # fmt: skip
        for sparsity in sorted({row["sparsity"] for row in select(rows, net=net)}):
            own = select(rows, net=net, sparsity=sparsity)
            if theirs := [row for row in own if "published" in row]:
                body.append(fields("published codec, payload", theirs, "published", "coded_bytes"))
            body.append(fields("ours", own, "ours", "file_bytes"))
    head = ("network", "weights left", "codec", "seeds", "bytes", "times smaller than fp32", "test error %",
            "before packing")  # fmt: skip
    text = [
        "Made by `python benchmarks/deep_compression.py` (MNIST). Bytes are whole files of ours, header and tables",
        "included; *published codec, payload* leaves our header out, as the paper counts. Mean ± standard deviation.",
        "",
        table(head, body),
        "## Bits per stored weight, seed 0 (the paper's columns)\n",
        layers(rows),
    ]
    RESULTS.with_name("deep-compression-table.md").write_text("\n".join(text))


if __name__ == "__main__":
    main(__doc__, TRIALS, RESULTS, report)
