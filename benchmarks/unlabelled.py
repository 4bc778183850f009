"""Pruning without labels: counts from labelled, held-out and unlabelled images, few labels, and an autoencoder.

    python benchmarks/unlabelled.py                # what is missing, within --minutes of CPU time, then the report
    python benchmarks/unlabelled.py --report       # only the tables, from the results so far

One line per finished trial goes to docs/results/unlabelled.jsonl; a trial that is there is never computed twice, so a
second call goes on where the first one stopped. One process, one thread. Parts (first word of a trial's name):

    sources      27,000 labelled, 27,000 unlabelled and 6,000 held-out images: accuracy by the images counted on
    overlap      the masks that two drawings of images give for the same dense weights, within and between sources
    few          100 or 1,000 labels: the labelled alone, or with pseudo-labels for the rest
    autoencoder  784-300-100-300-784, no label anywhere
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

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
Trial = tuple[str, str, int]  # name, data set, seed


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


def plan() -> list[Trial]:
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


def one(trial: Trial) -> dict[str, Any]:
    """Compute one trial and return its line. A refusal by the method is a result, not a crash."""
    from actprune.errors import ActpruneError
    from actprune.lab import RunConfig, run

    name, data, seed = trial
    line: dict[str, Any] = {"trial": name, "data": data, "seed": seed}
    begun = time.process_time()
    try:
        if name == "overlap":
            line["overlap"] = overlap(data, seed)
        else:
            config = RunConfig(data=data, seed=seed, **{**TRAINING, **settings()[name]})
            line["summary"] = run(config, folder(*trial), overwrite=True, plots=name.startswith("autoencoder")).summary
            shutil.rmtree(folder(*trial) / "checkpoints", ignore_errors=True)
    except ActpruneError as error:
        line["refused"] = f"{type(error).__name__}: {error}"
    line["cpu_seconds"] = round(time.process_time() - begun, 1)
    return line


def folder(name: str, data: str, seed: int) -> Path:
    return RUNS / f"{data} {seed} {name}".replace(" ", "-")


def overlap(data: str, seed: int) -> list[dict[str, Any]]:
    """Masks of the dense weights in one pruning, by the images counted on; Jaccard index of the kept weights per pair.

    Two drawings of every source and number of images; magnitude, which counts nothing, is the outsider.
    """
    from safetensors.torch import load_file

    from actprune.lab import RunConfig
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


def done() -> list[dict[str, Any]]:
    return [json.loads(row) for row in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def sweep(only: list[str], data: list[str], minutes: float) -> None:
    """Compute what is missing until the CPU time is spent; a trial that began is finished."""
    have = {(line["trial"], line["data"], line["seed"]) for line in done()}
    todo = [
        trial for trial in plan() if trial not in have and trial[1] in data and any(part in trial[0] for part in only)
    ]
    for number, trial in enumerate(todo, 1):
        if time.process_time() > 60 * minutes:
            print(f"{60 * minutes:.0f} s of CPU time are spent; {len(todo) - number + 1} trials are left")
            return
        line = one(trial)
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")
        found = line.get("summary", {})
        told = f"test {found['test_accuracy']:.4f}" if found else str(line.get("refused", "compared"))[:200]
        print(
            f"{number}/{len(todo)} {trial[1]} seed {trial[2]} {trial[0]}: {told}, {line['cpu_seconds']} s", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="trials whose name contains one of these, with commas")
    parser.add_argument("--data", default=",".join(DATA), help="data sets, with commas")
    parser.add_argument("--minutes", type=float, default=25.0, help="CPU time after which no new trial is begun")
    parser.add_argument("--report", action="store_true", help="only write the tables")
    options = parser.parse_args()
    if not options.report:
        sweep(options.only.split(","), options.data.split(","), options.minutes)
    from unlabelled_report import write

    write(done(), plan())


if __name__ == "__main__":
    main()
