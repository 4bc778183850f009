"""What a block pattern costs in accuracy and buys in speed: 1x4 blocks against single weights, at equal sparsity.

    python benchmarks/blocks.py                 # trains the block trials (3 seeds, two data sets), then the report
    python benchmarks/blocks.py --report        # only measures latency and writes the report

Same network, training and budget as benchmarks/founding.py, whose unstructured trials are the comparison. One line per
finished run goes to docs/results/blocks.jsonl; a trial that is there is never computed twice.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import founding

RESULTS = Path("docs/results/blocks.jsonl")
SPARSITIES = (0.9, founding.HIGH)


def trials() -> dict[str, dict[str, Any]]:
    """Name of a trial -> what distinguishes its RunConfig. Inputs of the layers are multiples of 4: no edge tiles."""
    return {
        f"block(1, 4) {scope} at {of_all:g}": {
            "method": "activation",
            "sparsity": of_all * founding.ALL / founding.HIDDEN,
            "options": {"score": "neuron_weight", "scope": scope, "unit": "block(1, 4)"},
        }
        for of_all in SPARSITIES
        for scope in ("global", "layer")
    }


def train(data: list[str], seeds: list[int]) -> None:
    founding.RESULTS = RESULTS
    founding.trials = trials
    founding.sweep(data, seeds, "", jobs=1)


def accuracies(path: Path) -> dict[tuple[str, str], list[float]]:
    """(trial, data) -> test accuracies by seed."""
    found: dict[tuple[str, str], list[float]] = {}
    for line in (json.loads(row) for row in path.read_text().splitlines()):
        if "summary" in line:
            found.setdefault((line["trial"], line["data"]), []).append(line["summary"]["test_accuracy"])
    return found


def latency() -> list[dict[str, Any]]:
    """Seed 0 on MNIST, per layer, both patterns: every path that reads zeros, and the dense ones."""
    import torch

    from actprune.lab import shipped
    from actprune.lab.latency import measure
    from actprune.runtime import prepared

    torch.set_num_threads(1)
    lines = []
    for of_all in SPARSITIES:
        for pattern, trial in (("single weights", f"guarded neuron_weight per layer at {of_all:g}"),
                              ("1x4 blocks", f"block(1, 4) layer at {of_all:g}")):  # fmt: skip
            found = shipped.read(Path("runs/founding") / f"mnist 0 {trial}".replace(" ", "-"))
            data = found.dataset.validation[0][:4096]
            job = prepared(shipped.small(found).model, data[:2], dense=found.model)
            for batch in measure(job, (1, 32, 256), data, 3.0):
                times = {row.path: row.median_s for row in batch.rows if row.median_s}
                lines.append(
                    {"removed": of_all, "pattern": pattern, "batch": batch.size, "dense": batch.dense, **times}
                )
    return lines


def table(lines: list[dict[str, Any]]) -> str:
    """Accuracy of both patterns, then latency."""
    single, blocks = accuracies(founding.RESULTS), accuracies(RESULTS)
    rows = ["| removed | scope | data | single weights | 1x4 blocks | difference |", "|" + "---|" * 6]
    for of_all in SPARSITIES:
        for scope, name in (("global", f"guarded neuron_weight layer_mean at {of_all:g}"),
                            ("layer", f"guarded neuron_weight per layer at {of_all:g}")):  # fmt: skip
            for data in ("mnist", "fashion-mnist"):
                pair = single.get((name, data), []), blocks.get((f"block(1, 4) {scope} at {of_all:g}", data), [])
                if all(pair):
                    gap = 100 * (mean(pair[1]) - mean(pair[0]))
                    rows.append(
                        f"| {of_all:.2%} | {scope} | {data} | {_spread(pair[0])} | {_spread(pair[1])} | {gap:+.2f} |"
                    )
    paths = ("litert sparse", "litert blocks", "numba sparse", "mkl sparse", "onnxruntime compact")
    rows += ["", "Times faster than the fastest dense runtime (MNIST, per layer, seed 0, 1 thread):", ""]
    rows += [f"| removed | pattern | batch | {' | '.join(paths)} |", "|" + "---|" * (3 + len(paths))]
    for line in lines:
        gains = [f"{line['dense'] / line[path]:.1f}x" if path in line else "" for path in paths]
        rows.append(f"| {line['removed']:.2%} | {line['pattern']} | {line['batch']} | {' | '.join(gains)} |")
    return "\n".join(rows) + "\n"


def _spread(values: list[float]) -> str:
    around = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f}{around}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist,fashion-mnist")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--report", action="store_true", help="only measure latency and write the report")
    options = parser.parse_args()
    if not options.report:
        train(options.data.split(","), [int(seed) for seed in options.seeds.split(",")])
    RESULTS.with_name("blocks-table.md").write_text(table(latency()))


if __name__ == "__main__":
    main()
