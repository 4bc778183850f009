"""L4: from a file to a module: without the original class, or into it."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar, overload

from torch import nn

from actprune.artifact.document import Document, read
from actprune.artifact.into import fill
from actprune.artifact.limits import MAX_BYTES
from actprune.errors import ArtifactError
from actprune.program import Program

M = TypeVar("M", bound=nn.Module)


@overload
def load(path: str | Path, *, into: None = None, max_bytes: int = MAX_BYTES) -> Program: ...


@overload
def load(path: str | Path, *, into: M, max_bytes: int = MAX_BYTES) -> M: ...


def load(path: str | Path, *, into: nn.Module | None = None, max_bytes: int = MAX_BYTES) -> nn.Module:
    """The model in a file that ``save`` wrote, in evaluation mode.

    into       a model of the original class, of any widths: its layers are changed to the stored widths, its weights
               replaced; it is returned, and untouched if that fails. None: a Program, which needs no class
    max_bytes  of the file, and of the tensors in memory

    No code is run that comes from the file: it holds numbers and names of listed operations. Whatever is wrong with a
    file (truncated, changed, hostile) is an ArtifactError, in bounded time and memory.
    """
    program = build(read(path, max_bytes)[0])
    return program if into is None else fill(into, program).eval()


def build(doc: Document) -> Program:
    """The program that a document describes. Raises ArtifactError when it is inconsistent."""
    try:
        tensors = doc.tensors()
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise ArtifactError(f"the file is damaged: {str(error)[:200]}") from error
    return Program.build(doc.header.structure, tensors).eval()
