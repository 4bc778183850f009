"""L5: what the terminal shows when a run is over, and what ``actprune methods`` prints."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from actprune import methods
from actprune.accounting import LARGEST
from actprune.errors import RecipeError, unknown_name
from actprune.lab.report.tables import summary_table
from actprune.lab.run import RunResult


def summary(console: Console, result: RunResult) -> None:
    """One table, a remark if something is not as asked, and where the files are."""
    console.print(run_table(result.summary))
    if result.summary["remark"]:
        console.print(Text(result.summary["remark"], style="yellow"))
    drawn = sorted((result.folder / "plots").glob("*.png"))
    files = [f"run    {result.folder}", *(f"plot   {path}" for path in drawn)]
    console.print("\n".join(files), soft_wrap=True, markup=False, highlight=False)


def run_table(found: Mapping[str, Any]) -> Table:
    """Target, or before the first pruning step, on the left; actual on the right."""
    dense = found["dense"] or {}
    table = Table(title=f"{found['run']}: {found['method']} on {found['data']}, {found['model']}, seed {found['seed']}")
    table.add_column("")
    table.add_column(f"target, or before{_when(dense)}", justify="right")
    table.add_column(f"pruned (weights of epoch {found['weights_from_epoch']})", justify="right")
    network = found["network"]
    of = "prunable weights" if found["budget_of"] == "prunable" else "weights"
    table.add_row(f"{of} removed", _percent(found["target"]), _percent(found["actual"]), end_section=True)
    table.add_row("whole network: weights", f"{network['weights']:,}", f"{network['kept']:,}")
    table.add_row("sparsity", "", _percent(network["sparsity"]))
    table.add_row("compression", "", _times(network["compression"]))
    table.add_row("biases and scales", f"{network['biases']:,}", f"{network['biases']:,}")
    if network["flop"] is not None:
        left = f"{network['flop_left']:,} ({_percent(network['flop_kept'])})"
        table.add_row("FLOP of one example", f"{network['flop']:,}", left)
    for part in network["left_alone"][:LARGEST]:
        share = _percent(part["total"] / network["weights"])
        table.add_row(f"left alone: {part['name'].removesuffix('.weight')}", f"{share} of the weights", part["why"])
    if more := network["left_alone"][LARGEST:]:
        share = _percent(sum(part["total"] for part in more) / network["weights"])
        table.add_row(f"left alone: {len(more)} more tensors", f"{share} of the weights", "")
    table.add_section()
    table.add_row(
        "pruning steps", str(found["pruning_steps_planned"]), str(found["pruning_steps_done"]), end_section=True
    )
    for part in ("train", "validation", "test"):
        last = part == "test"
        key = f"{part}_accuracy"
        score = found.get("score_name", "accuracy")
        table.add_row(f"{part} {score}", _percent(dense.get(key)), _percent(found[key]), end_section=last)
    for row in found["layers"]:
        table.add_row(row["name"].removesuffix(".weight"), *_layer(row))
    table.add_section()
    table.add_row("training time", f"{found['epochs']} epochs", f"{found['seconds']:.1f} s")
    return table


def seeds(console: Console, results: Sequence[RunResult]) -> None:
    """One row per seed and one with mean and standard deviation."""
    found = [result.summary for result in results]
    shown = (
        "target",
        "actual",
        "sparsity",
        "compression",
        "flop_kept",
        "train_accuracy",
        "validation_accuracy",
        "test_accuracy",
        "seconds",
    )
    rows: list[dict[str, Any]] = [{"run": row["run"], **{key: row[key] for key in shown}} for row in found]
    rows.append({"run": "mean ± std", **{key: [row[key] for row in found] for key in shown}})
    score = found[0].get("score_name", "accuracy")
    console.print(summary_table(rows, f"{len(found)} seeds" + (f"; acc. = {score}" if score != "accuracy" else "")))
    for row in found:
        if row["remark"]:
            console.print(Text(f"{row['run']}: {row['remark']}", style="yellow"))
    console.print(f"runs   {results[0].folder.parent}", soft_wrap=True, markup=False, highlight=False)


def all_methods(console: Console) -> None:
    """Name, what it does, where it is from: taken from the methods' own files."""
    table = Table(title="methods", show_lines=True)
    for heading in ("name", "what it does", "source"):
        table.add_column(heading, overflow="fold")
    for name in methods.names():
        first = _first_line(inspect.getdoc(methods.REGISTRY[name]) or "")
        table.add_row(Text(name, style="bold"), Text(first), Text(_source(name)))
    console.print(table)
    console.print("actprune methods NAME shows a method's options", markup=False, highlight=False)


def one_method(console: Console, name: str) -> None:
    """A method's documentation and options. Raises RecipeError for an unknown name."""
    if name not in methods.REGISTRY:
        raise RecipeError(unknown_name("method", name, methods.REGISTRY))
    method = methods.REGISTRY[name]
    for text in (inspect.getdoc(sys.modules[method.__module__]), inspect.getdoc(method)):
        console.print(f"{text}\n", markup=False, highlight=False)
    table = Table(title="options (--option name=value)")
    table.add_column("name")
    table.add_column("values")
    table.add_column("default")
    for option in inspect.signature(method).parameters.values():
        table.add_row(option.name, Text(str(option.annotation)), Text(repr(option.default)))
    console.print(table)


def _source(name: str) -> str:
    """The paragraph of the method's file that begins with "Source:"."""
    text = inspect.getdoc(sys.modules[methods.REGISTRY[name].__module__]) or ""
    found = re.search(r"^Source: (.*?)(?:\n\s*\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else "-"


def _first_line(text: str) -> str:
    return " ".join(text.split("\n\n", maxsplit=1)[0].split())


def _layer(row: Mapping[str, Any]) -> tuple[str, str]:
    dense = f"{row['total']:,} weights, {row['neurons']} neurons"
    share = row["kept"] / row["total"]
    return dense, f"{row['kept']:,} ({share:.2%}), {row['neurons_alive']} alive, rank {row['rank']}"


def _when(dense: Mapping[str, Any]) -> str:
    return f" (epoch {dense['epoch']})" if dense else ""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}x"
