"""L4: from what the user has (a module, a program, a file; an example) to what a path is given."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actprune.errors import RuntimePathError
from actprune.program import Program, export
from actprune.program.nodes import Ref
from actprune.runtime.base import Array, Model

Source = nn.Module | str | os.PathLike[str]


def prepared(model_or_file: Source, example: Any, *, threads: int = 1, dense: Source | None = None) -> Model:
    """The ``Model`` that all paths share; nothing of the user's is changed or kept.

    model_or_file  a module, a program, or the path of a saved artifact: what is to run
    example        float numbers ``(batch, *shape)``, numpy or torch
    dense          the same before compaction or before pruning; default: the model itself, run dense

    Raises RuntimePathError for models with several inputs or results, ModelError for those that cannot be exported,
    ArtifactError for bad files.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise RuntimePathError(f"threads must be a positive number; got {threads!r}")
    x = as_array(example)
    small, original = _program(model_or_file, x)
    if dense is None:
        return Model(small, small, x, threads, original)
    large, original = _program(dense, x)
    return Model(large, small, x, threads, original)


def as_array(x: Any) -> Array:
    """float32 and C-contiguous, from numpy, torch or lists. Raises RuntimePathError for other kinds of numbers."""
    if isinstance(x, Tensor) and x.is_floating_point():
        x = x.detach().to("cpu", torch.float32).numpy()
    try:
        array = np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:  # such as a tuple of two inputs
        raise RuntimePathError(
            f"an input must be one array (batch, ...); got a {type(x).__name__}: {error}; wrap a model of several "
            "inputs in a module with one"
        ) from error
    if array.dtype.kind != "f":
        raise RuntimePathError(f"inputs must be floating-point numbers; got {array.dtype}; convert them first")
    if array.ndim == 0 or array.size == 0:
        raise RuntimePathError(f"inputs must be non-empty batches (batch, ...); got shape {array.shape}")
    return np.ascontiguousarray(array, np.float32)


def _program(source: Source, x: Array) -> tuple[Program, nn.Module | None]:
    """Our own copy as a program, and of the module it came from, if any."""
    original: nn.Module | None = None
    if isinstance(source, (str, os.PathLike)):
        from actprune.artifact import load

        module: nn.Module = load(Path(source))
    elif isinstance(source, Program):
        module = source
    else:
        module = original = copy.deepcopy(source).float().cpu().eval()
    example = torch.from_numpy(np.concatenate([x, x]) if len(x) == 1 else x)
    program = export(module, example).float().cpu().eval()
    if len(program.inputs) != 1 or not isinstance(program.result, Ref):
        results = "one tensor" if isinstance(program.result, Ref) else "several tensors"
        raise RuntimePathError(
            f"the model takes {len(program.inputs)} inputs and returns {results}; acceleration needs one of each: wrap "
            "the model in a module with one input and one result"
        )
    return program, original
