"""Deep Compression on LeNet-300-100 and LeNet-5-Caffe: the published codec, and the smallest file of equal error.

    python benchmarks/deep_compression.py                      # trains what is missing, then everything, 3 seeds
    python benchmarks/deep_compression.py --only lenet-300-100 --seeds 0
    python benchmarks/deep_compression.py --report             # only the table, from the results so far

For each seed a network is pruned by activation to the paper's sparsity (8 % of the weights left) and shipped twice:
*published*: per-layer codebooks of the paper's width, evenly initialised, centroids fine-tuned by the summed gradients
of fixed clusters, 5-bit gaps with filler zeros, Huffman codes; *ours*: compacted, codebooks and assignments trained,
and positions and values range-coded, at most 0.1 point of validation accuracy lost. Sparser networks show how small a
file of the paper's error can be. One line per finished trial goes to docs/results/deep-compression.jsonl.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

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


def one(net: str, sparsity: float, seed: int) -> dict[str, Any]:
    epochs = TUNING[net]
    found = finished(net, sparsity, seed)
    dense = sum(4 * tensor.numel() for tensor in found.model.parameters())
    line = {"net": net, "sparsity": sparsity, "seed": seed, "dense_bytes": dense, "tuning_epochs": epochs}
    line["pruned_test_accuracy"] = found.summary["test_accuracy"]
    line["weights_kept"] = 1 - found.summary["sparsity_with_unpruned_layers"]
    if sparsity == SPARSITIES[net][0]:
        line["published"] = published(found)
    return {**line, "ours": ours(found, epochs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sparsity", type=float, help="only this one")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [json.loads(row) for row in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    have = {(line["net"], line["sparsity"], line["seed"]) for line in lines}
    trials = [
        (net, sparsity, int(seed)) for net in NETS for sparsity in SPARSITIES[net] for seed in options.seeds.split(",")
    ]
    for trial in trials if not options.report else []:
        if trial in have or options.only not in trial[0] or options.sparsity not in (None, trial[1]):
            continue
        line = one(*trial)
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(
            f"{trial[0]} at {trial[1]:g}, seed {trial[2]}: ours {line['ours']['file_bytes']:,} bytes, "
            f"error {1 - line['ours']['test_accuracy']:.2%}; published codec "
            + (f"{line['published']['coded_bytes']:,} bytes, error {1 - line['published']['test_accuracy']:.2%}"
               if "published" in line else "not asked"),
            flush=True,
        )  # fmt: skip
    from deep_compression_report import write

    write([json.loads(row) for row in RESULTS.read_text().splitlines()])


if __name__ == "__main__":
    main()
