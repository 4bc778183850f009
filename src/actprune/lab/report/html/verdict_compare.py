"""L5: three sentences on a comparison: what took part, who is ahead where, what the figures do not show."""

from __future__ import annotations

from collections.abc import Sequence

from actprune.lab.report.html import words as w
from actprune.lab.report.html.cautions import cautions
from actprune.lab.report.html.field import Field, titled
from actprune.lab.report.html.verdict import Verdict


def of_fields(fields: Sequence[Field]) -> Verdict:
    """The verdict over every data set and network of a comparison."""
    if not any(field.points for field in fields):
        return Verdict(
            ["This comparison has no finished trial yet.", "There are no accuracies yet.",
             "Go on with the same `actprune compare` command: trials that are done are not computed again."],
            "nothing finished", "warn",
        )  # fmt: skip
    found = cautions(fields)
    third = (
        f"Watch out: {found[0]}."
        if found
        else "Every baseline reached its sparsity, and every lead is larger than the spread of the seeds."
    )
    points = [field.at(name, s) for field in fields for name in field.baselines for s in field.sparsities]
    badge, tone = "complete", "good"
    if any(point.refused for point in points):
        badge = "complete, some refused"
    if any(not point.rows and not point.refused for point in points):
        badge, tone = "some trials missing", "warn"
    return Verdict([_who(fields), _ahead(fields), third], badge, tone, [f"{_capital(text)}." for text in found[1:]])


def _who(fields: Sequence[Field]) -> str:
    baselines = {name for field in fields for name in field.baselines}
    sparsities = sorted({s for field in fields for s in field.sparsities})
    runs = sum(len(point.rows) for field in fields for point in [*field.points.values(), field.dense])
    span = w.share(sparsities[0])
    if len(sparsities) > 1:
        span = f"{len(sparsities)} sparsities from {span} to {w.share(sparsities[-1])}"
    seeds = w.plural(max(field.seeds for field in fields), "seed")
    many = w.plural(len(baselines), "baseline")
    return f"{many} at {span}, {titled(fields)}, up to {seeds} each: {w.plural(runs, 'run')} in all."


def _ahead(fields: Sequence[Field]) -> str:
    """Who leads where; with accuracies where there is room for them, and otherwise in the table below."""
    parts, alone = [], len(fields) == 1
    for field in fields:
        wins: dict[str, list[str]] = {}
        for sparsity in field.sparsities:
            ranking = field.ranking(sparsity)
            if ranking:
                score = f" ({w.percent(ranking[0][1])})" if alone else ""
                wins.setdefault(ranking[0][0], []).append(f"{w.share(sparsity)}{score}")
        who = "; ".join(f"{name} at {w.listed(places)}" for name, places in wins.items()) or "nobody"
        dense = f", against {w.percent(field.dense.test)} dense" if field.dense.test is not None else ""
        parts.append(who + dense if alone else f"on {field.data}, {field.model}, {who.replace(';', ',')}{dense}")
    return f"Ahead by mean test accuracy: {'; '.join(parts)}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
