"""L5: ``compact``, ``pack``, ``inspect``, ``bench``, ``predict`` and ``export``: from a run to what is shipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from actprune.errors import RecipeError
from actprune.lab import shipped
from actprune.lab.cli import options as o
from actprune.lab.cli import show_ship as show
from actprune.lab.cli.problems import errors

Run = Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)]
File = Annotated[Path, typer.Argument(help="A file that `compact` or `pack` wrote.", show_default=False)]
Threads = Annotated[int, typer.Option(help="CPU threads.", min=1)]


def compact_command(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="The file; model.actprune in the run's folder if left out.")] = None,
    round_to: Annotated[int, typer.Option(help="Make widths multiples of this.", min=1)] = 1,
    gather: Annotated[bool, typer.Option(help="Leave inputs out that no first layer reads.")] = True,
    debug: o.Debug = False,
) -> None:
    """Remove dead neurons, channels and inputs of a run's network, check that it computes the same, and store it.

    Nothing is approximated: the file holds the remaining weights in full precision.
    """
    with errors(debug, lambda: None):
        from actprune.artifact import save

        with Console(stderr=True).status("compacting"):
            found = shipped.read(run)
            done = shipped.small(found, round_to=round_to, gather=gather)
        path = save(done.model, out or found.folder / shipped.SMALL, about=found.about())
        show.compacted(show.terminal(), done.report, found.folder / "model.safetensors", path)


def pack_command(  # noqa: PLR0917
    run: Run,
    max_loss: Annotated[float, typer.Option(help="Points of validation accuracy that may be lost.", min=0)] = 0.1,
    epochs: Annotated[int, typer.Option(help="Epochs of fine-tuning for each codebook that is tried.", min=0)] = 10,
    out: Annotated[Path | None, typer.Option(help="The file; packed.actprune in the run's folder if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Of the fine-tuning's batches.", min=0)] = 0,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Store a run's network in as few bytes as its validation accuracy allows.

    Compacts first; then weights share few values (a codebook per layer, fine-tuned), and positions and values are
    entropy-coded. The test accuracy of what was stored is measured once, at the end.
    """
    with errors(debug, lambda: None):
        from actprune.lab.packing import pack_run

        console = show.terminal(quiet=quiet)
        with console.status("compacting") as status:
            result = pack_run(
                shipped.read(run), max_loss=max_loss / 100, epochs=epochs, seed=seed, out=out, say=status.update
            )
        show.packed(console, result)


def inspect_command(
    file: File,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole header as JSON.")] = False,
    debug: o.Debug = False,
) -> None:
    """Show what a file holds: where it comes from, every tensor with its encoding and bytes. Runs nothing."""
    with errors(debug, lambda: None):
        from actprune.artifact import inspect
        from actprune.lab.predict import account_of

        found = inspect(file)
        network = account_of(file, found)
        if as_json:
            print(json.dumps(show.as_plain(found, network), indent=2))
        else:
            show.inspected(show.terminal(), found, network)


def bench_command(  # noqa: PLR0917
    file: File,
    dense: Annotated[
        Path | None,
        typer.Option(help="The run whose dense network to compare with; the file's own folder if left out."),
    ] = None,
    batches: Annotated[str, typer.Option(help="Batch sizes.")] = "1,32,256",
    threads: Threads = 1,
    seconds: Annotated[float, typer.Option(help="Time to measure each batch size, about.", min=0.1)] = 2.0,
    debug: o.Debug = False,
) -> None:
    """Measure latency on this machine, interleaved with the dense original, and say plainly whether it is faster."""
    with errors(debug, lambda: None):
        from actprune.lab.latency import measure_file

        sizes = o.numbers("--batches", batches)
        with Console(stderr=True).status("measuring"):
            found = measure_file(file, dense, sizes, threads, seconds)
        show.benched(show.terminal(), found)


def predict_command(  # noqa: PLR0917
    file: File,
    data: Annotated[str, typer.Option(help="A data set's name or folder (its test part), or a .npy file of inputs.")],
    out: Annotated[Path | None, typer.Option(help="Write index and predicted class as CSV.")] = None,
    threads: Threads = 1,
    batch_size: Annotated[int, typer.Option(help="Examples at once.", min=1)] = 256,
    debug: o.Debug = False,
) -> None:
    """Use the pruned network in place of the original, on its fastest path here."""
    with errors(debug, lambda: None):
        from actprune.lab.predict import predict

        with Console(stderr=True).status("trying the execution paths, then predicting"):
            found = predict(file, data, threads, batch_size, out)
        show.predicted(show.terminal(), found)


def export_command(
    file: File,
    onnx: Annotated[Path | None, typer.Option(help="The ONNX file to write.", show_default=False)] = None,
    debug: o.Debug = False,
) -> None:
    """Write the network as ONNX with a free batch size, checked in onnxruntime against torch."""
    with errors(debug, lambda: None):
        if onnx is None:
            raise RecipeError("export needs a format and a file; use `actprune export FILE --onnx OUT.onnx`")
        from actprune.lab.predict import example_of
        from actprune.runtime import export_onnx

        program, example = example_of(file)
        export_onnx(program, onnx, example)
        show.terminal().print(
            f"wrote {onnx}, {onnx.stat().st_size:,} bytes; outputs equal torch's", highlight=False, markup=False
        )


def register(app: typer.Typer) -> None:
    """Add the commands, under their own heading."""
    for name, command in (
        ("compact", compact_command),
        ("pack", pack_command),
        ("inspect", inspect_command),
        ("bench", bench_command),
        ("predict", predict_command),
        ("export", export_command),
    ):
        app.command(name, rich_help_panel="Shipping")(command)
