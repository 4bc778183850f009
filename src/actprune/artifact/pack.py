"""L4: the smallest file that keeps the accuracy: coarser and coarser values, as long as evaluation allows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actprune.artifact.document import Document, estimated_size, to_bytes
from actprune.artifact.load import build
from actprune.artifact.save import described, precisions, write
from actprune.artifact.share import SharedWeights
from actprune.artifact.values import Kind
from actprune.errors import ArtifactError
from actprune.program import Program

Evaluate = Callable[[Program], float]
Tune = Callable[[Program, SharedWeights], None]
CANDIDATES = (
    "shared2", "int3", "shared3", "int4", "shared4", "int5", "shared5", "int6", "shared6", "int8", "fp16", "fp32",
)  # fmt: skip
_ROUNDING = 1e-9  # of 0.962 - 0.001


@dataclass(frozen=True)
class Tried:
    """One attempt.

    what     the precision of all tensors, or a tensor and its precision
    bytes    of the whole file, to within a few
    refused  why it could not even be stored
    """

    what: str
    bytes: int
    accuracy: float
    tuned: bool
    kept: bool
    refused: str | None = None


@dataclass(frozen=True, eq=False)
class Packed:
    """A program with the values that its file holds.

    accuracy, before   of ``program``, and of what was packed; fractions
    values             precision by tensor name
    tried              in order
    """

    program: Program
    document: Document
    content: bytes
    values: Mapping[str, str]
    accuracy: float
    before: float
    tried: Sequence[Tried]

    def save(self, path: str | Path) -> Path:
        """Write the file. Raises ArtifactError when the system refuses."""
        return write(self.document, path)


@dataclass(frozen=True, eq=False)
class _Attempt:
    source: Program  # before rounding, tuned where that happened: what further attempts start from
    program: Program
    document: Document
    bytes: int
    values: dict[str, str]
    accuracy: float


@dataclass
class _Search:
    evaluate: Evaluate
    tune: Tune | None
    about: Mapping[str, Any] | None
    least: float
    tried: list[Tried] = field(default_factory=list)

    def best(
        self, what: str, kind: str, source: Program, values: dict[str, str], smaller_than: float
    ) -> _Attempt | None:
        """An attempt that is small and accurate enough, tuned if it must be; None if there is none."""
        for tuned in (False, True) if self.tune is not None and Kind.of(kind).family == "shared" else (False,):
            try:
                found = self._attempt(self._tuned(source, values) if tuned else source, values, smaller_than)
            except ArtifactError as error:  # it cannot hold the values, or tuning made NaN of them
                self.tried.append(Tried(what, 0, 0.0, tuned, False, str(error)))
                return None
            if found is None or self._note(what, found, tuned):
                return found
        return None

    def _attempt(self, source: Program, values: dict[str, str], smaller_than: float) -> _Attempt | None:
        """None: it would not be smaller, so that it need not be evaluated."""
        doc = described(source, values, self.about)
        size = round(estimated_size(doc))
        if size >= smaller_than:
            return None
        program = build(doc, math.inf)
        return _Attempt(source, program, doc, size, values, float(self.evaluate(program)))

    def _note(self, what: str, found: _Attempt, tuned: bool) -> bool:
        good = found.accuracy >= self.least - _ROUNDING
        self.tried.append(Tried(what, found.bytes, found.accuracy, tuned, good))
        return good

    def _tuned(self, source: Program, values: Mapping[str, str]) -> Program:
        program = copy.deepcopy(source)
        kinds = {name: Kind.of(values[name]) for name in _trained(program)}
        bits = {name: kind.bits for name, kind in kinds.items() if kind.family == "shared"}
        shared = SharedWeights(program, bits, "exact")
        shared.apply()
        assert self.tune is not None
        self.tune(program, shared)
        shared.apply()
        return program.eval()


def pack(
    program: Program,
    evaluate: Evaluate,
    *,
    max_loss: float,
    candidates: Sequence[str] = CANDIDATES,
    tune: Tune | None = None,
    refine: float = 0.0,
    about: Mapping[str, Any] | None = None,
) -> Packed:
    """The smallest file whose accuracy is at most ``max_loss`` below that of ``program``.

    evaluate    accuracy of a program as a fraction, on data that is not the test set: packing selects by it
    max_loss    a fraction: 0.001 is a tenth of a percentage point
    candidates  precisions (see ``save``), from the coarsest to the finest; the first good one is taken for all tensors
    tune        fine-tunes a program whose weights are shared; asked before a shared precision is rejected. It trains
                the program in place, its optimizer attached to the SharedWeights
    refine      then coarser precisions for single tensors, the largest first, as long as that saves bytes: for those
                that hold at least this fraction of all values (0: all of them, 1: none)

    ``program`` is not changed. Raises ArtifactError when no candidate keeps the accuracy, with what was tried.
    """
    for kind in candidates:
        Kind.of(kind)
    if not 0 <= max_loss < 1:
        raise ArtifactError(
            f"max_loss={max_loss} is a fraction of all examples: 0.001 for a tenth of a percentage point"
        )
    program = copy.deepcopy(program).eval()
    before = float(evaluate(program))
    search = _Search(evaluate, tune, about, before - max_loss)
    found = _global(search, program, candidates)
    found = _refined(search, found, candidates, refine)
    content = to_bytes(found.document)
    return Packed(found.program, found.document, content, found.values, found.accuracy, before, tuple(search.tried))


def _global(search: _Search, program: Program, candidates: Sequence[str]) -> _Attempt:
    for kind in candidates:
        found = search.best(kind, kind, program, precisions(program, kind), float("inf"))
        if found is not None:
            return found
    tried = "; ".join(item.refused or f"{item.what}: {item.accuracy:.4f}" for item in search.tried)
    raise ArtifactError(f"no precision keeps an accuracy of {search.least:.4f} ({tried}); allow more loss, add 'fp32'")


def _refined(search: _Search, found: _Attempt, candidates: Sequence[str], least: float) -> _Attempt:
    """Greedy: every tensor in turn takes the coarsest precision that saves bytes and keeps the accuracy."""
    for name in _by_size(found.source, least):
        for kind in candidates:
            if kind == found.values[name]:
                break
            better = search.best(f"{name} {kind}", kind, found.source, {**found.values, name: kind}, found.bytes)
            if better is not None:
                found = better
                break
    return found


def _by_size(program: Program, least: float) -> list[str]:
    """Trained tensors, the one with most values first; those with less than a fraction of all values are left out."""
    kept = {
        name: int(tensor.count_nonzero()) for name, tensor in program.tensors().items() if name in _trained(program)
    }
    few = least * sum(kept.values())
    return sorted((name for name in kept if least < 1 and kept[name] >= few), key=lambda name: -kept[name])


def _trained(program: Program) -> list[str]:
    return [name for name, item in program.named_parameters(remove_duplicate=False) if item.is_floating_point()]
