"""L0: the nouns. Nothing here computes; every other file speaks in these words.

Conventions: a weight has PyTorch's own layout ``(out, in, *kernel)``; a mask is bool with True = kept;
a score is larger = keep; a fraction or sparsity lies in 0..1 and is never a percentage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from actprune.errors import RecipeError

Sums = dict[str, Tensor]
"""One layer's streaming statistics. Every entry is a SUM, so two of them merge by adding."""

Scope = Literal["row", "layer", "global"]
Allocation = Literal["uniform", "erk", "staged"]
BudgetKind = Literal["sparsity", "compression", "parameters", "flop"]


@dataclass(frozen=True)
class Need:
    """What a criterion must be given: a statistic by name, or ``"gradient"``.

    ``fires_above``: the firing threshold for activations that are never exactly zero.
    """

    statistic: str
    fires_above: float | None = None


@runtime_checkable
class Statistic(Protocol):
    """A streaming statistic of one layer's inputs or outputs, kept as a dict of sums.

    ``values`` has its ``units`` axis at ``axis``; all other axes are examples or positions.
    """

    sees: ClassVar[Literal["input", "output"]]

    def init(self, units: int, like: Tensor) -> Sums:
        """Zero sums on the device of ``like``."""
        ...

    def update(self, sums: Sums, values: Tensor, axis: int) -> None:
        """Add one batch in place."""
        ...


@dataclass(frozen=True)
class Signals:
    """All that is known of one layer when it is scored.

    name: clean parameter name (``"fc1.weight"``). weight: ``(out, in, *kernel)``, detached, full (not sharded).
    sums: the observed sums. gradient: summed gradient of the weight, or None. seed: of the recipe.
    """

    name: str
    weight: Tensor
    sums: Mapping[str, Tensor]
    gradient: Tensor | None = None
    seed: int = 0


@runtime_checkable
class Criterion(Protocol):
    """Signals -> score of shape ``weight.shape`` (an expanded view is fine). Larger = keep."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """Everything ``score`` reads besides the weight. A missing need is an early error naming it."""
        ...

    def score(self, signals: Signals) -> Tensor:
        """Score every weight of one layer."""
        ...


@dataclass(frozen=True)
class Weight:
    """Unit: every weight on its own (unstructured)."""


@dataclass(frozen=True)
class Neuron:
    """Unit: one output unit of a Linear or one output channel of a conv (all its incoming weights)."""


@dataclass(frozen=True)
class NM:
    """Unit: of every ``m`` consecutive inputs keep the ``n`` best (2:4 is ``NM(2, 4)``); the sparsity is 1 - n/m."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise RecipeError(f"n:m unit asks for {self.n}:{self.m}; use 0 < n < m, such as NM(2, 4)")


@dataclass(frozen=True)
class Block:
    """Unit: a tile of ``rows x cols`` weights of the ``(out, in * kernel)`` matrix; edge tiles may be smaller."""

    rows: int
    cols: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise RecipeError(f"block unit asks for {self.rows} x {self.cols}; both sides must be at least 1")


Unit = Weight | Neuron | NM | Block


@dataclass(frozen=True)
class Budget:
    """How much is to be left. Build it with one of the four class methods.

    ``of="prunable"`` counts the layers that may be pruned; ``of="all"`` also counts the weights of layers left
    alone (the founding article counts its unpruned output layer in the denominator).
    """

    kind: BudgetKind
    value: float
    of: Literal["prunable", "all"] = "prunable"

    def __post_init__(self) -> None:
        low, high, word = {
            "sparsity": (0.0, 1.0, "a fraction 0 <= s < 1, such as 0.9 for 90 %"),
            "compression": (1.0, math.inf, "weights before / after, at least 1"),
            "parameters": (1, math.inf, "a number of weights, at least 1"),
            "flop": (0.0, 1.0, "a fraction 0 < f <= 1 of the dense FLOP"),
        }[self.kind]
        ok = (
            low <= self.value <= high
            and not (self.kind == "sparsity" and self.value == 1)
            and not math.isnan(self.value)
        )
        if not ok or math.isinf(self.value) or (self.kind == "flop" and self.value == 0):
            raise RecipeError(f"budget {self.kind}={self.value!r} cannot be used; expected {word}")

    @classmethod
    def sparsity(cls, value: float, of: Literal["prunable", "all"] = "prunable") -> Budget:
        """Fraction of weights removed, 0 <= value < 1."""
        return cls("sparsity", value, of)

    @classmethod
    def compression(cls, value: float, of: Literal["prunable", "all"] = "prunable") -> Budget:
        """Weights before / weights after, >= 1."""
        return cls("compression", value, of)

    @classmethod
    def parameters(cls, kept: int, of: Literal["prunable", "all"] = "prunable") -> Budget:
        """Number of weights kept."""
        return cls("parameters", kept, of)

    @classmethod
    def flop(cls, kept: float, of: Literal["prunable", "all"] = "prunable") -> Budget:
        """Fraction of the dense FLOP kept, 0 < kept <= 1 (2 FLOP per weight and output position)."""
        return cls("flop", kept, of)


@dataclass(frozen=True)
class Progress:
    """Where the user's training stands. ``metric``: what ``report_metric`` was last told (training accuracy, 0..1)."""

    step: int = 0
    cycle: int = 0
    metric: float | None = None
    metric_at_last_prune: float | None = None


@runtime_checkable
class Schedule(Protocol):
    """When to prune and how far, both pure functions of ``Progress``.

    ``stages`` is the number of prunings it plans; None means one for every layer (the staged local scope).
    """

    @property
    def stages(self) -> int | None:
        """Number of prunings planned."""
        ...

    def due(self, progress: Progress) -> bool:
        """Is a pruning due now? Never true for a schedule that waits for an explicit ``prune()``."""
        ...

    def target(self, progress: Progress, final: float) -> float:
        """Cumulative removal, 0..final, that the pruning number ``progress.cycle`` aims at."""
        ...


@runtime_checkable
class Recovery(Protocol):
    """What happens to the surviving weights after a pruning: a frozen description, carried out by ``recover/``."""

    @property
    def kind(self) -> str:
        """What is done: keep, rewind or reinitialise."""
        ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A method: independent slots, comparable, printable (``eval(repr(r)) == r``), serialisable.

    count_on        when statistics are taken: inside ``observe()``, or on the live "train" batches
    regrow          "frozen": zeros are held at zero; "free": set to zero once, then free to return
    skip_output     leave the last layer alone (it has no activation that another layer sees)
    keep_at_least   units per layer that never compete, so that no layer is emptied by a global ranking
    remove_orphans  also remove weights out of neurons that can no longer fire, their constant folded into the next bias
    orphans_inside  True: orphans count towards the budget; False: in global scope they come on top of it
    allow_collapse  fnmatch patterns of weights that may be emptied ("fc1.weight", "*")
    reset_counts    forget the sums after every pruning (False accumulates them, as the founding code does)
    """

    name: str
    criterion: Criterion
    budget: Budget
    schedule: Schedule
    recovery: Recovery
    unit: Unit = Weight()
    scope: Scope = "global"
    allocation: Allocation = "uniform"
    count_on: Literal["observe", "train"] = "observe"
    count_every: int = 1
    regrow: Literal["frozen", "free"] = "frozen"
    monotone: bool = True
    skip_output: bool = False
    keep_at_least: int = 0
    remove_orphans: bool = False
    orphans_inside: bool = True
    allow_collapse: tuple[str, ...] = ()
    reset_counts: bool = False
    seed: int = 0
