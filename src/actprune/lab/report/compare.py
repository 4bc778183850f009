"""L5: a comparison as tables, for the terminal and for markdown, and what it leaves in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actprune import atomic
from actprune.lab.atomic import unwritable
from actprune.lab.compare.aggregate import Group, Panel, Spread
from actprune.lab.compare.article import ERRORS, HIGH, ROWS
from actprune.lab.report import compare_plot
from actprune.lab.report.style import save

if TYPE_CHECKING:
    from rich.table import Table

READING = (
    "Test accuracy in percent, mean ± standard deviation over the seeds, and in brackets the change of the mean "
    "against the dense network in points. ** best mean of a column, = within one standard deviation (the larger of "
    "the two) of it; with three seeds such a difference means little. Sparsity is over all weights of the network, "
    "the output layer included; a method that leaves the output layer alone removes correspondingly more elsewhere. "
    "(kept x %) marks a baseline that ended with another number of weights than was asked; if it kept more, it does "
    "not take part in the ranking of its column. n: seeds, where not all are there."
)


def lines(panel: Panel) -> list[list[str]]:
    """Heading and rows of one table, as plain cells."""
    sparsities = panel.sparsities
    best = {target: panel.best(target) for target in sparsities}
    head = ["baseline", "steps", *(f"{_percent(target)} %  ({1 / (1 - target):.0f}x)" for target in sparsities)]
    found = [head]
    full = max((len(group.rows) for group in panel.groups), default=1)
    for baseline in panel.baselines:
        groups = [panel.group(baseline, target) for target in sparsities]
        cells = [_cell(group, best[target], full) for target, group in zip(sparsities, groups, strict=True)]
        found.append([baseline, _steps(groups), *cells])
    return found


def dense_line(panel: Panel) -> str:
    """The reference in words."""
    group = panel.dense
    if group is None or group.test is None:
        return "dense reference: not there yet"
    validation = group.spread("validation_accuracy")
    weights = group.ok[0]["weights"]
    return (
        f"dense: test {written(group.test)} %, validation {written(validation)} %, {weights:,} weights, "
        f"{group.test.count} seed{'s' if group.test.count > 1 else ''}; {panel.training}"
    )


def equal_lines(panel: Panel, points: float) -> list[list[str]]:
    """Sparsity at equal accuracy, the sparsest first."""
    found = [(baseline, panel.equal(baseline, points)) for baseline in panel.baselines]
    there = [(baseline, group) for baseline, group in found if group is not None]
    there.sort(key=lambda pair: -_mean(pair[1], "actual"))
    head = ["baseline", "sparsity", "compression", "weights", "validation acc. (%)", "test acc. (%)"]
    rows = [
        [
            baseline,
            f"{_percent(_mean(group, 'actual'))} %",
            f"{_mean(group, 'compression'):.1f}x",
            f"{_mean(group, 'kept'):,.0f}",
            written(group.spread("validation_accuracy")),
            f"{written(group.test)} ({_signed(group.change)})",
        ]
        for baseline, group in there
    ]
    rows += [[baseline, "none of those tried", "", "", "", ""] for baseline, group in found if group is None]
    return [head, *rows]


def rich_table(cells: Sequence[Sequence[str]], title: str) -> Table:
    """For the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for i, (heading, *column) in enumerate(zip(*cells, strict=True)):
        # A number that is cut off is a wrong number: words stay whole, names altogether.
        whole = [word for cell in column for word in cell.split()] if i else column
        width = max(map(len, whole), default=0)
        table.add_column(Text(heading), justify="right" if i else "left", overflow="fold", min_width=width or None)
    for line in cells[1:]:
        table.add_row(*(Text(cell, style="bold green" if cell.startswith("**") else "") for cell in line))
    return table


def markdown_table(cells: Sequence[Sequence[str]]) -> str:
    """For a file."""
    rule = [":---", *["---:"] * (len(cells[0]) - 1)]
    return "".join(f"| {' | '.join(map(_escaped, line))} |\n" for line in (cells[0], rule, *cells[1:]))


def markdown(panels: Sequence[Panel], points: float, notes: dict[str, str]) -> str:
    """The whole file: reading aid, one table per data set and network, sparsity at equal accuracy, baselines."""
    parts = ["# Comparison\n", f"{READING}\n"]
    for panel in panels:
        parts += [f"## {panel.title}\n", f"{dense_line(panel)}\n"]
        if panel.baselines:
            parts += [markdown_table(lines(panel)), f"### Sparsity at equal accuracy\n\n{equal_reading(points)}\n"]
            parts += [markdown_table(equal_lines(panel, points))]
        parts += refusals(panel)
    used = dict.fromkeys(baseline for panel in panels for baseline in panel.baselines)
    parts += ["## Baselines\n", "".join(f"- {name}: {notes.get(name, '')}\n" for name in used)]
    return "\n".join(parts)


def equal_reading(points: float) -> str:
    """What the second table says."""
    return (
        f"The sparsest of the sparsities tried whose mean validation accuracy is at most {100 * points:g} points below "
        "that of the dense network. Validation selects; the test accuracy is only reported."
    )


def refusals(panel: Panel) -> list[str]:
    """One line per baseline and sparsity that was refused, with the method's own reason."""
    found = [
        f"- {group.baseline} at {_percent(group.target)} %: {len(group.refusals)} of {len(group.rows)} refused: "
        f"{group.refusals[0]}\n"
        for group in panel.groups
        if group.refusals
    ]
    return ["### Refused\n", "".join(found)] if found else []


def written(spread: Spread | None) -> str:
    """Percent, mean ± standard deviation."""
    if spread is None:
        return "-"
    return f"{100 * spread.mean:.2f}" + (f" ± {100 * spread.std:.2f}" if spread.count > 1 else "")


ARTICLE_HEAD = (
    "row", "sparsity (%)", "compression", "weights", "FLOP (%)", "test acc. (%)", "change", "storage", "steps",
    "CPU (s)", "the article",
)  # fmt: skip

ARTICLE_READING = (
    "Means over the seeds, ± standard deviation. Sparsity, compression, weights and FLOP are of the whole network, the "
    "output layer included; compression is weights before / after, storage bytes before / after where the method "
    "codes its weights (biases included). Change: of the test accuracy against the dense network of the same training, "
    "in points. Steps: optimizer steps relative to the common budget, the dense phase included. CPU time: processor "
    "time of one run with one thread, training, pruning and evaluation together; it depends on the machine and on what "
    "else runs there."
)


def article_lines(panel: Panel) -> list[list[str]]:
    """Heading and rows: at the printed sparsity first, then everybody at 98.94 %, then what else was asked."""
    found = [list(ARTICLE_HEAD)]
    seen: set[tuple[str, float]] = set()
    labels = {row.baseline: row.label for row in ROWS}
    wanted = [(row.label, row.baseline, row.sparsity, row.printed) for row in ROWS]
    wanted += [(labels[row.baseline], row.baseline, HIGH, "") for row in ROWS]
    wanted += [
        (labels.get(name, name), name, target, "")
        for target in panel.sparsities
        for name in panel.baselines
        if name in labels and target not in (HIGH, *(row.sparsity for row in ROWS))
    ]
    for label, name, target, printed in wanted:
        group = panel.group(name, target)
        if group is not None and (name, target) not in seen:
            seen.add((name, target))
            found.append([label, *_article_cells(group), printed])
    return found


def article_text(panels: Sequence[Panel]) -> str:
    """The whole file."""
    parts = [
        "# The founding article's table, with accuracy\n",
        f"{ARTICLE_READING} The last column is what the article prints.\n",
    ]
    for panel in panels:
        table = article_lines(panel)
        if len(table) > 1:
            parts += [f"## {panel.title}\n", f"{dense_line(panel)}\n", markdown_table(table), *refusals(panel)]
    return "\n".join([*parts, ERRORS])


def write(panels: Sequence[Panel], out: Path, points: float, notes: dict[str, str], *, article: bool) -> list[Path]:
    """Draw everything from the panels. article: also article.md. Raises CheckpointError when it cannot be written."""
    files = [out / "table.md"]
    atomic.write_bytes(files[0], markdown(panels, points, notes).encode(), unwritable)
    if article:
        files.append(out / "article.md")
        atomic.write_bytes(files[-1], article_text(panels).encode(), unwritable)
    if any(panel.baselines for panel in panels):
        figure = compare_plot.accuracy([compare_plot.Curves.of(panel) for panel in panels if panel.baselines])
        for path in (out / "accuracy.svg", out / "accuracy.png"):
            save(figure, path)
            files.append(path)
    return files


def _cell(group: Group | None, best: tuple[Group, list[Group]] | None, full: int) -> str:
    if group is None:
        return ""
    if not group.ok:
        return f"refused ({len(group.refusals)})"
    text = f"{written(group.test)} ({_signed(group.change)})"
    if best and group is best[0]:
        text = f"**{text}**"
    elif best and group in best[1]:
        text = f"={text}"
    kept = _mean(group, "kept") / group.ok[0]["weights"]
    if abs(kept / (1 - group.target) - 1) > 0.005:
        text += f" (kept {100 * kept:.2f} %)"
    if group.refusals:
        return f"{text} ({len(group.refusals)} refused)"
    return text if len(group.ok) == full else f"{text} (n={len(group.ok)})"


def _steps(groups: Sequence[Group | None]) -> str:
    """Training steps, in budgets."""
    found = [_mean(group, "steps_relative") for group in groups if group is not None and group.ok]
    if not found:
        return "-"
    low, high = min(found), max(found)
    return f"{low:.3g}x" if high - low < 0.005 else f"{low:.2f}-{high:.2f}x"


def _mean(group: Group, key: str) -> float:
    found: Any = group.spread(key)
    return float("nan") if found is None else float(found.mean)


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.2f}"


def _percent(value: float) -> str:
    return f"{100 * value:.4g}"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _article_cells(group: Group) -> list[str]:
    """Everything between the label and what the article prints."""
    if not group.ok:
        return [f"{100 * group.target:.4g}", *["-"] * 3, f"refused ({len(group.refusals)})", *["-"] * 4]
    test = written(group.test) + (f" ({len(group.refusals)} refused)" if group.refusals else "")
    stored = [row["dense_bytes"] / row["storage_bytes"] for row in group.ok if row.get("storage_bytes")]
    change = "-" if group.change is None else f"{100 * group.change:+.2f}"
    return [
        f"{100 * _mean(group, 'actual'):.2f}",
        f"{_mean(group, 'compression'):.1f}x",
        f"{_mean(group, 'kept'):,.0f}",
        f"{100 * _mean(group, 'flop_kept'):.2f}",
        test,
        change,
        f"{sum(stored) / len(stored):.1f}x" if stored else "-",
        f"{_mean(group, 'steps_relative'):.3g}x",
        f"{_mean(group, 'cpu_seconds'):.0f}",
    ]
