"""L4: every path built and checked against PyTorch before anything is timed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from actprune.errors import RuntimePathError, unknown_name
from actprune.runtime.base import Array, Model, Path, Run
from actprune.runtime.export_onnx import TOLERANCE, difference
from actprune.runtime.paths import PATHS
from actprune.runtime.paths.eager import eager

Status = Literal["ok", "reference only", "wrong", "not built"]


@dataclass(frozen=True)
class Candidate:
    """A path and what became of it.

    status  "ok": may be chosen; "reference only": a dense model that computes something else than the pruned one, timed
            but never chosen; "wrong" and "not built": out, for the ``reason`` given
    """

    path: Path
    run: Run | None
    status: Status
    reason: str = ""


def candidates(model: Model, paths: Sequence[str] | None = None) -> list[Candidate]:
    """Every path built and checked on the example and on random normal inputs, at 1e-4 of the output's scale.

    paths: names of those to try (default: all); the dense references are always there. Raises RuntimePathError for a
    name that does not exist, and when not even PyTorch runs the model on the example.
    """
    known = {path.name: path for path in PATHS}
    for name in paths or ():
        if name not in known:
            raise RuntimePathError(unknown_name("path", name, known))
    tried = [path for path in PATHS if paths is None or path.dense or path.name in paths]
    random = np.random.default_rng(0).standard_normal(model.example.shape, np.float32)
    checks = [_Check(model, x) for x in (model.example, random)]
    return [_candidate(path, model, checks) for path in tried]


class _Check:
    """One input and what PyTorch makes of it, in the small and in the dense form."""

    def __init__(self, model: Model, x: Array) -> None:
        self.x = x
        try:
            self.small = eager(model.small)(x).copy()
            self.dense = self.small if model.dense is model.small else eager(model.dense)(x).copy()
        except Exception as error:  # whatever a forward may raise
            raise RuntimePathError(f"the model fails on an input of shape {x.shape}: {error}") from error


def _candidate(path: Path, model: Model, checks: Sequence[_Check]) -> Candidate:
    try:
        run = path.build(model)
        found = [run(check.x).copy() for check in checks]
    except RuntimePathError as error:
        return Candidate(path, None, "not built", str(error))
    except Exception as error:  # other people's libraries: one that fails must not take the others with it
        return Candidate(path, None, "not built", f"{path.name} fails: {type(error).__name__}: {_first(error)}")
    off = max(difference(y, check.small) for y, check in zip(found, checks, strict=True))
    if off <= TOLERANCE:
        return Candidate(path, run, "ok")
    own = max(difference(y, check.dense) for y, check in zip(found, checks, strict=True))
    if path.dense and own <= TOLERANCE:
        reason = "the dense model given computes something else than the pruned one: timed, never chosen"
        return Candidate(path, run, "reference only", reason)
    wrong = own if path.dense else off
    return Candidate(path, None, "wrong", f"wrong by {wrong:.2g} of the output's scale (at most {TOLERANCE:g})")


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """PyTorch's number of threads for a while: it is one setting for the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
