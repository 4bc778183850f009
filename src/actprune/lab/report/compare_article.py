"""L5: the founding article's table with our figures: what it prints, what we find, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

from actprune.lab.compare.aggregate import Group, Panel
from actprune.lab.compare.article import ERRORS, HIGH, ROWS
from actprune.lab.report.compare_table import dense_line, markdown_table, refusals, written

HEAD = (
    "row", "sparsity (%)", "compression", "weights", "FLOP (%)", "test acc. (%)", "change", "storage", "steps",
    "CPU (s)", "the article",
)  # fmt: skip

READING = (
    "Means over the seeds, ± standard deviation. Sparsity, compression, weights and FLOP are of the whole network, the "
    "output layer included; compression is weights before / after, storage bytes before / after where the method "
    "codes its weights (biases included). Change: of the test accuracy against the dense network of the same training, "
    "in points. Steps: optimizer steps relative to the common budget, the dense phase included. CPU time: processor "
    "time of one run with one thread, training, pruning and evaluation together; it depends on the machine and on what "
    "else runs there."
)


def lines(panel: Panel) -> list[list[str]]:
    """Heading and rows: at the printed sparsity first, then everybody at 98.94 %, then what else was asked."""
    found = [list(HEAD)]
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
            found.append([label, *_cells(group), printed])
    return found


def markdown(panels: Sequence[Panel]) -> str:
    """The whole file."""
    parts = [
        "# The founding article's table, with accuracy\n",
        f"{READING} The last column is what the article prints.\n",
    ]
    for panel in panels:
        table = lines(panel)
        if len(table) > 1:
            parts += [f"## {panel.title}\n", f"{dense_line(panel)}\n", markdown_table(table), *refusals(panel)]
    return "\n".join([*parts, ERRORS])


def _cells(group: Group) -> list[str]:
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


def _mean(group: Group, key: str) -> float:
    found = group.spread(key)
    return float("nan") if found is None else found.mean
