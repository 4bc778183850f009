"""L5: the command that does the same run again, and settings as text."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from actprune.lab.config import RunConfig
from actprune.lab.report import words as w
from actprune.lab.report.field import Field

_FLAGS = {"max_epochs": "--epochs"}
_ALWAYS = ("data", "model", "method", "sparsity")


def again(config: dict[str, Any], seeds: Sequence[int] = ()) -> str:
    """``actprune run`` with every setting that is not the default, and those a reader looks for first."""
    defaults = RunConfig().model_dump(mode="json")
    words = ["actprune", "run"]
    for name, value in config.items():
        if name == "options" and isinstance(value, dict):
            words += [word for key in value for word in ("--option", f"{key}={_option(value[key])}")]
        elif name == "seed" and seeds:
            words += ["--seeds", ",".join(map(str, seeds))]
        elif name in _ALWAYS or (name in defaults and value != defaults[name]) or name == "seed":
            words += _words(name, value)
    return shlex.join(words)


def again_compared(field: Field) -> str:
    """``actprune compare`` for one data set and network; trials that exist are not computed twice."""
    rows = [row for point in [field.dense, *field.points.values()] for row in point.rows]
    found = {round(seed) for seed in w.numbers(rows, "seed")}
    seeds = ",".join(map(str, sorted(found)))
    parts = [
        ("--data", field.data), ("--model", field.model),
        ("--methods", ",".join(field.baselines)), ("--sparsities", ",".join(f"{s:g}" for s in field.sparsities)),
        ("--seeds", seeds if "," in seeds else f"{seeds},"), *_training(field),
    ]  # fmt: skip
    return shlex.join(["actprune", "compare", *[word for part in parts for word in part]])


def pretty(value: Any) -> str:
    """Indented JSON for a reader."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def flat(value: Any) -> str:
    """One line for a table's cell."""
    if isinstance(value, str):
        return value
    if value is None:
        return "not set"
    return json.dumps(value, ensure_ascii=False)


def _words(name: str, value: Any) -> list[str]:
    """A setting as the command line writes it; what is unset needs no words."""
    flag = _FLAGS.get(name, "--" + name.replace("_", "-"))
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if value is None:
        return []
    return [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]


def _option(value: Any) -> str:
    """What ``--option name=value`` reads back as the same value."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return value
    return json.dumps(value)  # a text that looks like a number, say


def _training(field: Field) -> list[tuple[str, str]]:
    """Flags of the common training, from the configuration of a dense run, which has it unchanged."""
    config: dict[str, Any] = next(
        (row["config"] for row in field.dense.rows if isinstance(row.get("config"), dict)), {}
    )
    flags = {"max_epochs": "--epochs", "lr": "--lr", "batch_size": "--batch-size", "weight_decay": "--weight-decay"}
    return [(flag, f"{value:g}") for key, flag in flags.items() if (value := w.number(config.get(key))) is not None]
