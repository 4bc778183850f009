"""Pruning without labels: counts from labelled, held-out and unlabelled images, few labels, and an autoencoder.

    python benchmarks/unlabelled.py --minutes 25   # what is missing, the most telling first, then the report
    python benchmarks/unlabelled.py --report       # only the tables, from the rows so far

Rows: docs/results/unlabelled.jsonl. Parts (first word of a trial's name):

    sources      27,000 labelled, 27,000 unlabelled and 6,000 held-out images: accuracy by the images counted on
    overlap      the masks that two drawings of images give for the same dense weights, within and between sources
    few          100 or 1,000 labels: the labelled alone, or with pseudo-labels for the rest
    autoencoder  784-300-100-300-784, no label anywhere
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from actprune.lab import RunConfig
from actprune.lab.sweep import Row, Trial, main, spread, table, train

RESULTS = Path("docs/results/unlabelled.jsonl")
RUNS = Path("runs/unlabelled")
# The same for every trial: no early stop, so that every trial has the same number of steps.
TRAINING = {"model": "article", "optimizer": "sgd", "momentum": 0.9, "lr": 0.05, "lr_schedule": "cosine",
            "weight_decay": 5e-4, "batch_size": 128, "max_epochs": 12, "full_length": True, "patience": 0,
            "schedule": "cubic", "pruning_steps": 8, "cubic_epochs": 8, "calibration_images": 1000,
            "threads": 1}  # fmt: skip
# Squared error per pixel has gradients hundreds of times smaller: adam, which does not mind. An epoch takes four times
# as long as the classifier's, so there are fewer of them, and of pruning steps.
REBUILDING = {"task": "autoencode", "model": "autoencoder", "optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0,
              "batch_size": 256, "max_epochs": 8, "pruning_steps": 5, "cubic_epochs": 5}  # fmt: skip
ALL, HIDDEN = 320_700, 320_200  # kernel weights, with and without the output layer, which nobody prunes here
SPARSITIES = {"90": 0.9 * ALL / HIDDEN, "98.94": 0.9894 * ALL / HIDDEN}
HALF = 27_000
SOURCES = ("train", "validation", "unlabelled")
DATA = ("mnist", "fashion-mnist")


def settings() -> dict[str, dict[str, Any]]:
    """Name of a trial -> what distinguishes its RunConfig."""
    hidden_only = {"options": {"skip_output": True}}
    found: dict[str, dict[str, Any]] = {"sources dense": {"labels": HALF, "method": "magnitude", "sparsity": 0.0}}
    for removed, sparsity in SPARSITIES.items():
        for source in SOURCES:
            name = f"sources {removed} {source} 1000"
            found[name] = {"labels": HALF, "method": "activation", "sparsity": sparsity, "calibration_from": source}
        few = {"labels": HALF, "method": "activation", "sparsity": sparsity, "calibration_images": 32}
        found[f"sources {removed} train 32"] = few
        same = {"labels": HALF, "method": "magnitude", "sparsity": sparsity, **hidden_only}
        found[f"sources {removed} magnitude"] = same
    for labels, semi, removed in itertools.product((100, 1000), ("none", "pseudo"), ("90", "98.94")):
        base = {"labels": labels, "semi": semi, "sparsity": SPARSITIES[removed]}
        for source in ("train", "unlabelled"):
            name = f"few {labels} {semi} {removed} activation {source}"
            found[name] = {**base, "method": "activation", "calibration_from": source}
        found[f"few {labels} {semi} {removed} magnitude -"] = {**base, "method": "magnitude", **hidden_only}
    for labels, semi in itertools.product((100, 1000), ("none", "pseudo")):
        found[f"few {labels} {semi} 0 dense -"] = {
            "labels": labels,
            "semi": semi,
            "method": "magnitude",
            "sparsity": 0.0,
        }
    found["autoencoder 0 dense"] = {**REBUILDING, "method": "magnitude", "sparsity": 0.0}
    for removed, method in itertools.product((90, 95, 98), ("activation", "magnitude", "random", "apoz")):
        own = hidden_only if method in ("magnitude", "random") else {}
        found[f"autoencoder {removed} {method}"] = {**REBUILDING, "method": method, "sparsity": removed / 100, **own}
    return found


def plan() -> list[tuple[str, str, int]]:
    """The trials to compute, the most telling first: when the time is spent, the rest is missing, and said so."""
    every = settings()
    sources = [name for name in every if name.startswith("sources 98.94") and "magnitude" not in name]
    few = [name for name in every if name.startswith("few 100 ") and " 98.94 " in name]
    overlap = ("sources dense", "overlap")
    order = [(name, "mnist", 0) for name in (*overlap, *sources, *few)]
    order += [(name, "mnist", 0) for name in every if name.startswith(("autoencoder 0", "autoencoder 98"))]
    order += [(name, "mnist", 0) for name in every if name.startswith("few 1000") and " 98.94 " in name]
    order += [(name, "fashion-mnist", 0) for name in (*overlap, *sources)]
    order += [(name, "mnist", seed) for seed in (1, 2) for name in few]
    order += [(name, "mnist", 0) for name in every if name.startswith("autoencoder 90")]
    order += [(name, data, seed) for seed in (1, 2) for name in (*overlap, *sources) for data in DATA]
    more = (
        "few 1000 none 0",
        "few 1000 pseudo 0",
        "few 100 none 0",
        "few 100 pseudo 0",
        "sources 98.94 magnitude",
        "autoencoder 95",
    )
    order += [(name, "mnist", 0) for start in more for name in every if name.startswith(start) and " 90 " not in name]
    order += [(name, "fashion-mnist", 0) for name in every if name.startswith("sources 90")]
    order += [(name, "mnist", 0) for name in every if name.startswith("few") and " 90 " in name]
    return order


def one(trial: str, data: str, seed: int) -> Row:
    if trial == "overlap":
        return {"overlap": overlap(data, seed)}
    own = settings()[trial]
    return {
        "summary": train(RunConfig(data=data, seed=seed, **{**TRAINING, **own}), folder(trial, data, seed))["summary"]
    }


def folder(name: str, data: str, seed: int) -> Path:
    return RUNS / f"{data} {seed} {name}".replace(" ", "-")


def overlap(data: str, seed: int) -> list[dict[str, Any]]:
    """Masks of the dense weights in one pruning, by the images counted on; Jaccard index of the kept weights per pair.

    Two drawings of every source and number of images; magnitude, which counts nothing, is the outsider.
    """
    from safetensors.torch import load_file

    from actprune.lab.setup import build

    weights = load_file(folder("sources dense", data, seed) / "model.safetensors")
    lines = []
    for removed, sparsity in SPARSITIES.items():
        kept: dict[tuple[str, int, int], Any] = {}
        common = {**TRAINING, "data": data, "seed": seed, "labels": HALF, "schedule": "before", "sparsity": sparsity}
        for source, images, drawing in itertools.product(SOURCES, (32, 1000), (0, 1)):
            setup = build(RunConfig(**{**common, "method": "activation", "calibration_from": source}))
            kept[source, images, drawing] = masks(setup, weights, images, drawing)
        setup = build(RunConfig(**{**common, "method": "magnitude", "options": {"skip_output": True}}))
        kept["magnitude", 0, 0] = masks(setup, weights, 0, 0)
        for first, second in itertools.combinations(kept, 2):
            pair = {"removed": removed, "first": list(first), "second": list(second)}
            lines.append({**pair, "jaccard": jaccard(kept[first], kept[second])})
    return lines


def masks(setup: Any, weights: dict[str, Any], images: int, drawing: int) -> Any:
    """One pruning of these weights, counting on images of a drawing of its own: what is kept, all layers flat."""
    import torch

    from actprune.lab.train import calibrate

    setup.model.load_state_dict(weights)
    if images:
        calibrate(setup, 1000 + drawing, images)  # an epoch that training never reached: images it never drew
    setup.pruner.prune()
    return torch.cat([mask.flatten() for name, mask in setup.pruner.masks.items() if not bool(mask.all())])


def jaccard(first: Any, second: Any) -> float:
    """Kept by both / kept by either."""
    return float((first & second).sum() / (first | second).sum())


TRIALS = [Trial({"trial": name, "data": data, "seed": seed}, "unlabelled:one") for name, data, seed in plan()]


# ---- the report -----------------------------------------------------------------------------------------------------


def sources(lines: list[Row]) -> list[str]:
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
        table(head, sorted(rows)),
    ]


def few(lines: list[Row]) -> list[str]:
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
    return ["## Few labels (article's network)\n", table(head, rows)]


def autoencoders(lines: list[Row]) -> list[str]:
    """Reconstruction error and explained variance."""
    rows = []
    for trial, data, found in grouped(lines, "autoencoder"):
        _, removed, method = trial.split()
        rows.append([
            data, removed, method, spread(column(found, "actual"), 2, 100), spread(column(found, all_weights), 2, 100),
            spread(column(found, "test_loss"), 5), spread(column(found, "test_accuracy"), 4), str(len(found)),
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
    return ["## Autoencoder 784-300-100-300-784\n", table(head, rows)]


def overlaps(lines: list[Row]) -> list[str]:
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
    return [title, table(head, rows)]


def left_out(lines: list[Row]) -> list[str]:
    """What the plan has and the results have not, refusals included."""
    have = {(line["trial"], line["data"], line["seed"]) for line in lines}
    left = [f"{name} ({data}, seed {seed})" for name, data, seed in plan() if (name, data, seed) not in have]
    refused = [
        f"- {line['trial']} ({line['data']}, seed {line['seed']}): {line['refused']}"
        for line in lines
        if "refused" in line
    ]
    spent = sum(line["cpu_seconds"] for line in lines)
    text = [f"{len(have)} of {len(have) + len(left)} planned trials, {spent / 60:.1f} minutes of CPU time.", *refused]
    return [*text, *([f"Not computed: {'; '.join(left)}."] if left else [])]


def grouped(lines: list[Row], part: str) -> Iterable[tuple[str, str, list[Row]]]:
    """(trial, data, summaries) of a part, seeds together."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for line in lines:
        if line["trial"].split()[0] == part and "summary" in line:
            groups.setdefault((line["trial"], line["data"]), []).append(line["summary"])
    return [(trial, data, found) for (trial, data), found in groups.items()]


def accuracies(found: list[Row]) -> list[str]:
    return [spread(column(found, all_weights), 2, 100), spread(column(found, "validation_accuracy"), 2, 100),
            spread(column(found, "test_accuracy"), 2, 100), str(len(found))]  # fmt: skip


def all_weights(summary: Row) -> float:
    """Removed, of all weights, the unpruned output layer included."""
    return float(summary["sparsity_with_unpruned_layers"])


def column(found: list[Row], key: str | Callable[[Row], float]) -> list[float]:
    """One figure of every seed."""
    return [float(row[key] if isinstance(key, str) else key(row)) for row in found]


def report(lines: list[Row]) -> None:
    """docs/results/unlabelled-table.md: one table per part, and what of the plan is missing."""
    text = [
        "# Pruning without labels: every trial\n",
        "Made by `python benchmarks/unlabelled.py`. Mean ± standard deviation over seeds, n = number of seeds. The",
        "test set is read once per run, for the weights of the epoch with the lowest validation loss after the last",
        "pruning step.\n",
        *sources(lines), *overlaps(lines), *few(lines), *autoencoders(lines), *left_out(lines),
    ]  # fmt: skip
    RESULTS.with_name("unlabelled-table.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main(__doc__, TRIALS, RESULTS, report)
