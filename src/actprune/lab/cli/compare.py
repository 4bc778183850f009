"""L5: ``actprune compare``: many methods at one budget, in one table and one plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actprune.errors import RecipeError
from actprune.lab.cli import options as o
from actprune.lab.cli.problems import errors
from actprune.lab.cli.show_ship import terminal
from actprune.lab.compare import Training

if TYPE_CHECKING:
    from actprune.lab.compare import Baseline, Trial

_T = Training()
WHAT, HOW, TRAIN, OUT = "What is compared", "Where it is computed", "Training, the same for everyone", "Output"


def compare_command(  # noqa: PLR0917
    data: Annotated[
        str | None, typer.Option(help="Data sets, with commas. Default: mnist.", rich_help_panel=WHAT)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Networks, with commas. Default: lenet-300-100.", rich_help_panel=WHAT)
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option("--methods", "-m", help="Baselines, with commas; all: the whole field. --list shows them.",
                     rich_help_panel=WHAT),
    ] = None,
    sparsities: Annotated[
        str | None,
        typer.Option("--sparsities", "-s", help="Fractions of all weights to remove. Default: 0.9,0.95,0.98,0.9894.",
                     rich_help_panel=WHAT),
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="3: the seeds 0, 1 and 2. 0,1,5: these; one alone: 7, (with a comma).",
                          rich_help_panel=WHAT)
    ] = "3",
    preset: Annotated[
        str | None, typer.Option(help="article: the article's table, its networks and data sets.", rich_help_panel=WHAT)
    ] = None,
    epochs: Annotated[int, typer.Option(help="Of everyone, dense phase included.", rich_help_panel=TRAIN)] = _T.epochs,
    lr: Annotated[float, typer.Option(help="At first; a cosine takes it to 0.", rich_help_panel=TRAIN)] = _T.lr,
    batch_size: Annotated[int, typer.Option(help="Examples per step.", rich_help_panel=TRAIN)] = _T.batch_size,
    weight_decay: Annotated[float, typer.Option(help="Of the optimizer.", rich_help_panel=TRAIN)] = _T.weight_decay,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes; one CPU thread each.", min=1,
                                      rich_help_panel=HOW)] = 1,
    ray: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster (auto, ray://HOST:10001), or local. pip install 'actprune\\[ray]'.",
                     rich_help_panel=HOW),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the trials and the time they may take.", rich_help_panel=HOW)
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of the results.", rich_help_panel=OUT)] = Path("runs/compare"),
    report: Annotated[
        Path | None, typer.Option(help="Only draw tables and plot again, from this folder.", rich_help_panel=OUT)
    ] = None,
    points: Annotated[
        float, typer.Option(help="Points of validation accuracy that count as equal to dense.", min=0,
                            rich_help_panel=OUT)
    ] = 0.5,
    keep_trials: Annotated[
        bool, typer.Option("--keep-trials/--no-keep-trials", help="Leave each trial's figures, masks and weights.",
                           rich_help_panel=OUT)
    ] = True,
    list_baselines: Annotated[
        bool, typer.Option("--list", help="Show the baselines and what they are.", rich_help_panel=OUT)
    ] = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:  # fmt: skip
    """Compare pruning methods at the same data split, network, training steps and seeds.

    One trial is one run: data set, network, baseline, sparsity, seed. Finished trials go to OUT/results.jsonl, one line
    each, and are never computed twice: stop it whenever you like, and the same command goes on. Dense references are
    added by themselves. At the end OUT/table.md and OUT/accuracy.svg (.png) are drawn from all trials there are.

    Sparsity is over ALL weights of the network, the output layer included; a method that leaves the output layer
    alone removes correspondingly more elsewhere, so that everyone ends with the same number of weights.

    [bold]Examples[/bold]

      actprune compare --data mnist --model lenet-300-100 --methods all --sparsities 0.9,0.95,0.98,0.9894 --jobs 2

      actprune compare --data digits --methods activation,lamp,magnitude-global --epochs 10 --out runs/look

      actprune compare --data mnist,fashion-mnist --model article,lenet-300-100 --seeds 5 --dry-run

      actprune compare --preset article --jobs 2

      actprune compare --report runs/compare --points 0.3
    """
    from actprune.lab.cli import show_compare as show
    from actprune.lab.compare import sweep

    place = report or out
    with errors(debug, lambda: None):
        console = terminal(quiet=quiet)
        if list_baselines:
            show.baselines(terminal())
            return
        if report is None:
            training = Training(epochs=epochs, lr=lr, batch_size=batch_size, weight_decay=weight_decay)
            asked = {"data": data, "model": model, "methods": methods, "sparsities": sparsities}
            trials = _trials(asked, seeds, preset, training)
            if dry_run:
                show.plan(terminal(), trials, place, jobs)
                return
            with show.Progress(console, jobs) as watcher:
                swept = sweep(trials, place, jobs=jobs, ray=ray, keep_trials=keep_trials, watcher=watcher)
        show.results(console, place, points / 100, preset)
        if report is None and swept.failed:
            show.failures(terminal(), swept.failed)
            raise typer.Exit(1)


def _trials(asked: Mapping[str, str | None], seeds: str, preset: str | None, training: Training) -> list[Trial]:
    """What the options ask for; a preset gives what they leave out. Raises RecipeError."""
    from actprune.lab.compare import trials_of

    if preset not in (None, "article"):
        raise RecipeError(f"--preset {preset!r} is not known; the only one is 'article'")
    wanted_seeds = _seeds(seeds)
    article = preset == "article"
    places = names("--data", _or(asked["data"], "mnist,fashion-mnist" if article else "mnist"))
    models = names("--model", _or(asked["model"], "article,lenet-300-100" if article else "lenet-300-100"))
    return trials_of(places, models, _baselines(asked["methods"], asked["sparsities"], article), wanted_seeds, training)


def _baselines(methods: str | None, sparsities: str | None, article: bool) -> list[tuple[Baseline, float]]:
    """Pairs of baseline and sparsity; all baselines at one sparsity before the next one."""
    from actprune.lab.compare import chosen

    if article:
        from actprune.lab.compare.article import pairs

        return pairs(
            None if methods is None else chosen(names("--methods", methods)),
            None if sparsities is None else fractions("--sparsities", sparsities),
        )
    found = chosen(names("--methods", _or(methods, "all")))
    asked = fractions("--sparsities", _or(sparsities, "0.9,0.95,0.98,0.9894"))
    return [(baseline, sparsity) for sparsity in asked for baseline in found]


def _or(given: str | None, default: str) -> str:
    """An empty text is given: an unset shell variable must not start the whole field."""
    return default if given is None else given


def names(flag: str, text: str) -> list[str]:
    """``a,b`` -> ["a", "b"]. Raises RecipeError when there is none."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise RecipeError(f"{flag} {text!r} names nothing; expected names with commas")
    return list(dict.fromkeys(found))


def fractions(flag: str, text: str) -> list[float]:
    """``0.9,0.98`` -> [0.9, 0.98]. Raises RecipeError."""
    try:
        found = [float(part) for part in names(flag, text)]
    except ValueError:
        raise RecipeError(f"{flag} {text!r} cannot be used; expected fractions with commas, such as 0.9,0.98") from None
    for value in found:
        if not 0 < value < 1:
            remedy = f"; for {value:g} % write {value / 100:g}" if 1 < value < 100 else ""
            raise RecipeError(f"{flag} {value:g} cannot be used; expected fractions 0 < s < 1, such as 0.9{remedy}")
    return list(dict.fromkeys(found))


def _seeds(text: str) -> list[int]:
    """``3`` -> [0, 1, 2]; ``0,1,5`` -> these. Raises RecipeError."""
    try:
        found = [int(part) for part in names("--seeds", text)]
    except ValueError:
        found = []
    wanted = list(range(found[0])) if len(found) == 1 and "," not in text else list(dict.fromkeys(found))
    if not wanted or min(wanted) < 0:
        raise RecipeError(
            f"--seeds {text!r} cannot be used; expected a number of seeds, such as 3, or a list, such as 0,1,5"
        )
    return wanted
