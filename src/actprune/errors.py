"""L0: every error that actprune raises on purpose.

Each message says what was asked, what was found, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ActpruneError(Exception):
    """Base class: catch this one to catch everything the library raises on purpose."""


class RecipeError(ActpruneError, ValueError):
    """A method, budget or option makes no sense (sparsity outside 0..1, unknown name)."""


class ModelError(ActpruneError, ValueError):
    """The model cannot be pruned as asked (no prunable layer, NaN weights, a wrong name)."""


class ObservationError(ActpruneError, RuntimeError):
    """Statistics are missing, empty or not finite (deaf hooks, no data, NaN activations)."""


class BudgetError(ActpruneError, ValueError):
    """The budget cannot be met by what may still be pruned."""


class LayerCollapseError(BudgetError):
    """The selection would empty a layer that was not allowed to be emptied."""


class CheckpointError(ActpruneError, RuntimeError):
    """A checkpoint or run folder is missing, corrupted, from another run, or cannot be written."""


class DataError(ActpruneError, ValueError):
    """A data set is missing, truncated, or has wrong shapes or labels."""


class CompactionError(ActpruneError, RuntimeError):
    """A compacted model does not compute what the masked one computes, or the model cannot be compacted."""


class ArtifactError(ActpruneError, ValueError):
    """A shipped file is truncated, corrupted, hostile, of another version, or cannot be written."""


class RuntimePathError(ActpruneError, RuntimeError):
    """An execution path cannot run this model here (a missing extra, an unsupported operation)."""


def few(names: Iterable[str], most: int = 6) -> str:
    """Names for a sentence, the first of them where there are many."""
    found = list(names)
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that does not exist: the nearest match first, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}; {hint}known: {', '.join(names)}"


def one_of(slot: str, value: object, known: Iterable[object]) -> None:
    """Raise RecipeError unless ``value`` is one of the known words: the nearest match first, then all of them."""
    words = [str(item) for item in known]
    if isinstance(value, str) and value in words:
        return
    near = difflib.get_close_matches(str(value), words, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise RecipeError(f"{slot}={value!r} is not known; {hint}known: {', '.join(map(repr, words))}")
