"""L5: the tables of runs: their summary, one row per run, and the ranks of a run's layers, one row per pruning step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from actprune.errors import DataError

if TYPE_CHECKING:
    from rich.table import Table


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _times(value: float) -> str:
    return f"{value:.1f}x" if isfinite(value) else "inf"


def _seconds(value: float) -> str:
    return f"{value:.1f}"


def _plain(value: float) -> str:
    return f"{value:.4g}"


@dataclass(frozen=True)
class Column:
    """A key of a row, its heading with unit, and how one number is written."""

    key: str
    heading: str
    write: Callable[[float], str]


COLUMNS = (
    Column("run", "run", _plain),
    Column("target", "target (%)", _percent),
    Column("actual", "actual (%)", _percent),
    Column("sparsity", "sparsity (%)", _percent),
    Column("compression", "compression", _times),
    Column("flop_kept", "FLOP kept (%)", _percent),
    Column("ranks", "ranks", _plain),
    Column("train_accuracy", "train acc. (%)", _percent),
    Column("validation_accuracy", "val. acc. (%)", _percent),
    Column("test_accuracy", "test acc. (%)", _percent),
    Column("seconds", "training time (s)", _seconds),
)
"""Keys of a row. Fractions lie in 0..1 and are shown as percent. target and actual are in the budget's own terms;
sparsity, compression (weights before / after) and FLOP are of the whole network."""

_RANKS = ("pruning step", "layer", "weights kept", "numerical rank", "stable rank", "effective rank")
_UPRIGHT = 3  # runs that fit side by side on an 80-column terminal, one line per quantity; more get one line per run


def summary_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> Table:
    """A rich table with those of ``COLUMNS`` that at least one row has; ``rich.print`` shows it.

    A row maps the keys of ``COLUMNS`` to a number, a text, None (shown as "-"), a mapping by layer (written
    300/200/100), or a list of numbers over seeds (written mean ± standard deviation). Further keys are ignored.
    Raises DataError when there is no row, or no row has any known key.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    lines = _lines(rows)
    if len(rows) <= _UPRIGHT:
        lines = [list(line) for line in zip(*lines, strict=True)]
    table = Table(title=title or None, box=box.SIMPLE_HEAD)
    for i, (heading, *cells) in enumerate(zip(*lines, strict=True)):
        # Numbers stay whole: a number that is cut off is a wrong number. Names and lists of ranks may fold.
        whole = max((len(word) for cell in cells if "/" not in cell for word in cell.split()), default=0) if i else 0
        table.add_column(Text(heading), justify="right" if i else "left", overflow="fold", min_width=whole or None)
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    return table


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same rows as a markdown table that ends in a newline."""
    heading, *body = ([cell.replace("|", "\\|") for cell in line] for line in _lines(rows))
    rule = [":---", *["---:"] * (len(heading) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heading, rule, *body))


def rank_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, one line per pruning step and layer (see ``lab.spectra.rank_rows``); ranks as before -> after."""
    lines = [_RANKS, (":---", ":---", *["---:"] * (len(_RANKS) - 2))]
    for row in rows:
        before, after = row["before"], row["after"]
        cells = [
            f"{after[key]:.{digits}f}" if before is None else f"{before[key]:.{digits}f} -> {after[key]:.{digits}f}"
            for key, digits in (("numerical", 0), ("stable", 1), ("effective", 1))
        ]
        pruning_step = "end" if row["pruning_step"] is None else str(row["pruning_step"])
        kept = "" if row["kept"] is None else f"{row['kept']:,}"
        lines.append((pruning_step, str(row["layer"]).removesuffix(".weight"), kept, *cells))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Headings, then one line of cells per row; a row without a name is called by its number."""
    columns = _present(rows)
    named = [row if row.get("run") is not None else {**row, "run": str(i)} for i, row in enumerate(rows, start=1)]
    body = [[_cell(column, row.get(column.key)) for column in columns] for row in named]
    return [[column.heading for column in columns], *body]


def _present(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The name of the run and the columns for which at least one row has a value."""
    run, *values = COLUMNS
    columns = [column for column in values if any(row.get(column.key) is not None for row in rows)]
    if not columns:
        known = ", ".join(column.key for column in values)
        raise DataError(f"a summary of {len(rows)} rows has nothing to show; expected rows with some of: {known}")
    return [run, *columns]


def _cell(column: Column, value: Any) -> str:
    """One value in words; see ``summary_table``."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, Mapping):
        return "/".join(_cell(column, item) for item in value.values()) or "-"
    if isinstance(value, Sequence):
        numbers = [float(item) for item in value]
        if len(numbers) < 2:
            return column.write(numbers[0]) if numbers else "-"
        return f"{column.write(mean(numbers))} ± {column.write(stdev(numbers))}"
    return column.write(float(value))
