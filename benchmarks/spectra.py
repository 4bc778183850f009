"""Singular values around every pruning, and what comes back when the masks are released.

    python benchmarks/spectra.py                 # every trial that is missing, then the report
    python benchmarks/spectra.py --report        # only tables and plots, from the results so far

One line per finished trial goes to docs/results/spectra.jsonl; a trial that is there is never computed twice. One
process, one thread. The article's network, 12 epochs for everybody; five pruning steps at the ends of the first five
epochs, with the article's amounts (proportional to 0.8^i). "released" goes on from a finished run for 4 epochs without
masks, learning rate 0.05 falling to 0 again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

RESULTS = Path("docs/results/spectra.jsonl")
RUNS = Path("runs/spectra")
DATA, SEEDS = ("mnist", "fashion-mnist"), (0, 1, 2)
# Accuracy thresholds of 0 are always reached, so that every method is pruned at the same steps.
TRAINING = {"model": "article", "optimizer": "sgd", "momentum": 0.9, "lr": 0.05, "lr_schedule": "cosine",
            "weight_decay": 5e-4, "batch_size": 128, "max_epochs": 12, "full_length": True, "patience": 0,
            "restore_best": False, "schedule": "accuracy", "pruning_steps": 5, "start_at": 0.0, "retrain_to": 0.0,
            "spectra": True, "threads": 1}  # fmt: skip
ALL, HIDDEN = 320_700, 320_200  # kernel weights, with and without the output layer, which nobody prunes here
SPARSITIES = {"90": 0.9 * ALL / HIDDEN, "98.94": 0.9894 * ALL / HIDDEN}
AFTER = 4  # epochs without masks
LAYERS = tuple(f"fc{i}.weight" for i in range(1, 5))
METHODS: dict[str, dict[str, Any]] = {
    "activation layer": {"method": "activation", "options": {"scope": "layer"}},
    "activation neurons": {"method": "activation", "options": {"score": "neuron"}},
    "activation global": {"method": "activation"},
    "magnitude layer": {"method": "magnitude", "options": {"scope": "layer", "skip_output": True}},
    "random layer": {"method": "random", "options": {"scope": "layer", "skip_output": True}},
}
Line = dict[str, Any]


def trials() -> dict[str, dict[str, Any]]:
    """Name of a trial -> what distinguishes its RunConfig; in the order in which they are computed."""
    asked = [("activation layer", "90"), ("magnitude layer", "90"), ("activation neurons", "90"),
             ("activation layer", "98.94"), ("magnitude layer", "98.94"), ("activation global", "90"),
             ("random layer", "90")]  # fmt: skip
    found: dict[str, dict[str, Any]] = {"dense": {"method": "magnitude", "sparsity": 0.0, "schedule": "before"}}
    found |= {f"{name} at {share}": {**METHODS[name], "sparsity": SPARSITIES[share]} for name, share in asked}
    return found


def folder(trial: str, data: str, seed: int) -> Path:
    return RUNS / f"{data} {seed} {trial}".replace(" ", "-")


def config(trial: str, data: str, seed: int) -> Any:
    from actprune.lab import RunConfig

    return RunConfig(data=data, seed=seed, **{**TRAINING, **trials()[trial]})


def trained(trial: str, data: str, seed: int) -> Line:
    """Run one trial in a folder of its own, which stays; its summary and what became of the singular values."""
    from actprune.lab import run

    place = folder(trial, data, seed)
    summary = run(config(trial, data, seed), place, overwrite=True, plots=trial.endswith("90") and seed == 0).summary
    for path in (place / "checkpoints").glob("pruning-step-*"):
        path.unlink()
    return {"summary": summary, **aggregate(place)}


def aggregate(place: Path) -> Line:
    """Per pruning step and hidden layer: slopes of the change and its controls, fits, ranks; the ranks at the end."""
    from actprune import analysis
    from actprune.lab import spectra

    rows = []
    pruning_steps, end = spectra.read(place)
    for number, pruning_step in enumerate(pruning_steps, start=1):
        for name in LAYERS:
            found, shape = pruning_step[name], tuple(pruning_step[name]["shape"].tolist())
            row: Line = {"pruning_step": number, "layer": name, "kept": int(found["kept"])}
            row["ranks"] = {moment: analysis.ranks_of(found[moment], shape) for moment in ("before", "after")}
            for mask in ("after", "magnitude", "random"):
                change = analysis.relative_change(found["before"], found[mask])
                article = analysis.relative_change(found["before"], found[mask], "article")
                fit = analysis.fit_penalties(found["before"], found[mask])
                row[mask] = {
                    "slope": analysis.slope(change), "theil_sen": analysis.slope(change, "theil_sen"),
                    "article": analysis.slope(article), "article_dropped": article.dropped,
                    "mean": float(change.percent.mean()), "fit": vars(fit),
                }  # fmt: skip
            rows.append(row)
    ranks = {name: analysis.ranks_of(end[name]["end"], tuple(end[name]["shape"].tolist())) for name in LAYERS}
    found: Line = short({"spectra": rows, "end": ranks})
    return found


def short(value: Any) -> Any:
    """Floats to five decimals: a line holds hundreds of them."""
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [short(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value


def released(trial: str, data: str, seed: int) -> Line:
    """Go on from a finished run without masks: what comes back, what becomes of the ranks."""
    import torch

    from actprune.lab import checkpoint
    from actprune.lab.environment import threads
    from actprune.lab.evaluate import evaluate
    from actprune.lab.listener import Silent
    from actprune.lab.setup import build
    from actprune.lab.train import learning_rate, train_epoch

    settings = config(trial, data, seed)
    with threads(1):
        setup = build(settings)
        stored = checkpoint.load(folder(trial, data, seed) / "checkpoints" / "last.pt")
        setup.model.load_state_dict(stored["model"])
        setup.pruner.load_state_dict(stored["pruner"])
        setup.pruner.attach(setup.optimizer)
        setup.pruner.release()
        before = {name: setup.model.get_parameter(name).detach().clone() for name in LAYERS}
        history = [{"epoch": 0, **regrowth(setup)}]
        for epoch in range(1, AFTER + 1):
            rate = learning_rate(settings, epoch - 1, AFTER)
            train_epoch(setup, settings.max_epochs + epoch, Silent(), lr=rate)
            history.append({"epoch": epoch, **regrowth(setup)})
        for row in history[-1:]:
            row["test_accuracy"] = evaluate(setup.model, setup.test, setup.forward).accuracy
        after = {name: setup.model.get_parameter(name).detach() for name in LAYERS}
        torch.save({"before": before, "after": after}, folder(trial, data, seed) / "released.pt")
    return {"history": short(history)}


def regrowth(setup: Any) -> Line:
    """Shares of the masked weights that are not 0, and that are large: more than a tenth of the kept ones' rms."""
    from actprune import analysis
    from actprune.lab.evaluate import evaluate

    found: Line = {"validation_accuracy": evaluate(setup.model, setup.validation, setup.forward).accuracy}
    back = large = masked = 0
    for name in LAYERS:
        weight, mask = setup.model.get_parameter(name).detach(), setup.pruner.masks[name]
        rms = float(weight[mask].square().mean().sqrt())
        gone = weight[~mask].abs()
        back, large, masked = back + int((gone > 0).sum()), large + int((gone > 0.1 * rms).sum()), masked + len(gone)
        found[name] = {"returned": float((gone > 0).float().mean()), "large": float((gone > 0.1 * rms).float().mean()),
                       **analysis.ranks(weight)}  # fmt: skip
    return {**found, "returned": back / masked, "large": large / masked}


def aggregated() -> None:
    """Read the singular values of finished runs again, after ``aggregate`` has changed; no folder, no change."""
    from actprune.lab import atomic

    fresh = {}
    for line in done():
        place = folder(line["trial"], line["data"], line["seed"])
        if line["kind"] == "trained" and (place / "pruning_steps" / "spectra-end.safetensors").exists():
            fresh[line["trial"], line["data"], line["seed"]] = aggregate(place)
    lines = [  # read again: a sweep may have appended some meanwhile
        {**line, **(fresh.get((line["trial"], line["data"], line["seed"]), {}) if line["kind"] == "trained" else {})}
        for line in done()
    ]
    atomic.write_bytes(RESULTS, "".join(f"{atomic.json_line(line)}\n" for line in lines).encode())


def done() -> list[Line]:
    return [json.loads(row) for row in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def todo(data: str) -> list[tuple[str, str, str, int]]:
    """(kind, trial, data, seed) of what is missing for one data set, the most important first."""
    have = {(line["kind"], line["trial"], line["data"], line["seed"]) for line in done()}
    late = [f"{name} at 98.94" for name in ("activation layer", "magnitude layer")]
    late += ["activation global at 90", "random layer at 90"]
    order = [("trained", trial) for trial in trials() if trial not in late]
    order += [("released", f"{name} at 90") for name in ("activation layer", "activation neurons", "magnitude layer")]
    order += [("trained", trial) for trial in late]
    every = [(kind, trial, data, seed) for kind, trial in order for seed in SEEDS]
    return [key for key in every if key not in have]


def one(kind: str, trial: str, data: str, seed: int) -> Line:
    """Compute one trial and append its line. ``cpu``: seconds of process time."""
    from actprune.lab.atomic import json_line

    began = time.process_time()
    if kind == "released" and not (folder(trial, data, seed) / "checkpoints" / "last.pt").exists():
        trained(trial, data, seed)  # the lines came with the repository, the run did not
    found = trained(trial, data, seed) if kind == "trained" else released(trial, data, seed)
    spent = round(time.process_time() - began, 1)
    line = {"kind": kind, "trial": trial, "data": data, "seed": seed, "cpu": spent, **found}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a") as file:
        file.write(json_line(line) + "\n")
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="only write the tables and the plots")
    parser.add_argument("--data", default=",".join(DATA))
    parser.add_argument("--only", default="", help="trials whose kind and name contain this")
    parser.add_argument("--aggregate", action="store_true", help="read the stored singular values again, run nothing")
    parser.add_argument("--clean", action="store_true", help="remove the runs' folders afterwards")
    options = parser.parse_args()
    if options.aggregate:
        aggregated()
    missing = (
        [] if options.report or options.aggregate else [key for data in options.data.split(",") for key in todo(data)]
    )
    missing = [key for key in missing if options.only in f"{key[0]} {key[1]}"]
    for number, key in enumerate(missing, start=1):
        line = one(*key)
        accuracy = line["summary"]["test_accuracy"] if "summary" in line else line["history"][-1]["test_accuracy"]
        print(f"{number}/{len(missing)} {' '.join(map(str, key))}: test {accuracy:.2%}, {line['cpu']} s", flush=True)
    from spectra_report import write

    write(done())
    if options.clean:
        shutil.rmtree(RUNS, ignore_errors=True)


if __name__ == "__main__":
    main()
