"""L5: what the terminal shows of compacted, packed, inspected and measured networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from actprune.accounting import Account
from actprune.artifact import Info
from actprune.compact import CompactReport

if TYPE_CHECKING:
    from actprune.lab.latency import Latency
    from actprune.lab.packing import PackedRun
    from actprune.lab.predict import Prediction


def terminal(*, quiet: bool = False) -> Console:
    """The terminal, as wide as it is; 120 columns where the output goes to a file."""
    return Console(quiet=quiet, width=None if sys.stdout.isatty() else 120)


_STATUS = {"reference only": "for comparison", "wrong": "wrong", "not built": "left out"}


def compacted(console: Console, report: CompactReport, before: Path, after: Path) -> None:
    """Shapes before and after, what had to stay and why, and the two files."""
    table = _table("compacted: the same function with less", "", "before", "after")
    for layer in report.layers:
        table.add_row(layer.name, _shape(layer.before), _shape(layer.after))
    table.add_section()
    table.add_row("parameters", f"{report.parameters[0]:,}", f"{report.parameters[1]:,}")
    if report.inputs_read:
        table.add_row("inputs read", f"{report.inputs_read[0]:,}", f"{report.inputs_read[1]:,}")
    table.add_row("bytes", f"{before.stat().st_size:,}", f"{after.stat().st_size:,}")
    console.print(table)
    for layer in report.layers:
        for why, count in layer.kept.items():
            console.print(Text(f"{layer.name}: {count} dead units stay, because {why}", style="yellow"))
    gaps = ", ".join(f"{gap:.1e} in {name}" for name, gap in report.difference.items())
    console.print(f"largest difference from the masked network, of the outputs' scale: {gaps}", highlight=False)
    _file(console, after)


def packed(console: Console, result: PackedRun) -> None:
    """What was tried, what was chosen, and what it comes to."""
    table = _table("packed: as few bytes as the accuracy allows", "values", "bytes", "validation", "")
    for row in result.tried:
        note = "good enough" if row.kept else row.refused or ""
        table.add_row(f"{row.what}{', fine-tuned' * row.tuned}", f"{row.bytes:,}", f"{row.accuracy:.2%}", note)
    console.print(table)
    sizes = _table("from trained to shipped", "", "bytes", "times smaller")
    for name, size in result.sizes.items():
        sizes.add_row(name, f"{size:,}", f"{result.dense_bytes / size:.1f}x")
    console.print(sizes)
    if result.dense is not None:
        console.print(
            f"the dense network, which the sizes are compared with, had {result.dense:.2%} validation accuracy when "
            "pruning began",
            highlight=False,
        )
    console.print(
        f"accuracy before and after packing: validation {result.validation[0]:.2%} and {result.validation[1]:.2%}, "
        f"test {result.test[0]:.2%} and {result.test[1]:.2%}",
        highlight=False,
    )
    console.print(
        f"entropy bound of positions and values {result.info.bound.bytes:,.0f} bytes; header and codebooks on top",
        highlight=False,
    )
    _file(console, result.path)


def inspected(console: Console, found: Info, network: Account) -> None:
    """One row per tensor, what the network comes to, and where it all comes from."""
    table = _table(str(found.path), "tensor", "shape", "kept", "encoding", "values", "bytes")
    for row in found.tensors:
        table.add_row(
            _told(row.name), _shape(row.shape), f"{row.kept:,}", row.encoding, row.values, f"{row.bytes:,.0f}"
        )
    table.add_section()
    table.add_row("header", "", "", "", "", f"{found.header_bytes:,.0f}")
    table.add_row("whole file", "", "", "", "", f"{found.bytes:,}")
    console.print(table)
    console.print(network.headline(), highlight=False, markup=False)
    for key, value in found.about.items():
        if not isinstance(value, dict):
            console.print(_told(f"{key}: {value}"))
    console.print(
        f"in memory {found.dense_bytes:,} bytes; entropy bound {found.bound.bytes:,.0f} bytes; the digest is right",
        highlight=False,
    )


def as_plain(found: Info, network: Account) -> dict[str, Any]:
    """All that a file says, as plain values."""
    return {
        "path": str(found.path), "format": found.format, "bytes": found.bytes, "header_bytes": found.header_bytes,
        "tensors": [vars(row) for row in found.tensors], "about": found.about, "structure": found.structure,
        "network": {key: value for key, value in network.to_dict().items() if not key.startswith(("prunable", "left"))},
    }  # fmt: skip


def benched(console: Console, found: Latency) -> None:
    """One row per path and batch size, then the verdict in words."""
    table = _table(
        f"latency on this machine, {found.threads} thread{'s' * (found.threads > 1)}, microseconds",
        "batch", "path", "median", "p95", "against dense eager", "against fastest dense", "",
    )  # fmt: skip
    for batch in found.batches:
        for row in batch.rows:
            times = [""] * 4
            if row.median_s and row.p95_s:
                against = f"{batch.eager / row.median_s:.2f}x", f"{batch.dense / row.median_s:.2f}x"
                times = [f"{1e6 * row.median_s:.2f}", f"{1e6 * row.p95_s:.2f}", *against]
            table.add_row(str(batch.size), row.path, *times, "chosen" if row.chosen else _STATUS.get(row.status, ""))
        table.add_section()
    console.print(table)
    sizes = _table("size", "", "dense original" if found.has_dense else "dense form", "this file")
    for name, (before, after) in found.sizes.items():
        sizes.add_row(name, f"{before:,}", f"{after:,}")
    console.print(sizes)
    rows = [row for batch in found.batches for row in batch.rows if row.reason]
    for path, reason in {row.path: row.reason for row in rows}.items():
        console.print(f"{path}: {reason}", highlight=False, markup=False)
    for batch in found.batches:
        console.print(Text(f"batch {batch.size}: {batch.verdict}", style="bold"))


def predicted(console: Console, found: Prediction) -> None:
    """How many, how, how well."""
    known = "" if found.accuracy is None else f", {found.accuracy:.2%} correct"
    console.print(f"{len(found.classes):,} examples by {found.path}{known}", highlight=False)
    if found.out is not None:
        _file(console, found.out)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title))  # paths may hold what looks like markup
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right")
    return table


def _told(words: str) -> Text:
    """What a file says of itself: no markup, and nothing that steers a terminal."""
    return Text("".join(char if char.isprintable() else "?" for char in words))


def _shape(shape: tuple[int, ...] | list[int]) -> str:
    return " x ".join(str(length) for length in shape)


def _file(console: Console, path: Path) -> None:
    console.print(f"file   {path}, {path.stat().st_size:,} bytes", soft_wrap=True, markup=False, highlight=False)
