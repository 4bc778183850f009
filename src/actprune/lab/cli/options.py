"""L5: the options of ``actprune run``: one per field of ``RunConfig``, with the field's own default shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from actprune.errors import RecipeError
from actprune.lab.atomic import read_json
from actprune.lab.config import RunConfig

DATA, PRUNE, TRAIN, OUT = "Data and model", "Pruning", "Training", "Output"
_DEFAULTS = RunConfig()


def field(panel: str, name: str, text: str, *flags: str) -> Any:
    """An option that is None unless given, so that it can be told from its default (``--config`` needs that)."""
    default = getattr(_DEFAULTS, name)
    shown = "" if default is None or isinstance(default, bool) else f" Default: {default}."
    return typer.Option(*flags, help=text + shown, rich_help_panel=panel, show_default=False)


Data = Annotated[
    str | None,
    field(
        DATA, "data", "digits, mnist, fashion-mnist, a folder of idx, npz or parquet files, or package.module:factory."
    ),
]
DataSeed = Annotated[int | None, field(DATA, "data_seed", "Of the split; the same for all runs that are compared.")]
Validation = Annotated[float | None, field(DATA, "validation", "Fraction of the training data kept for validation.")]
Download = Annotated[
    bool | None, field(DATA, "download", "Fetch mnist or fashion-mnist if this machine lacks it.", "--download")
]
Model = Annotated[
    str | None,
    field(
        DATA,
        "model",
        "article, lenet-300-100, lenet-5-caffe, resnet-20, autoencoder, mlp (with --hidden), or "
        "package.module:factory.",
    ),
]
Hidden = Annotated[str | None, field(DATA, "hidden", "Sizes of the hidden layers, such as 300,200,100.")]
Init = Annotated[str | None, field(DATA, "init", "Initial weights: glorot (Keras' default) or torch.")]
Task = Annotated[
    str | None, field(DATA, "task", "classify, or autoencode: give back the input (with --model autoencoder).")
]
Labels = Annotated[int | None, field(DATA, "labels", "Only so many training examples keep their label.")]
Semi = Annotated[
    str | None, field(DATA, "semi", "What is done with the others: none, or pseudo (labels of the network's own).")
]

Method = Annotated[str | None, field(PRUNE, "method", "A name that `actprune methods` lists.", "--method", "-m")]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option", "-o", help="An option of the method, name=value; repeatable. See `actprune methods NAME`.",
        rich_help_panel=PRUNE,
    ),
]  # fmt: skip
Sparsity = Annotated[
    float | None, field(PRUNE, "sparsity", "Fraction of the weights to remove, 0..1.", "--sparsity", "-s")
]
Schedule = Annotated[
    str | None,
    field(
        PRUNE,
        "schedule",
        "accuracy: at rising training accuracies; cubic: at fixed epochs; once: after --cubic-epochs; before: before "
        "training; rounds: after equal shares of the epochs; decaying: again and again; own: as the method has it.",
    ),
]
PruningSteps = Annotated[int | None, field(PRUNE, "pruning_steps", "Number of pruning steps.")]
StartAt = Annotated[float | None, field(PRUNE, "start_at", "Training accuracy (0..1) of the first pruning.")]
RetrainTo = Annotated[
    float | None, field(PRUNE, "retrain_to", "Accuracy towards which the thresholds rise, and which ends the run.")
]
CubicEpochs = Annotated[
    int | None, field(PRUNE, "cubic_epochs", "Epochs in which the cubic schedule prunes; half of --epochs if left out.")
]
CalibrationImages = Annotated[int | None, field(PRUNE, "calibration_images", "Images drawn for each observation.")]
CalibrationFrom = Annotated[
    str | None,
    field(
        PRUNE,
        "calibration_from",
        "Draw them from train, validation, or unlabelled (those that --labels leaves without).",
    ),
]
Spectra = Annotated[
    bool | None, field(PRUNE, "spectra", "Write singular values around every pruning (at most 50).", "--spectra")
]

Seed = Annotated[int | None, field(TRAIN, "seed", "Of weights, batches, drawn images and ties.")]
Seeds = Annotated[
    str | None,
    typer.Option(help="Several runs, such as 0,1,2, a folder each, with mean and spread.", rich_help_panel=TRAIN),
]
Epochs = Annotated[int | None, field(TRAIN, "max_epochs", "At most this many.", "--epochs")]
Lr = Annotated[float | None, field(TRAIN, "lr", "Learning rate.")]
LrSchedule = Annotated[
    str | None, field(TRAIN, "lr_schedule", "constant, or cosine: down to nearly zero in the last epoch.")
]
Momentum = Annotated[float | None, field(TRAIN, "momentum", "Of sgd.")]
WeightDecay = Annotated[float | None, field(TRAIN, "weight_decay", "Of the optimizer.")]
BatchSize = Annotated[int | None, field(TRAIN, "batch_size", "Examples per step.")]
OptimizerName = Annotated[str | None, field(TRAIN, "optimizer", "sgd, adam or adamw.")]
FullLength = Annotated[
    bool | None,
    field(TRAIN, "full_length", "Train for --epochs whatever accuracy is reached.", "--full-length/--no-full-length"),
]
StopAt = Annotated[
    float | None,
    field(TRAIN, "stop_at", "Training accuracy that ends the run after the last pruning; --retrain-to if left out."),
]
Patience = Annotated[int | None, field(TRAIN, "patience", "Early stopping after this many ticks; 0 never stops.")]
PatienceFrom = Annotated[
    str | None,
    field(TRAIN, "patience_from", "Ticks count from the last_pruning, or from the start (the authors' code)."),
]
RestoreBest = Annotated[
    bool | None,
    field(
        TRAIN, "restore_best", "End with the weights of the lowest validation loss.", "--restore-best/--no-restore-best"
    ),
]
ChannelsLast = Annotated[
    bool | None,
    field(TRAIN, "channels_last", "Memory layout of convolutions; often faster.", "--channels-last/--no-channels-last"),
]
Threads = Annotated[int | None, field(TRAIN, "threads", "CPU threads; as torch is set if left out.")]
Accelerator = Annotated[str | None, field(TRAIN, "accelerator", "cpu, cuda, mps or auto.")]
Precision = Annotated[str | None, field(TRAIN, "precision", "32-true, 64-true, bf16-true or bf16-mixed.")]

Config = Annotated[
    Path | None,
    typer.Option(help="A config.json to begin with; options given here take precedence.", rich_help_panel=OUT),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder of the run; a free one below runs/ if left out.", rich_help_panel=OUT),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in this folder.", rich_help_panel=OUT)]
Plots = Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the figures at the end.", rich_help_panel=OUT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.", rich_help_panel=OUT)]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=OUT)]


def config_of(given: dict[str, Any], base: Path | None) -> RunConfig:
    """The configuration of a command line: ``base`` (a config.json), then what was given. Raises RecipeError."""
    values: dict[str, Any] = {}
    if base is not None:
        values = read_json(base)
        if not isinstance(values, dict):
            raise RecipeError(
                f"{base} holds a {type(values).__name__}; expected the object that a run writes as config.json"
            )
    values |= {name: value for name, value in given.items() if name in RunConfig.model_fields and value is not None}
    if given.get("hidden") is not None:
        values["hidden"] = numbers("--hidden", given["hidden"])
    if given.get("option"):
        values["options"] = {**values.get("options", {}), **dict(_parsed(text) for text in given["option"])}
    return RunConfig(**values)


def numbers(flag: str, text: str) -> list[int]:
    """``300,200`` -> [300, 200]. Raises RecipeError."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise RecipeError(
            f"{flag} {text!r} cannot be used; expected whole numbers with commas, such as 300,200,100"
        ) from None


def _parsed(text: str) -> tuple[str, Any]:
    """``name=value``; the value is JSON where it can be read as such (0.5, true, null), else a text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise RecipeError(f"--option {text!r} cannot be used; expected name=value, such as --option score=neuron")
    try:
        return name.replace("-", "_"), json.loads(value.lower() if value in ("True", "False") else value)
    except ValueError:
        return name.replace("-", "_"), value
