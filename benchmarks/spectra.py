"""Singular values around every pruning, and what comes back when the masks are released.

    python benchmarks/spectra.py                 # every trial that is missing, then the report
    python benchmarks/spectra.py --report        # only tables and plots, from the rows so far

Rows: docs/results/spectra.jsonl; one job, as "released" goes on from the folder of a "trained" run. The article's
network, 12 epochs for everybody; five pruning steps at the ends of the first five epochs, with the article's amounts
(proportional to 0.8^i). "released" goes on from a finished run for 4 epochs without masks, learning rate 0.05 falling
to 0 again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from actprune.lab import RunConfig
from actprune.lab.sweep import Row, Trial, main, select, spread, table

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
MARGIN = 5.0  # percentage points from the largest to the smallest singular value: a smaller slope counts as none
MASKS = {"after": "the method", "magnitude": "magnitude mask", "random": "random mask"}
COLOURS = {"activation layer": "#0072b2", "activation neurons": "#56b4e9", "activation global": "#009e73",
           "magnitude layer": "#d55e00", "random layer": "#999999"}  # fmt: skip
EXPLAINED = """Drops s_i(before) - s_i(after) fitted by a proximal step of NNM, min(s_i, c), and of WNNM with amounts
that rise along the index, min(s_i, c + g position): root mean square residuals (0 explains all, 1 nothing), and the
rise g / (c + g / 2), which is 0 for NNM and 2 for w_i = i.
"""


def settings() -> dict[str, dict[str, Any]]:
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
    return RunConfig(data=data, seed=seed, **{**TRAINING, **settings()[trial]})


def trained(trial: str, data: str, seed: int) -> Row:
    """Run one trial in a folder of its own, which stays; its summary and what became of the singular values."""
    from actprune.lab import run

    place = folder(trial, data, seed)
    summary = run(config(trial, data, seed), place, overwrite=True, plots=trial.endswith("90") and seed == 0).summary
    for path in (place / "checkpoints").glob("pruning-step-*"):
        path.unlink()
    return {"summary": summary, **aggregate(place)}


def aggregate(place: Path) -> Row:
    """Per pruning step and hidden layer: slopes of the change and its controls, fits, ranks; the ranks at the end."""
    from actprune import analysis
    from actprune.lab import spectra

    rows = []
    pruning_steps, end = spectra.read(place)
    for number, pruning_step in enumerate(pruning_steps, start=1):
        for name in LAYERS:
            found, shape = pruning_step[name], tuple(pruning_step[name]["shape"].tolist())
            row: Row = {"pruning_step": number, "layer": name, "kept": int(found["kept"])}
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
    found: Row = short({"spectra": rows, "end": ranks})
    return found


def short(value: Any) -> Any:
    """Floats to five decimals: a line holds hundreds of them."""
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [short(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value


def released(trial: str, data: str, seed: int) -> Row:
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


def regrowth(setup: Any) -> Row:
    """Shares of the masked weights that are not 0, and that are large: more than a tenth of the kept ones' rms."""
    from actprune import analysis
    from actprune.lab.evaluate import evaluate

    found: Row = {"validation_accuracy": evaluate(setup.model, setup.validation, setup.forward).accuracy}
    back = large = masked = 0
    for name in LAYERS:
        weight, mask = setup.model.get_parameter(name).detach(), setup.pruner.masks[name]
        rms = float(weight[mask].square().mean().sqrt())
        gone = weight[~mask].abs()
        back, large, masked = back + int((gone > 0).sum()), large + int((gone > 0.1 * rms).sum()), masked + len(gone)
        found[name] = {"returned": float((gone > 0).float().mean()), "large": float((gone > 0.1 * rms).float().mean()),
                       **analysis.ranks(weight)}  # fmt: skip
    return {**found, "returned": back / masked, "large": large / masked}


def order() -> list[tuple[str, str]]:
    """(kind, trial), the most important first."""
    late = [f"{name} at 98.94" for name in ("activation layer", "magnitude layer")]
    late += ["activation global at 90", "random layer at 90"]
    found = [("trained", trial) for trial in settings() if trial not in late]
    found += [("released", f"{name} at 90") for name in ("activation layer", "activation neurons", "magnitude layer")]
    return found + [("trained", trial) for trial in late]


def one(kind: str, trial: str, data: str, seed: int) -> Row:
    if kind == "trained":
        return trained(trial, data, seed)
    if not (folder(trial, data, seed) / "checkpoints" / "last.pt").exists():
        trained(trial, data, seed)  # the rows came with the repository, the run did not
    return released(trial, data, seed)


TRIALS = [
    Trial({"kind": kind, "trial": trial, "data": data, "seed": seed}, "spectra:one")
    for data in DATA for kind, trial in order() for seed in SEEDS
]  # fmt: skip


# ---- the report -----------------------------------------------------------------------------------------------------


def at(line: Row, pruning_step: int, layers: Sequence[str] = LAYERS) -> list[Row]:
    return [row for row in line["spectra"] if row["pruning_step"] == pruning_step and row["layer"] in layers]


def averaged(line: Row, pruning_step: int, read: Callable[[Row], float | None]) -> float:
    """Mean over the hidden layers of one run; a layer without a slope (fewer than two values left) is left out."""
    found = [value for row in at(line, pruning_step) if (value := read(row)) is not None and math.isfinite(value)]
    return mean(found) if found else math.nan


def interval_text(values: Sequence[float], margin: float = MARGIN, sign: bool = True) -> str:
    """Mean [low, high] and what it says; two seeds or fewer have a mean only."""
    from actprune import analysis

    good = [value for value in values if math.isfinite(value)]
    if len(good) < 3:
        return f"{mean(good):+.1f}" if good else ""
    found = analysis.interval(good)
    word = f" {analysis.verdict(found, margin)}" if sign else ""
    return f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]{word}"


def slopes(groups: dict[str, list[Row]], key: str = "slope") -> str:
    """Slope of the change over the position, and that of the difference from a random mask of the same size."""
    rows = []
    for trial, lines in groups.items():
        for pruning_step in range(1, 6):
            per = {
                mask: [averaged(line, pruning_step, lambda row, m=mask: row[m][key]) for line in lines]
                for mask in MASKS
            }
            beyond = [a - b for a, b in zip(per["after"], per["random"], strict=True)]
            change = [averaged(line, pruning_step, lambda row: row["after"]["mean"]) for line in lines]
            rows.append([f"{trial}, pruning step {pruning_step}", f"{mean(change):.1f}",
                          *(interval_text(per[m]) for m in MASKS),
                         interval_text(beyond)])  # fmt: skip
    return table(("", "mean change %", *MASKS.values(), "method minus random"), rows)


def trend(groups: dict[str, list[Row]]) -> str:
    """Does the slope flatten? First pruning step minus last, over seeds."""
    rows = []
    for trial, lines in groups.items():
        row = [trial]
        for mask in MASKS:
            first, last = ([averaged(line, c, lambda r, m=mask: r[m]["slope"]) for line in lines] for c in (1, 5))
            row.append(interval_text([b - a for a, b in zip(first, last, strict=True)], sign=False))
        rows.append(row)
    return table(("slope in pruning step 5 minus slope in pruning step 1", *MASKS.values()), rows)


def fits(groups: dict[str, list[Row]]) -> str:
    """Residuals of both penalties (means), and how much the amounts of the second rise (interval over seeds)."""
    rows = []
    for trial, lines in groups.items():
        for pruning_step in range(1, 6):
            row = [f"{trial}, pruning step {pruning_step}"]
            for mask in MASKS:
                left = [mean(averaged(li, pruning_step, lambda r, m=mask, k=key: r[m]["fit"][k]) for li in lines)
                        for key in ("nnm", "wnnm")]  # fmt: skip
                rises = [averaged(li, pruning_step, lambda r, m=mask: rise(r[m]["fit"])) for li in lines]
                row.append(f"{left[0]:.2f} / {left[1]:.2f}, {interval_text(rises, sign=False)}")
            rows.append(row)
    return table(("residual of NNM / of WNNM, rise", *MASKS.values()), rows)


def rise(fit: Row) -> float:
    """Of the fitted amounts from the largest to the smallest singular value, over their mean: 0 NNM, 2 like w_i = i."""
    middle = fit["start"] + fit["growth"] / 2
    return float(fit["growth"] / middle) if middle > 0 else math.nan


def ranks(groups: dict[str, list[Row]]) -> str:
    """Numerical and effective rank before and after each pruning, and at the end; means over seeds."""
    rows = []
    for trial, lines in groups.items():
        for pruning_step in range(1, 6):
            cells = [f"{trial}, pruning step {pruning_step}"]
            for layer in LAYERS:
                found = [at(line, pruning_step, [layer])[0]["ranks"] for line in lines]
                cells.append(", ".join(
                    " -> ".join(f"{mean(r[moment][kind] for r in found):.0f}" for moment in ("before", "after"))
                    for kind in ("numerical", "effective")
                ))  # fmt: skip
            rows.append(cells)
        rows.append([f"{trial}, end", *(
            ", ".join(f"{mean(line['end'][layer][kind] for line in lines):.0f}" for kind in ("numerical", "effective"))
            for layer in LAYERS
        )])  # fmt: skip
    return table(("numerical, effective rank", "fc1", "fc2", "fc3", "fc4"), rows)


def released_table(groups: dict[str, list[Row]]) -> str:
    head = ("released", "returned %", "large %", "effective rank fc1", "fc2", "fc3", "fc4", "numerical rank fc1", "fc2",
            "fc3", "fc4", "validation %", "test %")  # fmt: skip
    rows = []
    kinds = [(kind, name) for kind in ("effective", "numerical") for name in LAYERS]
    for trial, lines in groups.items():
        for moment in (0, -1):
            found = [line["history"][moment] for line in lines]
            word = f"after {found[0]['epoch']} epochs" if moment else "pruned"
            rows.append([
                f"{trial}, {word}",
                *(spread([100 * row[key] for row in found], 1) for key in ("returned", "large")),
                *(spread([row[name][kind] for row in found], 0) for kind, name in kinds),
                spread([100 * row["validation_accuracy"] for row in found], 2),
                spread([100 * row["test_accuracy"] for row in found], 2) if moment else "",
            ])  # fmt: skip
    return table(head, rows)


def plot(by_data: dict[str, dict[str, list[Row]]], path: Path) -> None:
    """Slope over pruning steps: the method solid, the random mask of the same size dashed; bars are 95 % intervals."""
    from matplotlib.figure import Figure

    from actprune import analysis

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, len(by_data), squeeze=False)[0]
    for axis, (data, groups) in zip(axes, by_data.items(), strict=True):
        for shift, (trial, lines) in enumerate(groups.items()):
            if not trial.endswith("at 90"):
                continue
            colour = COLOURS[trial.removesuffix(" at 90")]
            for mask, style in (("after", "-"), ("random", "--")):
                per = [[averaged(li, c, lambda r, m=mask: r[m]["slope"]) for li in lines] for c in range(1, 6)]
                x = [c + 0.06 * shift for c in range(1, 6)]
                bars = [0.0 if len(v) < 3 else analysis.interval(v).high - mean(v) for v in per]
                axis.errorbar(x, [mean(v) for v in per], yerr=bars, ls=style, color=colour, lw=1.5, capsize=2,
                              label=trial if style == "-" else None)  # fmt: skip
        axis.axhspan(-MARGIN, MARGIN, color="#dddddd", lw=0)
        axis.set(title=data, xlabel="pruning", ylabel="slope of the change (points)")
        axis.set_xticks(range(1, 6))
        axis.legend(fontsize=8)
    figure.suptitle(
        "Below zero: small singular values shrink more. Dashed: a random mask of the same size on the same weights.",
        fontsize=9,
    )
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def maps(path: Path, data: str = "mnist", seed: int = 0) -> None:
    """Heat maps of |w| before and after the release, where the runs' folders are there."""
    import torch

    from actprune.lab.report.heatmaps import heat_maps

    rows = {}
    for trial in ("activation layer", "activation neurons", "magnitude layer"):
        place = folder(f"{trial} at 90", data, seed) / "released.pt"
        if place.exists():
            stored = torch.load(place, weights_only=True)
            for moment, word in (("before", "pruned"), ("after", "released")):
                rows[f"{trial}\n{word}"] = {name: stored[moment][name].numpy() for name in LAYERS}
    if rows:
        heat_maps(rows, path, f"{data}, seed {seed}, 90 %: |w| before and after {AFTER} epochs without masks")


def accuracies(lines: list[Row]) -> str:
    rows = []
    for trial in dict.fromkeys(line["trial"] for line in lines if line["kind"] == "trained"):
        found = [line["summary"] for line in lines if (line["kind"], line["trial"]) == ("trained", trial)]
        removed = [100 * summary["sparsity_with_unpruned_layers"] for summary in found]
        scores = [[100 * summary[f"{part}_accuracy"] for summary in found] for part in ("validation", "test")]
        rows.append([trial, str(len(found)), spread(removed, 2), *(spread(values, 2) for values in scores)])
    return table(("", "seeds", "removed %", "validation %", "test %"), rows)


def report(lines: list[Row]) -> None:
    """docs/results/spectra-table.md, spectra.svg and spectra-heatmaps.png."""
    text = [
        "# Singular values around every pruning: every figure\n",
        "Made by `python benchmarks/spectra.py`. Change of a singular value by the pruning alone, 100 (after / before",
        "- 1), over its position from the largest (0) to the smallest (1); the slope is in percentage points from",
        "one end to the other (least squares), averaged over the four hidden layers; then a 95 % Student interval over",
        f"seeds. Negative: small values shrink more. An interval within ±{MARGIN:g} points counts as uniform.",
        "Magnitude and random masks: as many weights removed from the same weights at the same moment.\n",
    ]
    by_data: dict[str, dict[str, list[Row]]] = {}
    for data in dict.fromkeys(line["data"] for line in lines):
        own = select(lines, data=data)
        names = dict.fromkeys(line["trial"] for line in own if line["kind"] == "trained" and line["trial"] != "dense")
        groups = {trial: select(own, kind="trained", trial=trial) for trial in names}
        by_data[data] = groups
        text += [f"\n## {data}\n", accuracies(own), "\n### Slopes\n", slopes(groups), "\n", trend(groups)]
        text += ["\n### The same slopes, median of pairwise slopes (Theil-Sen)\n", slopes(groups, "theil_sen")]
        text += ["\n### The article's convention: what falls to 0.001 or below is dropped\n", slopes(groups, "article")]
        text += ["\n### Which penalty explains the drops\n", EXPLAINED, fits(groups), "\n### Ranks\n", ranks(groups)]
        back = {trial: select(own, kind="released", trial=trial) for trial in names}
        text += ["\n### Masks released\n", released_table({trial: group for trial, group in back.items() if group})]
    RESULTS.with_name("spectra-table.md").write_text("\n".join(text))
    if shown := {data: groups for data, groups in by_data.items() if groups}:
        plot(shown, RESULTS.with_name("spectra.svg"))
    maps(RESULTS.with_name("spectra-heatmaps.png"))


if __name__ == "__main__":
    main(__doc__, TRIALS, RESULTS, report)
