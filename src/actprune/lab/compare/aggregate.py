"""L5: rows aggregated: mean and spread over seeds, the best, and sparsity at equal accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from actprune.lab.compare.baselines import BASELINES
from actprune.lab.config import RunConfig

Row = dict[str, Any]
SLACK = 0.02
"""A baseline with more than this share of weights above its target is not compared with the others of a column."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1; 0 for one value)."""

    mean: float
    std: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        found = list(values)
        return cls(mean(found), stdev(found) if len(found) > 1 else 0.0, len(found))


@dataclass(frozen=True)
class Group:
    """The seeds of one baseline at one sparsity on one data set and network. change: of test accuracy, to dense."""

    data: str
    model: str
    training: str
    baseline: str
    target: float
    rows: tuple[Row, ...]
    dense: Spread | None

    @property
    def ok(self) -> tuple[Row, ...]:
        """Rows with a result."""
        return tuple(row for row in self.rows if row["status"] == "ok")

    @property
    def refusals(self) -> list[str]:
        """Why, where a trial was refused."""
        return [row["reason"] for row in self.rows if row["status"] != "ok"]

    def spread(self, key: str) -> Spread | None:
        """Of a column over the seeds that have it."""
        values = [float(row[key]) for row in self.ok if row.get(key) is not None]
        return Spread.of(values) if values else None

    @property
    def test(self) -> Spread | None:
        """Test accuracy."""
        return self.spread("test_accuracy")

    @property
    def change(self) -> float | None:
        """Mean test accuracy minus that of the dense reference."""
        return self.test.mean - self.dense.mean if self.test and self.dense else None

    @property
    def keeps_too_much(self) -> bool:
        """Whether it ended with clearly more weights than its target: no fair competitor in its column."""
        return any(row["kept"] > (1 - self.target) * row["weights"] * (1 + SLACK) + 1 for row in self.ok)


@dataclass(frozen=True)
class Panel:
    """All groups of one data set, network and training."""

    data: str
    model: str
    training: str
    groups: tuple[Group, ...]

    @property
    def title(self) -> str:
        """Data and network."""
        return f"{self.data}, {self.model}"

    @property
    def dense(self) -> Group | None:
        """The reference."""
        return next((group for group in self.groups if group.baseline == "dense"), None)

    @property
    def baselines(self) -> list[str]:
        """In the order of ``BASELINES``."""
        found = {group.baseline for group in self.groups}
        return [name for name in BASELINES if name in found]

    @property
    def sparsities(self) -> list[float]:
        """Every target."""
        return sorted({group.target for group in self.groups if group.baseline != "dense"})

    def group(self, baseline: str, target: float) -> Group | None:
        """One field of the table."""
        return next((group for group in self.groups if (group.baseline, group.target) == (baseline, target)), None)

    def best(self, target: float) -> tuple[Group, list[Group]] | None:
        """The highest mean test accuracy of a column, and those within one standard deviation of it (the larger)."""
        found = [
            g for g in self.groups if g.target == target and g.baseline != "dense" and g.test and not g.keeps_too_much
        ]
        if not found:
            return None
        most = max(len(group.ok) for group in found)
        full = [group for group in found if len(group.ok) == most and not group.refusals]
        if not full:
            return None
        first = max(full, key=lambda group: _test(group).mean)
        ties = [
            group
            for group in full
            if group is not first and _test(first).mean - _test(group).mean <= max(_test(first).std, _test(group).std)
        ]
        return first, ties

    def equal(self, baseline: str, points: float) -> Group | None:
        """The sparsest group whose mean VALIDATION accuracy is at most ``points`` (a fraction) below dense."""
        dense = self.dense.spread("validation_accuracy") if self.dense else None
        good = [
            group
            for group in self.groups
            if group.baseline == baseline
            and not group.refusals
            and dense is not None
            and (found := group.spread("validation_accuracy")) is not None
            and found.mean >= dense.mean - points
        ]
        return max(good, key=_actual, default=None)


def _test(group: Group) -> Spread:
    found = group.test
    assert found is not None
    return found


def _actual(group: Group) -> float:
    found = group.spread("actual")
    return 0.0 if found is None else found.mean


def panels(rows: Sequence[Row]) -> list[Panel]:
    """Rows of any order. Of two lines for one trial under an old and a changed recipe, the later counts.

    So does the recipe of a baseline's last line: seeds that only an older recipe has are left out, not averaged in.
    """
    latest = {tuple(row[key] for key in _TRIAL): row for row in newest(rows)}
    places: dict[tuple[str, str, str], dict[tuple[str, float], list[Row]]] = {}
    for row in latest.values():
        place = places.setdefault((row["data"], row["model"], row["training"]), {})
        place.setdefault((row["baseline"], row["target"]), []).append(row)
    return [_panel(*place, groups) for place, groups in places.items()]


_TRIAL = ("data", "model", "training", "baseline", "target", "seed")
_DEFAULTS = RunConfig().model_dump(mode="json")


def newest(rows: Sequence[Row]) -> list[Row]:
    """Rows that were computed as the last line of their baseline at their sparsity was, seeds apart."""
    last = {_group(row): _recipe(row) for row in rows}
    return [row for row in rows if _recipe(row) == last[_group(row)]]


def _group(row: Row) -> tuple[str, ...]:
    return tuple(str(row.get(key)) for key in _TRIAL if key != "seed")


def _recipe(row: Row) -> dict[str, Any]:
    """Its configuration without the seed; a field that it does not know yet has its default."""
    config = row.get("config")
    return {**_DEFAULTS, **(config if isinstance(config, dict) else {}), "seed": None}


def _panel(data: str, model: str, training: str, groups: dict[tuple[str, float], list[Row]]) -> Panel:
    reference = [row["test_accuracy"] for row in groups.get(("dense", 0.0), []) if row["status"] == "ok"]
    dense = Spread.of(reference) if reference else None
    return Panel(
        data,
        model,
        training,
        tuple(
            Group(data, model, training, baseline, target, tuple(sorted(rows, key=lambda row: row["seed"])), dense)
            for (baseline, target), rows in groups.items()
        ),
    )
