"""L5: the page of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from actprune.lab.report import compare_plot
from actprune.lab.report import words as w
from actprune.lab.report.field import DENSE, Field, Point, baselines, fields, titled
from actprune.lab.report.html import command, verdict_compare
from actprune.lab.report.html.page import Card, Cell, Page, Section, Table


def of_rows(name: str, rows: Sequence[dict[str, Any]], problems: Sequence[str]) -> Page:
    """Every data set and network of a comparison."""
    found = fields(rows)
    said = verdict_compare.of_fields(found)
    many, names = len(found) > 1, baselines(found)
    return Page(
        kind="comparison",
        title=titled(found) or "no trials",
        subtitle=name,
        badge=said.badge,
        tone=said.tone,
        sentences=said.sentences,
        notes=said.notes,
        cards=[] if many else _cards(found),
        sections=[
            *([Section("Ahead", tables=[_ahead(found)])] if many else []),
            *[s for field in found for s in _sections(field, names, _where(field, found) if many else "")],
        ],
        commands=[command.again_compared(field) for field in found if field.points],
        details=_environment(found),
        problems=problems,
    )


def _where(field: Field, every: Sequence[Field]) -> str:
    same = [other for other in every if (other.data, other.model) == (field.data, field.model)]
    how = f" ({field.training})" if len(same) > 1 and field.training else ""
    return f", {field.data}, {field.model}{how}"


def _sections(field: Field, names: Sequence[str], where: str) -> list[Section]:
    lead = (
        "Best in each column marked; ≈ where the best one's lead lies within the spread of the seeds. Who kept more "
        "weights than asked, or lacks seeds, is not ranked."
    )
    return [
        Section(
            f"Accuracy{where}",
            f"{lead} Baselines are ordered by their mean rank.",
            compare_plot.chart(field, names),
            tables=[_accuracies(field), _changes(field)],
        ),
        Section(f"Cost{where}", tables=[_costs(field), *_refused(field)]),
    ]


def _cards(found: Sequence[Field]) -> list[Card]:
    """The dense network, and the best baseline at each sparsity."""
    cards = []
    for field in found:
        cards.append(Card("Dense", w.percent(field.dense.test), _around(field.dense)))
        for sparsity in field.sparsities[:7]:
            ranking = field.ranking(sparsity)
            if ranking:
                best, mean = ranking[0]
                tied = " ≈" if field.close(sparsity) else ""
                cards.append(Card(f"Best at {w.share(sparsity)}", w.percent(mean), f"{best}{tied}"))
    return cards


def _ahead(found: Sequence[Field]) -> Table:
    """Who leads where, over all data sets and networks."""
    sparsities = sorted({sparsity for field in found for sparsity in field.sparsities})

    def best(field: Field, sparsity: float) -> Cell:
        ranking = field.ranking(sparsity)
        if not ranking:
            return Cell(w.DASH)
        name, mean = ranking[0]
        return Cell(w.percent(mean), "close" if field.close(sparsity) else "best", below=name)

    rows = [
        [
            Cell(_where(field, found).lstrip(", "), "name"),
            Cell(w.percent(field.dense.test)),
            *[best(field, s) for s in sparsities],
        ]
        for field in found
    ]
    head = ["where", "dense", *[w.share(sparsity) for sparsity in sparsities]]
    return Table("Best mean test accuracy; bold where the lead is larger than the spread of the seeds", head, rows)


def _around(point: Point) -> str:
    if not point.rows:
        return "no dense run"
    around = f"± {100 * point.spread:.2f}, " if point.spread is not None else ""
    return f"{around}{w.plural(len(point.rows), 'seed')}"


def _head(field: Field) -> list[str]:
    return ["baseline", *[w.share(sparsity) for sparsity in field.sparsities]]


def _name(field: Field, name: str) -> Cell:
    return Cell(name, "name", below=field.notes.get(name, ""))


def _accuracies(field: Field) -> Table:
    """Baselines by sparsities: mean test accuracy and spread."""
    best = {s: ranking[0][0] for s in field.sparsities if (ranking := field.ranking(s))}
    close = {s: field.close(s) for s in field.sparsities}
    rows = [
        [
            _name(field, name),
            *[_accuracy(field.at(name, s), best.get(s) == name, name in close[s]) for s in field.sparsities],
        ]
        for name in field.baselines
    ]
    if field.dense.test is not None:
        middle = Cell(w.with_spread(w.numbers(field.dense.rows, "test_accuracy")), "")
        rows.append([_name(field, DENSE), *[middle for _ in field.sparsities]])
    return Table("Test accuracy, mean ± standard deviation over the seeds", _head(field), rows)


def _accuracy(point: Point, best: bool, close: bool) -> Cell:
    if point.test is None:
        return Cell("refused" if point.refused else w.DASH, "bad" if point.refused else "")
    text = w.with_spread(w.numbers(point.rows, "test_accuracy"))
    seeds = w.plural(len(point.rows), "seed")
    return Cell(f"≈ {text}" if close else text, "best" if best else "close" if close else "", seeds)


def _changes(field: Field) -> Table:
    """The same as points away from the dense network."""
    middle = field.dense.test

    def cell(point: Point) -> Cell:
        change = None if point.test is None or middle is None else point.test - middle
        return Cell(w.points(change), "bad" if change is not None and change < -0.01 else "")

    rows = [[_name(field, name), *[cell(field.at(name, s)) for s in field.sparsities]] for name in field.baselines]
    return Table("Change against the dense network in points; a loss of one or more is red", _head(field), rows,
                 folded=True)  # fmt: skip


_COSTS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("actual", "removed", w.percent),
    ("compression", "compression", w.times),
    ("kept", "weights kept", w.whole),
    ("flop_kept", "FLOP left", w.percent),
    ("storage_bytes", "stored", w.size),
    ("validation_accuracy", "validation acc.", w.percent),
    ("steps", "steps", w.whole),
    ("seconds", "training time", w.seconds),
    ("cpu_seconds", "CPU time", w.seconds),
)


def _costs(field: Field) -> Table:
    """A line per baseline and sparsity: what was reached and what it took, means over the seeds."""
    shown = [cost for cost in _COSTS if any(point.mean(cost[0]) is not None for point in field.points.values())]
    pairs = [(DENSE, 0.0, field.dense)] if field.dense.rows else []
    pairs += [
        (name, s, field.at(name, s)) for s in field.sparsities for name in field.baselines if field.at(name, s).rows
    ]
    rows = [
        [
            Cell(name, "name"),
            Cell(w.share(s) if s else w.DASH),
            *[Cell(write(point.mean(key))) for key, _, write in shown],
        ]
        for name, s, point in pairs
    ]
    head = ["baseline", "target", *[heading for _, heading, _ in shown]]
    return Table("What was reached and what it took, means over the seeds", head, rows, folded=len(rows) > 12)


def _refused(field: Field) -> list[Table]:
    rows = [
        [Cell(name, "name"), Cell(w.share(s)), Cell(reason, "text")]
        for (name, s), point in field.points.items()
        for reason in dict.fromkeys(point.refused)
    ]
    return [Table("Trials without a result, with the reason", ["baseline", "target", "reason"], rows)] if rows else []


def _environment(found: Sequence[Field]) -> list[Table]:
    """What everybody shares, by field."""
    rows = [[Cell(f"{field.data}, {field.model}", "name"), Cell(field.training or w.DASH, "text")] for field in found]
    return [Table("Training, the same for everyone", ["where", "how"], rows, folded=True)] if rows else []
