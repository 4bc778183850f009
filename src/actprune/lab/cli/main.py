"""L5: ``actprune run``, ``actprune resume``, ``actprune methods``."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import actprune
from actprune.errors import CheckpointError
from actprune.lab import RunConfig, resume, resume_seeds, run, run_seeds
from actprune.lab.cli import compare, report, ship, show
from actprune.lab.cli import options as o
from actprune.lab.cli.problems import errors
from actprune.lab.cli.progress import Bars, Lines
from actprune.lab.cli.show_ship import terminal
from actprune.lab.listener import Listener, Silent
from actprune.lab.seeds import LIST

app = typer.Typer(
    name="actprune",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog="Start with [bold]actprune run[/bold]: digits, 90 % of the weights removed, some seconds.",
)


@app.command("run", epilog="Interrupted? [bold]actprune resume FOLDER[/bold] goes on where the run stood, bit for bit.")
def run_command(  # noqa: PLR0917
    ctx: typer.Context,
    data: o.Data = None,
    download: o.Download = None,
    data_seed: o.DataSeed = None,
    validation: o.Validation = None,
    model: o.Model = None,
    hidden: o.Hidden = None,
    init: o.Init = None,
    task: o.Task = None,
    labels: o.Labels = None,
    semi: o.Semi = None,
    method: o.Method = None,
    option: o.Options = None,
    sparsity: o.Sparsity = None,
    schedule: o.Schedule = None,
    pruning_steps: o.PruningSteps = None,
    start_at: o.StartAt = None,
    retrain_to: o.RetrainTo = None,
    cubic_epochs: o.CubicEpochs = None,
    calibration_images: o.CalibrationImages = None,
    calibration_from: o.CalibrationFrom = None,
    spectra: o.Spectra = None,
    seed: o.Seed = None,
    seeds: o.Seeds = None,
    max_epochs: o.Epochs = None,
    lr: o.Lr = None,
    lr_schedule: o.LrSchedule = None,
    momentum: o.Momentum = None,
    weight_decay: o.WeightDecay = None,
    batch_size: o.BatchSize = None,
    optimizer: o.OptimizerName = None,
    full_length: o.FullLength = None,
    stop_at: o.StopAt = None,
    patience: o.Patience = None,
    patience_from: o.PatienceFrom = None,
    restore_best: o.RestoreBest = None,
    channels_last: o.ChannelsLast = None,
    threads: o.Threads = None,
    accelerator: o.Accelerator = None,
    precision: o.Precision = None,
    config: o.Config = None,
    out: o.Out = None,
    overwrite: o.Overwrite = False,
    plots: o.Plots = True,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Train a network, prune it step by step, and write everything into one folder.

    [bold]Examples[/bold]

      actprune run

      actprune run --data mnist --download --sparsity 0.95 --out runs/mnist95

      actprune run --data fashion-mnist --seeds 0,1,2 --option score=neuron

      actprune run --method magnitude --schedule cubic --epochs 40

      actprune run --model mynet.models:build --data mynet.data:load
    """
    place = out
    with errors(debug, lambda: place):
        wanted = o.config_of(ctx.params, config)
        place = place or _free_folder(wanted, seeds)
        with _listener(quiet) as listener:
            how: dict[str, Any] = {"overwrite": overwrite, "plots": plots, "listener": listener}
            if seeds is None:
                results = [run(wanted, place, **how)]
            else:
                results = run_seeds(wanted, o.numbers("--seeds", seeds), place, **how)
        _report(results, quiet)


@app.command("resume")
def resume_command(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, or of several seeds.", show_default=False)],
    checkpoint: Annotated[
        str, typer.Option("--from", help="last, or pruning-step-03 to go back to after the third of them.")
    ] = "last",
    plots: o.Plots = True,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Go on with an interrupted run. The result is bit for bit that of a run without interruption."""
    with errors(debug, lambda: folder):
        with _listener(quiet) as listener:
            if (folder / LIST).exists():
                if checkpoint != "last":
                    raise CheckpointError(f"{folder} holds several seeds; give one of its folders to --from")
                results = resume_seeds(folder, plots=plots, listener=listener)
            else:
                results = [resume(folder, checkpoint=checkpoint, plots=plots, listener=listener)]
        _report(results, quiet)


@app.command("methods")
def methods_command(
    name: Annotated[str | None, typer.Argument(help="Show this method and its options.", show_default=False)] = None,
    debug: o.Debug = False,
) -> None:
    """List the pruning methods, or show one with its options."""
    with errors(debug, lambda: None):
        if name is None:
            show.all_methods(Console())
        else:
            show.one_method(Console(), name)


ship.register(app)
report.register(app)
app.command("compare", epilog="Stopped? The same command goes on.")(compare.compare_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"actprune {actprune.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Activation-based pruning of PyTorch networks: count what fires, prune what does not, prove it by measuring."""


def main() -> None:
    """Entry point of the ``actprune`` command."""
    app()


def _listener(quiet: bool) -> AbstractContextManager[Listener]:
    if quiet:
        return nullcontext(Silent())
    console = Console()
    return Bars(console) if console.is_terminal else Lines(console)


def _report(results: list[Any], quiet: bool) -> None:
    if quiet:
        return
    console = terminal()
    if len(results) == 1:
        show.summary(console, results[0])
    else:
        show.seeds(console, results)


def _free_folder(config: RunConfig, seeds: str | None) -> Path:
    """``runs/digits-activation-90-seed0``, with -2, -3 .. if that is taken."""
    data = Path(config.data.replace(":", "-")).stem
    which = "seeds" if seeds is not None else f"seed{config.seed}"
    budget = config.options.get("budget")
    asked = f"{100 * config.sparsity:g}" if budget is None else re.sub(r"[^\w.]+", "-", str(budget)).strip("-")
    name = f"{data}-{config.method}-{asked}-{which}"
    place, number = Path("runs") / name, 1
    while place.exists():
        number += 1
        place = Path("runs") / f"{name}-{number}"
    return place
