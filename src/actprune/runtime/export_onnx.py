"""L4: ONNX files, written only after onnxruntime has computed with them what PyTorch computes."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from actprune.atomic import write_bytes
from actprune.errors import ArtifactError, RuntimePathError
from actprune.program import Program, example_args
from actprune.pruner.quiet import quiet
from actprune.runtime.onnx_graph import OPSET, onnx_bytes
from actprune.runtime.paths.ort import ort_session

BATCHES = (1, 2, 7)
TOLERANCE = 1e-4  # of the output's scale


def export_onnx(program: Program, path: str | os.PathLike[str], example: Any, *, opset: int = OPSET) -> Path:
    """Write ``program`` as one ONNX file with a free batch axis; the path written.

    program: from ``actprune.compact`` or ``actprune.load``; example: one input, or a tuple of them; opset: 18 or newer.

    The file is checked in onnxruntime against PyTorch at batch 1, 2 and 7 (relative to the output's scale, 1e-4) before
    it replaces anything. Raises RuntimePathError when onnx or onnxruntime are missing, the program cannot be
    translated, or the results differ; ArtifactError when the file cannot be written, with the old file untouched.
    """
    inputs = _inputs(program, example)
    _check_libraries(opset)
    content = onnx_bytes(program, inputs, opset)
    _verify(program, content, inputs)
    target = Path(path)
    write_bytes(target, content, _refused)
    return target


def _inputs(program: Program, example: Any) -> tuple[Tensor, ...]:
    example = torch.from_numpy(example) if isinstance(example, np.ndarray) else example
    args, keywords = example_args(example)
    names = program.inputs[len(args) :]
    if sorted(names) != sorted(keywords) or len(args) > len(program.inputs):
        raise RuntimePathError(
            f"the program takes {', '.join(program.inputs)}; the example has {len(args)} positional tensors and "
            f"{', '.join(keywords) or 'no keywords'}; give one tensor for each input"
        )
    return (*args, *(keywords[name] for name in names))


def _check_libraries(opset: int) -> None:
    try:
        onnx: Any = importlib.import_module("onnx")
        importlib.import_module("onnxruntime")
    except ImportError as error:
        raise RuntimePathError(f"exporting needs {error.name}; pip install 'actprune[onnxruntime]'") from error
    newest = onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= newest:
        raise RuntimePathError(f"opset {opset} was asked; this onnx has {OPSET} to {newest}; leave it at {OPSET}")


def _verify(program: Program, content: bytes, inputs: tuple[Tensor, ...]) -> None:
    session = ort_session(importlib.import_module("onnxruntime"), content, 1)
    names = [entry.name for entry in session.get_inputs()]  # an input that nothing reads may be gone
    for batch in BATCHES if program.batch is None else (program.batch,):
        varied = tuple(_batch(item, batch) for item in inputs)
        feed = {name: item.numpy() for name, item in zip(program.inputs, varied, strict=True) if name in names}
        try:
            found = session.run(None, feed)
        except Exception as error:  # onnxruntime's exceptions share no base class
            first = str(error).strip().splitlines()[0]
            raise RuntimePathError(f"onnxruntime cannot run the exported model at batch {batch}: {first}") from error
        with quiet(program):
            expected = [item for item in pytree.tree_leaves(program(*varied)) if isinstance(item, Tensor)]
        _compare(found, [item.numpy() for item in expected], batch)


def _batch(item: Tensor, batch: int) -> Tensor:
    """``batch`` different examples made from those given; integers (tokens) are repeated as they are."""
    if not item.dim():
        return item
    rows = item[torch.arange(batch) % len(item)].detach().cpu().contiguous()
    if not rows.is_floating_point():
        return rows
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(batch), dtype=torch.float32)
    return rows + noise.to(rows.dtype)


def _compare(found: list[Any], expected: list[Any], batch: int) -> None:
    if [item.shape for item in found] != [item.shape for item in expected]:
        raise RuntimePathError(
            f"the exported model returns {[item.shape for item in found]} at batch {batch}, "
            f"PyTorch {[item.shape for item in expected]}; nothing was written"
        )
    for mine, theirs in zip(found, expected, strict=True):
        error = difference(mine, theirs)
        if not error <= TOLERANCE:
            raise RuntimePathError(
                f"the exported model is wrong by {error:.2g} of the output's scale at batch {batch} "
                f"(at most {TOLERANCE:g}); nothing was written"
            )


def difference(found: Any, expected: Any) -> float:
    """Largest absolute difference relative to the largest expected value; inf where only one side is finite."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape or (np.isfinite(found) != np.isfinite(expected)).any():
        return float("inf")
    sure = np.isfinite(expected)
    scale = float(np.abs(expected[sure]).max(initial=0.0))
    worst = float(np.abs(found[sure] - expected[sure]).max(initial=0.0))
    return 0.0 if worst == 0 else worst / max(scale, 1e-30)


def _refused(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"{path} cannot be written: {error.strerror or error}; free space or choose another folder")
