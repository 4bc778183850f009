"""Tables of benchmarks/lowrank.py, beside the pruned nets of benchmarks/spectra.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

FOLDER = Path("docs/results")
LAYERS = tuple(f"fc{i}.weight" for i in range(1, 5))
KINDS = ("svd", "pca", "activation")
Line = dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, [":---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def spread(values: Sequence[float], digits: int = 2, scale: float = 100.0) -> str:
    """Mean ± standard deviation over seeds; accuracies in percent."""
    scaled = [scale * value for value in values]
    return f"{mean(scaled):.{digits}f}" + (f" ± {stdev(scaled):.{digits}f}" if len(scaled) > 1 else "")


def ranks_text(found: Sequence[dict[str, float]]) -> str:
    return "/".join(f"{mean(ranks[name] for ranks in found):.0f}" for name in LAYERS)


def kept(line: Line) -> int:
    """Weights of a pruned net, its unpruned output layer included."""
    return sum(layer["kept"] for layer in line["summary"]["layers"])


def nets(pruned: list[Line]) -> str:
    """The pruned nets that the factors are compared with."""
    rows = []
    for trial in dict.fromkeys(line["trial"] for line in pruned):
        found = [line for line in pruned if line["trial"] == trial]
        end = [{name: line["end"][name] for name in LAYERS} for line in found]
        rows.append([
            trial, str(len(found)), f"{mean(map(kept, found)):,.0f}",
            *(ranks_text([{n: own[n][kind] for n in LAYERS} for own in end]) for kind in ("numerical", "effective")),
            *(spread([line["summary"][f"{part}_accuracy"] for line in found]) for part in ("validation", "test")),
        ])  # fmt: skip
    head = ("net, 12 epochs", "seeds", "weights", "numerical ranks", "effective ranks", "validation %", "test %")
    return table(head, rows)


def cuts(lines: list[Line], pruned: list[Line]) -> str:
    """The article's comparison: the dense net at the ranks of a pruned one, not retrained."""
    rows = []
    sources = dict.fromkeys(line["trial"].split(" | ")[1] for line in lines if line["kind"] == "cut")
    for source in sources:
        own = [line for line in pruned if line["trial"] == source]
        row = [source, f"{mean(map(kept, own)):,.0f}", spread([line["summary"]["test_accuracy"] for line in own])]
        for kind in KINDS:
            found = [li for li in lines if (li["kind"], li["trial"]) == ("cut", f"{kind} | {source}")]
            size = f" ({mean(li['weights'] for li in found):,.0f})" if found else ""
            row.append(spread([li["test_accuracy"] for li in found]) + size if found else "")
        rows.append(row)
    head = ("ranks of", "its weights", "its test %", *(f"dense net, {kind}: test % (weights)" for kind in KINDS))
    return table(head, rows)


def pipelines(lines: list[Line]) -> str:
    """Training, truncation, training the factors: 12 epochs in all."""
    rows = []
    for trial in dict.fromkeys(line["trial"] for line in lines if line["kind"] == "pipeline"):
        found = [line for line in lines if (line["kind"], line["trial"]) == ("pipeline", trial)]
        training, kind, target = trial.split(" | ")
        strength = "" if found[0]["strength"] is None else f" {found[0]['strength']:g}"
        rows.append([
            training + strength, kind, target, str(len(found)), ranks_text([line["ranks"] for line in found]),
            f"{mean(line['weights'] for line in found):,.0f}",
            spread([line["at_once"]["test_accuracy"] for line in found]),
            *(spread([line[f"{part}_accuracy"] for line in found]) for part in ("validation", "test")),
        ])  # fmt: skip
    return table(("first 6 epochs", "factors", "target", "seeds", "ranks", "weights", "test % when cut",
                  "validation % at the end", "test % at the end"), rows)  # fmt: skip


def norms(lines: list[Line]) -> str:
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


def write(lines: list[Line], pruned: list[Line]) -> None:
    """docs/results/lowrank-table.md."""
    text = [
        "# Low rank against pruning: every figure\n",
        "Made by `python benchmarks/lowrank.py` from the nets of `python benchmarks/spectra.py`. Mean ± standard",
        "deviation over seeds. Weights: of all five layers, biases left out; factors as stored, k (m + n) for rank k",
        "(k + 1 directions for PCA, whose mean is one more), and no more than the m n of the layer itself. A strength",
        "is chosen by seed 0's validation accuracy when cut, for all seeds and targets; no test accuracy decides.\n",
    ]
    for data in dict.fromkeys(line["data"] for line in lines):
        own = [line for line in lines if line["data"] == data]
        beside = [line for line in pruned if line["data"] == data and line["kind"] == "trained"]
        text += [f"\n## {data}\n", nets(beside)]
        text += ["\n### The dense net cut to the ranks of a pruned net, not retrained\n", cuts(own, beside)]
        text += ["\n### Equal steps: 6 epochs, cut, 6 epochs\n", pipelines(own)]
        text += ["\n### Strengths of the norms\n", norms(own)]
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "lowrank-table.md").write_text("\n".join(text))
