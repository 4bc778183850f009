"""L5: three sentences on a comparison: what took part, who is ahead where, what the figures do not show at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actprune.errors import few
from actprune.lab.report import words as w
from actprune.lab.report.field import OURS, Field, titled
from actprune.lab.report.html.verdict import MISSED, Verdict

LOST = 0.01
"""Test accuracy below the dense network's from which on it is said."""

MOST = 6
"""Entries of a list that are named; the rest is counted."""


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


def cautions(fields: Sequence[Field]) -> list[str]:
    """Clauses without a full stop, most important first; each says for which data set and network it holds."""
    out = []
    for what, check in _CHECKS:
        found = [(field, text) for field in fields if (text := check(field))]
        if len(fields) > 1:
            out += [f"{what}: {'; '.join(f'on {f.data}, {f.model}, {text}' for f, text in found)}"] if found else []
        else:
            out += [f"{what}: {text}" for _, text in found]
    return out


def _undecided(field: Field) -> str:
    open_ = [w.share(s) for s in field.sparsities if field.close(s)]
    return f"at {w.listed(open_)}" if open_ else ""


def _ours(field: Field) -> str:
    """Where activation-based pruning stands: the project's own question."""
    parts = []
    for sparsity in field.sparsities:
        ranking = field.ranking(sparsity)
        names = [name for name, _ in ranking]
        if OURS in names and names[0] != OURS and OURS not in field.close(sparsity):
            place = names.index(OURS)
            gap = w.points(ranking[0][1] - ranking[place][1]).lstrip("+")
            parts.append(f"{gap} points at {w.share(sparsity)} (place {place + 1} of {len(names)})")
    return f"by {w.listed(parts)}" if parts else ""


def _missed(field: Field) -> str:
    return _some([
        f"{name} at {w.share(sparsity)} ({w.percent(got)})"
        for (name, sparsity), point in field.points.items()
        if (got := point.mean("actual")) is not None and got < sparsity - MISSED
    ])  # fmt: skip


def _fell(field: Field) -> str:
    """Where even the best baseline is worse than the dense network."""
    dense, found = field.dense.test, []
    for sparsity in field.sparsities if dense is not None else ():
        ranking = field.ranking(sparsity)
        if ranking and dense is not None and ranking[0][1] < dense - LOST:
            found.append(f"{w.points(dense - ranking[0][1]).lstrip('+')} points at {w.share(sparsity)}")
    return f"by {w.listed(found)}" if found else ""


def _disagree(field: Field) -> str:
    """Validation picks, test reports: where both would have picked another baseline."""
    found = []
    for sparsity in field.sparsities:
        ranking = field.ranking(sparsity)
        means = {name: field.at(name, sparsity).mean("validation_accuracy") for name, _ in ranking}
        scores = {name: mean for name, mean in means.items() if mean is not None}
        if len(scores) > 1 and (picked := max(scores, key=scores.__getitem__)) != ranking[0][0]:
            found.append(f"{picked} at {w.share(sparsity)}")
    return w.listed(found)


def _refused(field: Field) -> str:
    return _some([f"{name} at {w.share(s)}" for (name, s), point in field.points.items() if point.refused])


def _unfinished(field: Field) -> str:
    """Points with fewer seeds than others, where nothing was refused."""
    most, pairs = field.seeds, [(name, s) for s in field.sparsities for name in field.baselines]
    return _some([
        f"{name} at {w.share(s)} ({len(point.rows)} of {w.plural(most, 'seed')})"
        for name, s in pairs
        if len((point := field.at(name, s)).rows) < most and not point.refused
    ])  # fmt: skip


def _longer(field: Field) -> str:
    found: dict[str, float] = {}
    for (name, _), point in field.points.items():
        relative = point.mean("steps_relative")
        if relative is not None and relative > 1.05:
            found[name] = max(relative, found.get(name, 0.0))
    return _some([f"{name} ({w.times(ratio)})" for name, ratio in found.items()])


def _few(field: Field) -> str:
    return w.plural(field.seeds, "seed") if 0 < field.seeds < 3 else ""


def _no_dense(field: Field) -> str:
    return "its row is missing" if field.dense.test is None else ""


def _some(found: Sequence[str]) -> str:
    return few(found, MOST) if len(found) > MOST else w.listed(found)


_CHECKS: tuple[tuple[str, Callable[[Field], str]], ...] = (
    ("less was removed than asked", _missed),
    (f"{OURS} is clearly behind the best", _ours),
    ("even the best baseline falls below the dense network", _fell),
    ("the lead lies within the spread of the seeds, so that nobody can be called the winner", _undecided),
    ("too few runs for a spread", _few),
    ("not finished", _unfinished),
    ("without a result", _refused),
    ("by validation accuracy one would have picked another baseline", _disagree),
    ("more training steps than the common budget", _longer),
    ("there is no dense network to compare with", _no_dense),
)
