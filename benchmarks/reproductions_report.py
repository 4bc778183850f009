"""The table of benchmarks/reproductions.py: published figures beside ours, with each one's own dense network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

TABLE = Path("docs/results/reproductions-table.md")
HEAD = (
    "| row | paper | weights kept % | compression | published error % (its dense) | our error % (our dense) | "
    "change, published | change, ours | seeds |\n|---|---|---|---|---|---|---|---|---|"
)


def write(lines: Sequence[Mapping[str, Any]], rows: Mapping[str, Any]) -> None:
    """docs/results/reproductions-table.md."""
    found = {name: [line for line in lines if line["row"] == name] for name in rows}
    text = "\n".join(
        ["Written by `python benchmarks/reproductions.py --report`. Errors on the test set, mean ± std over seeds.", ""]
        + [_group(title, names, found, rows) for title, names in _groups(rows).items()]
    )
    TABLE.write_text(text + "\n")
    print(text)


def _groups(rows: Mapping[str, Any]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, row in rows.items():
        groups.setdefault(row.group, []).append(name)
    return groups


def _group(title: str, names: Sequence[str], found: Mapping[str, Any], rows: Mapping[str, Any]) -> str:
    dense = _errors(found[names[0]])
    body = [_row(name, rows[name], found[name], dense) for name in names if found[name]]
    return "\n".join([f"### {title}", "", HEAD, *body, ""])


def _row(name: str, row: Any, lines: Sequence[Mapping[str, Any]], dense: Sequence[float]) -> str:
    errors = _errors(lines)
    if not errors:
        return f"| {name} | {row.paper} | refused: {lines[0]['refused']} |"
    kept = 1 - mean(line["summary"]["actual"] for line in lines if "summary" in line)
    published = "-" if row.error is None else f"{row.error:.2f} ({row.dense:.2f})"
    change = row.note or ("-" if row.error is None else f"{row.error - row.dense:+.2f}")
    ours = f"{mean(errors) - mean(dense):+.2f}" if dense else "-"
    cells = [
        name, row.paper, f"{100 * kept:.2f}", f"{1 / kept:.1f}x", published,
        f"{_spread(errors)} ({mean(dense):.2f})" if dense else _spread(errors), change, ours, str(len(errors)),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _errors(lines: Sequence[Mapping[str, Any]]) -> list[float]:
    return [100 * (1 - line["summary"]["test_accuracy"]) for line in lines if "summary" in line]


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{mean(values):.2f}"
