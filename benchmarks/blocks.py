"""What a block pattern costs in accuracy and buys in speed: 1x4 blocks against single weights, at equal sparsity.

    python benchmarks/blocks.py                 # trains the block cells (3 seeds, two data sets), then the report
    python benchmarks/blocks.py --report        # only measures latency and writes the report

Same network, training and budget as benchmarks/founding.py, whose unstructured cells are the comparison. One line per
finished run goes to docs/results/blocks.jsonl; a cell that is there is never computed twice.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import founding

RESULTS = Path("docs/results/blocks.jsonl")
SPARSITIES = (0.9, founding.HIGH)


def cells() -> dict[str, dict[str, Any]]:
    """Name of a cell -> what distinguishes its RunConfig. Inputs of the layers are multiples of 4: no edge tiles."""
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
    founding.cells = cells
    founding.sweep(data, seeds, "", jobs=1)


def accuracies(path: Path) -> dict[tuple[str, str], list[float]]:
    """(cell, data) -> test accuracies by seed."""
    found: dict[tuple[str, str], list[float]] = {}
    for line in (json.loads(row) for row in path.read_text().splitlines()):
        if "summary" in line:
            found.setdefault((line["cell"], line["data"]), []).append(line["summary"]["test_accuracy"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist,fashion-mnist")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--report", action="store_true", help="only measure latency and write the report")
    options = parser.parse_args()
    if not options.report:
        train(options.data.split(","), [int(seed) for seed in options.seeds.split(",")])


if __name__ == "__main__":
    main()
