"""The table of benchmarks/deep_compression.py."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

TABLE = Path("docs/results/deep-compression-table.md")
PAPER = {
    "lenet-300-100": {"bytes": "27 KB", "ratio": 40, "error": 1.58, "before": 1.64},
    "lenet-5-caffe": {"bytes": "44 KB", "ratio": 39, "error": 0.74, "before": 0.80},
}
Line = dict[str, Any]


def write(lines: list[Line]) -> None:
    """One row per network, sparsity and codec, mean and spread over seeds; then the paper's table of bits per layer."""
    text = [
        "Made by `python benchmarks/deep_compression.py` (MNIST). Bytes are whole files of ours, header and tables",
        "included; *published codec, payload* leaves our header out, as the paper counts. Mean ± standard deviation.",
        "",
        "| network | weights left | codec | seeds | bytes | times smaller than fp32 | test error % | before packing |",
        "|" + "---|" * 8,
    ]
    for net, paper in PAPER.items():
        text.append(
            f"| {net} | 8 % | **paper** (Han et al. 2016) | | {paper['bytes']} | {paper['ratio']}x | {paper['error']} "
            f"| {paper['before']} (its dense net) |"
        )
        for sparsity in sorted({line["sparsity"] for line in lines if line["net"] == net}):
            text += _rows([line for line in lines if line["net"] == net and line["sparsity"] == sparsity])
    text += ["", "## Bits per stored weight, seed 0 (the paper's columns)", "", _layers(lines)]
    TABLE.write_text("\n".join(text) + "\n")


def _rows(lines: list[Line]) -> list[str]:
    own = [(line, line["ours"]["file_bytes"], line["ours"]["test_accuracy"]) for line in lines]
    rows = []
    theirs = [line for line in lines if "published" in line]
    if theirs:
        found = [(line, line["published"]["coded_bytes"], line["published"]["test_accuracy"]) for line in theirs]
        rows.append(_row("published codec, payload", found))
    return [*rows, _row("ours", own)]


def _row(name: str, found: list[tuple[Line, int, float]]) -> str:
    first = found[0][0]
    kept = mean(line["weights_kept"] for line, _, _ in found)
    return (
        f"| {first['net']} | {100 * kept:.1f} % | {name} | {len(found)} | {_spread([size for _, size, _ in found], 0)} "
        f"| {_spread([line['dense_bytes'] / size for line, size, _ in found], 1)}x "
        f"| {_spread([100 * (1 - accuracy) for _, _, accuracy in found], 2)} "
        f"| {_spread([100 * (1 - line['pruned_test_accuracy']) for line, _, _ in found], 2)} |"
    )


def _spread(values: list[float], digits: int) -> str:
    around = f" ± {stdev(values):,.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):,.{digits}f}{around}"


def _layers(lines: list[Line]) -> str:
    rows = ["| network | layer | kept % | fillers | weight bits, coded | index bits, coded | % of fp32, coded |",
            "|" + "---|" * 7]  # fmt: skip
    for line in lines:
        for row in line.get("published", {}).get("layers", []) if line["seed"] == 0 else []:
            dense = 4 * row["weights"]
            rows.append(
                f"| {line['net']} | {row['name'].removesuffix('.weight')} | {100 * row['kept'] / row['weights']:.1f} "
                f"| {row['fillers']:,} | {row['weight_bits']} -> {row['weight_bits_coded']:.1f} "
                f"| {row['index_bits']} -> {row['index_bits_coded']:.1f} "
                f"| {100 * row['fixed_bytes'] / dense:.2f} -> {100 * row['coded_bytes'] / dense:.2f} |"
            )
    return "\n".join(rows)
