"""L0: the nouns. Nothing here computes; every other file speaks in these words.

Conventions: a weight has PyTorch's own layout ``(out, in, *kernel)``; a mask is bool with True = kept;
a score is larger = keep; a fraction or sparsity lies in 0..1 and is never a percentage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from actprune.errors import RecipeError
from actprune.units import NM, Allocation, Block, Neuron, Rates, Unit, Weight

__all__ = [
    "NM", "Allocation", "Block", "Budget", "Criterion", "Need", "Neuron", "Penalty", "Progress", "Rates", "Recipe",
    "Recovery", "Schedule", "Scope", "Sharing", "Signals", "Statistic", "Sums", "Unit", "Weight",
]  # fmt: skip

Sums = dict[str, Tensor]
"""One layer's streaming statistics. Every entry is a SUM, so two of them merge by adding."""

Scope = Literal["row", "layer", "global"]
BudgetKind = Literal["sparsity", "compression", "parameters", "flop", "threshold"]


@dataclass(frozen=True)
class Need:
    """What a criterion must be given: a statistic of activations by name, or one of three that the engine has itself:
    ``"gradient"``; ``"weights"``, moments of the weights at the first pruning, frozen from then on; ``"learnt"``, what
    the recipe's penalty learns beside the weights.

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
    sums: the observed sums, and the frozen moments of the weights. gradient: summed gradient of the weight, or None.
    seed: of the recipe. mask: the current one (True = kept), or None before the first pruning. learnt: by the penalty.
    """

    name: str
    weight: Tensor
    sums: Mapping[str, Tensor]
    gradient: Tensor | None = None
    seed: int = 0
    mask: Tensor | None = None
    learnt: Mapping[str, Tensor] = field(default_factory=dict)


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
class Budget:
    """How much is to be left. Build it with one of the class methods.

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
            "threshold": (-math.inf, math.inf, "a finite number"),
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

    @classmethod
    def threshold(cls, value: float) -> Budget:
        """No budget: whatever scores at least ``value`` is kept, and the fraction follows from the scores."""
        return cls("threshold", value)


@dataclass(frozen=True)
class Progress:
    """Where the user's training stands. ``metric``: what ``report_metric`` was last told (training accuracy, 0..1)."""

    step: int = 0
    pruning_step: int = 0
    metric: float | None = None
    metric_at_last_prune: float | None = None


@runtime_checkable
class Schedule(Protocol):
    """When to prune and how far, both pure functions of ``Progress``.

    ``pruning_steps`` is how many it plans; None means one for every layer (the staged local scope).
    """

    @property
    def pruning_steps(self) -> int | None:
        """Number of pruning steps planned."""
        ...

    def due(self, progress: Progress) -> bool:
        """Is a pruning due now? Never true for a schedule that waits for an explicit ``prune()``."""
        ...

    def target(self, progress: Progress, final: float) -> float:
        """Cumulative removal, 0..final, that the pruning number ``progress.pruning_step`` aims at."""
        ...


@runtime_checkable
class Recovery(Protocol):
    """What happens to the surviving weights after a pruning: a frozen description, carried out by ``recover/``."""

    @property
    def kind(self) -> str:
        """What is done: keep, rewind, reinitialise .."""
        ...

    @property
    def replays(self) -> int | None:
        """The step of the learning-rate schedule to go back to after each pruning; None: the schedule goes on."""
        ...

    @property
    def lr_scale(self) -> float:
        """Factor on the learning rate once something is pruned."""
        ...


@runtime_checkable
class Penalty(Protocol):
    """A term that a method adds to the loss, and what it learns beside the weights. Stored in recipes, so frozen.

    The engine calls ``forward`` and ``loss`` only in training, and only until the last pruning is done.
    """

    def learnt(self, weight: Tensor) -> dict[str, Tensor]:
        """Initial values of the tensors learnt beside this weight, each with a name; {} for none."""
        ...

    def loss(self, weights: Mapping[str, Tensor], learnt: Mapping[str, Mapping[str, Tensor]], step: int) -> Tensor:
        """What is added to the loss, 0-dim and differentiable; weights by clean name, ``step`` optimizer steps done."""
        ...

    def forward(self, module: nn.Module, x: Tensor, output: Tensor, learnt: Mapping[str, Tensor]) -> Tensor | None:
        """What one layer sends on in training instead of ``output``; None: the output itself."""
        ...

    def after_step(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Change the weights in place after an optimizer step (a proximal step)."""
        ...


@dataclass(frozen=True)
class Sharing:
    """How the finished network is stored by Deep Compression (Han et al. 2016): weights of a layer share 2^bits values.

    bits: pairs of fnmatch pattern of a weight name and bits, the first match counts. index_bits: width of a gap.
    tune_epochs: in which the shared values are fine-tuned, taken from the epochs of the run. tune_lr: learning rate
    then; small, as a shared value moves by the sum of its weights' gradients.
    """

    bits: tuple[tuple[str, int], ...] = (("*", 6),)
    index_bits: int = 5
    tune_epochs: int = 2
    tune_lr: float = 1e-4

    def __post_init__(self) -> None:
        ok = all(1 <= width <= 8 for _, width in self.bits) and 1 <= self.index_bits <= 16 and self.tune_epochs >= 0
        if not ok:
            raise RecipeError(f"{self} cannot be used; expected 1 to 8 bits per weight and 1 to 16 per index")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A method: independent slots, comparable, printable (``eval(repr(r)) == r``), serialisable.

    count_on        when statistics are taken: inside ``observe()``, or on the live "train" batches
    regrow          "frozen": zeros are held at zero; "free": set to zero once, then free to return; "splice": the
                    network computes with zeros, but the values behind them stay and go on receiving the full gradient
    monotone        what is pruned stays pruned; False: every pruning chooses anew among all weights
    penalty         a term of the loss, with what it learns
    sharing         how the finished weights are shared and coded, for the loop to carry out; None: they are not
    skip_output     leave the last layer alone (it has no activation that another layer sees)
    keep_at_least   units per layer that never compete, so that no layer is emptied by a global ranking
    remove_dead     also remove weights out of neurons that can no longer fire, their constant folded into the next bias
    dead_in_budget  True: dead weights count towards the budget; False: in global scope they come on top of it
    allow_collapse  fnmatch patterns of weights that may be emptied ("fc1.weight", "*")
    reset_counts    forget the sums after every pruning (False accumulates them, as the founding code does)
    """

    name: str
    criterion: Criterion
    budget: Budget
    schedule: Schedule
    recovery: Recovery
    unit: Unit = Weight()  # noqa: RUF009  (frozen)
    scope: Scope = "global"
    allocation: Allocation = "uniform"
    count_on: Literal["observe", "train"] = "observe"
    count_every: int = 1
    regrow: Literal["frozen", "free", "splice"] = "frozen"
    monotone: bool = True
    penalty: Penalty | None = None
    sharing: Sharing | None = None
    skip_output: bool = False
    keep_at_least: int = 0
    remove_dead: bool = False
    dead_in_budget: bool = True
    allow_collapse: tuple[str, ...] = ()
    reset_counts: bool = False
    seed: int = 0
