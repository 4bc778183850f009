"""The tables of pruning without labels, from the lines of docs/results/unlabelled.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

TABLE = Path("docs/results/unlabelled-table.md")
Line = dict[str, Any]


def write(lines: list[Line], plan: list[tuple[str, str, int]]) -> None:
    """docs/results/unlabelled-table.md: one table per part, and what of the plan is missing."""
    text = [
        "# Pruning without labels: every trial\n",
        "Made by `python benchmarks/unlabelled.py`. Mean ± standard deviation over seeds, n = number of seeds. The",
        "test set is read once per run, for the weights of the epoch with the lowest validation loss after the last",
        "pruning.\n",
        *sources(lines),
        *overlaps(lines),
        *few(lines),
        *autoencoders(lines),
        *missing(lines, plan),
    ]
    TABLE.write_text("\n".join(text) + "\n")


def sources(lines: list[Line]) -> list[str]:
    """Accuracy by the images counted on."""
    rows = []
    for trial, data, found in grouped(lines, "sources"):
        removed = trial.split()[1]
        rest = " ".join(trial.split()[2:])
        known = "nothing counted" if rest in ("", "magnitude") else f"{rest} images"
        method = "dense" if removed == "dense" else "magnitude" if rest == "magnitude" else "activation"
        rows.append([data, removed.replace("dense", "0"), method, known, *accuracies(found)])
    head = ["data", "target %", "method", "counted on", "actual %, all kernels", "validation %", "test %", "n"]
    return [
        "## Where the counted images come from (27,000 labels, article's network)\n",
        *table(head, sorted(rows)),
        "",
    ]


def few(lines: list[Line]) -> list[str]:
    """Few labels: alone, or with pseudo-labels."""
    rows = []
    for trial, data, found in grouped(lines, "few"):
        _, labels, semi, removed, method, source = trial.split()
        known = {"train": "the labelled", "unlabelled": "the unlabelled", "-": "nothing"}[source]
        rows.append([data, labels, {"none": "labels alone", "pseudo": "pseudo-labels"}[semi], removed, method, known,
                     *accuracies(found)])  # fmt: skip
    rows.sort(key=lambda row: (int(row[1]), row[2], float(row[3]), row[4:6]))
    head = [
        "data",
        "labels",
        "training",
        "target %",
        "method",
        "counted on",
        "actual %, all kernels",
        "validation %",
        "test %",
        "n",
    ]
    return ["## Few labels (article's network)\n", *table(head, rows), ""]


def autoencoders(lines: list[Line]) -> list[str]:
    """Reconstruction error and explained variance."""
    rows = []
    for trial, data, found in grouped(lines, "autoencoder"):
        _, removed, method = trial.split()
        rows.append([
            data, removed, method, spread(found, "actual", 2, 100), spread(found, all_weights, 2, 100),
            spread(found, "test_loss", 5), spread(found, "test_accuracy", 4), str(len(found)),
        ])  # fmt: skip
    rows.sort(key=lambda row: (row[0], float(row[1]), row[2]))
    head = [
        "data",
        "target %",
        "method",
        "removed of prunable %",
        "removed of all %",
        "test MSE per pixel",
        "test R^2",
        "n",
    ]
    return ["## Autoencoder 784-300-100-300-784\n", *table(head, rows), ""]


def overlaps(lines: list[Line]) -> list[str]:
    """Jaccard index of the kept weights, averaged over the pairs of each kind."""
    kinds: dict[tuple[str, str, str, str], list[float]] = {}
    for line in lines:
        for pair in line.get("overlap", ()):
            (first, images, one), (second, other, two) = pair["first"], pair["second"]
            if "magnitude" in (first, second):
                kind = "any source against magnitude"
            elif first == second and images == other:
                kind = "same source, two drawings"
            elif images == other and one == two:
                kind = f"{first} against {second}"
            elif first == second == "train" and one == two:
                kind = "train: 32 against 1000 images"
            else:
                continue
            count = f"{images}" if images == other or "magnitude" in kind else "both"
            kinds.setdefault((line["data"], pair["removed"], count, kind), []).append(pair["jaccard"])
    rows = [[*key, f"{mean(values):.4f}", f"{min(values):.4f}", str(len(values))] for key, values in kinds.items()]
    rows.sort(key=lambda row: (row[0], float(row[1]), row[2] == "both", int(row[2]) if row[2].isdigit() else 0, row[3]))
    head = ["data", "removed %", "images", "pair", "Jaccard, mean", "lowest", "pairs"]
    title = (
        "## Overlap of the masks: the same dense weights, one pruning, other images (kept by both / kept by either)\n"
    )
    return [title, *table(head, rows), ""]


def missing(lines: list[Line], plan: list[tuple[str, str, int]]) -> list[str]:
    """What the plan has and the results have not, refusals included."""
    have = {(line["trial"], line["data"], line["seed"]) for line in lines}
    left = [f"{name} ({data}, seed {seed})" for name, data, seed in plan if (name, data, seed) not in have]
    refused = [
        f"- {line['trial']} ({line['data']}, seed {line['seed']}): {line['refused']}"
        for line in lines
        if "refused" in line
    ]
    spent = sum(line["cpu_seconds"] for line in lines)
    text = [f"{len(have)} of {len(have) + len(left)} planned trials, {spent / 60:.1f} minutes of CPU time.", *refused]
    return [*text, *([f"Not computed: {'; '.join(left)}."] if left else [])]


def grouped(lines: list[Line], part: str) -> Iterable[tuple[str, str, list[Line]]]:
    """(trial, data, summaries) of a part, seeds together."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if line["trial"].split()[0] == part and "summary" in line:
            groups.setdefault((line["trial"], line["data"]), []).append(line["summary"])
    return [(trial, data, found) for (trial, data), found in groups.items()]


def accuracies(found: list[Line]) -> list[str]:
    return [spread(found, all_weights, 2, 100), spread(found, "validation_accuracy", 2, 100),
            spread(found, "test_accuracy", 2, 100), str(len(found))]  # fmt: skip


def all_weights(summary: Line) -> float:
    """Removed, of all weights, the unpruned output layer included."""
    return float(summary["sparsity_with_unpruned_layers"])


def spread(found: list[Line], key: str | Callable[[Line], float], digits: int, scale: float = 1.0) -> str:
    """Mean and standard deviation over seeds."""
    values = [scale * (line[key] if isinstance(key, str) else key(line)) for line in found]
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
