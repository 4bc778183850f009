"""Tables and plots of benchmarks/spectra.py, from the lines of docs/results/spectra.jsonl."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

FOLDER = Path("docs/results")
MARGIN = 5.0  # percentage points from the largest to the smallest singular value: a smaller slope counts as none
LAYERS = tuple(f"fc{i}.weight" for i in range(1, 5))
MASKS = {"after": "the method", "magnitude": "magnitude mask", "random": "random mask"}
COLOURS = {"activation layer": "#0072b2", "activation neurons": "#56b4e9", "activation global": "#009e73",
           "magnitude layer": "#d55e00", "random layer": "#999999"}  # fmt: skip
EXPLAINED = """Drops s_i(before) - s_i(after) fitted by a proximal step of NNM, min(s_i, c), and of WNNM with amounts
that rise along the index, min(s_i, c + g position): root mean square residuals (0 explains all, 1 nothing), and the
rise g / (c + g / 2), which is 0 for NNM and 2 for w_i = i.
"""
Line = dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, [":---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def at(line: Line, pruning_step: int, layers: Sequence[str] = LAYERS) -> list[Line]:
    return [row for row in line["spectra"] if row["pruning_step"] == pruning_step and row["layer"] in layers]


def averaged(line: Line, pruning_step: int, read: Callable[[Line], float | None]) -> float:
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


def slopes(groups: dict[str, list[Line]], key: str = "slope") -> str:
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


def trend(groups: dict[str, list[Line]]) -> str:
    """Does the slope flatten? First pruning step minus last, over seeds."""
    rows = []
    for trial, lines in groups.items():
        row = [trial]
        for mask in MASKS:
            first, last = ([averaged(line, c, lambda r, m=mask: r[m]["slope"]) for line in lines] for c in (1, 5))
            row.append(interval_text([b - a for a, b in zip(first, last, strict=True)], sign=False))
        rows.append(row)
    return table(("slope in pruning step 5 minus slope in pruning step 1", *MASKS.values()), rows)


def fits(groups: dict[str, list[Line]]) -> str:
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


def rise(fit: Line) -> float:
    """Of the fitted amounts from the largest to the smallest singular value, over their mean: 0 NNM, 2 like w_i = i."""
    middle = fit["start"] + fit["growth"] / 2
    return float(fit["growth"] / middle) if middle > 0 else math.nan


def ranks(groups: dict[str, list[Line]]) -> str:
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


def regrowth(groups: dict[str, list[Line]]) -> str:
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
                *(spread([100 * row[key] for row in found]) for key in ("returned", "large")),
                *(spread([row[name][kind] for row in found], 0) for kind, name in kinds),
                spread([100 * row["validation_accuracy"] for row in found], 2),
                spread([100 * row["test_accuracy"] for row in found], 2) if moment else "",
            ])  # fmt: skip
    return table(head, rows)


def spread(values: Sequence[float], digits: int = 1) -> str:
    from statistics import stdev

    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def plot(by_data: dict[str, dict[str, list[Line]]], path: Path) -> None:
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
    from spectra import AFTER, folder

    rows = {}
    for trial in ("activation layer", "activation neurons", "magnitude layer"):
        place = folder(f"{trial} at 90", data, seed) / "released.pt"
        if place.exists():
            stored = torch.load(place, weights_only=True)
            for moment, word in (("before", "pruned"), ("after", "released")):
                rows[f"{trial}\n{word}"] = {name: stored[moment][name].numpy() for name in LAYERS}
    if rows:
        heat_maps(rows, path, f"{data}, seed {seed}, 90 %: |w| before and after {AFTER} epochs without masks")


def write(lines: list[Line]) -> None:
    """docs/results/spectra-table.md, spectra.svg and spectra-heatmaps.png."""
    text = [
        "# Singular values around every pruning: every figure\n",
        "Made by `python benchmarks/spectra.py`. Change of a singular value by the pruning alone, 100 (after / before",
        "- 1), over its position from the largest (0) to the smallest (1); the slope is in percentage points from",
        "one end to the other (least squares), averaged over the four hidden layers; then a 95 % Student interval over",
        f"seeds. Negative: small values shrink more. An interval within ±{MARGIN:g} points counts as uniform.",
        "Magnitude and random masks: as many weights removed from the same weights at the same moment.\n",
    ]
    by_data: dict[str, dict[str, list[Line]]] = {}
    for data in dict.fromkeys(line["data"] for line in lines):
        own = [line for line in lines if line["data"] == data]
        names = dict.fromkeys(line["trial"] for line in own if line["kind"] == "trained" and line["trial"] != "dense")
        groups = {trial: [li for li in own if (li["kind"], li["trial"]) == ("trained", trial)] for trial in names}
        by_data[data] = groups
        text += [f"\n## {data}\n", accuracies(own), "\n### Slopes\n", slopes(groups), "\n", trend(groups)]
        text += ["\n### The same slopes, median of pairwise slopes (Theil-Sen)\n", slopes(groups, "theil_sen")]
        text += ["\n### The article's convention: what falls to 0.001 or below is dropped\n", slopes(groups, "article")]
        text += ["\n### Which penalty explains the drops\n", EXPLAINED, fits(groups), "\n### Ranks\n", ranks(groups)]
        back = {trial: [li for li in own if (li["kind"], li["trial"]) == ("released", trial)] for trial in names}
        text += ["\n### Masks released\n", regrowth({trial: group for trial, group in back.items() if group})]
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "spectra-table.md").write_text("\n".join(text))
    if shown := {data: groups for data, groups in by_data.items() if groups}:
        plot(shown, FOLDER / "spectra.svg")
    maps(FOLDER / "spectra-heatmaps.png")


def accuracies(lines: list[Line]) -> str:
    rows = []
    for trial in dict.fromkeys(line["trial"] for line in lines if line["kind"] == "trained"):
        found = [line["summary"] for line in lines if (line["kind"], line["trial"]) == ("trained", trial)]
        removed = [100 * summary["sparsity_with_unpruned_layers"] for summary in found]
        scores = [[100 * summary[f"{part}_accuracy"] for summary in found] for part in ("validation", "test")]
        rows.append([trial, str(len(found)), spread(removed, 2), *(spread(values, 2) for values in scores)])
    return table(("", "seeds", "removed %", "validation %", "test %"), rows)
