"""L5: the rows of a comparison as a field: baselines by sparsities, each point over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actprune.lab.compare.aggregate import SLACK, newest
from actprune.lab.report import words as w

Row = dict[str, Any]
DENSE, OURS = "dense", "activation"


@dataclass(frozen=True)
class Point:
    """One baseline at one sparsity. ``rows``: finished runs, one per seed; ``refused``: why others have none."""

    rows: list[Row]
    refused: list[str]

    @property
    def test(self) -> float | None:
        """Mean test accuracy."""
        return w.average(w.numbers(self.rows, "test_accuracy"))

    @property
    def spread(self) -> float | None:
        """Standard deviation of the test accuracy over the seeds."""
        return w.spread(w.numbers(self.rows, "test_accuracy"))

    @property
    def keeps_too_much(self) -> bool:
        """Whether it ended with clearly more weights than asked (as ``lab.compare.aggregate.Group`` has it)."""
        return any(
            kept > (1 - target) * weights * (1 + SLACK) + 1
            for row in self.rows
            if (kept := w.number(row.get("kept"))) is not None
            and (weights := w.number(row.get("weights"))) is not None
            and (target := _target(row)) is not None
        )

    def mean(self, key: str) -> float | None:
        """Mean of any figure."""
        return w.average(w.numbers(self.rows, key))


@dataclass(frozen=True)
class Field:
    """One data set, network and training. ``baselines``: best first, by their mean rank over the sparsities."""

    data: str
    model: str
    training: str
    baselines: list[str]
    sparsities: list[float]
    points: dict[tuple[str, float], Point]
    dense: Point
    notes: dict[str, str]

    def at(self, baseline: str, sparsity: float) -> Point:
        """A point, empty where nothing was computed."""
        return self.points.get((baseline, sparsity), Point([], []))

    def ranking(self, sparsity: float) -> list[tuple[str, float]]:
        """Baselines with their mean test accuracy at this sparsity, best first.

        As in table.md: whoever kept clearly more weights than asked, has fewer seeds or was refused some is no rival.
        """
        points = {name: self.at(name, sparsity) for name in self.baselines}
        rivals = {name: point for name, point in points.items() if not point.keeps_too_much}
        most = max((len(point.rows) for point in rivals.values()), default=0)
        found = [
            (name, mean)
            for name, point in rivals.items()
            if (mean := point.test) is not None and len(point.rows) == most and not point.refused
        ]
        return sorted(found, key=lambda pair: -pair[1])

    def close(self, sparsity: float) -> set[str]:
        """Baselines that the best one's lead does not tell apart: it is within the larger of both spreads."""
        ranking = self.ranking(sparsity)
        if not ranking:
            return set()
        best, top = ranking[0]
        return {
            name
            for name, mean in ranking[1:]
            if top - mean <= max(self.at(best, sparsity).spread or 0, self.at(name, sparsity).spread or 0)
        }

    @property
    def seeds(self) -> int:
        """The most runs that any point has."""
        return max((len(point.rows) for point in [*self.points.values(), self.dense]), default=0)


def fields(rows: Sequence[Row]) -> list[Field]:
    """Rows grouped by data set, network and training, in order of first appearance."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        key = (str(row.get("data", w.DASH)), str(row.get("model", w.DASH)), str(row.get("training") or ""))
        groups.setdefault(key, []).append(row)
    return [_field(*key, rows=group) for key, group in groups.items()]


def baselines(found: Sequence[Field]) -> list[str]:
    """All names of a comparison, in an order that does not depend on who is ahead."""
    names = sorted({name for field in found for name in field.baselines})
    return sorted(names, key=lambda name: not name.startswith("activation"))


def titled(found: Sequence[Field]) -> str:
    """``lenet-300-100 on mnist and fashion-mnist``."""
    places: dict[str, dict[str, None]] = {}
    for field in found:
        places.setdefault(field.model, {})[field.data] = None
    return w.listed([f"{model} on {w.listed(list(data))}" for model, data in places.items()])


def _field(data: str, model: str, training: str, rows: list[Row]) -> Field:
    points: dict[tuple[str, float], dict[str, Row]] = {}
    notes: dict[str, str] = {}
    for row in newest(rows):  # a later row of the same trial replaces an earlier one
        name, target = str(row.get("baseline") or row.get("method") or w.DASH), _target(row)
        if target is not None:
            points.setdefault((name, target), {})[str(_seed(row))] = row
        notes[name] = str(row.get("note") or "")
    made = {key: _point(list(found.values())) for key, found in points.items()}
    dense = Point([row for (name, _), point in made.items() if name == DENSE for row in point.rows], [])
    made = {key: point for key, point in made.items() if key[0] != DENSE}
    sparsities = sorted({target for _, target in made})
    order = list(dict.fromkeys(name for name, _ in made))
    plain = Field(data, model, training, order, sparsities, made, dense, notes)
    return Field(data, model, training, sorted(order, key=_ranks(plain).__getitem__), sparsities, made, dense, notes)


def _ranks(field: Field) -> dict[str, tuple[float, int]]:
    """Mean rank of every baseline; one that is absent somewhere counts as last there."""
    places: dict[str, list[int]] = {name: [] for name in field.baselines}
    for sparsity in field.sparsities:
        ranking = [name for name, _ in field.ranking(sparsity)]
        for name, found in places.items():
            found.append(ranking.index(name) if name in ranking else len(field.baselines))
    return {name: (w.average(found) or 0.0, i) for i, (name, found) in enumerate(places.items())}


def _target(row: Row) -> float | None:
    return w.number(row.get("target", row.get("sparsity")))


def _seed(row: Row) -> Any:
    config = row.get("config")
    return row.get("seed", config.get("seed") if isinstance(config, dict) else None)


def _point(rows: list[Row]) -> Point:
    ok = [row for row in rows if row.get("status", "ok") == "ok" and w.number(row.get("test_accuracy")) is not None]
    return Point(ok, [str(row.get("reason") or row.get("status") or "no result") for row in rows if row not in ok])
