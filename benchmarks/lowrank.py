"""Pruned nets against low rank: PCA, SVD, activation-aware SVD, nuclear norms; at equal rank and at equal weights.

    python benchmarks/lowrank.py                 # every trial that is missing, then the report
    python benchmarks/lowrank.py --report        # only the tables, from the results so far

Needs the pruned nets of benchmarks/spectra.py: their ranks from docs/results/spectra.jsonl, the dense net from its run
(made again if the folder is gone). One line per finished trial goes to docs/results/lowrank.jsonl; one that is there
is never computed twice. One process, one thread. Three kinds of trial:

    cut       the dense net after its 12 epochs, truncated, not retrained: the article's comparison
    pipeline  12 epochs in all, like a pruned net: 6 of training (plain, or under a nuclear norm), truncation of the
              hidden layers to factors, 6 of training the factors; one cosine learning rate over both
    norm      the first 6 of these 12 epochs under a norm of one strength; seed 0 chooses the strength, by validation
              accuracy after truncation to the ranks of "activation neurons at 90", for all seeds and targets
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import spectra

RESULTS = Path("docs/results/lowrank.jsonl")
RUNS = Path("runs/lowrank")
HALF, IMAGES, EVERY = 6, 5_000, 20
KINDS = ("svd", "pca", "activation")
SOURCES = ("activation neurons at 90", "activation layer at 90", "magnitude layer at 90", "activation layer at 98.94",
           "magnitude layer at 98.94")  # fmt: skip
EQUAL_RANK, EQUAL_WEIGHTS = "ranks of activation neurons at 90", "weights at 90"
HIDDEN_BUDGET = round(0.1 * spectra.ALL) - 500  # what a net pruned to 90 % keeps in its hidden layers
# Amounts per application for proximal steps, factors in the loss for subgradients; of sum s_i and of sum i s_i.
NORMS: dict[str, dict[str, Any]] = {
    "NNM proximal": {"how": "proximal", "weights": "uniform", "strengths": (0.01, 0.03)},
    "WNNM proximal": {"how": "proximal", "weights": "index", "strengths": (1e-4, 3e-4)},
    "NNM subgradient": {"how": "subgradient", "weights": "uniform", "strengths": (1e-3, 3e-3)},
    "WNNM subgradient": {"how": "subgradient", "weights": "index", "strengths": (1e-5, 3e-5)},
}
Line = dict[str, Any]
Key = tuple[str, str, str, int]  # kind, trial, data, seed


def ranks_of(source: str, data: str, seed: int) -> dict[str, int]:
    """Numerical ranks of a pruned net's hidden layers."""
    for line in spectra.done():
        if (line["kind"], line["trial"], line["data"], line["seed"]) == ("trained", source, data, seed):
            return {name: max(1, line["end"][name]["numerical"]) for name in spectra.LAYERS}
    raise SystemExit(f"{source}, {data}, seed {seed} is not in {spectra.RESULTS}; run benchmarks/spectra.py first")


# ---- trials ---------------------------------------------------------------------------------------------------------


def cut(trial: str, data: str, seed: int) -> Line:
    """The dense net at the ranks of a pruned one. trial: "svd | activation layer at 90"."""
    from safetensors.torch import load_file

    from actprune.lab.setup import build

    kind, source = trial.split(" | ")
    place = spectra.folder("dense", data, seed)
    if not (place / "model.safetensors").exists():
        spectra.trained("dense", data, seed)
    setup = build(spectra.config("dense", data, seed))
    setup.model.load_state_dict(load_file(place / "model.safetensors"))
    small = truncated(setup, ranks_of(source, data, seed), kind)
    return {"ranks": ranks_of(source, data, seed), **scores(setup, small)}


def norm(trial: str, data: str, seed: int) -> Line:
    """Half a training under a norm. trial: "NNM proximal | 0.01"."""
    from actprune import analysis

    setup = half_trained(trial, data, seed)
    ranks = ranks_of("activation neurons at 90", data, seed)
    found = scores(setup, truncated(setup, ranks, "svd"))
    own = {name: analysis.ranks(setup.model.get_parameter(name)) for name in spectra.LAYERS}
    return {"truncated": found, "before": scores(setup, setup.model), "end": own, "ranks": ranks}


def pipeline(trial: str, data: str, seed: int) -> Line:
    """Half a training, truncation, half a training. trial: "plain | svd | weights at 90"."""
    from actprune import lowrank
    from actprune.lab.listener import Silent
    from actprune.lab.train import learning_rate, train_epoch

    training, kind, target = trial.split(" | ")
    strength = None if training == "plain" else chosen(training, data)
    setup = half_trained(training if strength is None else f"{training} | {strength}", data, seed)
    if target == EQUAL_WEIGHTS:
        ranks = lowrank.ranks_within(setup.model, spectra.LAYERS, HIDDEN_BUDGET)
    else:
        ranks = ranks_of(target.removeprefix("ranks of "), data, seed)
    small = truncated(setup, ranks, kind)
    at_once, retraining = scores(setup, small), with_model(setup, small)
    for epoch in range(HALF + 1, 2 * HALF + 1):
        train_epoch(retraining, epoch, Silent(), lr=learning_rate(setup.config, epoch - 1, 2 * HALF))
    return {"strength": strength, "ranks": ranks, "at_once": at_once, **scores(setup, small)}


# ---- what they are made of -----------------------------------------------------------------------------------------


def half_trained(training: str, data: str, seed: int) -> Any:
    """A setup whose model has had the first 6 of 12 epochs; computed once. training: "plain", "NNM proximal | 0.01"."""
    import torch

    from actprune import methods
    from actprune.lab.listener import Silent
    from actprune.lab.setup import build
    from actprune.lab.train import train_epoch
    from actprune.schedules import OneShot

    settings = spectra.config("dense", data, seed)
    if training == "plain":
        recipe = methods.magnitude(0.0)
    else:
        name, _, strength = training.partition(" | ")
        options: dict[str, Any] = {key: NORMS[name][key] for key in ("how", "weights")}
        steps = 2 * HALF * 422  # 54,000 images in batches of 128: the cosine of both halves
        never = OneShot(at_step=10 * steps)  # the norm stays on for the whole half
        options |= {"strength": float(strength), "every": EVERY, "steps": steps, "schedule": never}
        recipe = methods.nuclear_norm(0.0, **options)
    setup = build(settings, recipe)
    place = RUNS / f"{data} {seed} {training}.pt".replace(" ", "-").replace("|", "")
    if place.exists():
        setup.model.load_state_dict(torch.load(place, weights_only=True))
        return setup
    setup.pruner.attach(setup.optimizer)
    for epoch in range(1, HALF + 1):
        train_epoch(setup, epoch, Silent())
    setup.pruner.detach()
    RUNS.mkdir(parents=True, exist_ok=True)
    torch.save(setup.model.state_dict(), place)
    return setup


def truncated(setup: Any, ranks: dict[str, int], kind: str) -> Any:
    """The setup's model with factors in its hidden layers."""
    from actprune import lowrank

    names = list(ranks)
    moments = lowrank.input_moments(setup.model, [setup.train[0][:IMAGES]], names) if kind == "activation" else None
    return lowrank.replace(setup.model, ranks, kind, moments=moments, allow_growth=True)


def with_model(setup: Any, model: Any) -> Any:
    """The setup with another model and a fresh optimizer, nothing to prune."""
    from dataclasses import replace

    from torch.optim import SGD

    from actprune import Pruner, methods

    config, recipe = setup.config, methods.magnitude(0.0)
    optimizer = SGD(
        model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
    )
    return replace(
        setup, model=model, recipe=recipe, pruner=Pruner(model, recipe), optimizer=optimizer, forward=model,
        backward=lambda loss: loss.backward(), step=optimizer.step,
    )  # fmt: skip


def scores(setup: Any, model: Any) -> Line:
    """Accuracies, and weights as stored: a layer whose factors would be larger is counted as the one matrix it is."""
    from actprune.lab.evaluate import evaluate

    stored = 0
    for name in (*spectra.LAYERS, "fc5.weight"):
        rows, columns = setup.model.get_parameter(name).shape
        layer = model.get_submodule(name.removesuffix(".weight"))
        pair = sum(weight.numel() for part, weight in layer.named_parameters() if part.endswith("weight"))
        stored += min(pair, rows * columns)
    return {
        "weights": stored,
        "validation_accuracy": evaluate(model, setup.validation).accuracy,
        "test_accuracy": evaluate(model, setup.test).accuracy,
    }


def chosen(training: str, data: str) -> float:
    """The strength whose truncated net of seed 0 has the highest validation accuracy."""
    found = {
        float(line["trial"].split(" | ")[1]): line["truncated"]["validation_accuracy"]
        for line in done()
        if (line["kind"], line["data"], line["seed"]) == ("norm", data, 0) and line["trial"].startswith(f"{training} |")
    }
    if len(found) < len(NORMS[training]["strengths"]):
        raise SystemExit(f"the strengths of {training} on {data} have not all been tried for seed 0")
    return max(found, key=lambda strength: (found[strength], strength))


# ---- the sweep -----------------------------------------------------------------------------------------------------


def done() -> list[Line]:
    return [json.loads(row) for row in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def todo(data: str) -> list[Key]:
    """What is missing for one data set, in order; a cut needs the pruned net whose ranks it takes."""
    have = {(line["kind"], line["trial"], line["data"], line["seed"]) for line in done()}
    pruned = {(line["trial"], line["data"], line["seed"]) for line in spectra.done() if line["kind"] == "trained"}
    seeds = spectra.SEEDS
    every: list[Key] = [
        ("cut", f"{kind} | {source}", data, seed)
        for source in SOURCES for seed in seeds for kind in KINDS if (source, data, seed) in pruned
    ]  # fmt: skip
    plain = [(kind, EQUAL_RANK) for kind in KINDS] + [(kind, EQUAL_WEIGHTS) for kind in ("svd", "activation")]
    every += [("pipeline", f"plain | {kind} | {target}", data, seed) for kind, target in plain for seed in seeds]
    for training, own in NORMS.items():
        every += [("norm", f"{training} | {strength}", data, 0) for strength in own["strengths"]]
        targets = (EQUAL_RANK, EQUAL_WEIGHTS)
        every += [("pipeline", f"{training} | svd | {target}", data, seed) for seed in seeds for target in targets]
    return [key for key in every if key not in have]


def one(key: Key) -> Line:
    """Compute one trial and append its line. ``cpu``: seconds of process time."""
    from actprune.lab.atomic import json_line
    from actprune.lab.environment import threads

    kind, trial, data, seed = key
    began = time.process_time()
    with threads(1):
        found = {"cut": cut, "norm": norm, "pipeline": pipeline}[kind](trial, data, seed)
    spent = round(time.process_time() - began, 1)
    line = {"kind": kind, "trial": trial, "data": data, "seed": seed, "cpu": spent, **found}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json_line(line) + "\n")
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="only write the tables")
    parser.add_argument("--only", default="", help="trials whose kind and name contain this")
    parser.add_argument("--data", default=",".join(spectra.DATA))
    options = parser.parse_args()
    missing = [] if options.report else [key for data in options.data.split(",") for key in todo(data)]
    missing = [key for key in missing if options.only in f"{key[0]} {key[1]}"]
    for number, key in enumerate(missing, start=1):
        line = one(key)
        accuracy = line.get("truncated", line)["test_accuracy"]
        print(f"{number}/{len(missing)} {' '.join(map(str, key))}: test {accuracy:.2%}, {line['cpu']} s", flush=True)
    from lowrank_report import write

    write(done(), spectra.done())


if __name__ == "__main__":
    main()
