"""L4: from a model to one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actprune.artifact.document import Document, document, to_bytes
from actprune.artifact.entropy import available
from actprune.artifact.values import Kind
from actprune.atomic import write_bytes
from actprune.errors import ArtifactError
from actprune.program import Program, export

_HALF = 65504.0


def save(
    model: nn.Module,
    path: str | Path,
    *,
    example: Any = None,
    values: str | Mapping[str, str] = "fp32",
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``model`` as one self-describing file, without pickle; ``load`` needs neither its class nor its code.

    model    a Program, or any module that ``torch.export`` understands
    example  an input, needed unless ``model`` is a Program or has the attribute ``actprune_example``
    values   precision of the weights, for all or by name (names left out: fp32): "fp32" (exact), "fp16", "bf16",
             "int2" .. "int8", "int8row", "shared1" .. "shared8"; floating-point buffers are never coarser than fp16
    about    plain JSON values about the model: method, recipe, data, accuracies; library versions are added

    Zeros take next to no room: every tensor is stored in the smallest of several encodings. Minus zero becomes zero.
    The file is replaced as a whole, or not at all.

    Raises ModelError when the model cannot be exported, ArtifactError when it cannot be stored as asked.
    """
    return write(described(as_program(model, example), values, about), path)


def as_program(model: nn.Module, example: Any = None) -> Program:
    """``model`` itself if it is a Program, else what ``export`` makes of it."""
    if isinstance(model, Program):
        return model
    example = getattr(model, "actprune_example", None) if example is None else example
    if example is None:
        raise ArtifactError(
            f"a {type(model).__name__} is saved by following one input through it; pass example=, or set the model's "
            "attribute actprune_example"
        )
    return export(model, example)


def described(program: Program, values: str | Mapping[str, str], about: Mapping[str, Any] | None = None) -> Document:
    """What the file of ``program`` holds."""
    kinds = precisions(program, values)
    return document(program.structure(), program.tensors(), kinds, {**(about or {}), "versions": versions()})


def write(doc: Document, path: str | Path) -> Path:
    """Write a document atomically. Raises ArtifactError when the system refuses; an old file is then untouched."""
    write_bytes(Path(path), to_bytes(doc), _unwritable)
    return Path(path)


def precisions(program: Program, values: str | Mapping[str, str]) -> dict[str, str]:
    """Precision of every tensor by name. Raises ArtifactError for unknown names and precisions."""
    tensors = program.tensors()
    if unknown := [name for name in values if name not in tensors] if isinstance(values, Mapping) else []:
        raise ArtifactError(f"the model has no tensor {unknown[0]!r} to give a precision; it has {', '.join(tensors)}")
    trained = {name for name, _ in program.named_parameters(remove_duplicate=False)}
    found = {}
    for name, tensor in tensors.items():
        asked = values if isinstance(values, str) else values.get(name, "fp32")
        coarse = Kind.of(asked).family != "float"
        given = isinstance(values, Mapping) and name in values
        if asked != "fp32" and tensor.dtype == torch.float64:  # stored as it is, so anything coarser would be ignored
            raise ArtifactError(f"{name} is float64, which is only stored exactly; use model.float() for {asked}")
        found[name] = _for_buffer(tensor) if coarse and name not in trained and not given else asked
    return found


def _for_buffer(tensor: Tensor) -> str:
    """Running statistics are few and touchy: fp16, or fp32 where that overflows or loses small numbers."""
    if not tensor.is_floating_point() or not tensor.numel():
        return "fp32"
    sizes = tensor.detach().abs().float()
    fits = bool((sizes <= _HALF).all()) and bool(((sizes > 2.0**-14) | (sizes == 0)).all())
    return "fp16" if fits else "fp32"


def versions() -> dict[str, str]:
    """Of what writes the file."""
    from actprune import __version__

    found = {"actprune": __version__, "torch": str(torch.__version__).partition("+")[0]}
    return found | _constriction_version()


def _constriction_version() -> dict[str, str]:
    from importlib.metadata import version

    return {"constriction": version("constriction")} if available() else {}


def _unwritable(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"cannot write {path}: {error.strerror or error}; free space or choose another folder. Nothing was lost: the "
        "model in memory and any older file are as they were"
    )
