"""Tables and plot of benchmarks/latency.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path("docs/results")
GOALS = {
    ("article, 98.94 % of weights", 1): "10x dense, 25x eager",
    ("784-1024-1024-512-10, 99 % of weights", 1): "20x dense",
    ("784-1024-1024-512-10, 99 % of weights", 32): "10x dense",
    ("784-1024-1024-512-10, 99 % of weights", 256): "10x dense",
    ("ResNet-20, 50 % of channels", 1): "2.4x dense",
    ("ResNet-20, 75 % of channels", 1): "4x dense",
}
Line = dict[str, Any]


def write(found: dict[str, Any], cases: list[str]) -> None:
    """docs/results/latency-table.md and latency.svg; latency.md is written by hand."""
    lines = [line for line in found["lines"] if line["case"] in cases]
    text = [
        f"Measured by `python benchmarks/latency.py` on: {found['machine']}.",
        "Microseconds per call: medians of interleaved samples. *eager* runs the dense original in PyTorch; *dense* is",
        "the fastest runtime of the dense original (eager, onnxruntime or OpenVINO, float32). *chosen* is what",
        "`actprune.accelerate` takes.",
        "",
        _summary(lines, cases),
        "",
        "## Every path: times faster than the fastest dense runtime",
        "",
        _paths(lines, cases),
    ]
    (FOLDER / "latency-table.md").write_text("\n".join(text) + "\n")
    _plot(lines, cases)


def _summary(lines: list[Line], cases: list[str]) -> str:
    rows = [
        "| network, removed | batch | eager us | dense us | chosen | us | over dense | over eager | goal |",
        "|" + "---|" * 9,
    ]
    for case, batch in _keys(lines, cases):
        own = [line for line in lines if line["case"] == case and line["batch"] == batch]
        best = next(line for line in own if line["chosen"])
        rows.append(
            f"| {case} | {batch} | {_us(best['eager_s'])} | {_us(best['dense_s'])} "
            f"| {best['path']} | {_us(best['median_s'])} "
            f"| **{best['dense_s'] / best['median_s']:.1f}x** | {best['eager_s'] / best['median_s']:.1f}x "
            f"| {GOALS.get((case, batch), '')} |"
        )
    return "\n".join(rows)


def _paths(lines: list[Line], cases: list[str]) -> str:
    paths = list(dict.fromkeys(line["path"] for line in lines))
    rows = ["| network, removed | batch | " + " | ".join(paths) + " |", "|" + "---|" * (len(paths) + 2)]
    for case, batch in _keys(lines, cases):
        own = {line["path"]: line for line in lines if line["case"] == case and line["batch"] == batch}
        cells = [_ratio(own.get(path)) for path in paths]
        rows.append(f"| {case} | {batch} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _ratio(line: Line | None) -> str:
    return f"{line['dense_s'] / line['median_s']:.2f}" if line and line["median_s"] else ""


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:,.2f}" if seconds < 1e-5 else f"{1e6 * seconds:,.0f}"


def _keys(lines: list[Line], cases: list[str]) -> list[tuple[str, int]]:
    found = dict.fromkeys((line["case"], line["batch"]) for line in lines)
    return sorted(found, key=lambda key: (cases.index(key[0]), key[1]))


def _plot(lines: list[Line], cases: list[str]) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    shown = [case for case in cases if any(line["case"] == case for line in lines)]
    figure, axes = plt.subplots(figsize=(8, 0.55 * len(shown) + 1.2))
    for offset, batch in enumerate((1, 32, 256)):
        best = {line["case"]: line for line in lines if line["chosen"] and line["batch"] == batch}
        gains = [best[case]["dense_s"] / best[case]["median_s"] if case in best else 0 for case in shown]
        places = [index + 0.27 * (offset - 1) for index in range(len(shown))]
        axes.barh(places, gains, height=0.25, label=f"batch {batch}", color=("#1b6ca8", "#e08e2b", "#5a8f4e")[offset])
        for place, gain in zip(places, gains, strict=True):
            axes.text(gain * 1.03, place, f"{gain:.1f}x", va="center", fontsize=7)
    axes.set_yticks(range(len(shown)), shown, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times faster than the fastest dense runtime (1 thread)")
    axes.legend(fontsize=8)
    figure.tight_layout()
    for kind in ("svg", "png"):
        figure.savefig(FOLDER / f"latency.{kind}", dpi=120, metadata={"Date": None} if kind == "svg" else None)
    plt.close(figure)
