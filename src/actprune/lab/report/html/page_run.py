"""L5: the page of one run, and that of several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actprune.lab.report import charts
from actprune.lab.report import words as w
from actprune.lab.report.html import command, verdict
from actprune.lab.report.html.page import Card, Cell, Page, Section, Table
from actprune.lab.report.read import Array, Run, dense, network, short


def of_run(run: Run) -> Page:
    """Everything there is on one run."""
    found = verdict.of_run(run)
    return Page(
        kind="run",
        title=_title(run.config),
        subtitle=f"{run.name}, seed {run.config.get('seed')}",
        badge=found.badge,
        tone=found.tone,
        sentences=found.sentences,
        notes=found.notes,
        cards=_cards(run),
        sections=sections(run),
        commands=[command.again(run.config)],
        details=_details(run),
        recipe=command.pretty(run.recipe) if run.recipe else "",
        problems=run.notes,
    )


def sections(run: Run) -> list[Section]:
    """The evidence of one run; empty sections are left out by the page."""
    return [
        Section("Training", charts=charts.training(run), tables=_epochs(run)),
        Section("Layers", charts=charts.survival(run), tables=[*_network(run), *_layers(run)]),
        Section("Neurons", charts=charts.neurons(run)),
        Section("Firing", charts=charts.firing(run)),
        Section("Spectra", charts=charts.singular_values(run), tables=_ranks(run)),
        Section(
            "Weights",
            "Sizes of the weights at the end. Rows are neurons, columns their inputs; what is zero is left blank.",
            charts.weights(run),
        ),
    ]


def of_seeds(name: str, runs: Sequence[Run], seeds: Sequence[int], config: dict[str, Any]) -> Page:
    """The same run under several seeds: figures over all of them, evidence of the first."""
    found = verdict.of_seeds(runs, len(seeds))
    evidence = next((run for run in runs if run.summary), runs[0] if runs else None)
    shown = (
        [section for section in sections(evidence) if section.title not in ("Training", "Layers")] if evidence else []
    )
    return Page(
        kind="seeds",
        title=_title(config),
        subtitle=f"{name}, seeds {', '.join(map(str, seeds))}",
        badge=found.badge,
        tone=found.tone,
        sentences=found.sentences,
        notes=found.notes,
        cards=_seed_cards(runs),
        sections=[
            Section("Seeds", tables=_seed_table(runs)),
            Section("Training", charts=charts.seeds(runs)),
            Section("Layers", tables=_layers_over(runs)),
            *[Section(f"{s.title} of {evidence.name}", s.lead, s.charts, s.tables) for s in shown if evidence],
        ],
        commands=[command.again(config, seeds)],
        details=_details(evidence) if evidence else [],
        recipe=command.pretty(evidence.recipe) if evidence and evidence.recipe else "",
        problems=[f"{run.name}: {note}" for run in runs for note in run.notes],
    )  # fmt: skip


def _title(config: Mapping[str, Any]) -> str:
    return f"{config.get('method')} on {config.get('data')}, {network(config)}"


def _cards(run: Run) -> list[Card]:
    """Key figures; those of an unfinished run are of its last epoch."""
    if not run.summary:
        last = run.rows[-1] if run.rows else {}
        return [
            Card("Epochs", w.whole(last.get("epoch", 0)), f"of at most {w.whole(run.config.get('max_epochs'))}"),
            Card(
                "Removed so far", w.percent(last.get("sparsity", 0.0)), f"{w.share(run.config.get('sparsity'))} asked"
            ),
            Card(f"Validation {run.score}", w.percent(last.get("validation_accuracy")), "in the last epoch"),
        ]
    found, first = run.summary, dense(run).get("validation_accuracy")
    difference = verdict.change(run)
    epochs = w.plural(int(w.number(found.get("epochs")) or 0), "epoch")
    moved = f"{w.points(difference)} points from {w.percent(first)}" if difference is not None else ""
    return [
        Card("Removed", w.percent(found.get("actual")), f"{_of(found)}, target {w.share(found.get('target'))}"),
        Card("Compression", w.times(found.get("compression")), "whole network, weights before / after"),
        Card(f"Test {run.score}", w.percent(found.get("test_accuracy")), "of the pruned network"),
        Card(f"Validation {run.score}", w.percent(found.get("validation_accuracy")), moved),
        Card("FLOP left", w.percent(found.get("flop_kept")), "whole network, if zeros are skipped"),
        Card("Training time", w.seconds(found.get("seconds")), epochs),
    ]


def _layers(run: Run) -> list[Table]:
    """Per layer: weights, kept, neurons, ranks."""
    if not run.layers:
        return []
    head = ["layer", "shape", "weights", "kept", "kept (%)", "neurons", "alive", "rank"]
    rows = [_layer(row) for row in run.layers]
    if not any(w.number(row.get("rank")) is not None for row in run.layers):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return [Table("What each layer kept, output layer included", head, rows)]


def _of(summary: Mapping[str, Any]) -> str:
    """What the removed fraction is of."""
    return "of all weights" if summary.get("budget_of") == "all" else "of the prunable weights"


def _network(run: Run) -> list[Table]:
    """The whole network before and after, and what was left alone."""
    found = run.summary.get("network")
    if not isinstance(found, Mapping):
        return []
    lines = [
        ("weights", found.get("weights"), found.get("kept")),
        ("biases and scales", found.get("biases"), found.get("biases_kept", found.get("biases"))),
        ("FLOP of one example", found.get("flop"), found.get("flop_left")),
    ]
    rows = [
        [Cell(name, "name"), Cell(w.whole(before)), Cell(w.whole(after)), Cell(w.percent(_share(before, after)))]
        for name, before, after in lines
    ]
    tables = [Table("The whole network", ["", "before", "after", "left (%)"], rows)]
    alone = [
        [
            Cell(short(str(part["name"])), "name"),
            Cell(w.whole(part["total"])),
            Cell(w.percent(_share(found.get("weights"), part["total"]))),
            Cell(str(part["why"]), "text"),
        ]
        for part in found.get("left_alone", ())
    ]
    title = f"Left alone; {w.percent(found.get('prunable_share'))} of the weights could be pruned"
    return [*tables, *([Table(title, ["tensor", "weights", "of all (%)", "why"], alone)] if alone else [])]


def _share(whole: Any, part: Any) -> float | None:
    total, some = w.number(whole), w.number(part)
    return some / total if total and some is not None else None


def _layer(row: Mapping[str, Any]) -> list[Cell]:
    total, kept, neurons = (w.number(row.get(key)) for key in ("total", "kept", "neurons"))
    alive = w.number(row.get("neurons_alive"))
    shape = row.get("shape")
    share = kept / total if kept is not None and total else None
    return [
        Cell(short(str(row.get("name"))), "name"),
        Cell(" x ".join(map(str, shape)) if isinstance(shape, list) else w.DASH, "text"),
        Cell(w.whole(total)),
        Cell(w.whole(kept), "bad" if kept == 0 else ""),
        Cell(w.percent(share)),
        Cell(w.whole(neurons)),
        Cell(w.whole(alive), "bad" if alive == 0 else ""),
        Cell(w.whole(row.get("rank"))),
    ]


def _epochs(run: Run) -> list[Table]:
    """All epochs, folded away."""
    if not run.rows:
        return []
    shown = charts.thinned(run.rows)
    keys = ("train_loss", "validation_loss")
    rows = [
        [
            Cell(w.whole(row.get("epoch")), "name"),
            *[Cell(w.percent(row.get(f"{part}_accuracy"))) for part in ("train", "validation")],
            *[Cell(w.DASH if (value := w.number(row.get(key))) is None else f"{value:.4f}") for key in keys],
            Cell(w.percent(row.get("sparsity"))),
            Cell(w.whole(row.get("pruning_steps")), "best" if row.get("pruned") else ""),
        ]
        for row in shown
    ]
    head = [
        "epoch",
        f"training {run.score}",
        f"validation {run.score}",
        "training loss",
        "validation loss",
        "removed",
        "pruning steps",
    ]
    name = "Every epoch" if len(shown) == len(run.rows) else f"{len(shown)} of {len(run.rows):,} epochs"
    return [Table(name, head, rows, folded=True)]


def _ranks(run: Run) -> list[Table]:
    """Numerical, stable and effective rank before and after each pruning step."""
    rows = [
        [Cell(f"{number}", "name"), Cell(name, "text"), *cells]
        for number, layers in run.spectra.items()
        for name, found in layers.items()
        if (cells := _rank(found))
    ]
    kinds = [f"{kind} rank {moment}" for kind in ("numerical", "stable", "effective") for moment in ("before", "after")]
    head = ["pruning step", "layer", *kinds]
    return [Table("Ranks around each pruning step", head, rows, folded=True)] if rows else []


def _rank(found: Mapping[str, Array]) -> list[Cell]:
    """Six cells, or none when the file lacks what they need."""
    import torch

    from actprune.analysis import ranks_of

    shape, moments = found.get("shape"), charts.moments(found)
    if shape is None or not {"before", "after"} <= set(moments):
        return []
    size = tuple(int(n) for n in shape.ravel())
    before, after = (ranks_of(torch.from_numpy(moments[m].copy()), size) for m in ("before", "after"))
    return [
        Cell(w.whole(before["numerical"])), Cell(w.whole(after["numerical"])),
        *[Cell(f"{ranks[kind]:.1f}") for kind in ("stable", "effective") for ranks in (before, after)],
    ]  # fmt: skip


def _details(run: Run) -> list[Table]:
    """Configuration and environment."""
    tables = [("Configuration", run.config), ("Environment", run.environment)]
    return [
        Table(name, ["setting", "value"], [[Cell(str(key), "name"), Cell(command.flat(value), "text")]
                                           for key, value in values.items()], folded=True)
        for name, values in tables
        if values
    ]  # fmt: skip


def _seed_cards(runs: Sequence[Run]) -> list[Card]:
    over = [run.summary for run in runs if run.summary]
    changes = [c for run in runs if (c := verdict.change(run)) is not None]
    flop, took = w.numbers(over, "flop_kept"), w.numbers(over, "seconds")
    return [
        Card("Seeds", f"{len(over)}", f"finished, of {len(runs)} begun"),
        Card("Removed", w.with_spread(w.numbers(over, "actual")), _of(over[0]) if over else ""),
        Card("Compression", w.times(w.average(w.numbers(over, "compression"))), "whole network, before / after"),
        Card(
            f"Test {runs[0].score if runs else 'accuracy'}",
            w.with_spread(w.numbers(over, "test_accuracy")),
            "of the pruned networks",
        ),
        Card("Validation change", w.points(w.average(changes)), "points since the first pruning"),
        Card("FLOP left", w.percent(w.average(flop)), f"whole network; {w.seconds(w.average(took))} a seed"),
    ]


def _seed_table(runs: Sequence[Run]) -> list[Table]:
    score = runs[0].score if runs else "accuracy"
    head = [
        "seed",
        "removed",
        "compression",
        f"test {score}",
        f"validation {score}",
        "change (points)",
        "epochs",
        "training time",
    ]
    rows = [
        [
            Cell(run.name, "name"),
            Cell(w.percent(run.summary.get("actual"))),
            Cell(w.times(run.summary.get("compression"))),
            Cell(w.percent(run.summary.get("test_accuracy"))),
            Cell(w.percent(run.summary.get("validation_accuracy"))),
            Cell(w.points(verdict.change(run))),
            Cell(w.whole(run.summary.get("epochs")) if run.summary else "not finished"),
            Cell(w.seconds(run.summary.get("seconds"))),
        ]
        for run in runs
    ]
    return [Table("One line per seed", head, rows)] if rows else []


def _layers_over(runs: Sequence[Run]) -> list[Table]:
    """Kept weights, neurons alive and ranks per layer, mean and spread over the seeds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for row in run.layers if run.summary else ():
            found.setdefault(short(row["name"]), []).append(row)
    rows = [
        [
            Cell(name, "name"),
            Cell(w.whole(each[0].get("total"))),
            *[Cell(_mean(w.numbers(each, key))) for key in ("kept", "neurons_alive", "rank")],
        ]
        for name, each in found.items()
    ]
    head = ["layer", "weights", "kept", "neurons alive", "rank"]
    return [Table("What each layer kept: mean ± standard deviation over the seeds", head, rows)] if rows else []


def _mean(values: Sequence[float]) -> str:
    middle, around = w.average(values), w.spread(values)
    if middle is None:
        return w.DASH
    return f"{middle:,.0f}" + (f"{w.SPACE}±{w.SPACE}{around:,.0f}" if around is not None else "")
