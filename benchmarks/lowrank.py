"""Pruned nets against low rank: PCA, SVD, activation-aware SVD, nuclear norms; at equal rank and at equal weights.

    python benchmarks/lowrank.py                 # every trial that is missing, then the report
    python benchmarks/lowrank.py --report        # only the tables, from the rows so far

Needs the pruned nets of benchmarks/spectra.py: their ranks from docs/results/spectra.jsonl, the dense net from its run
(made again if the folder is gone). Rows: docs/results/lowrank.jsonl; one job, as trials share half
trained nets. Three kinds of trial:

    cut       the dense net after its 12 epochs, truncated, not retrained: the article's comparison
    pipeline  12 epochs in all, like a pruned net: 6 of training (plain, or under a nuclear norm), truncation of the
              hidden layers to factors, 6 of training the factors; one cosine learning rate over both
    norm      the first 6 of these 12 epochs under a norm of one strength; seed 0 chooses the strength, by validation
              accuracy after truncation to the ranks of "activation neurons at 90", for all seeds and targets
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import spectra
from actprune.lab import sweep
from actprune.lab.sweep import Row, Trial, main, select, spread, table
from spectra import LAYERS

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


def ranks_of(source: str, data: str, seed: int) -> dict[str, int]:
    """Numerical ranks of a pruned net's hidden layers."""
    for line in sweep.rows(spectra.RESULTS):
        if (line["kind"], line["trial"], line["data"], line["seed"]) == ("trained", source, data, seed):
            return {name: max(1, line["end"][name]["numerical"]) for name in spectra.LAYERS}
    raise SystemExit(f"{source}, {data}, seed {seed} is not in {spectra.RESULTS}; run benchmarks/spectra.py first")


# ---- trials ---------------------------------------------------------------------------------------------------------


def cut(trial: str, data: str, seed: int) -> Row:
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


def norm(trial: str, data: str, seed: int) -> Row:
    """Half a training under a norm. trial: "NNM proximal | 0.01"."""
    from actprune import analysis

    setup = half_trained(trial, data, seed)
    ranks = ranks_of("activation neurons at 90", data, seed)
    found = scores(setup, truncated(setup, ranks, "svd"))
    own = {name: analysis.ranks(setup.model.get_parameter(name)) for name in spectra.LAYERS}
    return {"truncated": found, "before": scores(setup, setup.model), "end": own, "ranks": ranks}


def pipeline(trial: str, data: str, seed: int) -> Row:
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


def scores(setup: Any, model: Any) -> Row:
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
        for line in sweep.rows(RESULTS)
        if (line["kind"], line["data"], line["seed"]) == ("norm", data, 0) and line["trial"].startswith(f"{training} |")
    }
    if len(found) < len(NORMS[training]["strengths"]):
        raise SystemExit(f"the strengths of {training} on {data} have not all been tried for seed 0")
    return max(found, key=lambda strength: (found[strength], strength))


# ---- the trials -----------------------------------------------------------------------------------------------------


def order(data: str) -> list[tuple[str, str, int]]:
    """(kind, trial, seed) for one data set; a cut needs the pruned net whose ranks it takes."""
    pruned = {(row["trial"], row["data"], row["seed"]) for row in select(sweep.rows(spectra.RESULTS), kind="trained")}
    seeds = spectra.SEEDS
    found = [
        ("cut", f"{kind} | {source}", seed)
        for source in SOURCES for seed in seeds for kind in KINDS if (source, data, seed) in pruned
    ]  # fmt: skip
    plain = [(kind, EQUAL_RANK) for kind in KINDS] + [(kind, EQUAL_WEIGHTS) for kind in ("svd", "activation")]
    found += [("pipeline", f"plain | {kind} | {target}", seed) for kind, target in plain for seed in seeds]
    for training, own in NORMS.items():
        found += [("norm", f"{training} | {strength}", 0) for strength in own["strengths"]]
        targets = (EQUAL_RANK, EQUAL_WEIGHTS)
        found += [("pipeline", f"{training} | svd | {target}", seed) for seed in seeds for target in targets]
    return found


def one(kind: str, trial: str, data: str, seed: int) -> Row:
    from actprune.lab.environment import threads

    with threads(1):
        return {"cut": cut, "norm": norm, "pipeline": pipeline}[kind](trial, data, seed)


TRIALS = [
    Trial({"kind": kind, "trial": trial, "data": data, "seed": seed}, "lowrank:one")
    for data in spectra.DATA for kind, trial, seed in order(data)
]  # fmt: skip


# ---- the report -----------------------------------------------------------------------------------------------------


def ranks_text(found: Sequence[dict[str, float]]) -> str:
    return "/".join(f"{mean(ranks[name] for ranks in found):.0f}" for name in LAYERS)


def kept(line: Row) -> int:
    """Weights of a pruned net, its unpruned output layer included."""
    return sum(layer["kept"] for layer in line["summary"]["layers"])


def nets(pruned: list[Row]) -> str:
    """The pruned nets that the factors are compared with."""
    rows = []
    for trial in dict.fromkeys(line["trial"] for line in pruned):
        found = [line for line in pruned if line["trial"] == trial]
        end = [{name: line["end"][name] for name in LAYERS} for line in found]
        rows.append([
            trial, str(len(found)), f"{mean(map(kept, found)):,.0f}",
            *(ranks_text([{n: own[n][kind] for n in LAYERS} for own in end]) for kind in ("numerical", "effective")),
            *(spread([line["summary"][f"{part}_accuracy"] for line in found], 2, 100)
              for part in ("validation", "test")),
        ])  # fmt: skip
    head = ("net, 12 epochs", "seeds", "weights", "numerical ranks", "effective ranks", "validation %", "test %")
    return table(head, rows)


def cuts(lines: list[Row], pruned: list[Row]) -> str:
    """The article's comparison: the dense net at the ranks of a pruned one, not retrained."""
    rows = []
    sources = dict.fromkeys(line["trial"].split(" | ")[1] for line in lines if line["kind"] == "cut")
    for source in sources:
        own = [line for line in pruned if line["trial"] == source]
        row = [
            source,
            f"{mean(map(kept, own)):,.0f}",
            spread([line["summary"]["test_accuracy"] for line in own], 2, 100),
        ]
        for kind in KINDS:
            found = [li for li in lines if (li["kind"], li["trial"]) == ("cut", f"{kind} | {source}")]
            size = f" ({mean(li['weights'] for li in found):,.0f})" if found else ""
            row.append(spread([li["test_accuracy"] for li in found], 2, 100) + size if found else "")
        rows.append(row)
    head = ("ranks of", "its weights", "its test %", *(f"dense net, {kind}: test % (weights)" for kind in KINDS))
    return table(head, rows)


def pipelines(lines: list[Row]) -> str:
    """Training, truncation, training the factors: 12 epochs in all."""
    rows = []
    for trial in dict.fromkeys(line["trial"] for line in lines if line["kind"] == "pipeline"):
        found = [line for line in lines if (line["kind"], line["trial"]) == ("pipeline", trial)]
        training, kind, target = trial.split(" | ")
        strength = "" if found[0]["strength"] is None else f" {found[0]['strength']:g}"
        rows.append([
            training + strength, kind, target, str(len(found)), ranks_text([line["ranks"] for line in found]),
            f"{mean(line['weights'] for line in found):,.0f}",
            spread([line["at_once"]["test_accuracy"] for line in found], 2, 100),
            *(spread([line[f"{part}_accuracy"] for line in found], 2, 100) for part in ("validation", "test")),
        ])  # fmt: skip
    return table(("first 6 epochs", "factors", "target", "seeds", "ranks", "weights", "test % when cut",
                  "validation % at the end", "test % at the end"), rows)  # fmt: skip


def norms(lines: list[Row]) -> str:
    """What the norms do in 6 epochs, and how the strengths were chosen."""
    rows = []
    for line in lines:
        if line["kind"] != "norm":
            continue
        end = line["end"]
        rows.append([
            line["trial"].replace(" | ", ", strength "),
            *(ranks_text([{name: end[name][kind] for name in LAYERS}]) for kind in ("numerical", "effective")),
            *(f"{100 * line[moment]['validation_accuracy']:.2f}" for moment in ("before", "truncated")),
        ])  # fmt: skip
    head = ("seed 0, 6 epochs", "numerical ranks", "effective ranks", "validation %", "validation % when cut")
    return table(head, rows)


def report(lines: list[Row]) -> None:
    """docs/results/lowrank-table.md."""
    text = [
        "# Low rank against pruning: every figure\n",
        "Made by `python benchmarks/lowrank.py` from the nets of `python benchmarks/spectra.py`. Mean ± standard",
        "deviation over seeds. Weights: of all five layers, biases left out; factors as stored, k (m + n) for rank k",
        "(k + 1 directions for PCA, whose mean is one more), and no more than the m n of the layer itself. A strength",
        "is chosen by seed 0's validation accuracy when cut, for all seeds and targets; no test accuracy decides.\n",
    ]
    for data in dict.fromkeys(line["data"] for line in lines):
        own = select(lines, data=data)
        beside = select(sweep.rows(spectra.RESULTS), data=data, kind="trained")
        text += [f"\n## {data}\n", nets(beside)]
        text += ["\n### The dense net cut to the ranks of a pruned net, not retrained\n", cuts(own, beside)]
        text += ["\n### Equal steps: 6 epochs, cut, 6 epochs\n", pipelines(own)]
        text += ["\n### Strengths of the norms\n", norms(own)]
    RESULTS.with_name("lowrank-table.md").write_text("\n".join(text))


if __name__ == "__main__":
    main(__doc__, TRIALS, RESULTS, report)
