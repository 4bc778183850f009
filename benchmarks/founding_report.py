"""The tables and the plot of the founding experiment, from the lines of docs/results/founding.jsonl."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

FOLDER = Path("docs/results")
COLOURS = {"literal": "#d55e00", "guarded": "#0072b2", "magnitude": "#009e73", "random": "#999999", "dense": "#000000"}
HEAD = (
    "trial", "target %", "removed %", "compression", "FLOP kept %", "pruning steps", "ranks", "train %", "validation %",
    "test %", "epochs", "s",
)  # fmt: skip

Line = dict[str, Any]


def spread(values: list[float], digits: int = 2, scale: float = 1.0) -> str:
    """Mean and standard deviation over seeds."""
    if any(value == float("inf") for value in values):
        return "inf"
    scaled = [scale * value for value in values]
    return f"{mean(scaled):.{digits}f}" + (f" ± {stdev(scaled):.{digits}f}" if len(scaled) > 1 else "")


def compression(summary: Line) -> float:
    """Over all kernels, as the article counts: the unpruned output layer included."""
    return 1 / (1 - float(summary["sparsity_with_unpruned_layers"]))


def row(trial: str, lines: list[Line]) -> list[str]:
    refused = [line["refused"] for line in lines if "refused" in line]
    good = [line["summary"] for line in lines if "summary" in line]
    if not good:
        return [trial, *[""] * 10, f"refused in {len(refused)} of {len(lines)} runs: {refused[0].split(';')[0]}"]
    per_run = [list(s["ranks"].values())[:4] for s in good]  # without the output layer
    ranks = "/".join(f"{mean(values):.0f}" for values in zip(*per_run, strict=True))
    return [
        trial + (f" (refused in {len(refused)} of {len(lines)})" if refused else ""),
        f"{100 * good[0]['target']:.2f}",
        spread([s["sparsity_with_unpruned_layers"] for s in good], 2, 100),
        spread([compression(s) for s in good], 1),
        spread([1 / compression(s) for s in good], 2, 100),
        spread([s["pruning_steps_done"] for s in good], 1),
        ranks,
        spread([s["train_accuracy"] for s in good], 2, 100),
        spread([s["validation_accuracy"] for s in good], 2, 100),
        spread([s["test_accuracy"] for s in good], 2, 100),
        spread([s["epochs"] for s in good], 0),
        spread([s["seconds"] for s in good], 0),
    ]


def table(data: str, groups: dict[str, list[Line]]) -> str:
    rows = [HEAD, ["---"] * len(HEAD), *(row(trial, lines) for trial, lines in groups.items())]
    seeds = sorted({line["seed"] for lines in groups.values() for line in lines})
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    return f"## {data}, seeds {', '.join(map(str, seeds))}\n\n{text}\n"


def plot(by_data: dict[str, dict[str, list[Line]]], path: Path) -> None:
    """Test error over compression, both logarithmic, one panel per data set, every run a mark."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplots(1, len(by_data), squeeze=False)[0]
    for axis, (data, groups) in zip(axes, by_data.items(), strict=True):
        shown = set()
        for trial, lines in groups.items():
            kind = trial.split()[0]
            good = [line["summary"] for line in lines if "summary" in line]
            axis.scatter(
                [compression(s) for s in good],
                [100 - 100 * s["test_accuracy"] for s in good],
                s=22, alpha=0.75, color=COLOURS[kind], label=None if kind in shown else kind,
                marker={"literal": "x", "random": "v"}.get(kind, "o"),
            )  # fmt: skip
            shown.add(kind)
        axis.set(xscale="log", yscale="log", xlabel="compression (weights before / after)", title=data)
        axis.set_ylabel("test error, % (90 is guessing)")
        axis.set_yticks([2, 3, 5, 10, 20, 50, 90], labels=["2", "3", "5", "10", "20", "50", "90"])
        axis.set_yticks([], minor=True)
        axis.axvline(94, color="#888888", linewidth=0.8, linestyle=":")
        axis.annotate("94x", (94, 0.01), xycoords=("data", "axes fraction"), fontsize=8, color="#555555")
        axis.grid(alpha=0.25)
        axis.legend(loc="center left", fontsize=8)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def write(lines: list[Line], order: list[str]) -> None:
    """docs/results/founding-table.md and founding.svg."""
    by_data: dict[str, dict[str, list[Line]]] = {}
    for data in ("mnist", "fashion-mnist"):
        groups = {trial: [line for line in lines if line["trial"] == trial and line["data"] == data] for trial in order}
        by_data[data] = {trial: group for trial, group in groups.items() if group}
    text = ["# The founding experiment: every trial\n"]
    text += [
        "Made by `python benchmarks/founding.py`. Mean ± standard deviation over seeds. Removed, compression and FLOP",
        "count all kernels, the unpruned output layer included; `target` is in the recipe's own terms (literal",
        "global: of all kernels, else of the hidden layers). FLOP kept equals weights kept in these networks.",
        "Ranks: numerical, fc1/fc2/fc3/fc4. Weights of the epoch with the lowest validation loss after the last",
        "pruning; the test set is read once, for them.\n",
    ]  # fmt: skip
    text += [table(data, groups) for data, groups in by_data.items() if groups]
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "founding-table.md").write_text("\n".join(text))
    for suffix in ("svg", "png"):
        plot({data: groups for data, groups in by_data.items() if groups}, FOLDER / f"founding.{suffix}")
