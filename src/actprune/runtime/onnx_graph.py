"""L4: a program as an ONNX model, as bytes. Chains of layers are written directly, everything else by torch.onnx."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from actprune.errors import RuntimePathError
from actprune.program import Program, chain
from actprune.pruner.quiet import quiet
from actprune.runtime.base import Model
from actprune.runtime.onnx_chain import chain_model

OPSET = 18


def onnx_bytes(program: Program, example: tuple[Tensor, ...], opset: int = OPSET, bare: bool = False) -> bytes:
    """The model, with a free batch axis unless the program insists on a size.

    Inputs keep the program's names; a single result is called ``output``. bare: a chain takes what ``entrance``
    makes of an input, already flat and gathered. Raises RuntimePathError when torch.onnx cannot
    translate the program or the result is larger than the 2 GB a protobuf may have.
    """
    shape = tuple(example[0].shape[1:])
    layers = chain(program, shape)
    if layers is None:
        model = _translated(program, example, opset)
    else:
        shape = (layers[0].weight.shape[1],) if bare else shape
        layers = [replace(layers[0], columns=None), *layers[1:]] if bare else layers
        model = chain_model(program.inputs[0], shape, layers, opset)
    try:
        content: bytes = model.SerializeToString()
    except ValueError as error:
        raise RuntimePathError(f"the ONNX model is larger than 2 GB, the most one file can hold: {error}") from error
    return content


def shared_onnx(model: Model, program: Program) -> bytes:
    """The ONNX form of one of the model's two programs for inputs from ``entrance``, translated once for all paths."""
    key = "onnx", id(program)
    if key not in model.shared:
        model.shared[key] = onnx_bytes(program, (torch.from_numpy(model.example),), bare=True)
    return model.shared[key]


def _translated(program: Program, example: tuple[Tensor, ...], opset: int) -> Any:
    """torch.onnx at work; two examples at least, because a batch of one would be taken for a constant."""
    rows = tuple(item if program.batch or len(item) > 1 else torch.cat([item, item]) for item in example)
    free = [{} if program.batch else {0: torch.export.Dim.DYNAMIC} for _ in rows]
    single = not isinstance(program.result, (list, tuple, dict))
    try:
        with _silence(), quiet(program):
            made = torch.onnx.export(
                program, rows, dynamo=True, opset_version=opset, verbose=False, optimize=True,
                input_names=list(program.inputs), output_names=["output"] if single else None,
                dynamic_shapes={"args": tuple(free)},
            )  # fmt: skip
    except Exception as error:  # torch.onnx raises many types; each of them means the same to the user
        lines = str(error).strip().splitlines() or [""]
        raise RuntimePathError(
            f"torch.onnx cannot translate this program: {type(error).__name__}: {lines[0]}; ship it as an artifact"
        ) from error
    if made is None:
        raise RuntimePathError("torch.onnx returned no model; ship it as an artifact")
    return made.model_proto


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """torch.onnx prints its progress, warns about its own insides and logs versions it does not find."""
    loud = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loud]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loud:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loud, levels, strict=True):
                logger.setLevel(level)
