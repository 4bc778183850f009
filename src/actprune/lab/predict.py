"""L5: a shipped network used in place of the original."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from actprune import atomic
from actprune.accounting import Account, held, measured
from actprune.artifact import Info, inspect, load
from actprune.errors import ArtifactError, DataError
from actprune.lab import data
from actprune.program import Program
from actprune.runtime import accelerate

_LARGEST = 1 << 28  # numbers in one example: 1 GiB


@dataclass(frozen=True, eq=False)
class Prediction:
    """Classes int64 ``(N,)``, the path that computed them, and the accuracy where the labels are known."""

    classes: np.ndarray[Any, np.dtype[np.int64]]
    path: str
    accuracy: float | None
    out: Path | None


def example_of(file: str | Path, batch: int = 2) -> tuple[Program, Tensor]:
    """The program in a file, and random inputs of the shape it was stored for. Raises ArtifactError."""
    program, shape = load(file), shape_of(inspect(file))
    if not isinstance(program, Program) or shape is None:
        raise ArtifactError(f"{file} does not say what shape its inputs have; save it with about={{'shape': [...]}}")
    generator = torch.Generator().manual_seed(0)
    return program, torch.rand(batch, *shape, generator=generator)


def shape_of(info: Info) -> list[int] | None:
    """The shape of one example, where a file says a sensible one."""
    shape = info.about.get("shape")
    return shape if _is_shape(shape) else None


def account_of(file: str | Path, info: Info) -> Account:
    """What the network in a file holds and costs; nothing of it is run. FLOP only where it says its inputs' shape.

    Raises ArtifactError as ``load`` does.
    """
    program, shape = load(file), shape_of(info)
    return measured(program, torch.empty(2, *shape, device="meta")) if shape is not None else held(program)


def _is_shape(found: Any) -> TypeGuard[list[int]]:
    """Whether it is the shape of an example that fits into memory: it comes from a file."""
    lengths = isinstance(found, list) and len(found) <= 16 and all(type(n) is int and 0 < n < 1 << 28 for n in found)
    return lengths and math.prod(found) <= _LARGEST


def predict(file: str | Path, source: str, threads: int, batch_size: int, out: Path | None) -> Prediction:
    """Classes for the test part of a data set, or for the inputs ``(N, *shape)`` in a .npy file.

    Raises ArtifactError, DataError (shapes that do not fit), RuntimePathError.
    """
    program, example = example_of(file)
    if inspect(file).about.get("task") == "autoencode":
        raise DataError(f"{file} rebuilds its input and knows no classes; use actprune.load and call what it returns")
    x, y = _inputs(source)
    if tuple(x.shape[1:]) != tuple(example.shape[1:]):
        found, wanted = tuple(x.shape[1:]), tuple(example.shape[1:])
        raise DataError(f"{source} has examples of shape {found}; the network in {file} takes {wanted}")
    fast = accelerate(program, x[:batch_size].numpy(), threads=threads)
    classes = np.concatenate([np.argmax(fast(part.numpy()), axis=1) for part in torch.split(x, batch_size)])
    accuracy = None if y is None else float((classes == y.numpy()).mean())
    if out is not None:
        lines = "".join(f"{index},{found}\n" for index, found in enumerate(classes))
        atomic.write_bytes(out, f"index,class\n{lines}".encode(), _unwritable)
    return Prediction(classes, fast.path, accuracy, out)


def _inputs(source: str) -> tuple[Tensor, Tensor | None]:
    if not source.endswith(".npy"):
        return data.load(source).test
    try:
        found = np.load(source, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{source} cannot be read: {reason}; expected an array of inputs (N, *shape)") from error
    if not isinstance(found, np.ndarray) or found.ndim == 0 or found.dtype.kind not in "fiub":
        raise DataError(f"{source} does not hold an array of real numbers (N, *shape); save one with numpy.save")
    scale = 255 if found.dtype == np.uint8 else 1
    x = torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32)) / scale
    if not len(x) or not bool(torch.isfinite(x).all()):
        raise DataError(f"{source} holds {len(x)} examples, or numbers that are not finite")
    return x, None


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"cannot write {path}: {error.strerror or error}; free space or choose another --out")
